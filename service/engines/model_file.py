"""What LiteRT's interpreter does not tell about a model file (tensorflow/compiler/mlir/lite/schema/schema.fbs).

Fields are read by number: LiteRT's generated schema takes 38 MB and a fifth of a second to import.
"""

from collections.abc import Iterator

from flatbuffers import flexbuffers
from flatbuffers.number_types import BoolFlags, Int8Flags, Int32Flags, Uint32Flags
from flatbuffers.table import Table

from service.engines.base import LoadError
from service.engines.saved_model.meta_graph import read_signature
from service.tensors.signature import DEFAULT_SIGNATURE, Signature

#     table Model        { operator_codes: [OperatorCode] = 1; subgraphs: [SubGraph] = 2; buffers: [Buffer] = 4;
#                          metadata: [Metadata] = 6; }
#     table OperatorCode { deprecated_builtin_code: byte = 0; builtin_code: int = 3; }
#     table SubGraph     { tensors: [Tensor] = 0; }
#     table Tensor       { shape: [int] = 0; has_rank: bool = 8; }
#     table Metadata     { name: string = 0; buffer: uint = 1; }
#     table Buffer       { data: [ubyte] = 0; }
_ASSIGN_VARIABLE = 144
# LSTM, RNN, SVDF and their like, and custom operations.
_RECURRENT = frozenset({16, 24, 27, 32, 35, 44, 46, 52})
_SIGNATURES = b"signature_defs_metadata"


class ModelFile:
    """`keeps_state`: whether a run may change variables, which the next one reads. `is_recurrent`: whether it may leave
    something in tensors, which can be reset.
    """

    def __init__(self, content: bytes) -> None:
        """`content`: of a file that LiteRT has opened."""
        self._content = content
        self._model = Table(content, Table(content, 0).Indirect(0))
        codes = {_operation(code) for code in _tables(self._model, 1)}
        self.keeps_state = _ASSIGN_VARIABLE in codes
        self.is_recurrent = not _RECURRENT.isdisjoint(codes)

    def is_unranked(self, subgraph: int, tensor: int) -> bool:
        """Whether the tensor may have any rank. Its shape looks like that of a single number."""
        found = _table(_table(self._model, 2, subgraph), 0, tensor)
        return not _length(found, 0) and not _number(found, 8, BoolFlags)

    def recorded_signature(self) -> Signature | None:
        """The signature in the metadata, where older tools of TensorFlow wrote it (lite/tools/signature): a flexbuffer
        with a SignatureDef by name. Raises LoadError."""
        try:
            metadata = (one for one in _tables(self._model, 6) if one.String(one.Pos + one.Offset(4)) == _SIGNATURES)
            if (found := next(metadata, None)) is None:
                return None
            buffer = _table(self._model, 4, _number(found, 1, Uint32Flags))
            start = buffer.Vector(buffer.Offset(4))
            recorded = flexbuffers.GetRoot(self._content[start : start + _length(buffer, 0)]).AsMap
            names = [key.AsKey for key in recorded.Keys]
            place = names.index(DEFAULT_SIGNATURE) if DEFAULT_SIGNATURE in names else 0
            return read_signature(memoryview(recorded.Values[place].AsStringBytes))
        # The readers raise whatever damaged bytes lead to.
        except Exception as error:
            raise LoadError(f"the signatures in its metadata cannot be read: {error}") from None


def _operation(code: Table) -> int:
    """Older files have the number in one byte."""
    return max(_number(code, 3, Int32Flags), _number(code, 0, Int8Flags))


def _number(table: Table, field: int, flags: type) -> int:
    """0 where there is none."""
    return int(table.GetSlot(4 + 2 * field, 0, flags))


def _length(table: Table, field: int) -> int:
    """Of a vector; 0 where there is none."""
    place = table.Offset(4 + 2 * field)
    return int(table.VectorLen(place)) if place else 0


def _table(table: Table, field: int, index: int) -> Table:
    """One of a vector of tables."""
    return Table(table.Bytes, table.Indirect(table.Vector(table.Offset(4 + 2 * field)) + 4 * index))


def _tables(table: Table, field: int) -> Iterator[Table]:
    return (_table(table, field, index) for index in range(_length(table, field)))
