import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.serving_config import ImageSpec
from training.data import picture_folder
from training.errors import DatasetError

SPEC = ImageSpec(height=4, width=4, mode="RGB", fit="cover")
RED, BLUE = (250, 0, 0), (0, 0, 250)


def draw(path: Path, colour: tuple[int, ...] = RED, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 8), colour).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two pictures each."""
    for name, colour in (("rote Schuhe", RED), ("ärmellos", BLUE)):
        for number in range(2):
            draw(tmp_path / "clothes" / name / f"photo {number}.png", colour)
    return tmp_path / "clothes"


def read(folder: Path, names: tuple[str, ...] | None = None) -> picture_folder.PictureFolder:
    return picture_folder.read(folder, SPEC, 2, names)


def test_each_folder_is_a_class(folder: Path) -> None:
    found = read(folder)
    assert found.names == ("rote Schuhe", "ärmellos")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert [file.name for file in found.files] == ["photo 0.png", "photo 1.png"] * 2
    assert found.pixels.shape == (4, 4, 4, 3)
    np.testing.assert_array_equal(found.pixels[[0, 3], 0, 0], [RED, BLUE])
    assert found.skipped == ()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "I;16"])
def test_pictures_of_every_mode_become_colour(mode: str, folder: Path) -> None:
    draw(folder / "ärmellos" / "other.png", mode=mode)
    assert read(folder).pixels.shape == (5, 4, 4, 3)


def test_photo_is_turned_upright(folder: Path) -> None:
    image = Image.new("RGB", (8, 8), BLUE)
    image.paste(RED, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(folder / "ärmellos" / "a.png", exif=exif)
    pixels = read(folder).pixels[2]
    np.testing.assert_allclose(pixels[[0, 3], 0], [BLUE, RED], atol=10)


def test_unreadable_files_are_skipped_and_listed(folder: Path) -> None:
    (folder / "ärmellos" / "broken.jpg").write_bytes(b"\xff\xd8\xffnope")
    (folder / "ärmellos" / "notes.txt").write_text("to be sorted")
    (folder / "ärmellos" / ".DS_Store").write_text("of the file browser")
    Path(os.fsdecode(bytes(folder / "ärmellos") + b"/\xff.jpg")).touch()
    found = read(folder)
    assert found.labels.tolist() == [0, 0, 1, 1]
    broken, notes, no_text = found.skipped
    assert broken.startswith("clothes/ärmellos/broken.jpg: the file: the JPEG picture is truncated or damaged")
    assert notes.startswith("clothes/ärmellos/notes.txt: the file is not a picture; expected PNG, JPEG")
    assert no_text.startswith(r"clothes/ärmellos/\udcff.jpg: the file")


def test_subfolders_belong_to_their_class_and_what_is_hidden_or_loose_to_none(folder: Path) -> None:
    draw(folder / "ärmellos" / "summer" / "more.png")
    draw(folder / ".thumbnails" / "small.png")
    draw(folder / "cover.png")
    found = read(folder)
    assert found.names == ("rote Schuhe", "ärmellos")
    assert found.labels.tolist() == [0, 0, 1, 1, 1]


def test_classes_with_too_few_pictures_are_named(folder: Path) -> None:
    (folder / "hats").mkdir()
    (folder / "ärmellos" / "photo 1.png").write_bytes(b"")
    skipped = "of 1 skipped the first is clothes/ärmellos/photo 1.png: the file is not a picture"
    with pytest.raises(DatasetError, match=rf"can be read, 'hats' has 0, 'ärmellos' has 1; {skipped}"):
        read(folder)


@pytest.mark.parametrize(
    ("place", "drawn", "message"),
    [
        ("none", "a.png", "none: no such folder"),
        ("photo", "photo", "photo: is a file, expected a folder"),
        ("hats", "hats/a.png", "expected a folder for each of two classes or more, found none"),
        ("hats", "hats/summer/a.png", "expected a folder for each of two classes or more, found only 'summer'"),
        ("hats", "hats/a\nb/a.png", r"'a\\nb' cannot be a class's name"),
    ],
)
def test_folder_without_two_classes_is_an_error(place: str, drawn: str, message: str, tmp_path: Path) -> None:
    (tmp_path / drawn).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / drawn).touch()
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / place)


def test_known_classes_are_kept(folder: Path) -> None:
    assert read(folder, names=("ärmellos", "rote Schuhe")).names == ("ärmellos", "rote Schuhe")
    with pytest.raises(DatasetError, match="'ärmellos' is none of the classes to train on: hats, rote Schuhe"):
        read(folder, names=("hats", "rote Schuhe"))
    with pytest.raises(DatasetError, match="'hats' has 0"):
        read(folder, names=("hats", "rote Schuhe", "ärmellos"))


def test_pictures_in_another_size(folder: Path) -> None:
    found = read(folder).part(np.array([3, 0]))
    assert found.labels.tolist() == [1, 0]
    larger = found.larger(ImageSpec(height=5, width=6), np.array([0]))
    assert larger.shape == (1, 5, 6, 3)
    np.testing.assert_array_equal(larger[0, 0, 0], BLUE)


def test_heic_without_decoder_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_folder, "has_heic_decoder", lambda: False)
    heic = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(100)
    for number in range(3):
        (folder / "ärmellos" / f"IMG_{number}.HEIC").write_bytes(heic)
    found = read(folder)
    assert len(found.skipped) == 3
    (line,) = picture_folder.describe_skipped(found.skipped)
    assert line.startswith("3 HEIC pictures, which iPhones write; to read them: pip install")
    with pytest.raises(DatasetError, match="'ärmellos' has 2; 3 HEIC pictures"):
        picture_folder.read(folder, SPEC, 3)


def test_ten_skipped_files_are_shown() -> None:
    lines = list(picture_folder.describe_skipped([f"hats/{number}: damaged" for number in range(25)]))
    assert lines[9:] == ["hats/9: damaged", "15 more, which the model card names"]
