"""JPEGs that end too early: of cameras that leave out the end marker, or of a transfer that was broken off.

Browsers show what is there. So does this, unless too much is missing to be sure of what is to be seen.
"""

import re
from collections.abc import Callable

import msgspec
import numpy as np
from PIL import Image

# How much may be missing, of the pixels: some of the last rows.
MAX_MISSING_SHARE = 1 / 16

_END = b"\xff\xd9"
# What is left of a file for which room was made before it came, and none of the pixels' data.
_MIN_PADDING_BYTES = 16
_PADDING = bytes(_MIN_PADDING_BYTES)

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_MARKER_OR_RESTART = re.compile(rb"\xff([\x01-\xfe])")
_FIRST_RESTART, _RESTARTS = 0xD0, 8
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_START_OF_SCAN = 0xDA
# Encoders make some ten; each takes time to read, and may be short.
_MAX_SCANS = 500
_MAX_COMPONENTS = 4
_RESTART_INTERVAL = 0xDD
# Of what is coded at once: 8 x 8 of one component; of several 16 x 16, unless sampled in a way that nobody uses.
_UNIT_PIXELS, _MAX_UNIT_PIXELS = 64, 256


class _Scans(msgspec.Struct):
    """`lacking`: by component the coefficients that no scan has begun to bring. `begin`: of the last scan's data.
    `restart_units`: after how many units of it a restart marker comes; 0: there are none. `unit_pixels`: in each."""

    lacking: dict[int, set[int]]
    pixels: int = 0
    begin: int = 0
    restart_units: int = 0
    unit_pixels: int = _MAX_UNIT_PIXELS


def is_cut_and_padded(jpeg: bytes) -> bool:
    """Whether zeros stand where its end should be. To a decoder they are data."""
    return jpeg.endswith(_PADDING) and not jpeg.rstrip(b"\0").endswith(_END)


def with_end(jpeg: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image | None:
    """The picture, what is missing of it in grey; None where that is too much.

    Where its data ends no decoder tells. So it is decoded twice, behind its end nothing and then noise: the pixels that
    differ are those that there is no data for.
    """
    scans = _read_scans(jpeg)
    # Without every scan a picture lacks colours, or most of what is fine in it.
    if not scans.lacking or any(scans.lacking.values()):
        return None
    data, restarts = _sound_part(jpeg.rstrip(b"\0") if jpeg.endswith(_PADDING) else jpeg, scans)
    image = decode(data + _END)
    differing = np.asarray(image) != np.asarray(decode(data + _noise(scans, restarts) + _END))
    missing = differing if differing.ndim == 2 else differing.any(axis=2)
    return image if missing.mean() <= MAX_MISSING_SHARE else None


def _sound_part(jpeg: bytes, scans: _Scans) -> tuple[bytes, int]:
    """What comes before a marker that the last scan cannot have, and how many restart markers that scan has there."""
    restarts = 0
    for marker in _MARKER_OR_RESTART.finditer(jpeg, scans.begin):
        if not scans.restart_units or marker[1][0] != _FIRST_RESTART + restarts % _RESTARTS:
            jpeg = jpeg[: marker.start()]
            break
        restarts += 1
    # A marker's first byte would make one of whatever comes behind it.
    return jpeg.rstrip(b"\xff"), restarts


def _noise(scans: _Scans, restarts: int) -> bytes:
    """Enough for several times what may be missing, with the restart markers that come after so many."""
    # No 255: that would begin a marker.
    noise = np.random.default_rng(0).integers(0, 255, scans.pixels // 2 + 1024, np.uint8).tobytes()
    if not scans.restart_units:
        return noise
    step = scans.restart_units * scans.unit_pixels
    intervals = [noise[at : at + step] for at in range(0, len(noise), step)]
    return b"".join(
        b"%b\xff%c" % (interval, _FIRST_RESTART + number % _RESTARTS)
        for number, interval in enumerate(intervals, restarts)
    )


def _read_scans(jpeg: bytes) -> _Scans:
    scans = _Scans({})
    is_progressive = False
    count = 0
    at = 2
    while marker := _MARKER.search(jpeg, at):
        code, begin = marker[1][0], marker.end()
        at = begin + int.from_bytes(jpeg[begin : begin + 2])
        segment = jpeg[begin + 2 : at]
        if code in _START_OF_FRAME:
            is_progressive = code in _PROGRESSIVE
            scans.pixels = int.from_bytes(segment[1:3]) * int.from_bytes(segment[3:5])
            coefficients = range(64) if is_progressive else range(1)
            scans.lacking = {segment[6 + 3 * number]: set(coefficients) for number in range(segment[5])}
        elif code == _RESTART_INTERVAL:
            scans.restart_units = int.from_bytes(segment)
        elif code == _START_OF_SCAN:
            scans.begin = at
            count += 1
            if count > _MAX_SCANS or segment[0] > _MAX_COMPONENTS:
                raise ValueError("no such JPEG")
            scans.unit_pixels = _UNIT_PIXELS if segment[0] == 1 else _MAX_UNIT_PIXELS
            first, last, bits = segment[-3:]
            # The last bits of a coefficient may come in a scan of their own.
            if not is_progressive or bits & 0x0F == 0:
                for number in range(segment[0]):
                    scans.lacking[segment[1 + 2 * number]] -= set(range(first, last + 1))
    return scans
