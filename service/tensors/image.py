"""Pictures in requests as a model's input."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageChops, ImageOps

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import Ground, ImageSpec
from service.tensors.dtypes import DTYPES, Array
from service.tensors.image_colours import plain_colours
from service.tensors.image_file import Share, read_picture
from service.tensors.signature import Signature

_RESAMPLING = Image.Resampling.LANCZOS
_PIXEL_TYPES = ("DT_FLOAT", "DT_HALF", "DT_DOUBLE", "DT_UINT8", "DT_INT32", "DT_INT64")
# A cut-out hides a larger share of its picture than this; round corners and soft edges hide less.
_MAX_HIDDEN_SHARE = 1 / 20
# Levels of 255 between an object and its ground.
_MIN_CONTRAST = 64


def picture_batch(
    pictures: Mapping[str, bytes],
    signature: Signature,
    spec: ImageSpec | None,
    max_pixels: int,
    max_bytes: int,
    share: Share | None = None,
) -> dict[str, Array]:
    """A batch for the signature's only input, of pictures by their names in messages.

    `spec`: from serving.json; None to go by the input's shape. `share`: see `decode_picture`.

    Raises:
        InvalidRequest: the signature takes no pictures, or an error of `decode_picture`.
        PayloadTooLarge: the batch would have more than `max_bytes`, which is checked before decoding, or an error of
            `decode_picture`.
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
    batch = np.stack([decode_picture(data, spec, max_pixels, where, share) for where, data in pictures.items()])
    if tensor.shape is not None and len(tensor.shape) == 4 and batch.ndim == 3:
        batch = batch[..., np.newaxis]
    return {name: batch.astype(DTYPES[tensor.dtype])}


def decode_picture(
    data: bytes, spec: ImageSpec, max_pixels: int, where: str = "the body", share: Share | None = None
) -> Array:
    """A picture file as uint8 [height, width] for the mode "L", [height, width, 3] for "RGB".

    Upright by its EXIF orientation, the first frame of an animation, with transparency on a ground. A picture of the
    model's size keeps its pixels, unless it has a colour profile other than sRGB. What is decoded is held in the
    `share` of memory; None for a caller that decodes one picture at a time.

    Raises:
        DeadlineExceeded: its memory did not become free in time.
        InvalidRequest: not a picture, truncated or damaged, or of a kind that has no 8-bit form.
        PayloadTooLarge: more than `max_pixels`; checked before anything is decompressed.
    """
    try:
        return _decode(data, spec, max_pixels, where, share)
    finally:
        if share is not None:
            share.give_back()


def _decode(data: bytes, spec: ImageSpec, max_pixels: int, where: str, share: Share | None) -> Array:
    # Decoding at twice the model's size loses nothing.
    file = read_picture(data, spec.mode, 2 * max(spec.width, spec.height), max_pixels, where, share)
    image = plain_colours(file, where)
    ground = None
    if image.mode in ("LA", "RGBA"):
        image, ground = _without_transparency(image, spec)
    image = image.convert(spec.mode)
    if spec.ground:
        pixels = np.asarray(image)
        if (ground or _ground(pixels)) != spec.ground:
            image = ImageChops.invert(image)
        elif image.size == (spec.width, spec.height):
            # To ask Pillow for them again takes a tenth of the time of a small picture.
            return pixels
    return np.asarray(_fit(image, spec))


def takes_pictures(signature: Signature, spec: ImageSpec | None) -> bool:
    """Whether `picture_batch` accepts pictures for this signature."""
    return picture_spec(signature, spec) is not None and all(
        tensor.dtype in _PIXEL_TYPES for tensor in signature.inputs.values()
    )


def picture_spec(signature: Signature, spec: ImageSpec | None) -> ImageSpec | None:
    """How a picture becomes the signature's only input; None if it cannot. `spec`: from serving.json; without one,
    pictures are stretched to the shape [batch, height, width, 1 or 3], as Keras's own loader does."""
    if len(signature.inputs) != 1:
        return None
    if spec is not None:
        return spec
    (tensor,) = signature.inputs.values()
    match tensor.shape:
        case (_, height, width, 1 | 3 as channels) if height > 0 and width > 0:
            return ImageSpec(height=height, width=width, mode="L" if channels == 1 else "RGB")
    return None


def _without_transparency(image: Image.Image, spec: ImageSpec) -> tuple[Image.Image, Ground]:
    """The picture on a ground, and that ground: white, like a page. If the model expects a certain ground, a bright
    cut-out is laid on black, since it would vanish on white, and any other picture on its own ground."""
    ground: Ground = "white"
    if spec.ground:
        sides = min(image.width, 64), min(image.height, 64)
        small = np.asarray(image.resize(sides, Image.Resampling.NEAREST).convert("LA"), np.float32)
        grey, opacity = small[..., 0], small[..., 1]
        is_hidden = opacity <= opacity.max() / 2
        is_cut_out = is_hidden.mean() > _MAX_HIDDEN_SHARE
        ground = _ground_of_cut_out(grey, opacity, is_hidden) if is_cut_out else _ground(grey, opacity)
    laid = Image.new("RGB", image.size, ground)
    laid.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return laid, ground


def _ground_of_cut_out(grey: Array, opacity: Array, is_hidden: Array) -> Ground:
    """Black for a bright object, white for a dark one. Compare it with the hidden colours if it stands out from them:
    programs that make a ground transparent mostly keep its colour."""
    if not opacity.any():
        return "white"
    visible = np.average(grey, weights=opacity)
    hidden = grey[is_hidden].mean()
    threshold = hidden if abs(visible - hidden) > _MIN_CONTRAST else 127.5
    return "black" if visible > threshold else "white"


def _ground(pixels: Array, opacity: Array | None = None) -> Ground:
    """By the mean of the outermost pixels. That is right for all 60,000 training pictures of Fashion-MNIST, also if the
    garment touches the border."""
    border = _border(pixels)
    mean = border.mean() if opacity is None else np.average(border, weights=_border(opacity))
    return "white" if mean > 127.5 else "black"


def _border(pixels: Array) -> Array:
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


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
