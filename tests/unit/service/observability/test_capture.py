import json
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest

from service.inference.context import RequestContext
from service.inference.deadline import Deadline
from service.inference.version import Shadow
from service.observability.capture import (
    Capture,
    Captured,
    Captures,
    Tensor,
    decode_line,
    decode_tensors,
    encode_line,
    encode_tensors,
)
from service.observability.rotating_file import RotatingFile
from service.serving_config import ServingConfig
from service.tensors.dtypes import DTYPES, Array
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import Arrays, FakeService, loaded_version, make_available, signature, tensor

DEADLINE = 10
OF = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"scores": tensor("DT_FLOAT", -1, 2)})
LABELS = ServingConfig(labels=("cat", "dog"))
PREDICT = "/v1/models/model:predict"


def lines_of(path: Path) -> list[Captured]:
    return list(map(decode_line, path.read_bytes().splitlines())) if path.exists() else []


def strings(*values: object) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


class Kept:
    def __init__(self, path: Path, **changed: object) -> None:
        self.path = path
        self.dropped = 0
        given = {"share": 1.0, "max_bytes": 1_000_000, "draw": lambda: 0.5, **changed}
        self.capture = Capture(path, dropped=self.drop, **given)  # type: ignore[arg-type]

    def drop(self) -> None:
        self.dropped += 1

    def offer(self, outputs: Arrays | None = None, deadline: Deadline | None = None) -> None:
        x = np.array([(1, 2), (4, 3)], np.float32)
        context = RequestContext({b"x-request-id": b"mine"})
        context.deadline = deadline
        context.protocol, context.verb = "v1", "classify"
        loaded = loaded_version(OF, config=LABELS, version=3)
        self.capture.offer(context, loaded, "serving_default", {"x": x}, {"scores": x} if outputs is None else outputs)

    def lines(self) -> list[Captured]:
        self.capture.close(DEADLINE)
        return lines_of(self.path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "requests.jsonl"


def test_request_is_captured_with_its_outputs(path: Path) -> None:
    kept = Kept(path)
    kept.offer({"scores": np.array([(1, 2), (4, 3)], np.float32), "words": strings(b"a", b"\xff")})
    (line,) = kept.lines()
    assert (line.request_id, line.model, line.version, line.engine) == ("mine", "model", 3, "fake")
    assert (line.protocol, line.verb, line.signature) == ("v1", "classify", "serving_default")
    assert decode_tensors(line.inputs)["x"].tolist() == [[1, 2], [4, 3]]
    outputs = {name: array.tolist() for name, array in decode_tensors(line.outputs).items()}
    assert outputs == {"scores": [[1, 2], [4, 3]], "words": [b"a", b"\xff"]}
    assert line.labels == ["dog", "cat"]


CANCELLED = Deadline.unlimited()
CANCELLED.cancel()


@pytest.mark.parametrize(
    ("share", "given", "kept", "dropped"),
    [
        *((share, {}, 0, 0) for share in (0.0, 0.5)),
        *((share, {}, 1, 0) for share in (0.51, 1.0)),
        (1.0, {"deadline": Deadline.unlimited()}, 1, 0),
        (1.0, {"deadline": CANCELLED}, 0, 0),
        (1.0, {"outputs": {"y": np.zeros(1, np.complex64)}}, 0, 1),
        (1.0, {"outputs": {}}, 0, 1),
    ],
    ids=["0", "0.5", "0.51", "1", "running", "cancelled", "type without a name", "no scores"],
)
def test_chosen_request_is_captured_or_dropped(path: Path, share: float, given: Any, kept: int, dropped: int) -> None:
    capture = Kept(path, share=share)
    # The thread goes on after a request that it cannot encode.
    for _ in range(2):
        capture.offer(**given)
    assert (len(capture.lines()), capture.dropped) == (2 * kept, 2 * dropped)


def test_what_does_not_fit_the_queue_is_dropped_and_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(path, max_queued_bytes=4_500)
    go_on = threading.Event()
    append = RotatingFile.append
    monkeypatch.setattr(RotatingFile, "append", lambda file, line: go_on.wait(DEADLINE) and append(file, line))
    for _ in range(5):
        kept.offer()
    assert kept.dropped == 3
    go_on.set()
    assert len(kept.lines()) == 2


def test_full_disk_is_logged_once_and_capture_resumes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept = Kept(path)
    full = OSError(28, "No space left on device")
    with patch.object(RotatingFile, "append", side_effect=[full] * 2 + [None] * 2) as append:
        for _ in range(4):
            kept.offer()
        kept.lines()
    assert (append.call_count, kept.dropped) == (4, 2)
    failed = f"{path}: requests are not captured: [Errno 28] No space left on device"
    assert caplog.messages == [failed, f"{path}: requests are captured again"]


@pytest.fixture
def service(make_service: MakeService, path: Path) -> FakeService:
    return make_service(capture_file=str(path), capture_share=1.0)


def captured(service: FakeService) -> list[Captured]:
    service.app.records.captures.close(DEADLINE)
    return lines_of(Path(service.app.settings.capture_file))


def scores_of(inputs: Arrays) -> dict[str, Array]:
    return {"scores": inputs["x"]}


def test_answered_requests_of_both_protocols_are_captured(service: FakeService) -> None:
    service.add(OF, scores_of, LABELS)
    service.add(OF, lambda _: {"y": 1 / 0}, model="broken")  # type: ignore[dict-item]
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3, 4]}
    for path, body, status in (
        (PREDICT, {"instances": [[1, 2]]}, 200),
        (PREDICT, {"instances": [[1, 2, 3]]}, 400),
        ("/v1/models/broken:predict", {"instances": [[1, 2]]}, 500),
        ("/v2/models/model/infer", {"inputs": [x]}, 200),
    ):
        assert service.post(path, body).status_code == status
    lines = captured(service)
    assert [(line.protocol, line.verb) for line in lines] == [("v1", "predict"), ("v2", "infer")]
    assert [decode_tensors(line.inputs)["x"].tolist() for line in lines] == [[[1, 2]], [[3, 4]]]
    assert service.sample("serving_capture_dropped_total") == "0.0"


def test_runs_of_a_shadow_are_not_captured(service: FakeService) -> None:
    ran = threading.Event()

    def shadowed(inputs: Arrays) -> dict[str, Array]:
        ran.set()
        return scores_of(inputs)

    shadow = Shadow(loaded_version(OF, shadowed, version=2), 1.0)
    make_available(service.registry, replace(loaded_version(OF, scores_of), shadow=shadow))
    assert service.post(PREDICT, {"instances": [[1, 2]]}).status_code == 200
    assert ran.wait(DEADLINE)
    assert [line.version for line in captured(service)] == [1]


def test_model_may_have_a_file_and_a_share_of_its_own(tmp_path: Path) -> None:
    def new(path: Path, share: float = 0.25) -> Capture:
        return Capture(path, share, 1_000_000, lambda: None, lambda: 0.5)

    captures = Captures(new(tmp_path / "all", 1.0), new)
    captures.follow({"own": (str(tmp_path / "own"), 1.0), "rare": (str(tmp_path / "own"), 0.4), "shared": ("", 0.6)})
    for model in ("own", "rare", "shared", "other"):
        captures.offer(RequestContext(), loaded_version(OF, model=model), "serving_default", {}, {})
    captures.close(DEADLINE)
    assert [line.model for line in lines_of(tmp_path / "all")] == ["shared", "other"]
    assert [line.model for line in lines_of(tmp_path / "own")] == ["own"]


def test_model_without_any_file_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    captures = Captures(None, lambda path: Capture(path, 1.0, 1000, lambda: None))
    captures.follow({"mine": ("", 1.0)})
    captures.offer(RequestContext(), loaded_version(OF, model="mine"), "serving_default", {}, {})
    assert "requests for mine are not captured" in caplog.text


LINE: dict[str, Any] = {
    "time": "2026-01-02T03:04:05Z",
    "request_id": "mine",
    "model": "model",
    "version": 3,
    "engine": "litert",
    "protocol": "v1",
    "verb": "predict",
    "signature": "serving_default",
    "inputs": {"x": {"datatype": "FP32", "shape": [1, 2], "data": "AACAPwAAAEA="}},
    "outputs": {"y": {"datatype": "BYTES", "shape": [2], "data": ["YQ==", ""]}},
}


def test_line_is_json() -> None:
    captured = decode_line(json.dumps(LINE).encode())
    assert captured.time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert decode_tensors(captured.inputs)["x"].tolist() == [[1, 2]]
    assert decode_tensors(captured.outputs)["y"].tolist() == [b"a", b""]
    line = encode_line(captured)
    assert line.endswith(b"}\n")
    assert json.loads(line) == LINE


ARRAYS = [
    *(np.array([0, 1, 1]).astype(dtype) for dtype in DTYPES.values() if dtype.kind != "O"),
    np.array([np.nan, np.inf, -0.0, 0.1], np.float32),
    np.array(1, np.float32),
    np.empty((0, 3), np.float32),
    np.arange(6, dtype=np.int32).reshape(2, 1, 3).T[::2],
    strings(b"", b"\xff\n", "ä".encode()),
    np.array(b"x", object),
    np.empty((0, 3), object),
    np.full((2, 1, 3), b"x", object),
]


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_tensor_comes_back(array: Array) -> None:
    (back,) = decode_tensors(encode_tensors({"x": array})).values()
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tolist() == array.tolist() if array.dtype.kind == "O" else back.tobytes() == array.tobytes()


def test_bfloat16_comes_back_as_float32_and_a_type_without_a_name_is_an_error() -> None:
    back = decode_tensors(encode_tensors({"x": np.array([1.5, -2], ml_dtypes.bfloat16)}))["x"]
    assert (back.dtype, back.tolist()) == (np.float32, [1.5, -2])
    with pytest.raises(ValueError, match="'y' is of the type complex64, which has no name"):
        encode_tensors({"y": np.zeros(1, np.complex64)})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "truncated"),
        (b"[]\n", "Expected `object`, got `array`"),
        (json.dumps(LINE).encode()[:-20], "truncated"),
        (json.dumps(LINE | {"version": "3"}).encode(), r"Expected `int`, got `str` - at `\$.version`"),
        (json.dumps({name: LINE[name] for name in LINE if name != "model"}).encode(), "required field `model`"),
    ],
)
def test_damaged_line_is_an_error_that_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_line(line)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (Tensor("FP33", (1,), b"abcd"), "'x' has the datatype 'FP33'; expected one of BOOL, "),
        (Tensor("FP32", (2,), b"abcd"), r"'x' has 1 values; a tensor of FP32 and shape \[2\] has 2"),
        (Tensor("FP32", (1,), b"abc"), "'x' has 0.75 values"),
        (Tensor("FP32", (1,), [b"abcd"]), "'x' has 1 strings; a tensor of FP32"),
        (Tensor("BYTES", (1,), b"a"), "'x' has .* values; a tensor of BYTES"),
        (Tensor("BYTES", (2,), [b"a"]), r"'x' has 1 strings; a tensor of BYTES and shape \[2\] has 2"),
        (Tensor("FP32", (-1, -1), b"abcd"), r"'x' has the shape \[-1, -1\]; no size is below 0"),
    ],
)
def test_tensor_whose_data_does_not_fit_is_an_error(tensor: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_tensors({"x": tensor})
