from contextlib import suppress

import pytest

from service.engines.saved_model.meta_graph import has_variables, read_signatures, read_tags
from service.tensors.signature import Signature, TensorSpec
from service.tensors.tensor_proto import DATA_TYPES
from tests.unit.service.protobufs import message, varint, whole

FLOAT, RESOURCE, QUANTISED, REFERENCE = 1, 20, 11, 101


def entry(field: int, key: str, *value: bytes) -> bytes:
    return message(field, message(1, key.encode()), message(2, *value))


def shape(*sizes: int) -> bytes:
    return message(3, *(message(2, whole(1, size), message(2, b"a dimension's name")) for size in sizes))


def tensor(name: str, dtype: int, more: bytes = b"") -> bytes:
    return message(1, name.encode()) + whole(2, dtype) + more


X = entry(1, "x", tensor("x:0", FLOAT, shape(-1, 28)))
Y = entry(2, "y", tensor("y:0", FLOAT, shape(-1)))
METHOD = message(3, b"tensorflow/serving/predict")


def input_of(spec: bytes) -> TensorSpec:
    return read_signatures(entry(5, "a", entry(1, "x", spec), Y))["a"].inputs["x"]


def test_signatures_are_read_among_unknown_fields() -> None:
    """Neither inputs nor method need be there."""
    x, y = TensorSpec("x:0", "DT_FLOAT", (-1, 28)), TensorSpec("y:0", "DT_FLOAT", (-1,))
    other = varint(9 << 3 | 1) + bytes(8) + varint(10 << 3 | 5) + bytes(4) + message(2, bytes(1000)) + message(4, b"c")
    assert read_signatures(other + entry(5, "größe", X, Y, METHOD) + other + entry(5, "a", Y)) == {
        "a": Signature("", {}, {"y": y}),
        "größe": Signature("tensorflow/serving/predict", {"x": x}, {"y": y}),
    }


def test_signatures_and_tensors_are_sorted_by_name() -> None:
    inputs = b"".join(entry(1, name, tensor(f"{name}:0", FLOAT)) for name in "bca")
    signatures = read_signatures(entry(5, "b", Y) + entry(5, "a", inputs, Y))
    assert list(signatures) == ["a", "b"]
    assert list(signatures["a"].inputs) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"", None),
        (shape(), ()),
        (shape(0), (0,)),
        (shape(-1, 2**40, 3), (-1, 2**40, 3)),
        (message(3, whole(3, 1)), None),
        (message(3, whole(3, 0)), ()),
    ],
    ids=["none", "scalar", "zero", "free and long", "unknown rank", "known rank"],
)
def test_every_shape_is_read(field: bytes, expected: object) -> None:
    assert input_of(tensor("x:0", FLOAT, field)).shape == expected


@pytest.mark.parametrize("dtype", DATA_TYPES)
def test_every_type_is_read(dtype: int) -> None:
    assert input_of(tensor("x:0", dtype)).dtype == DATA_TYPES[dtype]


@pytest.mark.parametrize(
    "odd",
    [message(1, b"NoOp"), whole(2, FLOAT) + message(4, b"coo_sparse"), whole(2, FLOAT) + message(5, b"composite")]
    + [tensor("x:0", dtype) for dtype in (0, RESOURCE, QUANTISED, REFERENCE)],
)
@pytest.mark.parametrize("field", [1, 2])
def test_signatures_with_other_tensors_are_left_out(odd: bytes, field: int) -> None:
    assert read_signatures(entry(5, "serving_default", X, Y, entry(field, "odd", odd))) == {}


@pytest.mark.parametrize(
    "broken",
    [
        entry(5, "a", X, Y)[:-1],
        b"\x2a",
        b"\x2a\xff",
        b"\xff" * 11,
        b"\x2b",
        whole(5, 1),
        message(5, message(1, b"name"), whole(2, 1)),
        message(5, whole(1, 1)),
        message(5, message(1, b"\xff")),
        entry(5, "a", entry(1, "x", message(2, b"type"), message(1, b"x:0"))),
    ],
)
def test_invalid_bytes_are_rejected(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_signatures(broken)


def test_truncated_bytes_are_read_or_rejected() -> None:
    graph = entry(5, "serving_default", X, Y, METHOD) + message(2, b"graph")
    for length in range(len(graph)):
        with suppress(ValueError):
            assert len(read_signatures(graph[:length])) <= 1


@pytest.mark.parametrize(
    ("graph", "has"),
    [(message(2, b"graph") + message(3, b"saver"), True), (message(3), True), (message(2, b"graph"), False)],
)
def test_graph_with_a_saver_has_variables(graph: bytes, has: bool) -> None:
    assert has_variables(graph) is has


def test_tags_are_read_by_graph() -> None:
    def graph(*tags: bytes) -> bytes:
        return message(2, message(1, message(5, b"2.21.0"), *(message(4, tag) for tag in tags)), message(2, b"graph"))

    assert read_tags(whole(1, 1) + graph(b"serve", b"gpu") + graph(b"train")) == [["serve", "gpu"], ["train"]]
    assert read_tags(graph() + message(2, message(2, b"graph"))) == [[], []]
    assert read_tags(b"") == []
