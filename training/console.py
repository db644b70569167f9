"""What a run says while it goes on: how far it is, how long it takes, and nothing of what TensorFlow says of itself."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TypeVar

Item = TypeVar("Item")

KEEP_SECONDS = 2.0  # between two lines that stay: a fit of 200 short epochs is a few lines
FIRST_SECONDS, SHOW_SECONDS = 5.0, 60.0  # off a terminal: until the first line within a stage, between two of them

# Of TensorFlow's libraries at every start, whatever TF_CPP_MIN_LOG_LEVEL is.
_NOISE = re.compile(rb"before absl::InitializeLog\(\)|oneDNN custom operations are on|Created TensorFlow Lite XNNPACK")


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Line:
    """The line that says how far a stage is. On a terminal it is written over, elsewhere it is now and then a new one.

    At the end of its `with` block the cursor is at the beginning of a line.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._is_open = False
        self._kept = float("-inf")
        self._next = time.monotonic() + FIRST_SECONDS

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_open:
            print(flush=True)
            self._is_open = False

    def show(self, text: str) -> None:
        """Until the next one; off a terminal only once in SHOW_SECONDS."""
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:{width}}", end="", flush=True)
            self._is_open = True
        elif time.monotonic() >= self._next:
            self._print(text)

    def keep(self, text: str, *, always: bool = False) -> None:
        """A line that stays. Without `always` it is left out if the last one is not KEEP_SECONDS old."""
        if always or time.monotonic() - self._kept >= KEEP_SECONDS:
            self._print(text)
            self._kept = time.monotonic()
        else:
            self.show(text)

    def counted(self, items: Sequence[Item], stage: str) -> Iterator[Item]:
        """The items, one after another, while the line says how long the others take."""
        start = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            left = (time.monotonic() - start) / done * (len(items) - done)
            self.show(f"{stage:12}{done / len(items):.0%}" + (f", about {duration(left)} left" if left else ""))

    def _print(self, text: str) -> None:
        if self._is_open:
            self.show("")
            print("\r", end="")
            self._is_open = False
        print(text, flush=True)
        self._next = time.monotonic() + SHOW_SECONDS


def load_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds, without its noise. Call it before anything that imports it or Keras."""
    with quiet():
        import tensorflow
    if _is_quiet():
        # Of networks that are fitted one after another it says that they are compiled one after another.
        tensorflow.get_logger().setLevel("ERROR")


def _is_quiet() -> bool:
    return os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2") >= "2"


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back what is written to standard error, by libraries too, and then writes what is not noise.

    If TF_CPP_MIN_LOG_LEVEL is 0 or 1, everything is written at once.
    """
    if not _is_quiet():
        yield
        return
    with tempfile.TemporaryFile() as held:
        try:
            with _standard_error_to(held):
                yield
        finally:
            held.seek(0)
            os.write(2, b"".join(line for line in held if not _NOISE.search(line)))


@contextmanager
def silent() -> Iterator[None]:
    """Drops what is written to standard error, by libraries too: LiteRT's converter prints what it also raises."""
    with open(os.devnull, "wb") as nowhere, _standard_error_to(nowhere):  # noqa: PTH123
        yield


@contextmanager
def _standard_error_to(file: IO[bytes]) -> Iterator[None]:
    sys.stderr.flush()
    original = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        os.close(original)
