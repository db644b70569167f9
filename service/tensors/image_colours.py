"""A picture's colours, however it has them, as 8-bit sRGB or grey, with an opacity only where that hides something."""

import hashlib
from collections import OrderedDict
from contextlib import suppress
from io import BytesIO
from threading import Lock

import numpy as np
from PIL import Image, ImageChops, ImageCms

from service.errors import InvalidRequest
from service.tensors.dtypes import Array

_BLACK, _WHITE = 0, 255
_MAX_8_BIT, _MAX_16_BIT = 255, 65_535

# TIFF's tags.
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0

# A printer's profile, of tables for many inks, has some hundred kilobytes to 2 MB.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_MAX_KEPT_PROFILES = 16
# Levels of 255: what to convert changes by no more is sRGB already, which most profiles are.
_MAX_ROUNDING = 2
_COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def plain_colours(image: Image.Image, where: str) -> Image.Image:
    """The picture in the mode "L" or "RGB", or "LA" or "RGBA" where its opacity hides something.

    16 bits a channel become 8; floats and 32-bit whole numbers too, where they are levels of 1, 255 or 65,535. Colours
    of a profile (ICC) become sRGB, as training pictures are.

    Raises:
        InvalidRequest: colours of a kind that has no 8-bit form.
    """
    try:
        return _with_profile(_without_idle_alpha(_plain_mode(_to_8_bit(image, where))), image)
    except ValueError as error:
        raise InvalidRequest(f"{where}: the picture's colours cannot be read ({error})") from None


def _to_8_bit(image: Image.Image, where: str) -> Image.Image:
    if not (is_wide := image.mode.startswith("I;16")) and image.mode not in ("I", "F"):
        return image
    pixels = np.asarray(image)
    # Pillow itself would cut at 255. The high byte is what it takes of 16-bit colours.
    levels = (pixels >> _unused_low_bits(image)).astype(np.uint8) if is_wide else _levels(pixels, where)
    grey = Image.fromarray(levels)
    if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = ImageChops.invert(grey)
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(pixels == clear, _BLACK, _WHITE).astype(np.uint8)))
    return grey


def _unused_low_bits(image: Image.Image) -> int:
    return 4 if _tiff_tag(image, _BITS_PER_SAMPLE) == 12 else 8


def _tiff_tag(image: Image.Image, tag: int) -> object:
    """A tag's first value; None where the picture is no TIFF or has no such tag."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _levels(pixels: Array, where: str) -> Array:
    """Numbers of 32 bits as 0 to 255. What stands for white no file says: the smallest usual number that holds all."""
    least, most = float(pixels.min()), float(pixels.max())
    # Not a number compares with nothing.
    if not (least >= 0 and most <= _MAX_16_BIT):
        raise InvalidRequest(
            f"{where}: a picture with 32 bits a channel and values from {least:g} to {most:g}; expected 0 to 1, 255 "
            "or 65535, or 8 or 16 bits a channel"
        )
    is_float = pixels.dtype.kind == "f"
    white = 1 if is_float and most <= 1 else _MAX_8_BIT if most <= _MAX_8_BIT else _MAX_16_BIT
    return np.round(pixels * (_MAX_8_BIT / white)).astype(np.uint8)


def _plain_mode(image: Image.Image) -> Image.Image:
    match image.mode:
        case "L" | "RGB" | "CMYK" if "transparency" not in image.info:
            return image
        case "LA" | "RGBA":
            return image
        case "1" if "transparency" not in image.info:
            return image.convert("L")
        case "La":
            return image.convert("LA")
        case "LAB":
            lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _without_idle_alpha(image: Image.Image) -> Image.Image:
    """Many programs save an opacity wherever they can. One that is full everywhere hides nothing."""
    if image.mode not in ("LA", "RGBA"):
        return image
    least, most = image.getchannel("A").getextrema()
    # Windows leaves the fourth byte of a bitmap empty.
    if least == _WHITE or (image.format == "BMP" and most == 0):
        return image.convert(image.mode[:-1])
    return image


def _with_profile(image: Image.Image, source: Image.Image) -> Image.Image:
    """`source` is as the file has it: a profile is of its colours, unless it has a palette of them."""
    profile = source.info.get("icc_profile")
    colours = image.mode.removesuffix("A")
    transform = None
    if isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES:
        transform = _transforms.find(profile, colours)
    if transform is None:
        return image.convert("RGB") if image.mode == "CMYK" else image
    opacity = image.getchannel("A") if image.mode.endswith("A") else None
    image = transform.apply(image.getchannel("L") if image.mode == "LA" else image.convert(colours))
    if opacity is not None:
        image.putalpha(opacity)
    return image


class _Transforms:
    """From profiles to sRGB; those of the last few profiles are kept, for cameras and editors use the same ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()
        self._lock = Lock()

    def find(self, profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        """None for sRGB, and for a profile that is damaged or of other colours."""
        key = hashlib.sha256(profile).digest(), mode
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        transform = None
        # As browsers do: colours without a profile are better than none.
        with suppress(Exception):
            transform = _transform(profile, mode)
        with self._lock:
            self._kept[key] = transform
            if len(self._kept) > _MAX_KEPT_PROFILES:
                self._kept.popitem(last=False)
        return transform


_transforms = _Transforms()


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    if opened.profile.xcolor_space != _COLOUR_SPACES[mode]:
        return None
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    tried = Image.fromarray(colours)
    change = np.asarray(transform.apply(tried), int) - np.asarray(tried.convert("RGB"), int)
    return transform if np.abs(change).max() > _MAX_ROUNDING else None
