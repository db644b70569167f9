"""Pictures: the bytes that a client sends, as the array that a model wants."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageOps, UnidentifiedImageError

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import Ground, ImageSpec
from service.signature import Signature
from service.tensors import DTYPES, Array

# decode_picture has its own limit, which may be higher than Pillow's.
Image.MAX_IMAGE_PIXELS = None
# Damaged pictures have Pillow warn on standard error, in lines that are no log, and each new one is kept for ever.
warnings.filterwarnings("ignore", module=r"PIL\.")

_MAGIC_NUMBERS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_FORMATS_TEXT = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_RESAMPLING = Image.Resampling.LANCZOS
_BLACK, _WHITE = 0, 255
_PIXEL_TYPES = ("DT_FLOAT", "DT_HALF", "DT_DOUBLE", "DT_UINT8", "DT_INT32", "DT_INT64")


def looks_like_picture(data: bytes) -> bool:
    return data.startswith(_MAGIC_NUMBERS) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")


def picture_pixels(data: bytes) -> int:
    """Width times height as the header has it; 0 for what is no picture."""
    if data.startswith(_PNG_HEAD):
        # Always at the same place; to have Pillow look costs as much as half of a prediction.
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0


def picture_batch(
    pictures: Mapping[str, bytes], signature: Signature, spec: ImageSpec | None, max_pixels: int, max_bytes: int
) -> dict[str, Array]:
    """Pictures, by what messages call them, as the signature's only input.

    `spec` is what serving.json says; where it says nothing, the input's shape does.

    Raises:
        InvalidRequest: the signature takes no pictures; or see `decode_picture`.
        PayloadTooLarge: all together are more than `max_bytes` as the model takes them, which is checked before any is
            unpacked; or see `decode_picture`.
    """
    spec = picture_spec(signature, spec)
    if spec is None:
        raise InvalidRequest(
            'the model takes no pictures: its serving.json has no "image", and it does not have one input of the '
            "shape [batch, height, width, 1 or 3]; send JSON"
        )
    (name, tensor), *_ = signature.inputs.items()
    if tensor.dtype not in _PIXEL_TYPES:
        raise InvalidRequest(f"the model takes no pictures: its input {name!r} is of type {tensor.dtype}; send JSON")
    channels = len(spec.mode)
    length = len(pictures) * spec.height * spec.width * channels * DTYPES[tensor.dtype].itemsize
    if length > max_bytes:
        raise PayloadTooLarge(
            f"{len(pictures)} pictures are {length} bytes as the model takes them; at most {max_bytes} are taken at "
            "once (SERVING_MAX_BUFFERED_BYTES); send fewer"
        )
    batch = np.stack([decode_picture(data, spec, max_pixels, where) for where, data in pictures.items()])
    if tensor.shape is not None and len(tensor.shape) == 4 and batch.ndim == 3:
        batch = batch[..., np.newaxis]
    return {name: batch.astype(DTYPES[tensor.dtype])}


def decode_picture(data: bytes, spec: ImageSpec, max_pixels: int, where: str = "the body") -> Array:
    """A picture file as uint8 [height, width] for the mode "L", [height, width, 3] for "RGB".

    Turned upright by its EXIF orientation; of an animation the first frame; transparency laid on a ground.
    A picture that already has the model's size keeps its very pixels.

    Raises:
        InvalidRequest: not a picture, truncated or damaged, or of a kind that has no 8-bit form.
        PayloadTooLarge: more than `max_pixels`; checked before anything is unpacked.
    """
    image = _to_8_bit(_open(data, spec, max_pixels, where), where)
    ground = None
    try:
        if image.has_transparency_data:
            image, ground = _without_transparency(image.convert("RGBA"), spec)
        image = image.convert(spec.mode)
    except ValueError as error:
        raise InvalidRequest(f"{where}: the picture's colours cannot be read ({error})") from None
    if spec.ground and (ground or _ground(image)) != spec.ground:
        image = ImageChops.invert(image)
    return np.asarray(_fit(image, spec))


def picture_spec(signature: Signature, spec: ImageSpec | None) -> ImageSpec | None:
    """How a picture becomes the signature's only input; None where it cannot. `spec` is what serving.json says; where
    it says nothing, the shape [batch, height, width, 1 or 3] does, stretched to it as Keras's own loader does."""
    if len(signature.inputs) != 1:
        return None
    if spec is not None:
        return spec
    (tensor,) = signature.inputs.values()
    match tensor.shape:
        case (_, height, width, 1 | 3 as channels) if height > 0 and width > 0:
            return ImageSpec(height=height, width=width, mode="L" if channels == 1 else "RGB")
    return None


def _open(data: bytes, spec: ImageSpec, max_pixels: int, where: str) -> Image.Image:
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    # Pillow's decoders meet hostile bytes with errors of many kinds (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        if looks_like_picture(data):
            reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
            raise InvalidRequest(f"{where}: the picture is truncated or damaged{reason}") from None
        raise InvalidRequest(f"{where} is not a picture; expected {_FORMATS_TEXT}") from None
    if image.width * image.height > max_pixels:
        raise PayloadTooLarge(
            f"{where}: a picture of {image.width} x {image.height} is too large; "
            f"at most {max_pixels} pixels are taken (SERVING_MAX_IMAGE_PIXELS)"
        )
    try:
        # A JPEG can be unpacked at a half, a quarter or an eighth; twice the model's size loses nothing.
        image.draft(spec.mode, (2 * max(spec.width, spec.height),) * 2)
        image.load()
    except Exception as error:
        raise InvalidRequest(f"{where}: the {image.format} picture is truncated or damaged ({error})") from None
    # A damaged note about the picture does not make it another one.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_8_bit(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow itself would cut at 255. The high byte is what it takes of 16-bit colours.
        wide = np.asarray(image)
        grey = Image.fromarray((wide >> 8).astype(np.uint8))
        if isinstance(clear := image.info.get("transparency"), int):
            grey.putalpha(Image.fromarray(np.where(wide == clear, _BLACK, _WHITE).astype(np.uint8)))
        return grey
    if image.mode in ("I", "F"):
        raise InvalidRequest(f"{where}: a picture with 32 bits a channel; expected 8 or 16")
    if image.mode == "La":  # grey with alpha multiplied in
        return image.convert("LA")
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    return image


def _without_transparency(image: Image.Image, spec: ImageSpec) -> tuple[Image.Image, Ground]:
    """An RGBA picture on a ground, and which: white as a page is, but for a model that knows one ground black where
    what is visible is bright, for else it would vanish."""
    ground: Ground = "white"
    if spec.ground:
        small = image.copy()
        small.thumbnail((64, 64))
        grey, opacity = (np.asarray(small.convert("LA"), np.float32)[..., channel] for channel in (0, 1))
        ground = "black" if (grey * opacity).sum() > 127.5 * opacity.sum() else "white"
    laid = Image.new("RGB", image.size, ground)
    laid.paste(image, mask=image.getchannel("A"))
    return laid, ground


def _ground(image: Image.Image) -> Ground:
    """Told by the mean of the outermost pixels: right for each of the 60,000 training pictures of Fashion-MNIST, also
    where the garment touches the border."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    return "white" if border.mean() > 127.5 else "black"


def _fit(image: Image.Image, spec: ImageSpec) -> Image.Image:
    size = (spec.width, spec.height)
    if image.size == size:
        return image
    if spec.fit == "stretch":
        return image.resize(size, _RESAMPLING)
    if spec.fit == "cover":
        return ImageOps.fit(image, size, _RESAMPLING)
    scale = min(spec.width / image.width, spec.height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new(image.mode, size, "white" if spec.ground == "white" else "black")
    canvas.paste(image.resize(inner, _RESAMPLING), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas
