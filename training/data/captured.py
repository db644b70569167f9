"""Lines that the service wrote: captured requests, and feedback beside them. Damaged ones are left out, and named."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

Line = TypeVar("Line")

MAX_SHOWN = 5  # damaged lines


def read_lines(
    files: Iterable[Path], decode: Callable[[bytes], Line], damaged: list[str]
) -> Iterator[tuple[str, Line]]:
    """Each line with its place: file and number. Where `decode` raises ValueError, `damaged` gets place and error."""
    for file in files:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                where = f"{file}, line {number}"
                try:
                    yield where, decode(line)
                except ValueError as error:
                    damaged.append(f"{where}: {error}")


def print_damaged(damaged: Sequence[str]) -> None:
    for each in damaged[:MAX_SHOWN]:
        print(f"damaged, and left out: {each}", file=sys.stderr)
    if len(damaged) > MAX_SHOWN:
        print(f"and {len(damaged) - MAX_SHOWN} lines more", file=sys.stderr)
