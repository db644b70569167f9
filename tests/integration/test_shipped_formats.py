"""Every sample of the shipped models through every format and mode that Pillow writes: the label stays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
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
NEARLY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
}
OPTIONS = {**NEARLY, "WEBP": {"lossless": True, "exact": True, "quality": 0, "method": 0}}

# What a format makes of a mode as Pillow writes it: not that picture.
NOT_HELD = {("I;16", kind) for kind in ("WEBP", "GIF", "AVIF")} | {
    ("F of 0 to 1", kind) for kind in ("WEBP", "GIF", "AVIF")
}
NOT_HELD |= {(mode, "GIF") for mode in ("RGBA", "RGBA, a clear corner")}

# Of any other it is Pillow that makes one of these; and to encode it takes long.
AVIF_MODES = {"L", "RGB", "RGBA"}


@dataclass
class Model:
    """Labels of picture files, as the service gives them."""

    folder: Path
    _labels: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = read_serving_config(self.folder)
        self._engine = load_engine(self.folder, self.config, "litert")
        self._signature = self._engine.signatures[DEFAULT_SIGNATURE]

    def samples(self) -> list[Path]:
        return [self.folder / ASSETS / str(sample.file) for sample in self.config.samples]

    def label(self, data: bytes) -> str:
        batch = picture_batch({"the body": data}, self._signature, self.config.image, 1_000_000, 1_000_000)
        # Most files hold the very same pixels.
        pixels = b"".join(array.tobytes() for array in batch.values())
        if pixels not in self._labels:
            outputs = self._engine.run(DEFAULT_SIGNATURE, batch)
            self._labels[pixels] = self.config.labels[int(outputs["probabilities"][0].argmax())]
        return self._labels[pixels]


@cache
def model(name: str) -> Model:
    return Model(SHIPPED / name)


def with_alpha(image: Image.Image, clear: tuple[int, int, int, int]) -> Image.Image:
    image = image.convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, clear)
    image.putalpha(alpha)
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
    "RGBA, a clear corner": lambda image: with_alpha(image, (0, 0, 1, 1)),
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


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **OPTIONS.get(kind, {}), **options)
    return out.getvalue()


def is_held(mode: str, kind: str) -> bool:
    try:
        encode(MODES[mode](Image.new("RGB", (8, 8))), kind)
    except (OSError, ValueError, KeyError):
        return False
    return (mode, kind) not in NOT_HELD and not (kind == "AVIF" and mode not in AVIF_MODES)


@pytest.mark.parametrize("name", ["clothing/1", "clothing/2", "photos/1"])
@pytest.mark.parametrize("mode", MODES)
def test_sample_keeps_its_label_in_every_format_and_mode(name: str, mode: str) -> None:
    kinds = [kind for kind in FORMATS if is_held(mode, kind)]
    assert {"PNG", "TIFF"} & set(kinds)
    options = {"transparency": 255} if mode == "P, clear where nothing is" else {}
    for file in model(name).samples():
        with Image.open(file) as opened:
            image = opened.copy()
        # Grey is another picture to a model of colours.
        expected = model(name).label(encode(image.convert("L"), "PNG") if mode in GREY else file.read_bytes())
        changed = MODES[mode](image)
        labels = {kind: model(name).label(encode(changed, kind, **options)) for kind in kinds}
        assert (file.name, labels) == (file.name, dict.fromkeys(kinds, expected))


def test_every_format_is_tried() -> None:
    assert {kind for kind in FORMATS for mode in MODES if is_held(mode, kind)} == set(FORMATS)
