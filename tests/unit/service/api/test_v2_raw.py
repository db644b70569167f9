"""Raw input: Inference-Header-Content-Length is 0, and the body nothing but the only input's data."""

import struct

import pytest

from service.api.v2 import decode as v2_codec
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from service.tensors.signature import Signature
from tests.unit.service.fakes import any_shape, signature, tensor


def raw(data: bytes, dtype: str, *shape: int) -> Array:
    return v2_codec.decode(data, b"0", signature({"x": tensor(dtype, *shape)}))[1]["x"]


def test_a_raw_body_is_the_only_input_with_its_free_size_told_by_the_length() -> None:
    assert raw(struct.pack("<4f", 1, 2, 3, 4), "DT_FLOAT", -1, 2).tolist() == [[1, 2], [3, 4]]
    assert raw(struct.pack("<2f", 1, 2), "DT_FLOAT", 2).tolist() == [1, 2]
    assert raw(b"", "DT_FLOAT", -1, 2).shape == (0, 2)


def test_a_raw_body_for_a_batch_of_rows_of_any_size_is_one_row() -> None:
    assert raw(struct.pack("<2f", 1, 2), "DT_FLOAT", -1, -1).tolist() == [[1, 2]]


def test_a_raw_string_comes_without_its_length() -> None:
    assert raw(b"427", "DT_STRING", -1).tolist() == [b"427"]
    assert raw(b"427", "DT_STRING", -1, 1).tolist() == [[b"427"]]


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (signature({"x": tensor("DT_STRING", -1, 2)}), "is one string where [-1, 2] are expected"),
        (signature({"x": tensor("DT_FLOAT", -1, -1, -1)}), "of which several sizes are free"),
        (signature({"x": tensor("DT_FLOAT", 2, -1, -1)}), "of which several sizes are free"),
        (signature({"x": any_shape("DT_FLOAT")}), "is of any shape: its own cannot be told from its length"),
        (signature({"x": tensor("DT_FLOAT", -1, 5)}), "has 8 bytes of binary data; a tensor of FP32 and shape [0, 5]"),
        (signature({"x": tensor("DT_FLOAT", -1, 0)}), "has 8 bytes of binary data; a tensor of FP32 and shape [0, 0]"),
        (signature({"x": tensor("DT_FLOAT", 3)}), "has 8 bytes of binary data; a tensor of FP32 and shape [3] has 12"),
        (signature({"x": tensor("DT_FLOAT", 1), "z": tensor("DT_FLOAT", 1)}), "takes a model with one input"),
        (signature({"x": tensor("DT_COMPLEX64", -1)}), "a tensor of type COMPLEX64 cannot be sent"),
    ],
)
def test_a_raw_body_whose_shape_cannot_be_told_is_refused(of: Signature, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        v2_codec.decode(bytes(8), b"0", of)
    assert words in str(caught.value)
