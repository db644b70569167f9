"""Protocol buffers, written field by field, for tests."""

import struct


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, *parts: bytes) -> bytes:
    """A field that holds bytes, or a message of these parts."""
    content = b"".join(parts)
    return varint(number << 3 | 2) + varint(len(content)) + content


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value % 2**64)


def shape(*sizes: int) -> bytes:
    """A TensorShapeProto's content."""
    return b"".join(message(2, whole(1, size)) for size in sizes)


def tensor(dtype: int, sizes: tuple[int, ...], *values: bytes) -> bytes:
    """A TensorProto's content."""
    return whole(1, dtype) + message(2, shape(*sizes)) + b"".join(values)


def predict_log(signature: str, inputs: dict[str, bytes]) -> bytes:
    """A PredictionLog of a PredictRequest, with TensorProtos by name."""
    entries = [message(2, message(1, name.encode()), message(2, content)) for name, content in inputs.items()]
    return message(1) + message(6, message(1, message(1, message(3, signature.encode())), *entries))


def examples_log(kind: int, *examples: bytes, context: bytes | None = None) -> bytes:
    """A PredictionLog of a ClassificationRequest (kind 2) or RegressionRequest (3)."""
    given = [message(1, example) for example in examples]
    listed = message(1, *given) if context is None else message(2, *given, message(2, context))
    return message(kind, message(1, message(2, listed)))


def tf_record(*records: bytes) -> bytes:
    return b"".join(struct.pack("<Q", len(record)) + b"\0" * 4 + record + b"\0" * 4 for record in records)
