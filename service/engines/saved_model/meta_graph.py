"""Signatures and tags of a SavedModel, read without TensorFlow or generated classes.

Format: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, tensorflow/core/framework/{graph,node_def}.proto.

    message SavedModel       { repeated MetaGraphDef meta_graphs = 2; }
    message MetaGraphDef     { MetaInfoDef meta_info_def = 1; GraphDef graph_def = 2; SaverDef saver_def = 3;
                               map<string, SignatureDef> signature_def = 5; }
    message MetaInfoDef      { repeated string tags = 4; }
    message GraphDef         { repeated NodeDef node = 1; }
    message NodeDef          { string op = 2; map<string, AttrValue> attr = 5; }
    message AttrValue        { oneof value { bool b = 5; } }
    message SignatureDef     { map<string, TensorInfo> inputs = 1; map<string, TensorInfo> outputs = 2;
                               string method_name = 3; }
    message TensorInfo       { oneof encoding { string name = 1; CooSparse coo_sparse = 4;
                               CompositeTensor composite_tensor = 5; } DataType dtype = 2;
                               TensorShapeProto tensor_shape = 3; }
"""

from collections.abc import Callable

from service.tensors.protobuf import (
    as_bytes,
    as_int,
    as_text,
    entries,
    field,
    fields,
    last,
    number_field,
    submessage,
    text_field,
)
from service.tensors.signature import Signature, TensorSpec
from service.tensors.tensor_proto import DATA_TYPES, read_shape

# Nodes that call a function, and the attribute by which TensorFlow does not look into it for the shapes of its outputs.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SHAPES_UNKNOWN = field(5, text_field(1, "_disable_call_shape_inference"), field(2, number_field(5, 1)))


def read_signatures(meta_graph: bytes) -> dict[str, Signature]:
    """The signatures of a MetaGraphDef, by name. Left out are initialisers, and signatures with sparse, ragged or other
    composite tensors, resources, or types without an array.

    Raises:
        ValueError: the bytes are not a MetaGraphDef.
    """
    found = {name: read_signature(definition) for name, definition in sorted(entries(memoryview(meta_graph), 5))}
    return {name: signature for name, signature in found.items() if signature is not None}


def read_signature(definition: memoryview) -> Signature | None:
    """A SignatureDef; None if it has a tensor that `read_signatures` leaves out. Raises ValueError."""
    inputs, outputs = _specs(definition, 1), _specs(definition, 2)
    if inputs is None or outputs is None:
        return None
    return Signature(as_text(last(definition, 3)), inputs, outputs)


def has_variables(meta_graph: bytes) -> bool:
    """Whether a MetaGraphDef restores variables from a file. Raises ValueError."""
    return last(memoryview(meta_graph), 3) is not None


def read_tags(saved_model: bytes) -> list[list[str]]:
    """The tags of each graph in a saved_model.pb. Raises ValueError if the file is not one."""
    return [
        [as_text(tag) for number, tag in fields(submessage(as_bytes(graph), 1)) if number == 4]
        for number, graph in fields(memoryview(saved_model))
        if number == 2
    ]


def with_unknown_shapes(saved_model: bytes) -> bytes:
    """A saved_model.pb whose graphs call functions without a look at the shapes of their outputs. Raises ValueError."""

    def node(message: memoryview) -> bytes:
        return bytes(message) + (_SHAPES_UNKNOWN if as_text(last(message, 2)) in _CALLS else b"")

    def graph(message: memoryview) -> bytes:
        return _replaced(message, 1, node)

    return _replaced(memoryview(saved_model), 2, lambda meta_graph: _replaced(meta_graph, 2, graph))


def _replaced(message: memoryview, number: int, replace: Callable[[memoryview], bytes]) -> bytes:
    """The message with every message in this field replaced. For types without numbers of fixed size."""
    return b"".join(
        [
            number_field(key, value)
            if isinstance(value, int)
            else field(key, replace(value) if key == number else value)
            for key, value in fields(message)
        ]
    )


def _specs(definition: memoryview, number: int) -> dict[str, TensorSpec] | None:
    """The tensors in one of a SignatureDef's two maps; None if one of them is not a plain tensor."""
    specs = {}
    for name, info in sorted(entries(definition, number)):
        parts = dict(fields(info))
        dtype = DATA_TYPES.get(as_int(parts.get(2, 0)))
        if 1 not in parts or dtype is None:
            return None
        specs[name] = TensorSpec(as_text(parts[1]), dtype, read_shape(as_bytes(parts[3])) if 3 in parts else None)
    return specs
