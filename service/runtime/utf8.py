"""Text that comes from elsewhere, as UTF-8: editors and clients of Windows put a byte order mark before it.

RFC 8259 lets a reader of JSON pass over the mark, as TensorFlow Serving and Triton do; TOML and CSV are no different.
"""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

_OTHERS = (BOM_UTF16_LE, BOM_UTF16_BE, b"\0\0" + BOM_UTF16_BE)


class NotUtf8(ValueError):
    """The message says what the text is, and what was expected."""


def without_mark(text: bytes | memoryview) -> bytes | memoryview:
    """Raises NotUtf8 where a mark says that it is UTF-16 or UTF-32."""
    head = bytes(text[:4])
    if head.startswith(BOM_UTF8):
        return text[len(BOM_UTF8) :]
    if head.startswith(_OTHERS):
        raise NotUtf8("it is in UTF-16 or UTF-32, as its byte order mark says; expected UTF-8")
    return text


def decode(text: bytes) -> str:
    """Raises NotUtf8."""
    try:
        return str(without_mark(text), "utf-8")
    except UnicodeDecodeError as error:
        raise NotUtf8(f"it is not UTF-8 ({error.reason} at byte {error.start}); expected UTF-8") from None
