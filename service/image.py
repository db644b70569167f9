"""Pictures: the bytes that a client sends, as the array that a model wants."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
from service.signature import Signature
from service.tensors import DTYPES, Array

_MAGIC_NUMBERS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_FORMATS_TEXT = "PNG, JPEG, WebP, GIF, BMP or TIFF"
_RESAMPLING = Image.Resampling.LANCZOS
_BLACK, _WHITE = 0, 255
_PIXEL_TYPES = ("DT_FLOAT", "DT_HALF", "DT_DOUBLE", "DT_UINT8", "DT_INT32", "DT_INT64")


def looks_like_picture(data: bytes) -> bool:
    return data.startswith(_MAGIC_NUMBERS)


def picture_batch(
    pictures: Mapping[str, bytes], signature: Signature, spec: ImageSpec | None, max_pixels: int
) -> dict[str, Array]:
    """Pictures, by what messages call them, as the signature's only input.

    `spec` is what serving.json says; where it says nothing, the input's shape does.

    Raises:
        InvalidRequest: the signature takes no pictures; or see `decode_picture`.
        PayloadTooLarge: see `decode_picture`.
    """
    spec = spec or _spec_from_shape(signature)
    if spec is None or len(signature.inputs) != 1:
        raise InvalidRequest(
            'the model takes no pictures: its serving.json has no "image", and it does not have one input of the '
            "shape [batch, height, width, 1 or 3]; send JSON"
        )
    (name, tensor), *_ = signature.inputs.items()
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
    try:
        image = _on_ground(image, spec).convert(spec.mode)
    except ValueError as error:
        raise InvalidRequest(f"{where}: a picture in the colour mode {image.mode} cannot be taken ({error})") from None
    if spec.ground:
        image = _with_ground(image, spec.ground)
    return np.asarray(_fit(image, spec))


def _spec_from_shape(signature: Signature) -> ImageSpec | None:
    """The shape [batch, height, width, 1 or 3] says enough; stretched to it as Keras's own loader does."""
    for tensor in signature.inputs.values():
        match tensor.shape:
            case (_, height, width, 1 | 3 as channels) if height > 0 and width > 0 and tensor.dtype in _PIXEL_TYPES:
                return ImageSpec(height=height, width=width, mode="L" if channels == 1 else "RGB")
    return None


def _open(data: bytes, spec: ImageSpec, max_pixels: int, where: str) -> Image.Image:
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PayloadTooLarge(f"{where}: {error}; at most {max_pixels} pixels are taken") from None
    # Pillow's decoders meet hostile bytes with errors of many kinds (OSError, SyntaxError, struct.error, ...).
    except Exception:
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
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise InvalidRequest(f"{where}: the {image.format} picture is truncated or damaged ({error})") from None


def _to_8_bit(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow itself would cut at 255. The high byte is what it takes of 16-bit colours.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InvalidRequest(f"{where}: a picture with 32 bits a channel; expected 8 or 16")
    return image


def _on_ground(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Without transparency. White lies under it as on a page, unless ground and garment would then be one."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    under = _WHITE
    if spec.ground:
        grey = np.asarray(rgba.convert("L"), np.float64)
        opacity = np.asarray(rgba.getchannel("A"), np.float64)
        under = _BLACK if (grey * opacity).sum() > 127.5 * opacity.sum() else _WHITE
    ground = Image.new("RGBA", rgba.size, (under, under, under, 255))
    return Image.alpha_composite(ground, rgba)


def _with_ground(image: Image.Image, ground: str) -> Image.Image:
    """Inverted where its ground is not the one asked for. The mean of the outermost pixels tells it: right for
    each of the 60,000 training pictures of Fashion-MNIST (also where the garment touches the border)."""
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    is_white = border.mean() > 127.5
    return ImageOps.invert(image) if is_white != (ground == "white") else image


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
