import math
import tracemalloc
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

WHOLE = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "f"]
NUMBERS = [*WHOLE, *FLOATS]


def rejection(value: Any, dtype: str) -> str:
    with pytest.raises(InvalidRequest) as raised:
        array_from_json(value, any_shape(dtype), "instances")
    return str(raised.value)


@pytest.mark.parametrize("dtype", [*NUMBERS, "DT_BOOL"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_round_trip_of_numbers(dtype: str, data: st.DataObject) -> None:
    elements = {"allow_nan": False, "allow_infinity": False} if dtype in FLOATS else {}
    shapes = numpy_st.array_shapes(min_dims=0, max_dims=4, max_side=4)
    array: Array = data.draw(numpy_st.arrays(DTYPES[dtype], shapes, elements=elements))
    read = array_from_json(orjson.loads(orjson.dumps(array.tolist())), any_shape(dtype), "instances")
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert np.array_equal(read, array)


@given(numpy_st.array_shapes(min_dims=0, max_dims=3, max_side=3), st.data())
def test_round_trip_of_strings(shape: tuple[int, ...], data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.text(), min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.array(texts, object).reshape(shape)
    read = array_from_json(orjson.loads(orjson.dumps(array.tolist())), any_shape("DT_STRING"), "instances")
    assert read.shape == shape
    assert [value.decode() for value in read.ravel()] == texts


@pytest.mark.parametrize("dtype", WHOLE)
def test_integers_are_exact_at_the_limits(dtype: str) -> None:
    limits = np.iinfo(DTYPES[dtype])
    read = array_from_json([limits.min, limits.max], any_shape(dtype), "instances")
    assert read.tolist() == [limits.min, limits.max]


def test_64_bits_are_exact() -> None:
    assert array_from_json([2**63 - 1], any_shape("DT_INT64"), "instances").tolist() == [2**63 - 1]


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("end", ["min", "max"])
def test_an_integer_out_of_range_is_rejected(dtype: str, end: str) -> None:
    limits = np.iinfo(DTYPES[dtype])
    outside = limits.min - 1 if end == "min" else limits.max + 1
    message = rejection([0, outside], dtype)
    assert message == (
        f"instances: {outside} is out of the range of {DTYPES[dtype].name} ({limits.min} to {limits.max}), "
        f"so not of expected type: {DTYPES[dtype].name}"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("DT_HALF", 65520.0),
        ("DT_HALF", 70000),
        ("DT_HALF", -1e300),
        ("DT_FLOAT", 3.5e38),
        ("DT_FLOAT", -3.5e38),
        ("DT_HALF", 2**64 - 1),
    ],
)
def test_a_float_out_of_range_is_rejected(dtype: str, value: float) -> None:
    message = rejection([1.0, value], dtype)
    assert message.startswith(f"instances: {value} is out of the range of {DTYPES[dtype].name}")


def test_integers_as_floats() -> None:
    read = array_from_json([[1, 2.5]], any_shape("DT_FLOAT"), "instances")
    assert read.dtype == np.float32
    assert read.tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize(
    ("value", "dtype", "place", "found"),
    [
        ([1, "2"], "DT_FLOAT", "instances[1]", "the string '2'"),
        (["1"], "DT_INT32", "instances[0]", "the string '1'"),
        ([[1], ["x" * 100]], "DT_FLOAT", "instances[1][0]", f"the string '{'x' * 40}'"),
        ([True], "DT_FLOAT", "instances[0]", "true"),
        ([0, False], "DT_INT64", "instances[1]", "false"),
        ([None], "DT_FLOAT", "instances[0]", "null"),
        (None, "DT_FLOAT", "instances", "null"),
        ([{"a": 1}], "DT_FLOAT", "instances[0]", "an object"),
        ([1.0], "DT_INT32", "instances[0]", "the number 1.0"),
        ([1], "DT_BOOL", "instances[0]", "the number 1"),
        (["true"], "DT_BOOL", "instances[0]", "the string 'true'"),
        ([1], "DT_STRING", "instances[0]", "the number 1"),
        (["a", None], "DT_STRING", "instances[1]", "null"),
        ("x", "DT_DOUBLE", "instances", "the string 'x'"),
    ],
)
def test_a_value_of_the_wrong_type_is_located(value: Any, dtype: str, place: str, found: str) -> None:
    message = rejection(value, dtype)
    assert message.startswith(f"{place} is {found}; expected ")
    assert message.endswith(f"(not of expected type: {dtype.removeprefix('DT_').lower()})")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("DT_BOOL", "true or false"),
        ("DT_UINT8", "a whole number"),
        ("DT_FLOAT", "a number"),
        ("DT_STRING", 'a string or {"b64": "..."}'),
    ],
)
def test_a_wrong_type_says_what_was_expected(dtype: str, expected: str) -> None:
    assert f"; expected {expected} " in rejection([None], dtype)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [[1, 2], [3]],
            "instances[1] has 1 value where instances[0] has 2; rows must be of one length "
            "(Expecting tensor size: 2 but got: 1)",
        ),
        (
            [[], [1]],
            "instances[1] has 1 value where instances[0] has 0; rows must be of one length "
            "(Expecting tensor size: 0 but got: 1)",
        ),
        (
            [[[1], [2]], [[3], [4, 5]]],
            "instances[1][1] has 2 values where instances[0][0] has 1; rows must be of one length "
            "(Expecting tensor size: 2 but got: 3)",
        ),
        (
            [[[1, 2, 3, 4]], [[1, 2], [3, 4]]],
            "instances[1] has 2 values where instances[0] has 1; rows must be of one length "
            "(Expecting shape [1, 4] but got: [2, 2])",
        ),
        (
            [[[1], [2, 3]], [[4], [5, 6]]],
            "instances[0][1] has 2 values where instances[0][0] has 1; rows must be of one length",
        ),
        (
            [1, [2]],
            "instances[0] is the number 1 where its neighbours are lists; rows must be of one depth "
            "(Expecting shape [] but got: [1])",
        ),
        (
            [[1], 2],
            "instances[1] is the number 2 where its neighbours are lists; rows must be of one depth "
            "(Expecting shape [1] but got: [])",
        ),
        (
            [[1], None],
            "instances[1] is null where its neighbours are lists; rows must be of one depth "
            "(Expecting shape [1] but got: [])",
        ),
        (
            [[[1]], [2]],
            "instances[1][0] is the number 2 where its neighbours are lists; rows must be of one depth "
            "(Expecting shape [1, 1] but got: [1])",
        ),
        (
            [[1], "x"],
            "instances[1] is the string 'x' where its neighbours are lists; rows must be of one depth "
            "(Expecting shape [1] but got: [])",
        ),
        (
            [[1, [2]]],
            "instances[0][0] is the number 1 where its neighbours are lists; rows must be of one depth",
        ),
    ],
)
def test_ragged_rows_are_located(value: Any, message: str) -> None:
    assert rejection(value, "DT_FLOAT") == message


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_STRING", "DT_INT32", "DT_BOOL"])
@pytest.mark.parametrize(("value", "shape"), [([], (0,)), ([[], []], (2, 0)), ([[[]]], (1, 1, 0))])
def test_empty_lists_are_arrays_without_values(dtype: str, value: Any, shape: tuple[int, ...]) -> None:
    read = array_from_json(value, any_shape(dtype), "instances")
    assert (read.shape, read.dtype) == (shape, DTYPES[dtype])


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [(3, "DT_FLOAT", 3.0), (7, "DT_INT8", 7), (True, "DT_BOOL", True), ("é", "DT_STRING", "é".encode())],
)
def test_scalars(value: Any, dtype: str, expected: Any) -> None:
    read = array_from_json(value, any_shape(dtype), "inputs")
    assert read.shape == ()
    assert read[()] == expected


@pytest.mark.parametrize(("dtype", "leaf"), [("DT_FLOAT", 1), ("DT_STRING", "x"), ("DT_FLOAT", "x")])
@pytest.mark.parametrize("depth", [65, 900])
def test_deeply_nested_lists_are_rejected(dtype: str, leaf: Any, depth: int) -> None:
    value = leaf
    for _ in range(depth):
        value = [value]
    assert "expected" in rejection(value, dtype)


def test_a_type_without_json_is_rejected() -> None:
    assert rejection([1], "DT_COMPLEX64") == "instances: a tensor of type DT_COMPLEX64 cannot be sent as JSON"


def test_a_wrong_value_in_a_long_list_is_found_fast() -> None:
    count = 100_000
    value = [1] * count + ["x"]
    tracemalloc.start()
    try:
        assert rejection(value, "DT_FLOAT").startswith(f"instances[{count}] is the string 'x'")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A list of references takes 8 bytes for each value; a few such lists are needed.
    assert peak < 40 * count


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", b"text"),
        ("ü", "ü".encode()),
        ({"b64": "AP8="}, b"\x00\xff"),
        ({"b64": ""}, b""),
        ({"b64": "AP8"}, b"\x00\xff"),
        ({"b64": " A P\n8=\t"}, b"\x00\xff"),
    ],
)
def test_bytes_are_text_or_base64(value: Any, expected: bytes) -> None:
    assert bytes_from_json(value, "instances[0]") == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"b64": "A"}, "Unable to base64 decode"),
        ({"b64": "not base64!"}, "Unable to base64 decode"),
        ({"b64": "AP8=AP8="}, "Unable to base64 decode"),
        ({"b64": "AP8_"}, "Unable to base64 decode"),
        ({"b64": "é"}, "Unable to base64 decode"),
        ({"b64": 1}, "not formatted correctly for base64 data"),
        ({"b64": None}, "not formatted correctly for base64 data"),
        ({"b64": ["AP8="]}, "not formatted correctly for base64 data"),
        ({"b64": "AP8=", "more": 1}, "not formatted correctly for base64 data"),
        ({"text": "x"}, "not formatted correctly for base64 data"),
        ({}, "not formatted correctly for base64 data"),
        (1, "not formatted correctly for base64 data"),
        (None, "not formatted correctly for base64 data"),
    ],
)
def test_invalid_bytes_are_located(value: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        bytes_from_json(value, "instances[0]")
    assert str(raised.value) == f'instances[0]: expected a string or {{"b64": "..."}} with valid base64 ({reason})'


def test_an_invalid_nested_string_is_located() -> None:
    assert rejection([["a", "b"], ["c", {"b64": "?"}]], "DT_STRING").startswith("instances[1][1]: expected a string")


def test_an_invalid_scalar_string_has_no_place() -> None:
    assert rejection({"b64": "?"}, "DT_STRING").startswith("instances: expected a string")
