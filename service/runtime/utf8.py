"""Read UTF-8 with or without a byte order mark, which editors and clients on Windows write.

RFC 8259 lets readers of JSON ignore the mark, as TensorFlow Serving and Triton do. We do so for TOML and CSV, too.
"""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

_OTHERS = (BOM_UTF16_LE, BOM_UTF16_BE, b"\0\0" + BOM_UTF16_BE)


class NotUtf8(ValueError):
    """The message names the encoding that was found, and the expected one."""


def without_mark(text: bytes | memoryview) -> bytes | memoryview:
    """The text behind its mark. Raises NotUtf8 if the mark is that of UTF-16 or UTF-32."""
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
