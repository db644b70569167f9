from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidRequest, PayloadTooLarge
from service.serving_config import ImageSpec
from service.tensors.dtypes import Array
from service.tensors.image import picture_batch
from tests.unit.service.fakes import any_shape, signature, tensor
from tests.unit.service.tensors.pictures import (
    COLOUR,
    GREY,
    MANY_PIXELS,
    ON_BLACK,
    ON_WHITE,
    bmp,
    close,
    decode,
    encode,
    noise,
    patches,
    peak_bytes,
    tiff,
)

Fit = Literal["contain", "cover", "stretch"]
FITS: tuple[Fit, ...] = ("contain", "cover", "stretch")
MANY_BYTES = 1_000_000


# Size and aspect


@pytest.mark.parametrize("fit", FITS)
def test_a_picture_of_the_models_size_keeps_its_pixels(fit: Fit) -> None:
    pixels = noise(9, 7, 3)
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), ImageSpec(height=9, width=7, fit=fit)), pixels)


@pytest.mark.parametrize(
    ("size", "top_left", "bottom_right"),
    [
        ((40, 20), (7, 0), (20, 27)),
        ((14, 7), (7, 0), (20, 27)),
        ((20, 40), (0, 7), (27, 20)),
        ((30, 30), (0, 0), (27, 27)),
        ((10000, 1), (13, 0), (13, 27)),
    ],
)
def test_contain_keeps_the_aspect(
    size: tuple[int, int], top_left: tuple[int, int], bottom_right: tuple[int, int]
) -> None:
    array = decode(encode(Image.new("L", size, 255)), ImageSpec(height=28, width=28, mode="L", fit="contain"))
    bright = np.argwhere(array > 128)
    assert (tuple(bright.min(axis=0)), tuple(bright.max(axis=0))) == (top_left, bottom_right)


@pytest.mark.parametrize(("spec", "ground"), [(ON_BLACK, 0), (ON_WHITE, 255)])
def test_contain_pads_with_the_ground(spec: ImageSpec, ground: int) -> None:
    array = decode(encode(Image.new("L", (40, 8), 255 - ground)), spec)
    assert close(array[[0, -1]], ground, 0)


def test_cover_cuts_both_sides() -> None:
    image = Image.new("RGB", (32, 8), "red")
    image.paste((0, 255, 0), (12, 0, 20, 8))
    assert close(decode(encode(image), ImageSpec(height=8, width=8, fit="cover")), (0, 255, 0), 0)


def test_stretch_does_not_keep_the_aspect() -> None:
    image = Image.new("L", (32, 8), 0)
    image.paste(255, (16, 0, 32, 8))
    array = decode(encode(image), ImageSpec(height=8, width=8, mode="L", fit="stretch"))
    assert close(array[:, :3], 0, 30)
    assert close(array[:, 5:], 255, 30)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.sampled_from([(1, 10_000), (65_535, 1)]),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)) | st.sampled_from([(1, 200), (200, 1)]),
    fit=st.sampled_from(FITS),
)
def test_a_picture_of_any_size_gets_the_models(size: tuple[int, int], wanted: tuple[int, int], fit: Fit) -> None:
    array = decode(encode(Image.new("RGB", size, "red")), ImageSpec(height=wanted[0], width=wanted[1], fit=fit))
    assert array.shape == (*wanted, 3)
    assert array[..., 0].max() == 255


def test_a_large_jpeg_matches_its_png() -> None:
    # A JPEG is unpacked at a fraction of its size; that must not show.
    image = Image.fromarray(noise(10, 10, 3)).resize((400, 400), Image.Resampling.BICUBIC)
    assert close(decode(encode(image, "JPEG")), decode(encode(image)), 4)


# Ground


@pytest.mark.parametrize(("spec", "ground", "garment"), [(ON_BLACK, 0, 225), (ON_WHITE, 255, 30), (GREY, 255, 30)])
def test_the_opposite_ground_is_inverted(spec: ImageSpec, ground: int, garment: int) -> None:
    dark_on_white = Image.new("L", (32, 32), 255)
    dark_on_white.paste(30, (8, 8, 24, 24))
    array = decode(encode(dark_on_white), spec)
    assert close(array[0], ground, 0)
    assert close(array[3:5, 3:5], garment, 20)


@pytest.mark.parametrize("ground", ["black", "white"])
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.sampled_from(FITS))
def test_an_inverted_picture_gives_the_same_array(ground: Any, width: int, height: int, seed: int, fit: Fit) -> None:
    pixels = noise(height, width, seed=seed) // 2 + 128
    pixels[1:-1, 1:-1] = noise(height, width, seed=seed + 1)[1:-1, 1:-1]
    spec = ImageSpec(height=12, width=9, mode="L", fit=fit, ground=ground)
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), spec), decode(encode(Image.fromarray(~pixels)), spec))


def test_a_colour_picture_has_a_ground() -> None:
    image = Image.new("RGB", (8, 8), (250, 245, 255))
    image.paste((10, 20, 60), (2, 2, 6, 6))
    array = decode(encode(image), ON_BLACK)
    assert array[0].max() < 15
    assert array[3, 3] > 200


# Transparency


def cut_out(mode: str, kind: str, level: int) -> bytes:
    """The left half of one level, the right half fully transparent (and, below that, of the opposite level)."""
    hidden = 255 - level
    if mode == "P":
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([level] * 3 + [hidden] * 3)
        palette.paste(0, (0, 0, 4, 8))
        return encode(palette, kind, transparency=1)
    image = Image.new("RGBA", (8, 8), (hidden, hidden, hidden, 0))
    image.paste((level, level, level, 255), (0, 0, 4, 8))
    options: dict[str, Any] = {"L": {"transparency": hidden}, "RGB": {"transparency": (hidden,) * 3}}
    return encode(image.convert(mode), kind, **options.get(mode, {}))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[(mode, "PNG") for mode in ("RGBA", "LA", "P", "L", "RGB")],
        *[("P", "GIF"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "TIFF")],
    ],
)
@pytest.mark.parametrize(
    ("spec", "level", "visible", "ground"),
    [
        (COLOUR, 0, 0, 255),
        (ON_BLACK, 0, 255, 0),
        (ON_BLACK, 255, 255, 0),
        (ON_WHITE, 0, 0, 255),
        (ON_WHITE, 255, 0, 255),
    ],
    ids=["in colour", "dark, on black", "bright, on black", "dark, on white", "bright, on white"],
)
def test_a_cut_out_stands_out_from_the_ground(
    mode: str, kind: str, spec: ImageSpec, level: int, visible: int, ground: int
) -> None:
    array = decode(cut_out(mode, kind, level), spec)
    assert close(array[:, :4], visible)
    assert close(array[:, 4:], ground)


def test_a_cut_out_may_fill_its_picture() -> None:
    trousers = Image.new("RGBA", (8, 8), (20, 20, 60, 255))
    trousers.paste((0, 0, 0, 0), (3, 2, 5, 8))  # between the legs
    array = decode(encode(trousers), ON_BLACK)
    assert array[0, 0] > 200
    assert array[5, 3] == 0


HALF_BLACK = {
    "PNG": encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128))),
    "BMP": bmp(Image.new("RGB", (8, 8)), alpha=128),
    "premultiplied grey": tiff(bytes([0, 128]) * 64, (8,) * 2, photometric=1, tags=((338, 1),)),
    "premultiplied colours": tiff(bytes([0, 0, 0, 128]) * 64, (8,) * 4, photometric=2, tags=((338, 1),)),
}


@pytest.mark.parametrize("name", HALF_BLACK)
@pytest.mark.parametrize(("spec", "level"), [(COLOUR, 127), (GREY, 127), (ON_BLACK, 0)])
def test_a_translucent_picture_lies_on_white_or_on_its_own_ground(name: str, spec: ImageSpec, level: int) -> None:
    assert close(decode(HALF_BLACK[name], spec), level)


@pytest.mark.parametrize(("spec", "level"), [(COLOUR, 255), (ON_BLACK, 0), (ON_WHITE, 255)])
def test_a_fully_transparent_picture_is_all_ground(spec: ImageSpec, level: int) -> None:
    assert close(decode(encode(Image.new("RGBA", (8, 8), (10, 20, 30, 0))), spec), level, 0)


def test_transparency_takes_little_memory() -> None:
    data = encode(Image.new("RGBA", (1000, 1000), (1, 2, 3, 100)))
    bytes_for_a_pixel = peak_bytes(lambda: decode(data, ON_BLACK)) / 1_000_000
    assert bytes_for_a_pixel < 10


# Batches


FLAT = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)})


def batch_of(pictures: dict[str, bytes], of: Any, spec: ImageSpec | None, max_bytes: int = MANY_BYTES) -> Array:
    ((name, batch),) = picture_batch(pictures, of, spec, MANY_PIXELS, max_bytes).items()
    assert [name] == list(of.inputs)
    return batch


def test_several_pictures_are_one_batch() -> None:
    pictures = {"file 1": encode(Image.new("L", (8, 8), 7)), "file 2": encode(Image.new("L", (8, 8), 9))}
    batch = batch_of(pictures, FLAT, GREY)
    assert (batch.dtype, batch.shape) == (np.float32, (2, 8, 8))
    assert batch[:, 0, 0].tolist() == [7.0, 9.0]


@pytest.mark.parametrize(
    ("of", "spec", "expected"),
    [
        (tensor("DT_UINT8", -1, 8, 8, 1), GREY, (1, 8, 8, 1)),
        (tensor("DT_UINT8", -1, 8, 8), GREY, (1, 8, 8)),
        (tensor("DT_UINT8", -1, 8, 8, 3), COLOUR, (1, 8, 8, 3)),
        (tensor("DT_UINT8", -1, 6, 5, 3), None, (1, 6, 5, 3)),
        (tensor("DT_UINT8", -1, 6, 5, 1), None, (1, 6, 5, 1)),
        (any_shape("DT_UINT8"), COLOUR, (1, 8, 8, 3)),
    ],
)
def test_a_batch_has_the_shape_of_the_input(of: Any, spec: ImageSpec | None, expected: tuple[int, ...]) -> None:
    batch = batch_of({"the body": encode(patches())}, signature({"x": of}), spec)
    assert (batch.dtype, batch.shape) == (np.uint8, expected)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": tensor("DT_FLOAT", -1)},
        {"x": tensor("DT_FLOAT", -1, 8, 8)},
        {"x": tensor("DT_FLOAT", -1, 8, 8, 4)},
        {"x": tensor("DT_FLOAT", -1, -1, -1, 3)},
        {"x": tensor("DT_STRING", -1, 8, 8, 3)},
        {"x": any_shape("DT_FLOAT")},
        {"x": tensor("DT_FLOAT", -1, 8, 8, 3), "y": tensor("DT_FLOAT", -1)},
        {},
    ],
)
def test_a_model_without_pictures_says_so(inputs: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"the model takes no pictures: .* send JSON"):
        batch_of({"the body": encode(patches())}, signature(inputs), None)


@pytest.mark.parametrize("dtype", ["DT_STRING", "DT_BFLOAT16", "DT_INT8"])
def test_an_input_without_pixel_values_is_rejected(dtype: str) -> None:
    with pytest.raises(InvalidRequest, match=dtype):
        batch_of({"the body": encode(patches())}, signature({"x": tensor(dtype, -1, 8, 8)}), GREY)


def test_too_many_pictures_are_rejected_before_decoding() -> None:
    taken = {f"file {number}": encode(patches()) for number in range(4)}
    bytes_of_four = 4 * 8 * 8 * 4
    assert len(batch_of(taken, FLAT, GREY, bytes_of_four)) == 4
    with pytest.raises(PayloadTooLarge, match=r"^5 pictures are 1280 bytes as the model takes them; at most 1024 "):
        batch_of({**taken, "file 5": b"nothing"}, FLAT, GREY, bytes_of_four)


def test_a_bad_picture_of_several_is_named() -> None:
    pictures = {"file 1 (a.png)": encode(patches()), "file 2 (b.png)": b"nothing"}
    with pytest.raises(InvalidRequest, match=r"^file 2 \(b\.png\) is not a picture"):
        batch_of(pictures, FLAT, GREY)
