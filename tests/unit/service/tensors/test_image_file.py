"""Damaged picture files: each is decoded or rejected, and nothing else happens."""

import random
import subprocess
import sys
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageFilter, PngImagePlugin

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
from service.tensors.dtypes import Array
from service.tensors.image import decode_picture
from service.tensors.image_file import looks_like_picture, picture_pixels
from tests.unit.service.mutations import mutated, with_right_checksums

MAX_PIXELS = 10_000


def gradient(mode: str, size: tuple[int, int] = (13, 9)) -> Image.Image:
    width, height = size
    ramp = Image.fromarray((np.arange(width * height) * 7 % 256).astype(np.uint8).reshape(height, width))
    if mode in ("I;16", "I", "F"):
        wide = np.asarray(ramp).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 257
        return Image.fromarray(wide)
    if mode == "LAB":
        return Image.merge("LAB", [ramp] * 3)
    return ramp.convert(mode)


def exif() -> Image.Exif:
    about = Image.Exif()
    about[0x0112], about[0x010E] = 6, "a picture"
    about.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return about


def saved(mode: str, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    gradient(mode).save(out, kind, **options)
    return out.getvalue()


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("title", "a picture", zip=True)
    info.add_itxt("title", "ein Bild", "de", "Titel")
    return info


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def animated() -> dict[str, Any]:
    # Pillow leaves notes in what it has saved.
    return {"save_all": True, "append_images": [gradient("L"), gradient("L").rotate(180)], "duration": 10, "loop": 0}


@cache
def pictures() -> dict[str, bytes]:
    made = {f"png {mode}": saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    made |= {f"jpeg {mode}": saved(mode, "JPEG") for mode in ("L", "RGB", "CMYK")}
    made |= {f"tiff {mode}": saved(mode, "TIFF") for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16", "I", "F", "LAB")}
    made |= {f"bmp {mode}": saved(mode, "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")}
    made |= {f"avif {mode}": saved(mode, "AVIF", exif=exif(), icc_profile=profile()) for mode in ("RGB", "RGBA")}
    made |= {f"{kind.lower()} profile": saved("RGB", kind, icc_profile=profile()) for kind in ("PNG", "JPEG", "TIFF")}
    made |= {f"webp {mode}": saved(mode, "WEBP", exif=exif()) for mode in ("RGB", "RGBA")}
    packings = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
    made |= {f"tiff {packing}": saved("RGB", "TIFF", compression=packing) for packing in packings}
    made |= {
        f"tiff {packing}": saved("1", "TIFF", compression=packing) for packing in ("group3", "group4", "tiff_ccitt")
    }
    return made | {
        "png text, exif": saved("RGB", "PNG", pnginfo=text(), exif=exif()),
        "png clear grey": saved("L", "PNG", transparency=7),
        "png clear 16 bits": saved("I;16", "PNG", transparency=7 * 257),
        "png clear palette": saved("P", "PNG", transparency=bytes(range(256))),
        "png animated": saved("RGBA", "PNG", **animated()),
        "jpeg restarts": saved("RGB", "JPEG", restart_marker_blocks=2),
        "jpeg progressive": saved("RGB", "JPEG", progressive=True, exif=exif()),
        "jpeg several": saved("RGB", "MPO", **animated()),
        "webp lossless": saved("RGBA", "WEBP", lossless=True),
        "webp animated": saved("RGBA", "WEBP", **animated()),
        "gif": saved("P", "GIF", transparency=3, comment=b"a picture"),
        "gif interlaced": saved("L", "GIF", interlace=1),
        "gif animated": saved("L", "GIF", **animated()),
        "tiff exif": saved("RGB", "TIFF", exif=exif()),
        "tiff pages": saved("RGB", "TIFF", **animated()),
    }


SEEDS = st.deferred(lambda: st.sampled_from(list(pictures().values())))
SPECS = [
    ImageSpec(height=8, width=8, mode="RGB", fit="stretch"),
    ImageSpec(height=5, width=13, mode="L", fit="contain", ground="black"),
    ImageSpec(height=9, width=2, mode="L", fit="cover", ground="white"),
]


def decode(data: bytes) -> bool:
    """Whether it is decoded. Any error but a rejection fails the test."""
    decoded = False
    for spec in SPECS:
        try:
            array = decode_picture(data, spec, MAX_PIXELS)
        except (InvalidRequest, PayloadTooLarge):
            continue
        channels = (3,) if spec.mode == "RGB" else ()
        assert (array.shape, array.dtype) == ((spec.height, spec.width, *channels), np.uint8)
        decoded = True
    assert picture_pixels(data) >= 0
    return decoded


@pytest.mark.parametrize("name", pictures())
def test_undamaged_pictures_are_decoded(name: str) -> None:
    assert decode(pictures()[name])
    assert looks_like_picture(pictures()[name])


@given(mutated(SEEDS))
def test_damaged_pictures(data: bytes) -> None:
    decode(data)


@given(mutated(SEEDS.filter(lambda data: data.startswith(b"\x89PNG")), most=6))
def test_damaged_pngs_with_valid_checksums(data: bytes) -> None:
    decode(with_right_checksums(data))


@given(SEEDS, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_spliced_pictures(one: bytes, other: bytes, end: float, begin: float) -> None:
    decode(one[: int(end * len(one))] + other[int(begin * len(other)) :])


def test_warnings_do_not_reach_standard_error(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tiff"
    damaged.write_bytes(pictures()["tiff packbits"][:-1])
    script = (
        "import sys; from service.tensors.image_file import picture_pixels; "
        "picture_pixels(open(sys.argv[1], 'rb').read())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


JPEG_SPEC = ImageSpec(height=64, width=64)
OPTIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "best": {"quality": 100, "subsampling": 0},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}
each_kind = pytest.mark.parametrize("kind", OPTIONS)


def jpeg(kind: str = "baseline", mode: str = "RGB", size: tuple[int, int] = (320, 240)) -> bytes:
    """A picture with something everywhere, and nothing of it twice."""
    image = Image.new(mode, size)
    draw, chance = ImageDraw.Draw(image), random.Random(1)
    for _ in range(200):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        colour: Any = chance.randrange(256) if mode == "L" else tuple(chance.randrange(256) for _ in range(3))
        draw.ellipse((x - 30, y - 30, x + 30, y + 30), colour)
    out = BytesIO()
    image.filter(ImageFilter.GaussianBlur(2)).save(out, "JPEG", **OPTIONS[kind])
    return out.getvalue()


def decode_jpeg(data: bytes) -> Array:
    return decode_picture(data, JPEG_SPEC, 10_000_000)


def is_rejected(data: bytes) -> bool:
    try:
        decode_jpeg(data)
    except InvalidRequest:
        return True
    return False


TRAILERS = {
    "nothing": b"",
    "half an end": b"\xff",
    "a camera's": b"dhav\x59\x19\x01\x00",
    "room left": bytes(5000),
    "room left in flash": b"\xff" * 5000,
}


@each_kind
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_a_jpeg_without_its_end_marker_is_complete(kind: str, mode: str, trailer: str) -> None:
    whole = jpeg(kind, mode)
    assert np.array_equal(decode_jpeg(whole[:-2] + TRAILERS[trailer]), decode_jpeg(whole))


@each_kind
def test_a_jpeg_may_lack_a_few_rows(kind: str) -> None:
    whole = jpeg(kind)
    cut = decode_jpeg(whole[: int(len(whole) * 0.98)])
    assert np.abs(cut[:56].astype(int) - decode_jpeg(whole)[:56]).max() <= 2


@each_kind
@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_a_jpeg_that_lacks_more_is_rejected(kind: str, share: float, trailer: str) -> None:
    whole = jpeg(kind)
    assert is_rejected(whole[: int(len(whole) * share)] + TRAILERS[trailer])


def test_a_large_jpeg_may_lack_a_few_rows() -> None:
    whole = jpeg(size=(2000, 1500))
    assert not is_rejected(whole[: int(len(whole) * 0.98)])
    assert is_rejected(whole[: int(len(whole) * 0.85)])


def test_a_jpeg_without_all_scans_is_rejected() -> None:
    whole = jpeg("progressive")
    last_scan = whole.rindex(b"\xff\xda")
    last_tables = whole.rindex(b"\xff\xc4", 0, last_scan)
    assert is_rejected(whole[:last_tables])


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xda\0\x02", b"\xff\xda\0\x08\x01\x01\0\0\x3f\0", b"\0"])
def test_hostile_bytes_behind_a_cut_jpeg_are_rejected_fast(filling: bytes) -> None:
    whole = jpeg()
    # Code of quadratic time would take hours.
    assert is_rejected(whole[: len(whole) // 2] + filling * (2_000_000 // len(filling)))
