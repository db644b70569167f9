"""Pictures that are damaged on purpose: each is decoded or refused, and nothing else happens."""

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
from PIL import Image, ImageCms, PngImagePlugin

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
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
    """Whether it is decoded. Fails where anything but a refusal is raised."""
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
def test_every_picture_is_decoded_before_it_is_damaged(name: str) -> None:
    assert decode(pictures()[name])
    assert looks_like_picture(pictures()[name])


@given(mutated(SEEDS))
def test_a_damaged_picture_is_decoded_or_refused(data: bytes) -> None:
    decode(data)


@given(mutated(SEEDS.filter(lambda data: data.startswith(b"\x89PNG")), most=6))
def test_a_png_that_is_damaged_behind_right_checksums_is_decoded_or_refused(data: bytes) -> None:
    decode(with_right_checksums(data))


@given(SEEDS, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_the_beginning_of_one_picture_and_the_end_of_another_are_decoded_or_refused(
    one: bytes, other: bytes, end: float, begin: float
) -> None:
    decode(one[: int(end * len(one))] + other[int(begin * len(other)) :])


def test_what_a_damaged_picture_has_to_say_is_not_written_to_standard_error(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tiff"
    damaged.write_bytes(pictures()["tiff packbits"][:-1])
    script = (
        "import sys; from service.tensors.image_file import picture_pixels; "
        "picture_pixels(open(sys.argv[1], 'rb').read())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(damaged)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
