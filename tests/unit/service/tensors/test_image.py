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
    plain,
    tiff,
)

Fit = Literal["contain", "cover", "stretch"]
FITS: tuple[Fit, ...] = ("contain", "cover", "stretch")
SIDES = st.integers(1, 40)
FLAT = {"pixels": tensor("DT_FLOAT", -1, 8, 8)}


@pytest.mark.parametrize("fit", FITS)
def test_models_size_keeps_pixels(fit: Fit) -> None:
    pixels = noise(9, 7, 3)
    assert np.array_equal(decode(Image.fromarray(pixels), ImageSpec(height=9, width=7, fit=fit)), pixels)


@pytest.mark.parametrize(
    ("size", "first", "last"),
    [
        ((40, 20), (7, 0), (20, 27)),
        ((14, 7), (7, 0), (20, 27)),
        ((20, 40), (0, 7), (27, 20)),
        ((9999, 1), (13, 0), (13, 27)),
    ],
)
def test_contain_keeps_the_aspect(size: tuple[int, int], first: tuple[int, int], last: tuple[int, int]) -> None:
    array = decode(Image.new("L", size, 255), ImageSpec(height=28, width=28, mode="L", fit="contain"))
    bright = np.argwhere(array > 128)
    assert (tuple(bright.min(axis=0)), tuple(bright.max(axis=0))) == (first, last)


def test_contain_pads_with_the_ground() -> None:
    for spec, ground in ((ON_BLACK, 0), (ON_WHITE, 255)):
        assert close(decode(Image.new("L", (40, 8), 255 - ground), spec)[[0, -1]], ground, 0)


def test_cover_cuts_both_sides_and_stretch_none() -> None:
    image = Image.new("L", (32, 8), 0)
    image.paste(255, (12, 0, 20, 8))
    assert close(decode(image, ImageSpec(height=8, width=8, mode="L", fit="cover")), 255, 0)
    stretched = decode(image, ImageSpec(height=8, width=8, mode="L", fit="stretch"))
    assert close(stretched[:, [0, 1, 6, 7]], 0, 30)
    assert close(stretched[:, 3:5], 255, 60)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)) | st.sampled_from([(1, 10_000), (65_535, 1)]),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)) | st.sampled_from([(1, 200), (200, 1)]),
    fit=st.sampled_from(FITS),
)
def test_any_size_becomes_the_models(size: tuple[int, int], wanted: tuple[int, int], fit: Fit) -> None:
    array = decode(Image.new("RGB", size, "red"), ImageSpec(height=wanted[0], width=wanted[1], fit=fit))
    assert array.shape == (*wanted, 3)
    assert array[..., 0].max() == 255


def test_large_jpeg_matches_its_png() -> None:
    # A JPEG is unpacked at a fraction of its size; that must not show.
    image = Image.fromarray(noise(10, 10, 3)).resize((400, 400), Image.Resampling.BICUBIC)
    assert close(decode(encode(image, "JPEG")), decode(image), 4)


@pytest.mark.parametrize(("spec", "ground", "garment"), [(ON_BLACK, 0, 225), (ON_WHITE, 255, 30), (GREY, 255, 30)])
def test_opposite_ground_is_inverted(spec: ImageSpec, ground: int, garment: int) -> None:
    dark_on_white = Image.new("RGB", (32, 32), (250, 255, 255))
    dark_on_white.paste((30, 20, 60), (8, 8, 24, 24))
    array = decode(dark_on_white, spec)
    assert close(array[0], ground, 5)
    assert close(array[3:5, 3:5], garment, 20)


@given(SIDES, SIDES, st.integers(0, 1000), st.sampled_from(FITS), st.sampled_from(["black", "white"]))
def test_inverted_picture_gives_the_same(width: int, height: int, seed: int, fit: Fit, ground: Any) -> None:
    pixels = noise(height, width, seed=seed) // 2 + 128
    pixels[1:-1, 1:-1] = noise(height, width, seed=seed + 1)[1:-1, 1:-1]
    spec = ImageSpec(height=12, width=9, mode="L", fit=fit, ground=ground)
    assert np.array_equal(decode(Image.fromarray(pixels), spec), decode(Image.fromarray(~pixels), spec))


def cut_out(name: str, level: int) -> bytes:
    """The left half of one level, the right half fully transparent (and, below that, of the opposite level)."""
    (mode, kind), hidden = name.split(), 255 - level
    if mode == "P":
        palette = plain(1, "P")
        palette.putpalette([level] * 3 + [hidden] * 3)
        palette.paste(0, (0, 0, 4, 8))
        return encode(palette, kind, transparency=1)
    image = plain((hidden, hidden, hidden, 0), "RGBA")
    image.paste((level, level, level, 255), (0, 0, 4, 8))
    options: dict[str, Any] = {"L": {"transparency": hidden}, "RGB": {"transparency": (hidden,) * 3}}
    return encode(image.convert(mode), kind, **options.get(mode, {}))


CUT_OUTS = ["RGBA PNG", "LA PNG", "P PNG", "L PNG", "RGB PNG", "P GIF", "RGBA WEBP", "RGBA TIFF", "LA TIFF"]


@pytest.mark.parametrize("name", CUT_OUTS)
@pytest.mark.parametrize("level", [0, 255])
def test_cut_out_stands_out_from_the_ground(name: str, level: int) -> None:
    for spec, visible, ground in ((COLOUR, level, 255), (ON_BLACK, 255, 0), (ON_WHITE, 0, 255)):
        array = decode(cut_out(name, level), spec)
        assert close(array[:, :4], visible)
        assert close(array[:, 4:], ground)


def test_cut_out_may_fill_its_picture() -> None:
    trousers = plain((20, 20, 60, 255), "RGBA")
    trousers.paste((0, 0, 0, 0), (3, 2, 5, 8))  # between the legs
    array = decode(trousers, ON_BLACK)
    assert array[0, 0] > 200
    assert array[5, 3] == 0


HALF_BLACK = {
    "PNG": encode(plain((0, 0, 0, 128), "RGBA")),
    "BMP": bmp(plain(0), alpha=128),
    "premultiplied grey": tiff(bytes([0, 128]) * 64, (8,) * 2, 1, tags=((338, 1),)),
    "premultiplied colours": tiff(bytes([0, 0, 0, 128]) * 64, (8,) * 4, 2, tags=((338, 1),)),
}


@pytest.mark.parametrize("name", HALF_BLACK)
def test_translucent_picture_lies_on_white_or_its_own_ground(name: str) -> None:
    for spec, level in ((COLOUR, 127), (GREY, 127), (ON_BLACK, 0)):
        assert close(decode(HALF_BLACK[name], spec), level)
    for spec, level in ((COLOUR, 255), (ON_BLACK, 0), (ON_WHITE, 255)):
        assert close(decode(plain((10, 20, 30, 0), "RGBA"), spec), level, 0)


def test_transparency_takes_little_memory() -> None:
    data = encode(Image.new("RGBA", (1000, 1000), (1, 2, 3, 100)))
    bytes_for_a_pixel = peak_bytes(lambda: decode(data, ON_BLACK)) / 1_000_000
    assert bytes_for_a_pixel < 10


def batch_of(pictures: list[bytes], inputs: Any, spec: ImageSpec | None, max_bytes: int = 1_000_000) -> Array:
    named = {f"file {number}": picture for number, picture in enumerate(pictures, 1)}
    ((name, batch),) = picture_batch(named, signature(inputs), spec, MANY_PIXELS, max_bytes).items()
    assert [name] == list(inputs)
    return batch


def test_several_pictures_are_one_batch() -> None:
    batch = batch_of([encode(plain(7, "L")), encode(plain(9, "L"))], FLAT, GREY)
    assert (batch.dtype, batch.shape) == (np.float32, (2, 8, 8))
    assert batch[:, 0, 0].tolist() == [7.0, 9.0]


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((8, 8, 1), GREY), ((8, 8), GREY), ((8, 8, 3), COLOUR), ((6, 5, 3), None), ((6, 5, 1), None), (None, COLOUR)],
)
def test_batch_has_the_shape_of_the_input(shape: tuple[int, ...] | None, spec: ImageSpec | None) -> None:
    of = any_shape("DT_UINT8") if shape is None else tensor("DT_UINT8", -1, *shape)
    batch = batch_of([encode(patches())], {"x": of}, spec)
    assert (batch.dtype, batch.shape) == (np.uint8, (1, *(shape or (8, 8, 3))))


@pytest.mark.parametrize(
    ("inputs", "spec"),
    [
        *(({"x": tensor("DT_FLOAT", -1, *shape)}, None) for shape in [(), (8, 8), (8, 8, 4), (-1, -1, 3)]),
        *(({"x": tensor(dtype, -1, 8, 8)}, GREY) for dtype in ("DT_STRING", "DT_BFLOAT16", "DT_INT8")),
        *((dict.fromkeys(names, tensor("DT_FLOAT", -1, 8, 8, 3)), None) for names in ("", "xy")),
        ({"x": any_shape("DT_FLOAT")}, None),
    ],
)
def test_model_without_pictures_is_named(inputs: Any, spec: ImageSpec | None) -> None:
    with pytest.raises(InvalidRequest, match=r"the model takes no pictures: .* send JSON"):
        batch_of([encode(patches())], inputs, spec)


def test_too_many_pictures_are_rejected_before_decoding() -> None:
    taken, bytes_of_four = [encode(patches())] * 4, 4 * 8 * 8 * 4
    assert len(batch_of(taken, FLAT, GREY, bytes_of_four)) == 4
    with pytest.raises(PayloadTooLarge, match=r"^5 pictures are 1280 bytes as the model takes them; at most 1024 "):
        batch_of([*taken, b"nothing"], FLAT, GREY, bytes_of_four)


def test_bad_picture_of_several_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"^file 2 is not a picture"):
        batch_of([encode(patches()), b"nothing"], FLAT, GREY)
