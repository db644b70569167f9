import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES, Array
from service.tensors.json import array_from_json, bytes_from_json
from tests.unit.service.fakes import any_shape
from tests.unit.service.tensors.pictures import peak_bytes

WHOLE = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "f"]


def read(value: Any, dtype: str) -> Array:
    return array_from_json(value, any_shape(dtype), "instances")


def rejection(value: Any, dtype: str = "DT_FLOAT") -> str:
    with pytest.raises(InvalidRequest) as raised:
        read(value, dtype)
    return str(raised.value)


@pytest.mark.parametrize("dtype", [*WHOLE, *FLOATS, "DT_BOOL"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_numbers_round_trips(dtype: str, data: st.DataObject) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype in FLOATS else {}
    shapes = numpy_st.array_shapes(min_dims=0, max_dims=4, max_side=4)
    array: Array = data.draw(numpy_st.arrays(DTYPES[dtype], shapes, elements=elements))
    again = read(orjson.loads(orjson.dumps(array.tolist())), dtype)
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.array_equal(again, array)


@given(numpy_st.array_shapes(min_dims=0, max_dims=3, max_side=3), st.data())
def test_strings_round_trips(shape: tuple[int, ...], data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(), min_size=math.prod(shape), max_size=math.prod(shape)))
    again = read(orjson.loads(orjson.dumps(np.array(texts, object).reshape(shape).tolist())), "DT_STRING")
    assert again.shape == shape
    assert [value.decode() for value in again.ravel()] == texts


def test_whole_numbers_may_be_floats() -> None:
    assert read([[1, 2.5]], "DT_FLOAT").tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_STRING", "DT_INT32", "DT_BOOL"])
@pytest.mark.parametrize(("value", "shape"), [([], (0,)), ([[], []], (2, 0)), ([[[]]], (1, 1, 0))])
def test_empty_lists_are_arrays_without_values(dtype: str, value: Any, shape: tuple[int, ...]) -> None:
    array = read(value, dtype)
    assert (array.shape, array.dtype) == (shape, DTYPES[dtype])


@pytest.mark.parametrize("dtype", WHOLE)
def test_integers_are_taken_up_to_the_limits(dtype: str) -> None:
    name, limits = DTYPES[dtype].name, np.iinfo(DTYPES[dtype])
    assert read([limits.min, limits.max], dtype).tolist() == [limits.min, limits.max]
    for outside in (limits.min - 1, limits.max + 1):
        told = f"instances: {outside} is out of the range of {name} ({limits.min} to {limits.max}), so not of expected "
        assert rejection([0, outside], dtype) == f"{told}type: {name}"


HALVES_OUTSIDE = [("DT_HALF", value) for value in (65520.0, 2**64 - 1, -1e300)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "value"), [*HALVES_OUTSIDE, ("DT_FLOAT", 3.5e38), ("DT_FLOAT", -3.5e38)])
def test_float_out_of_range_is_rejected(dtype: str, value: float) -> None:
    told = f"instances: {value} is out of the range of {DTYPES[dtype].name}"
    assert rejection([1.0, value], dtype).startswith(told)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1, "2"], "float", "[1] is the string '2'; expected a number"),
        ([[1], ["x" * 100]], "float", f"[1][0] is the string '{'x' * 40}'; expected a number"),
        ([True], "float", "[0] is true; expected a number"),
        ([{"a": 1}], "float", "[0] is an object; expected a number"),
        (None, "double", " is null; expected a number"),
        ([0, False], "int64", "[1] is false; expected a whole number"),
        ([1.0], "uint8", "[0] is the number 1.0; expected a whole number"),
        ([1], "bool", "[0] is the number 1; expected true or false"),
        (["a", None], "string", '[1] is null; expected a string or {"b64": "..."} with valid base64'),
    ],
)
def test_value_of_the_wrong_type_is_located(value: Any, dtype: str, message: str) -> None:
    assert rejection(value, f"DT_{dtype.upper()}") == f"instances{message} (not of expected type: {dtype})"


LENGTH, DEPTH = "; rows must be of one length", " where its neighbours are lists; rows must be of one depth"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], f"[1] has 1 value where instances[0] has 2{LENGTH} (Expecting tensor size: 2 but got: 1)"),
        ([[], [1]], f"[1] has 1 value where instances[0] has 0{LENGTH} (Expecting tensor size: 0 but got: 1)"),
        (
            [[[1], [2]], [[3], [4, 5]]],
            f"[1][1] has 2 values where instances[0][0] has 1{LENGTH} (Expecting tensor size: 2 but got: 3)",
        ),
        (
            [[[1, 2, 3, 4]], [[1, 2], [3, 4]]],
            f"[1] has 2 values where instances[0] has 1{LENGTH} (Expecting shape [1, 4] but got: [2, 2])",
        ),
        ([[[1], [2, 3]], [[4], [5, 6]]], f"[0][1] has 2 values where instances[0][0] has 1{LENGTH}"),
        ([1, [2]], f"[0] is the number 1{DEPTH} (Expecting shape [] but got: [1])"),
        ([[1], None], f"[1] is null{DEPTH} (Expecting shape [1] but got: [])"),
        ([[[1]], [2]], f"[1][0] is the number 2{DEPTH} (Expecting shape [1, 1] but got: [1])"),
        ([[1, [2]]], f"[0][0] is the number 1{DEPTH}"),
    ],
)
def test_uneven_rows_are_located(value: Any, message: str) -> None:
    assert rejection(value) == f"instances{message}"


@pytest.mark.parametrize(("dtype", "leaf"), [("DT_FLOAT", 1), ("DT_STRING", "x"), ("DT_FLOAT", "x")])
@pytest.mark.parametrize("depth", [65, 900])
def test_deeply_nested_lists_are_rejected(dtype: str, leaf: Any, depth: int) -> None:
    value = leaf
    for _ in range(depth):
        value = [value]
    assert "nested too deep; expected at most 64 levels" in rejection(value, dtype)


def test_type_without_json_is_rejected() -> None:
    assert rejection([1], "DT_COMPLEX64") == "instances: a tensor of type DT_COMPLEX64 cannot be sent as JSON"


def test_wrong_value_in_a_long_list_takes_little_memory() -> None:
    value = [1] * 20_000 + ["x"]
    # A list of references takes 8 bytes for each value; a few such lists are needed.
    assert peak_bytes(lambda: rejection(value)) < 40 * len(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ü", "ü".encode()),
        *(({"b64": text}, b"\x00\xff") for text in ("AP8=", "AP8", " A P\n8=\t")),
        ({"b64": ""}, b""),
    ],
)
def test_bytes_are_text_or_base64(value: Any, expected: bytes) -> None:
    assert bytes_from_json(value, "instances[0]") == expected


NOT_BASE64 = [{"b64": text} for text in ("A", "not base64!", "AP8=AP8=", "AP8_", "é")]
NO_BYTES = [{"b64": 1}, {"b64": None}, {"b64": ["AP8="]}, {"b64": "AP8=", "more": 1}, {"text": "x"}, {}, 1, None]


@pytest.mark.parametrize("value", [*NOT_BASE64, *NO_BYTES])
def test_invalid_bytes_are_located(value: Any) -> None:
    reason = "Unable to base64 decode" if value in NOT_BASE64 else "not formatted correctly for base64 data"
    with pytest.raises(InvalidRequest) as raised:
        bytes_from_json(value, "instances[0]")
    assert str(raised.value) == f'instances[0]: expected a string or {{"b64": "..."}} with valid base64 ({reason})'


@pytest.mark.parametrize(("value", "place"), [({"b64": "?"}, ""), ([["a", "b"], ["c", {"b64": "?"}]], "[1][1]")])
def test_invalid_string_is_located(value: Any, place: str) -> None:
    assert rejection(value, "DT_STRING").startswith(f"instances{place}: expected a string")
