"""simdjson's parsers. One keeps its buffers from a document to the next, and serves one thread."""

import threading
from typing import Any

import simdjson

# The buffers are ten times as long as the longest document was: for long ones they are not kept.
LONGEST_KEPT_BYTES = 256 * 1024

_kept = threading.local()


def parser_for(data: bytes) -> Any:
    if len(data) > LONGEST_KEPT_BYTES:
        return simdjson.Parser()
    if not hasattr(_kept, "parser"):
        _kept.parser = simdjson.Parser()
    return _kept.parser
