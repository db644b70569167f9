"""Every sample of the shipped models through every format and mode that Pillow writes: the label stays."""

from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.engines.loading import load_engine
from service.serving_config import ASSETS, read_serving_config
from service.tensors.image import picture_batch
from service.tensors.image_file import FORMATS
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.integration.server import SHIPPED

# Nearly without loss; what is lost may not change a label.
OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
    "WEBP": {"lossless": True, "exact": True, "quality": 0, "method": 0},
}


def with_a_clear_corner(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:3], 0))  # type: ignore[index]
    return image


def grey_levels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("L"))


def palette(image: Image.Image) -> Image.Image:
    return image.convert("P") if image.mode == "L" else image.quantize(256)


def with_a_colour_to_spare(image: Image.Image) -> Image.Image:
    """No pixel has its colour 255."""
    return image.point(lambda level: min(level, 254)).convert("P") if image.mode == "L" else image.quantize(255)


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "L": lambda image: image.convert("L"),
    "LA": lambda image: image.convert("L").convert("LA"),
    "RGB": lambda image: image.convert("RGB"),
    "RGBA": lambda image: image.convert("RGBA"),
    "RGBA, a clear corner": with_a_clear_corner,
    "P": palette,
    "P, clear where nothing is": with_a_colour_to_spare,
    "PA": lambda image: palette(image).convert("PA"),
    "I;16": lambda image: Image.fromarray(grey_levels(image).astype(np.uint16) * 257),
    "I": lambda image: image.convert("L").convert("I"),
    "F": lambda image: image.convert("L").convert("F"),
    "F of 0 to 1": lambda image: Image.fromarray(grey_levels(image).astype(np.float32) / 255),
    "CMYK": lambda image: image.convert("RGB").convert("CMYK"),
    "YCbCr": lambda image: image.convert("RGB").convert("YCbCr"),
}
GREY = {"L", "LA", "I;16", "I", "F", "F of 0 to 1"}
# What Pillow writes of a mode in these formats is not that picture.
NOT_HELD = {
    "GIF": {"I;16", "F of 0 to 1", "RGBA", "RGBA, a clear corner"},
    "WEBP": {"I;16", "F of 0 to 1"},
    # Of any other mode Pillow makes one of the three that are left; and to encode it takes long.
    "AVIF": MODES.keys() - {"L", "RGB", "RGBA"},
}


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **OPTIONS.get(kind, {}), **options)
    return out.getvalue()


def holds(kind: str, mode: str) -> bool:
    if mode in NOT_HELD.get(kind, ()):
        return False
    try:
        return bool(encode(MODES[mode](Image.new("RGB", (8, 8))), kind))
    except (OSError, ValueError, KeyError):
        return False


@cache
def label_of(version: str) -> Callable[[bytes], str]:
    """Labels of picture files, as the service gives them."""
    config = read_serving_config(SHIPPED / version)
    engine = load_engine(SHIPPED / version, config, "litert")
    known: dict[bytes, str] = {}

    def label(data: bytes) -> str:
        signature = engine.signatures[DEFAULT_SIGNATURE]
        batch = picture_batch({"the body": data}, signature, config.image, 1_000_000, 1_000_000)
        # Most files hold the very same pixels.
        pixels = b"".join(array.tobytes() for array in batch.values())
        if pixels not in known:
            probabilities = engine.run(DEFAULT_SIGNATURE, batch)["probabilities"]
            known[pixels] = config.labels[int(probabilities[0].argmax())]
        return known[pixels]

    return label


# The pictures of clothing/1 are prepared as those of clothing/2.
@pytest.mark.parametrize("version", ["clothing/2", "photos/1"])
@pytest.mark.parametrize("mode", MODES)
def test_sample_keeps_its_label_in_every_format_and_mode(version: str, mode: str) -> None:
    label = label_of(version)
    kinds = [kind for kind in FORMATS if holds(kind, mode)]
    assert {"PNG", "TIFF"} & set(kinds)
    options = {"transparency": 255} if mode == "P, clear where nothing is" else {}
    for sample in read_serving_config(SHIPPED / version).samples:
        file = SHIPPED / version / ASSETS / str(sample.file)
        image = Image.open(file)
        # Grey is another picture to a model of colours.
        expected = label(encode(image.convert("L"), "PNG") if mode in GREY else file.read_bytes())
        changed = MODES[mode](image)
        labels = {kind: label(encode(changed, kind, **options)) for kind in kinds}
        assert (file.name, labels) == (file.name, dict.fromkeys(kinds, expected))


def test_every_format_is_tried() -> None:
    assert {kind for kind in FORMATS for mode in MODES if holds(kind, mode)} == set(FORMATS)
