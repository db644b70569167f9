import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from service.errors import InvalidRequest, PayloadTooLarge, Unavailable
from service.serving_config import ImageSpec
from service.tensors import image_file
from service.tensors.image import decode_picture
from service.tensors.image_file import FORMATS, looks_like_picture, may_take_long, picture_pixels
from tests.unit.service.mutations import mutated, with_right_checksums
from tests.unit.service.tensors.pictures import (
    COLOUR,
    GREY,
    LOSS,
    MANY_PIXELS,
    chunk,
    close,
    decode,
    encode,
    noise,
    oriented,
    patches,
    peak_bytes,
    plain,
    png,
    rejection,
)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("spec", [COLOUR, GREY], ids=["colour", "grey"])
def test_format_is_decoded(kind: str, spec: ImageSpec) -> None:
    assert close(decode(encode(patches(), kind), spec), patches().convert(spec.mode), LOSS.get(kind, 0))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_first_frame_is_decoded(kind: str) -> None:
    data = encode(plain(200, "L"), kind, save_all=True, append_images=[plain(0, "L"), plain(100, "L")])
    assert close(decode(data, GREY), 200, LOSS.get(kind, 0))


# EXIF says where the stored picture's first row and column lie in the upright one.
TURN = Image.Transpose
TURNS = {2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE}
TURNS |= {6: TURN.ROTATE_90, 7: TURN.TRANSVERSE, 8: TURN.ROTATE_270}


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", [1, *TURNS, 99])
def test_picture_is_turned_upright(kind: str, orientation: int) -> None:
    upright = patches().crop((0, 0, 8, 6))
    stored = upright.transpose(TURNS[orientation]) if orientation in TURNS else upright
    options = {"save_all": True, "append_images": [stored]} if kind == "MPO" else {}
    array = decode(encode(stored, kind, exif=oriented(orientation), **options), ImageSpec(height=6, width=8))
    assert close(array, upright, LOSS.get(kind, 0))


CUT_ENTRY = b"MM\0*\0\0\0\x08\x00\x01\x01\x12\x00\x03\xff\xff\xff\xff\xff\xff"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"garbage", b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", CUT_ENTRY])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Possibly corrupt EXIF", "ignore:Truncated")
def test_damaged_exif_is_ignored(kind: str, exif: bytes) -> None:
    assert close(decode(encode(patches(), kind, exif=b"Exif\0\0" + exif)), patches(), 12)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_profile_or_frame_of_video_may_take_long(kind: str) -> None:
    assert may_take_long(encode(patches(), kind)) is (kind in ("AVIF", "TIFF"))
    assert may_take_long(encode(patches(), kind, icc_profile=PROFILE))


NO_PICTURES = [encode(plain(0), kind) for kind in ("PPM", "ICO", "TGA", "JPEG2000", "EPS", "PDF")]


@pytest.mark.parametrize("data", [b"", bytes(1000), b'{"instances": [1.0]}', b"RIFF\x04\0\0\0WAVE", *NO_PICTURES])
def test_other_file_is_rejected(data: bytes) -> None:
    assert rejection(data) == "the body is not a picture; expected PNG, JPEG, WebP, AVIF, GIF, BMP or TIFF"
    assert not looks_like_picture(data)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_cut_picture_is_rejected(kind: str, share: float) -> None:
    told = f"the body: the {kind} picture is truncated or damaged"
    assert rejection(start(encode(Image.fromarray(noise(40, 60, 3)), kind), share)).startswith(told)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", png(0, 0), png(5, 5)])
def test_picture_without_pixels_is_rejected(data: bytes) -> None:
    assert "picture is truncated or damaged" in rejection(data)


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)


def test_heic_without_decoder_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "has_heic_decoder", lambda: False)
    told = (
        "the body is a HEIC picture, for which this service has no decoder (pillow-heif is not installed); send PNG, "
    )
    assert rejection(HEIC).startswith(told)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_with_decoder(orientation: int) -> None:
    if not image_file.has_heic_decoder():
        pytest.skip("pillow-heif is not installed")
    upright = patches().resize((64, 64), Image.Resampling.NEAREST)
    stored = upright.transpose(TURNS[orientation]) if orientation in TURNS else upright
    data = encode(stored, "HEIF", quality=100, exif=oriented(orientation).tobytes())
    assert np.abs(decode(data, OF_64).astype(int) - np.asarray(upright)).mean() < 4
    assert "truncated or damaged" in rejection(HEIC)


def test_too_many_pixels_are_rejected() -> None:
    data = encode(Image.new("L", (11, 10)))
    assert decode(data, max_pixels=110).shape == (8, 8, 3)
    told = r"^the body: a picture of 11 x 10 is too large; at most 109 pixels are taken \(SERVING_MAX_IMAGE_PIXELS\)$"
    with pytest.raises(PayloadTooLarge, match=told):
        decode(data, max_pixels=109)


GIF_FRAME = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02D\x01\x00;"
GIF = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + GIF_FRAME


@pytest.mark.parametrize("data", [png(10_000, 10_000), png(2**31 - 1, 2**31 - 1), GIF], ids=["PNG", "largest", "GIF"])
def test_huge_picture_is_rejected_before_decoding(data: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 50000000 pixels are taken"):
        decode(data, max_pixels=50_000_000)


def test_limit_may_exceed_pillows() -> None:
    # 200 million pixels, more than Pillow takes of its own accord. The file is cut short: past the limit, not decoded.
    assert "truncated or damaged" in rejection(png(20_000, 10_000), max_pixels=300_000_000)


ROWS = (b"\0" + bytes(range(0, 240, 10))) * 8
LONG = zlib.compress(b"x" * (2 << 20))
DAMAGED_NOTE = chunk(b"zTXt", b"Comment\0\7")
NOTES = {
    "tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + LONG),
    "damaged zTXt": DAMAGED_NOTE,
    "damaged iCCP": chunk(b"iCCP", b"profile\0\7"),
    "corrupt iCCP, damaged zTXt": chunk(b"iCCP", b"profile\0\0not zlib") + DAMAGED_NOTE,
    "sound iCCP, damaged zTXt": chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"x")) + DAMAGED_NOTE,
    "damaged checksum": chunk(b"tEXt", b"Comment\0x")[:-1] + b"?",
    "much in all": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (1 << 20))) * 65,
}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("is_behind", [False, True])
def test_metadata_in_a_png_is_ignored(note: str, is_behind: bool) -> None:
    before, behind = (b"", NOTES[note]) if is_behind else (NOTES[note], b"")
    data = png(8, 8, ROWS, chunks=before)[:-12] + behind + chunk(b"IEND", b"")
    assert np.array_equal(decode(data), decode(png(8, 8, ROWS)))


def test_metadata_bomb_takes_no_memory() -> None:
    bomb = zlib.compress(b"x" * (64 << 20))
    data = png(8, 8, ROWS, chunks=chunk(b"zTXt", b"Comment\0\0" + bomb) + chunk(b"iCCP", b"profile\0\0" + bomb))
    assert peak_bytes(lambda: decode(data)) < 8 << 20


def gradient(mode: str) -> Image.Image:
    ramp = Image.fromarray((np.arange(13 * 9) * 7 % 256).astype(np.uint8).reshape(9, 13))
    if mode in ("I;16", "I", "F"):
        return Image.fromarray(np.asarray(ramp).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 257)
    return Image.merge("LAB", [ramp] * 3) if mode == "LAB" else ramp.convert(mode)


def about() -> Image.Exif:
    exif = oriented(6)
    exif[0x010E] = "a picture"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("title", "a picture", zip=True)
    info.add_itxt("title", "ein Bild", "de", "Titel")
    return info


def animated() -> dict[str, Any]:
    # Pillow leaves notes in what it has saved.
    return {"save_all": True, "append_images": [gradient("L"), gradient("L").rotate(180)], "duration": 10, "loop": 0}


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
}
TIFF_PACKINGS = {
    "RGB": ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"),
    "1": ("group3", "group4", "tiff_ccitt"),
}


@cache
def pictures() -> list[bytes]:
    def saved(mode: str, kind: str, **options: Any) -> bytes:
        return encode(gradient(mode), kind, **options)

    return [
        *(saved(mode, kind) for kind in MODES for mode in MODES[kind]),
        *(saved(mode, "TIFF", compression=name) for mode in TIFF_PACKINGS for name in TIFF_PACKINGS[mode]),
        *(saved("RGB", kind, icc_profile=PROFILE) for kind in ("PNG", "JPEG", "TIFF")),
        *(saved(mode, "AVIF", exif=about(), icc_profile=PROFILE) for mode in ("RGB", "RGBA")),
        *(saved(mode, "WEBP", lossless=False, exif=about()) for mode in ("RGB", "RGBA")),
        *(saved("RGBA", kind, **animated()) for kind in ("PNG", "WEBP")),
        saved("RGB", "PNG", pnginfo=text(), exif=about()),
        saved("L", "PNG", transparency=7),
        saved("I;16", "PNG", transparency=7 * 257),
        saved("P", "PNG", transparency=bytes(range(256))),
        saved("RGB", "JPEG", restart_marker_blocks=2),
        saved("RGB", "JPEG", progressive=True, subsampling="4:2:0", exif=about()),
        saved("RGB", "MPO", **animated()),
        saved("RGBA", "WEBP"),
        saved("P", "GIF", transparency=3, comment=b"a picture"),
        saved("L", "GIF", interlace=1),
        saved("L", "GIF", **animated()),
        saved("RGB", "TIFF", exif=about()),
        saved("RGB", "TIFF", **animated()),
    ]


SPECS = [
    ImageSpec(height=8, width=8, mode="RGB", fit="stretch"),
    ImageSpec(height=5, width=13, mode="L", fit="contain", ground="black"),
    ImageSpec(height=9, width=2, mode="L", fit="cover", ground="white"),
]


def is_decoded(data: bytes) -> bool:
    """Any error but a rejection fails the test."""
    decoded = False
    for spec in SPECS:
        try:
            array = decode(data, spec, max_pixels=10_000)
        except (InvalidRequest, PayloadTooLarge):
            continue
        channels = (3,) if spec.mode == "RGB" else ()
        assert (array.shape, array.dtype) == ((spec.height, spec.width, *channels), np.uint8)
        decoded = True
    assert picture_pixels(data) >= 0
    return decoded


@pytest.mark.parametrize("number", range(len(pictures())))
def test_undamaged_picture_is_decoded(number: int) -> None:
    data = pictures()[number]
    assert is_decoded(data)
    assert looks_like_picture(data)
    assert picture_pixels(data) == 13 * 9


SEEDS = st.deferred(lambda: st.sampled_from(pictures()))
PNGS = SEEDS.filter(lambda data: data.startswith(b"\x89PNG"))


@given(mutated(SEEDS) | mutated(PNGS, most=6).map(with_right_checksums))
def test_fuzzed_picture_is_decoded_or_rejected(data: bytes) -> None:
    is_decoded(data)


@given(SEEDS, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_fuzzed_splice_is_decoded_or_rejected(one: bytes, other: bytes, end: float, begin: float) -> None:
    is_decoded(start(one, end) + other[int(begin * len(other)) :])


@pytest.mark.parametrize(
    ("colour_type", "transparency"),
    [(0, b"\xff\xff"), (0, b"\0"), (2, b"\x01\x2c" * 3), (2, b"\0\0"), (3, b"\0" * 300), (3, b"")],
)
def test_invalid_transparency_is_decoded_or_rejected(colour_type: int, transparency: bytes) -> None:
    chunks = chunk(b"PLTE", bytes(6)) * (colour_type == 3) + chunk(b"tRNS", transparency)
    is_decoded(png(8, 8, bytes(8 * 25), colour_type=colour_type, chunks=chunks))


def test_warnings_do_not_reach_standard_error(tmp_path: Path) -> None:
    (tmp_path / "damaged.tiff").write_bytes(encode(gradient("RGB"), "TIFF", compression="packbits")[:-1])
    code = "from service.tensors.image_file import *; picture_pixels(open(sys.argv[1], 'rb').read())"
    command = [sys.executable, "-c", f"import sys; {code}", str(tmp_path / "damaged.tiff")]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b""


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "best": {"quality": 100, "subsampling": "4:4:4"},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}
# Half an end, a camera's, room that is left in a file, and in flash.
TRAILERS = [b"", b"\xff", b"dhav\x59\x19\x01\x00", bytes(5000), b"\xff" * 5000]
OF_64 = ImageSpec(height=64, width=64)
each_kind = pytest.mark.parametrize("kind", JPEGS)


@cache
def jpeg(kind: str = "baseline", mode: str = "RGB", size: tuple[int, int] = (320, 240)) -> bytes:
    """A picture with something everywhere, and nothing of it twice."""
    image = Image.fromarray(noise(24, 32, 3)).resize(size, Image.Resampling.BICUBIC).convert(mode)
    return encode(image, "JPEG", **{"quality": 75, "subsampling": "4:2:0", **JPEGS[kind]})


def start(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@each_kind
@pytest.mark.parametrize("trailer", [*TRAILERS, b"\xff\xe1\xff\xff"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_without_its_end_marker_is_complete(kind: str, mode: str, trailer: bytes) -> None:
    whole = jpeg(kind, mode)
    assert np.array_equal(decode(whole[:-2] + trailer, OF_64), decode(whole, OF_64))


@each_kind
def test_jpeg_may_lack_a_few_rows(kind: str) -> None:
    cut = decode(start(jpeg(kind), 0.99), OF_64)
    assert close(cut[:56], decode(jpeg(kind), OF_64)[:56], 2)


@each_kind
@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_jpeg_that_lacks_more_is_rejected(kind: str, share: float, trailer: bytes) -> None:
    assert "truncated or damaged" in rejection(start(jpeg(kind), share) + trailer, OF_64)


def test_large_jpeg_may_lack_a_few_rows() -> None:
    whole = jpeg(size=(2000, 1500))
    assert decode(start(whole, 0.98), OF_64).any()
    assert "truncated or damaged" in rejection(start(whole, 0.85), OF_64)


def test_jpeg_without_all_scans_is_rejected() -> None:
    whole = jpeg("progressive")
    last_tables = whole.rindex(b"\xff\xc4", 0, whole.rindex(b"\xff\xda"))
    assert "truncated or damaged" in rejection(whole[:last_tables], OF_64)


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xda\0\x02", b"\xff\xda\0\x08\x01\x01\0\0\x3f\0", b"\0"])
def test_hostile_bytes_behind_a_cut_jpeg_are_rejected_fast(filling: bytes) -> None:
    # Code of quadratic time would take hours.
    assert "truncated or damaged" in rejection(start(jpeg(), 0.5) + filling * (2_000_000 // len(filling)), OF_64)


# The memory that decoding takes


class Share:
    """Keeps what is taken; `error` is raised then."""

    def __init__(self, error: Exception | None = None) -> None:
        self.taken: list[int] = []
        self.is_held = False
        self._error = error

    def take(self, count: int) -> None:
        if self._error is not None:
            raise self._error
        self.taken.append(count)
        self.is_held = True

    def give_back(self) -> None:
        self.is_held = False


def taken_by(data: bytes, spec: ImageSpec = COLOUR) -> list[int]:
    share = Share()
    decode_picture(data, spec, MANY_PIXELS, share=share)
    assert not share.is_held
    return share.taken


LARGE = Image.new("RGB", (1600, 1200), "red")


@pytest.mark.parametrize("kind", FORMATS)
def test_small_pictures_take_no_memory_of_others(kind: str) -> None:
    assert taken_by(encode(Image.new("RGB", (256, 256)), kind)) == []


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_memory_for_all_pixels_is_taken(kind: str) -> None:
    (taken,) = taken_by(encode(LARGE, kind))
    assert taken >= 4 * 1600 * 1200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_memory_for_what_is_held_of_a_scaled_picture_is_taken(kind: str) -> None:
    (taken,) = taken_by(encode(LARGE, kind, **({"lossless": False} if kind == "WEBP" else {})))
    assert taken < 2 * 1600 * 1200


@pytest.mark.parametrize(
    ("kind", "options", "bytes_per_pixel"),
    [
        ("JPEG", {"progressive": True, "subsampling": "4:4:4"}, 6),
        ("JPEG", {"progressive": True, "subsampling": "4:2:0"}, 3),
        ("WEBP", {"lossless": True}, 4),
    ],
)
def test_memory_for_what_a_decoder_holds_of_all_pixels_is_taken(
    kind: str, options: dict[str, Any], bytes_per_pixel: int
) -> None:
    (taken,) = taken_by(encode(LARGE, kind, **options))
    assert taken >= bytes_per_pixel * 1600 * 1200


def test_a_jpeg_to_be_repaired_takes_more_memory() -> None:
    first, second, third = taken_by(encode(Image.fromarray(noise(400, 400, 3)), "JPEG")[:-2])
    assert first < second == third


def test_memory_is_taken_before_decoding() -> None:
    # There is nothing to decode.
    with pytest.raises(Unavailable):
        decode_picture(png(1000, 1000), COLOUR, MANY_PIXELS, share=Share(Unavailable("no memory")))


def test_memory_for_a_damaged_picture_is_given_back() -> None:
    share = Share()
    with pytest.raises(InvalidRequest):
        decode_picture(png(1000, 1000), COLOUR, MANY_PIXELS, share=share)
    assert share.taken
    assert not share.is_held
