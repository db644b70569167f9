"""The short cut for numbers reads what the long way reads, and leaves it everything else."""

from math import prod
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.numbers import decode_data
from service.errors import InvalidRequest
from service.tensors.dtypes import DTYPES
from service.tensors.json import array_from_json
from tests.unit.service.fakes import any_shape

NUMBERS = ["DT_FLOAT", "DT_DOUBLE", "DT_HALF", "DT_INT8", "DT_INT64", "DT_UINT8", "DT_UINT64"]

leaves: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(2**64), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, 1, -1, 127, 128, 255, 256, 65504, 65520, 2**53 + 1, 3.4028235e38, 3.5e38, 1.5, -0.0]),
    st.sampled_from([None, True, "1", {}, []]),
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


def dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # beyond 64 bits
        return repr(value).replace("'", '"').replace("True", "true").replace("None", "null").encode()


@given(values, st.sampled_from(NUMBERS), st.lists(st.integers(0, 4), max_size=3))
def test_what_the_short_cut_takes_the_long_way_reads_alike(value: Any, dtype: str, shape: list[int]) -> None:
    data = dumps(value)
    array = decode_data(data, DTYPES[dtype], tuple(shape))
    if array is None:
        return
    expected = array_from_json(orjson.loads(data), any_shape(dtype), "data")
    assert expected.shape in (tuple(shape), (prod(shape),))
    assert (array.shape, array.dtype) == (tuple(shape), DTYPES[dtype])
    assert array.ravel().tolist() == expected.ravel().tolist()


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3), (3, 2, 1), (6, 1, 1, 1)])
def test_flat_and_nested_lists_take_the_short_cut(dtype: str, shape: tuple[int, ...]) -> None:
    expected = np.arange(6, dtype=DTYPES[dtype]).reshape(shape)
    for data in (expected.tolist(), expected.ravel().tolist()):
        for text in (orjson.dumps(data), orjson.dumps(data, option=orjson.OPT_INDENT_2)):
            array = decode_data(text, DTYPES[dtype], shape)
            assert array is not None
            assert np.array_equal(array, expected)


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (b"[[1,2],[3]]", "DT_FLOAT", (3,)),
        (b"[[1,2],[3,4]]", "DT_FLOAT", (4,)),
        (b"[[1,2,3],[4]]", "DT_FLOAT", (2, 2)),
        (b"[[1],[2,3,4]]", "DT_FLOAT", (2, 2)),
        (b"[[[1,2],[3,4]]]", "DT_FLOAT", (2, 2)),
        (b"[1,2", "DT_FLOAT", (2,)),
        (b"[1,2,]", "DT_FLOAT", (2,)),
        (b"[1,2]]", "DT_FLOAT", (2,)),
        (b"[1e39]", "DT_FLOAT", (1,)),
        (b"[65520]", "DT_HALF", (1,)),
        (b"[1.5]", "DT_INT8", (1,)),
        (b"[128]", "DT_INT8", (1,)),
        (b"[-1]", "DT_UINT8", (1,)),
        (b"[1]", "DT_BOOL", (1,)),
        (b"[true]", "DT_FLOAT", (1,)),
        (b'["["]', "DT_STRING", (1,)),
        (b"1", "DT_FLOAT", ()),
        (b"[]", "DT_FLOAT", (0,)),
        (b"[1]", "DT_FLOAT", (2**60,)),
    ],
)
def test_everything_else_goes_the_long_way(data: bytes, dtype: str, shape: tuple[int, ...]) -> None:
    assert decode_data(data, DTYPES[dtype], shape) is None


def test_the_long_way_says_what_is_wrong() -> None:
    with pytest.raises(InvalidRequest, match="out of the range of int8"):
        array_from_json([128], any_shape("DT_INT8"), "data")
