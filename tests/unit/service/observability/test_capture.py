"""Which requests are captured, and their lines."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orjson
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
from service.serving_config import ServingConfig
from service.tensors.dtypes import DTYPES, Array
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


def test_a_request_is_captured_with_its_outputs(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "file")
    kept.offer((1, 2), (4, 3))
    (line,) = map(decode_line, kept.lines())
    assert (line.request_id, line.model, line.version, line.engine) == ("mine", "model", 3, "fake")
    assert (line.protocol, line.verb, line.signature) == ("v1", "classify", "serving_default")
    assert decode_tensors(line.inputs)["x"].tolist() == [[1, 2], [4, 3]]
    assert decode_tensors(line.outputs)["scores"].tolist() == [[1, 2], [4, 3]]
    assert line.labels == ["dog", "cat"]


def test_a_cancelled_request_is_not_captured(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "file")
    over, running = Deadline.unlimited(), Deadline.unlimited()
    over.cancel()
    kept.offer(deadline=over)
    kept.offer(deadline=running)
    assert len(kept.lines()) == 1
    assert kept.dropped == 0


@pytest.mark.parametrize(("share", "is_kept"), [(0.0, False), (0.5, False), (0.51, True), (1.0, True)])
def test_a_share_of_the_requests_is_captured(tmp_path: Path, share: float, is_kept: bool) -> None:
    kept = Kept(tmp_path / "file", share=share)
    kept.offer()
    assert len(kept.lines()) == is_kept
    assert kept.dropped == 0


def test_what_does_not_fit_the_queue_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_full_disk_is_logged_once_and_capture_resumes(
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
def test_what_cannot_be_encoded_is_dropped_and_the_next_is_captured(tmp_path: Path, outputs: dict[str, Array]) -> None:
    kept = Kept(tmp_path / "file")
    kept.capture.offer(RequestContext(), loaded_version(OF, config=LABELS), "serving_default", {}, outputs)
    kept.offer()
    assert len(kept.lines()) == 1
    assert kept.dropped == 1


# Through the service


def captured(service: FakeService, path: Path) -> list[bytes]:
    service.app.records.captures.close(DEADLINE)
    return path.read_bytes().splitlines() if path.exists() else []


def test_both_protocols_are_captured(make_service: MakeService, tmp_path: Path) -> None:
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


def test_failed_requests_are_not_captured(make_service: MakeService, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    service.add(OF, lambda _: {"y": 1 / 0})  # type: ignore[dict-item]
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2]]}).status_code == 500
    assert service.post("/v1/models/model:predict", {"instances": [[1, 2, 3]]}).status_code == 400
    assert captured(service, path) == []


def test_strings_are_captured(make_service: MakeService, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    service = make_service(capture_file=str(path), capture_share=1.0)
    service.add(signature({"x": any_shape("DT_STRING")}, {"y": any_shape("DT_STRING")}))
    assert service.post("/v1/models/model:predict", {"instances": ["a", {"b64": "/w=="}]}).status_code == 200
    (line,) = captured(service, path)
    assert orjson.loads(line)["inputs"]["x"] == {"datatype": "BYTES", "shape": [2], "data": ["YQ==", "/w=="]}


def test_runs_of_a_shadow_are_not_captured(make_service: MakeService, tmp_path: Path) -> None:
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


def strings(*values: object) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_a_line_has_the_request_and_its_outputs() -> None:
    captured = Captured(
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "mine",
        "model",
        3,
        "litert",
        "v1",
        "predict",
        "serving_default",
        encode_tensors({"x": np.array([[1, 2]], np.float32)}),
        encode_tensors({"y": strings(b"a", b"")}),
    )
    line = encode_line(captured)
    assert line.endswith(b"}\n")
    assert json.loads(line) == LINE
    assert decode_line(line) == captured


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_datatype_comes_back(name: str) -> None:
    dtype = DTYPES[name]
    array = strings(b"", b"\xff\n", "ä".encode()) if dtype.kind == "O" else np.array([0, 1, 1], dtype)
    (back,) = decode_tensors(encode_tensors({"x": array})).values()
    assert back.dtype == dtype
    assert back.tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, object])
def test_every_shape_comes_back(shape: tuple[int, ...], dtype: Any) -> None:
    array = np.full(shape, b"x" if dtype is object else 1, dtype)
    (back,) = decode_tensors(encode_tensors({"x": array})).values()
    assert back.shape == shape
    assert np.array_equal(back, array)


def test_a_view_comes_back_row_by_row() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T[::2]
    assert decode_tensors(encode_tensors({"x": array}))["x"].tolist() == array.tolist()


def test_nan_and_infinity_come_back_exactly() -> None:
    array = np.array([np.nan, np.inf, -0.0, 0.1], np.float32)
    assert decode_tensors(encode_tensors({"x": array}))["x"].tobytes() == array.tobytes()


def test_bfloat16_comes_back_as_float32() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert decode_tensors(encode_tensors({"x": array}))["x"].tolist() == [1.5, -2]


def test_a_type_without_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="'y' is of the type complex64, which has no name"):
        encode_tensors({"y": np.zeros(1, np.complex64)})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "truncated"),
        (b"no JSON\n", "malformed"),
        (b"[]\n", "Expected `object`, got `array`"),
        (json.dumps(LINE).encode()[:-20], "truncated"),
        (json.dumps({**LINE, "version": "3"}).encode(), r"Expected `int`, got `str` - at `\$.version`"),
        (json.dumps({**LINE, "inputs": {"x": {"datatype": "FP32"}}}).encode(), "missing required field `shape`"),
        (json.dumps({name: LINE[name] for name in LINE if name != "model"}).encode(), "required field `model`"),
    ],
)
def test_a_damaged_line_is_an_error_that_says_why(line: bytes, reason: str) -> None:
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
def test_a_tensor_whose_data_does_not_fit_is_an_error(tensor: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_tensors({"x": tensor})


def test_a_model_may_have_a_file_and_a_share_of_its_own(tmp_path: Path) -> None:
    def new(path: Path, share: float = 0.25) -> Capture:
        return Capture(path, share, 1_000_000, lambda: None, lambda: 0.5)

    captures = Captures(new(tmp_path / "all", 1.0), new)
    captures.follow({"own": (str(tmp_path / "own"), 1.0), "rare": (str(tmp_path / "own"), 0.4), "shared": ("", 0.6)})
    for model in ("own", "rare", "shared", "other"):
        loaded = loaded_version(OF, model=model)
        captures.offer(RequestContext(), loaded, "serving_default", {}, {})
    captures.close(DEADLINE)
    models = {
        name: [decode_line(line).model for line in (tmp_path / name).read_bytes().splitlines()]
        for name in ("all", "own")
    }
    assert models == {"all": ["shared", "other"], "own": ["own"]}


def test_a_model_without_any_file_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    captures = Captures(None, lambda path: Capture(path, 1.0, 1000, lambda: None))
    captures.follow({"mine": ("", 1.0)})
    captures.offer(RequestContext(), loaded_version(OF, model="mine"), "serving_default", {}, {})
    assert "requests for mine are not captured" in caplog.text
