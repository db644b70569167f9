"""Which requests are kept, and that none of them notices."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from service import create_app
from service.inference.context import RequestContext
from service.inference.deadline import Deadline
from service.inference.version import Shadow
from service.observability.capture import Capture, decode_line, decode_tensors
from service.serving_config import ServingConfig
from service.settings import Settings
from service.tensors.dtypes import Array
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import (
    Arrays,
    FakeService,
    any_shape,
    loaded_version,
    make_available,
    signature,
    tensor,
)

DEADLINE = 10
OF = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"scores": tensor("DT_FLOAT", -1, 2)})
LABELS = ServingConfig(labels=("cat", "dog"))


class Kept:
    def __init__(self, path: Path, **changed: object) -> None:
        self.path = path
        self.dropped = 0
        given = {"share": 1.0, "max_bytes": 1_000_000, "draw": lambda: 0.5, **changed}
        self.capture = Capture(path, dropped=self.drop, **given)  # type: ignore[arg-type]

    def drop(self) -> None:
        self.dropped += 1

    def offer(self, *rows: tuple[float, float], deadline: Deadline | None = None) -> None:
        x = np.array(rows or [(1, 2)], np.float32)
        context = RequestContext({b"x-request-id": b"mine"})
        context.deadline = deadline
        context.protocol, context.verb = "v1", "classify"
        self.capture.offer(
            context, loaded_version(OF, config=LABELS, version=3), "serving_default", {"x": x}, {"scores": x}
        )

    def lines(self) -> list[bytes]:
        self.capture.close(DEADLINE)
        return self.path.read_bytes().splitlines() if self.path.exists() else []


def test_a_request_is_kept_with_its_answer(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "file")
    kept.offer((1, 2), (4, 3))
    (line,) = map(decode_line, kept.lines())
    assert (line.request_id, line.model, line.version, line.engine) == ("mine", "model", 3, "fake")
    assert (line.protocol, line.verb, line.signature) == ("v1", "classify", "serving_default")
    assert decode_tensors(line.inputs)["x"].tolist() == [[1, 2], [4, 3]]
    assert decode_tensors(line.outputs)["scores"].tolist() == [[1, 2], [4, 3]]
    assert line.labels == ["dog", "cat"]


def test_what_comes_too_late_is_no_answer_and_not_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "file")
    over, running = Deadline.unlimited(), Deadline.unlimited()
    over.cancel()
    kept.offer(deadline=over)
    kept.offer(deadline=running)
    assert len(kept.lines()) == 1
    assert kept.dropped == 0


@pytest.mark.parametrize(("share", "is_kept"), [(0.0, False), (0.5, False), (0.51, True), (1.0, True)])
def test_a_share_of_the_requests_is_kept(tmp_path: Path, share: float, is_kept: bool) -> None:
    kept = Kept(tmp_path / "file", share=share)
    kept.offer()
    assert len(kept.lines()) == is_kept
    assert kept.dropped == 0


def test_what_is_too_much_to_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "file", max_queued_bytes=4_500)
    go_on = threading.Event()
    append = kept.capture._file.append

    def held(line: bytes) -> None:
        assert go_on.wait(DEADLINE)
        append(line)

    monkeypatch.setattr(kept.capture._file, "append", held)
    for _ in range(5):
        kept.offer()
    assert kept.dropped == 3
    go_on.set()
    assert len(kept.lines()) == 2


def test_a_full_disk_drops_and_says_so_once_and_afterwards_requests_are_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept = Kept(tmp_path / "file")
    append = kept.capture._file.append
    results: list[Callable[[bytes], None]] = [no_room, no_room, append, append]
    monkeypatch.setattr(kept.capture._file, "append", lambda line: results.pop(0)(line))
    for _ in range(4):
        kept.offer()
    assert len(kept.lines()) == 2
    assert kept.dropped == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'file'}: requests are not captured: [Errno 28] No space left on device",
        f"{tmp_path / 'file'}: requests are captured again",
    ]


def no_room(_line: bytes) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "outputs",
    [{"y": np.zeros(1, np.complex64)}, {}],
    ids=["a type without a name", "no scores"],
)
def test_what_cannot_be_written_is_dropped_and_the_next_is_kept(tmp_path: Path, outputs: dict[str, Array]) -> None:
    kept = Kept(tmp_path / "file")
    kept.capture.offer(RequestContext(), loaded_version(OF, config=LABELS), "serving_default", {}, outputs)
    kept.offer()
    assert len(kept.lines()) == 1
    assert kept.dropped == 1


# Through the service


def captured(service: FakeService, path: Path) -> list[bytes]:
    assert service.app.records.capture is not None
    service.app.records.capture.close(DEADLINE)
    return path.read_bytes().splitlines() if path.exists() else []


def test_predictions_by_either_protocol_are_kept_as_the_client_saw_them(
    make_service: MakeService, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    service.add(OF, lambda inputs: {"scores": inputs["x"]}, LABELS)
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2]]}).status_code == 200
    tensor_ = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3, 4]}
    assert service.post("/v2/models/model/infer", {"inputs": [tensor_]}).status_code == 200
    lines = [decode_line(line) for line in captured(service, path)]
    assert [(line.protocol, line.verb) for line in lines] == [("v1", "predict"), ("v2", "infer")]
    assert [decode_tensors(line.inputs)["x"].tolist() for line in lines] == [[[1, 2]], [[3, 4]]]
    assert service.sample("serving_capture_dropped_total") == "0.0"


def test_what_fails_is_not_kept(make_service: MakeService, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    service.add(OF, lambda _: {"y": 1 / 0})  # type: ignore[dict-item]
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2]]}).status_code == 500
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2, 3]]}).status_code == 400
    assert captured(service, path) == []


def test_strings_are_kept(make_service: MakeService, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    service.add(signature({"x": any_shape("DT_STRING")}, {"y": any_shape("DT_STRING")}))
    assert service.post("/v1/models/model:predict", {"instances": ["a", {"b64": "/w=="}]}).status_code == 200
    (line,) = captured(service, path)
    assert orjson.loads(line)["inputs"]["x"] == {"datatype": "BYTES", "shape": [2], "data": ["YQ==", "/w=="]}


def test_what_a_shadow_makes_of_a_request_is_not_kept(make_service: MakeService, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    ran = threading.Event()

    def shadowed(inputs: Arrays) -> dict[str, Array]:
        ran.set()
        return {"scores": inputs["x"]}

    shadow = loaded_version(OF, shadowed, version=2)
    loaded = loaded_version(OF, lambda inputs: {"scores": inputs["x"]})
    make_available(service.registry, replace(loaded, shadow=Shadow(shadow, 1.0)))
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2]]}).status_code == 200
    assert ran.wait(DEADLINE)
    assert [decode_line(line).version for line in captured(service, path)] == [1]


def test_nothing_is_kept_unless_it_is_wanted(tmp_path: Path) -> None:
    app = create_app(Settings(models=tmp_path))
    assert app.records.capture is None
