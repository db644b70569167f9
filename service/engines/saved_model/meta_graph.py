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
"""

from service.engines.saved_model.wire import as_bytes, as_int, as_text, entries, fields, last, signed, submessage
from service.tensors.signature import Signature, TensorSpec

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


def read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """By name. An initialiser is none, nor is what takes or gives sparse, ragged or other composite tensors, resources
    or types without an array.

    Raises:
        ValueError: these bytes are no MetaGraphDef.
    """
    signatures = {}
    for name, definition in sorted(entries(memoryview(meta_graph), 5)):
        inputs, outputs = _specs(definition, 1), _specs(definition, 2)
        if inputs is not None and outputs is not None:
            signatures[name] = Signature(as_text(last(definition, 3)), inputs, outputs)
    return signatures


def has_variables(meta_graph: bytes) -> bool:
    """Whether it restores its variables from a file. Raises ValueError as above."""
    return last(memoryview(meta_graph), 3) is not None


def read_tags(saved_model: bytes) -> list[list[str]]:
    """The tags of each graph in a file saved_model.pb. Raises ValueError where the file is none."""
    return [
        [as_text(tag) for number, tag in fields(submessage(as_bytes(graph), 1)) if number == 4]
        for number, graph in fields(memoryview(saved_model))
        if number == 2
    ]


def _specs(definition: memoryview, number: int) -> dict[str, TensorSpec] | None:
    """The tensors in one of a SignatureDef's two maps; None where one of them is no plain tensor."""
    specs = {}
    for name, info in sorted(entries(definition, number)):
        parts = dict(fields(info))
        dtype = DATA_TYPES.get(as_int(parts.get(2, 0)))
        if 1 not in parts or dtype is None:
            return None
        specs[name] = TensorSpec(as_text(parts[1]), dtype, read_shape(as_bytes(parts[3])) if 3 in parts else None)
    return specs


def read_shape(message: memoryview) -> tuple[int, ...] | None:
    """Of a TensorShapeProto; None where even the rank is unknown."""
    if last(message, 3):
        return None
    return tuple(signed(as_int(last(as_bytes(dim), 1) or 0)) for number, dim in fields(message) if number == 2)
