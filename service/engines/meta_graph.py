"""What a SavedModel says about its graphs, read without TensorFlow or its generated classes.

Format: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, tensorflow/core/framework/{tensor_shape,types}.proto.

    message SavedModel       { repeated MetaGraphDef meta_graphs = 2; }
    message MetaGraphDef     { MetaInfoDef meta_info_def = 1; SaverDef saver_def = 3;
                               map<string, SignatureDef> signature_def = 5; }
    message MetaInfoDef      { repeated string tags = 4; }
    message SignatureDef     { map<string, TensorInfo> inputs = 1; map<string, TensorInfo> outputs = 2;
                               string method_name = 3; }
    message TensorInfo       { oneof encoding { string name = 1; CooSparse coo_sparse = 4;
                               CompositeTensor composite_tensor = 5; } DataType dtype = 2;
                               TensorShapeProto tensor_shape = 3; }
    message TensorShapeProto { message Dim { int64 size = 1; } repeated Dim dim = 2; bool unknown_rank = 3; }

A map<string, V> is a repeated message { string key = 1; V value = 2; }.
"""

from collections.abc import Iterator

from service.signature import Signature, TensorSpec

# enum DataType, the part of it that can be given and taken as an array.
DATA_TYPES = {
    1: "DT_FLOAT",
    2: "DT_DOUBLE",
    3: "DT_INT32",
    4: "DT_UINT8",
    5: "DT_INT16",
    6: "DT_INT8",
    7: "DT_STRING",
    8: "DT_COMPLEX64",
    9: "DT_INT64",
    10: "DT_BOOL",
    14: "DT_BFLOAT16",
    17: "DT_UINT16",
    18: "DT_COMPLEX128",
    19: "DT_HALF",
    22: "DT_UINT32",
    23: "DT_UINT64",
}

Value = int | memoryview

_NOTHING = memoryview(b"")


def read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """By name. An initialiser is none, nor is what takes or gives sparse, ragged or other composite tensors, resources
    or types without an array.

    Raises:
        ValueError: these bytes are no MetaGraphDef.
    """
    signatures = {}
    for name, definition in sorted(_map(memoryview(meta_graph), 5)):
        inputs, outputs = _specs(definition, 1), _specs(definition, 2)
        if inputs is not None and outputs is not None:
            signatures[name] = Signature(_text(_last(definition, 3)), inputs, outputs)
    return signatures


def has_variables(meta_graph: bytes) -> bool:
    """Whether it restores its variables from a file. Raises ValueError as above."""
    return _last(memoryview(meta_graph), 3) is not None


def read_tags(saved_model: bytes) -> list[list[str]]:
    """The tags of each graph in a file saved_model.pb. Raises ValueError where the file is none."""
    return [
        [_text(tag) for number, tag in _fields(_bytes(_last(_bytes(graph), 1) or _NOTHING)) if number == 4]
        for number, graph in _fields(memoryview(saved_model))
        if number == 2
    ]


def _specs(definition: memoryview, number: int) -> dict[str, TensorSpec] | None:
    """The tensors in one of a SignatureDef's two maps; None where one of them is no plain tensor."""
    specs = {}
    for name, info in sorted(_map(definition, number)):
        fields = dict(_fields(info))
        dtype = DATA_TYPES.get(_int(fields.get(2, 0)))
        if 1 not in fields or dtype is None:
            return None
        specs[name] = TensorSpec(_text(fields[1]), dtype, _shape(_bytes(fields.get(3, _NOTHING))))
    return specs


def _shape(message: memoryview) -> tuple[int, ...] | None:
    if _last(message, 3):
        return None
    return tuple(_signed(_int(_last(_bytes(dim), 1) or 0)) for number, dim in _fields(message) if number == 2)


def _map(message: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    for field, entry in _fields(message):
        if field == number:
            fields = dict(_fields(_bytes(entry)))
            yield _text(fields.get(1)), _bytes(fields.get(2, _NOTHING))


def _last(message: memoryview, number: int) -> Value | None:
    return dict(_fields(message)).get(number)


def _fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """Each field's number and value: a whole number, or the bytes of what is longer.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, position = _varint(message, position)
            case 5:
                size = 4
            case other:
                raise ValueError(f"a protocol buffer has no wire type {other}")
        if position + size > len(message):
            raise ValueError("the protocol buffer ends in the middle of a field")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = shift = 0
    for position in range(position, min(position + 10, len(message))):  # noqa: B020
        value |= (message[position] & 0x7F) << shift
        shift += 7
        if message[position] < 0x80:
            return value, position + 1
    raise ValueError("the protocol buffer ends in the middle of a number, or has one that is too long")


def _signed(value: int) -> int:
    """int64 travels as two's complement in 64 bits."""
    return value - 2**64 if value >= 2**63 else value


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("the protocol buffer has bytes where a number belongs")
    return value


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("the protocol buffer has a number where bytes belong")
    return value


def _text(value: Value | None) -> str:
    return "" if value is None else bytes(_bytes(value)).decode()
