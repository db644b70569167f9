"""Convert any picture to 8-bit sRGB or grey, with an alpha channel only if that hides something."""

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

# Tags of TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0

# A printer's profile, with tables for many inks, has up to 2 MB.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_MAX_KEPT_PROFILES = 16
# Levels of 255: a profile that changes colours by no more is sRGB, as most are.
_MAX_ROUNDING = 2
_COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}


def plain_colours(image: Image.Image, where: str) -> Image.Image:
    """The picture in the mode "L" or "RGB", or "LA" or "RGBA" if its alpha channel hides something.

    Channels of 16 bits become 8 bits, as do floats and 32-bit integers if they range to 1, 255 or 65,535. Colours of an
    ICC profile become sRGB, like those of training pictures.

    Raises:
        InvalidRequest: the colours have no 8-bit form.
    """
    try:
        return _with_profile(_without_opaque_alpha(plain_mode(image, where)), image)
    except ValueError as error:
        raise InvalidRequest(f"{where}: the picture's colours cannot be read ({error})") from None


def plain_mode(image: Image.Image, where: str) -> Image.Image:
    """The picture in the mode "L", "RGB" or "CMYK", or with an alpha channel, as `plain_colours`, but for its profile.
    A part of a picture comes out as it would within the whole, unless it has 32 bits a channel."""
    return _without_palette(_to_8_bit(image, where))


def _to_8_bit(image: Image.Image, where: str) -> Image.Image:
    if not (is_wide := image.mode.startswith("I;16")) and image.mode not in ("I", "F"):
        return image
    pixels = np.asarray(image)
    # Pillow would clip at 255. Of 16-bit colours it, too, keeps the high byte.
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
    """A tag's first value; None if the picture is no TIFF or lacks the tag."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _levels(pixels: Array, where: str) -> Array:
    """32-bit numbers as 0 to 255. Files do not say which number is white: take the smallest usual one."""
    minimum, maximum = float(pixels.min()), float(pixels.max())
    # False for NaN.
    if not (minimum >= 0 and maximum <= _MAX_16_BIT):
        raise InvalidRequest(
            f"{where}: a picture with 32 bits a channel and values from {minimum:g} to {maximum:g}; expected 0 to 1, "
            "255 or 65535, or 8 or 16 bits a channel"
        )
    is_float = pixels.dtype.kind == "f"
    white = 1 if is_float and maximum <= 1 else _MAX_8_BIT if maximum <= _MAX_8_BIT else _MAX_16_BIT
    return np.round(pixels * (_MAX_8_BIT / white)).astype(np.uint8)


def _without_palette(image: Image.Image) -> Image.Image:
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


def _without_opaque_alpha(image: Image.Image) -> Image.Image:
    """Drop an alpha channel that is opaque everywhere, which many programs write."""
    if image.mode not in ("LA", "RGBA"):
        return image
    minimum, maximum = image.getchannel("A").getextrema()
    # Windows leaves the fourth byte of a bitmap at 0.
    if minimum == _WHITE or (image.format == "BMP" and maximum == 0):
        return image.convert(image.mode[:-1])
    return image


def _with_profile(image: Image.Image, source: Image.Image) -> Image.Image:
    """The picture in sRGB. `source` is the picture in the file, to whose colours the profile applies."""
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
    """Transforms from profiles to sRGB. The last few are kept, since cameras and editors use the same profiles."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()
        self._lock = Lock()

    def find(self, profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        """None for sRGB, and for a profile that is damaged or of another colour space."""
        key = hashlib.sha256(profile).digest(), mode
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        transform = None
        # Like browsers, ignore a damaged profile.
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
