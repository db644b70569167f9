from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.tensors.files import InvalidInput, read_file


def body(path: Path, rank: int | None = 1) -> Any:
    return read_file(path, rank).body


def test_json_is_a_whole_request(tmp_path: Path) -> None:
    (tmp_path / "row.json").write_text('{"instances": [5]}')
    assert body(tmp_path / "row.json") == {"instances": [5]}


@pytest.mark.parametrize(
    ("shape", "rank", "rows"), [((3,), 1, 3), ((2, 3), 3, 1), ((4, 2, 3), 3, 4), ((), 1, 1), ((2, 3), None, 2)]
)
def test_an_array_is_a_row_or_a_batch(tmp_path: Path, shape: tuple[int, ...], rank: int | None, rows: int) -> None:
    np.save(tmp_path / "array.npy", np.zeros(shape))
    assert len(body(tmp_path / "array.npy", rank)["instances"]) == rows


def test_an_array_of_bytes_is_text(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.array([b"hat", b"shoe"]))
    assert body(tmp_path / "array.npy") == {"instances": ["hat", "shoe"]}


@pytest.mark.parametrize(("rank", "instances"), [(2, [[1, 2], [3, 4]]), (3, [[[1, 2], [3, 4]]])])
def test_a_table_is_rows_or_one_recording(tmp_path: Path, rank: int, instances: list[object]) -> None:
    for text in ("a,b\n1,2\n3,4\n", "1,2\n\n3,4\n"):
        (tmp_path / "table.csv").write_text(text)
        assert body(tmp_path / "table.csv", rank) == {"instances": instances}


def test_a_column_is_rows_of_one_number(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("x\n1\n2\n")
    assert body(tmp_path / "table.csv", 1) == {"instances": [1, 2]}


def test_a_picture_needs_no_suffix(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "upload", "PNG")
    assert read_file(tmp_path / "upload", 3).picture == (tmp_path / "upload").read_bytes()


INVALID = {
    "row.csv": ("1,2\n3\n", "row 2 has 1 values, the first has 2"),
    "word.csv": ("1,2\n3,x\n", "row 2 has 'x'; expected a number"),
    "empty.csv": ("a,b\n", "no rows; expected numbers, a row a line"),
    "array.npy": ("not one", "no NumPy array: "),
    "row.json": ("{", "no JSON: "),
    "notes.txt": (
        "hello",
        "expected a picture (.avif, .bmp, .gif, .heic, .heif, .jpeg, .jpg, .png, .tif, .tiff, .webp), "
        ".npy, .csv or .json",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_named(tmp_path: Path, name: str) -> None:
    text, message = INVALID[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput) as raised:
        read_file(tmp_path / name, 1)
    assert raised.value.name == str(tmp_path / name)
    assert str(raised.value).startswith(message)


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="no NumPy array"):
        read_file(tmp_path / "array.npy", 1)


def test_an_array_of_dates_is_rejected(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(2, "M8[s]"))
    with pytest.raises(InvalidInput, match="no array of numbers, booleans or strings"):
        read_file(tmp_path / "array.npy", 1)
