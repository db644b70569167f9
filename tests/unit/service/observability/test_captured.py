import json
from datetime import UTC, datetime
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from service.observability.capture import Captured, Tensor, decode_line, decode_tensors, encode_line, encode_tensors
from service.tensors.dtypes import DTYPES, Array

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


def test_a_line_says_who_was_asked_what_and_what_the_answer_was() -> None:
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
def test_every_type_comes_back_as_it_was(name: str) -> None:
    dtype = DTYPES[name]
    array = strings(b"", b"\xff\n", "ä".encode()) if dtype.kind == "O" else np.array([0, 1, 1], dtype)
    (back,) = decode_tensors(encode_tensors({"x": array})).values()
    assert back.dtype == dtype
    assert back.tolist() == array.tolist()


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, object])
def test_every_shape_comes_back_as_it_was(shape: tuple[int, ...], dtype: Any) -> None:
    array = np.full(shape, b"x" if dtype is object else 1, dtype)
    (back,) = decode_tensors(encode_tensors({"x": array})).values()
    assert back.shape == shape
    assert np.array_equal(back, array)


def test_a_view_is_written_as_it_reads() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T[::2]
    assert decode_tensors(encode_tensors({"x": array}))["x"].tolist() == array.tolist()


def test_numbers_that_are_none_come_back_exactly() -> None:
    array = np.array([np.nan, np.inf, -0.0, 0.1], np.float32)
    assert decode_tensors(encode_tensors({"x": array}))["x"].tobytes() == array.tobytes()


def test_what_numpy_does_not_know_comes_back_as_it_reads() -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    assert decode_tensors(encode_tensors({"x": array}))["x"].tolist() == [1.5, -2]


def test_a_type_without_a_name_cannot_be_written() -> None:
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
def test_a_damaged_line_says_what_is_wrong(line: bytes, reason: str) -> None:
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
def test_a_tensor_that_is_not_what_it_says_is_told(tensor: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_tensors({"x": tensor})
