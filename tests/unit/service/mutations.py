"""Bytes that were right, damaged in ways that find what is read without being checked."""

import zlib
from collections.abc import Callable

from hypothesis import strategies as st

Mutation = Callable[[bytes], bytes]

# Sizes and counts at the ends of their types.
ODD_NUMBERS = [0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
_PNG = b"\x89PNG\r\n\x1a\n"


def _splice(share: float, dropped: int, put: bytes) -> Mutation:
    """Puts these bytes in the place of some, that share of the way in."""

    def splice(data: bytes) -> bytes:
        at = int(share * len(data))
        return data[:at] + put + data[at + dropped :]

    return splice


def _overwrite(share: float, put: bytes) -> Mutation:
    return _splice(share, len(put), put)


def _repeat(share: float, size: int, times: int) -> Mutation:
    return lambda data: _splice(share, 0, data[int(share * len(data)) :][:size] * times)(data)


def _flip(share: float, bit: int) -> Mutation:
    def flip(data: bytes) -> bytes:
        at = int(share * len(data))
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if data else data

    return flip


# Heads come first, and decide most.
_SHARES = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.1)
_NUMBERS = st.builds(
    lambda number, size, order: (number % 2 ** (8 * size)).to_bytes(size, order),
    st.sampled_from(ODD_NUMBERS) | st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["little", "big"]),
)
_MUTATIONS: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(_flip, _SHARES, st.integers(0, 7)),
    st.builds(_overwrite, _SHARES, _NUMBERS | st.binary(max_size=8)),
    st.builds(_splice, _SHARES, st.just(0), st.binary(min_size=1, max_size=20)),
    st.builds(_splice, _SHARES, st.integers(1, 50) | st.just(2**32), st.just(b"")),
    st.builds(_repeat, _SHARES, st.integers(1, 50), st.integers(1, 5)),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: st.SearchStrategy[bytes], most: int = 4) -> bytes:
    data = draw(seeds)
    for mutate in draw(st.lists(_MUTATIONS, min_size=1, max_size=most)):
        data = mutate(data)
    return data


def with_right_checksums(png: bytes) -> bytes:
    """Else most damage to a PNG is found by the checksum of its chunk, and nothing behind that is tried."""
    if not png.startswith(_PNG):
        return png
    mended, rest = _PNG, png[len(_PNG) :]
    while len(rest) >= 12:
        length = int.from_bytes(rest[:4])
        content, behind = rest[4 : 8 + length], rest[12 + length :]
        mended += rest[:4] + content + zlib.crc32(content).to_bytes(4)
        rest = behind
    return mended + rest
