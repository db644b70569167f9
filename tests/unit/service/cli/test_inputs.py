"""What stands on the command line, as requests."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.cli.inputs import requests
from service.tensors.files import InvalidInput, PredictRequest


def body(text: str, rank: int | None = 1, stdin: str = "") -> Any:
    (asked,) = requests([text], rank, io.BytesIO(stdin.encode()))
    assert isinstance(asked, PredictRequest), asked
    return asked.body


def wrong(text: str, rank: int | None = 1) -> str:
    (asked,) = requests([text], rank, io.BytesIO())
    assert isinstance(asked, InvalidInput)
    return f"{asked.name}: {asked}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", {"instances": [10]}),
        ("-0.5", {"instances": [-0.5]}),
        ("1,2.5,3", {"instances": [[1, 2.5, 3]]}),
        ("[1, 2]", {"instances": [[1, 2]]}),
        ('{"x": 1}', {"instances": [{"x": 1}]}),
        ('{"instances": [1, 2]}', {"instances": [1, 2]}),
        ('{"inputs": {"x": [1]}}', {"inputs": {"x": [1]}}),
    ],
)
def test_numbers_and_json_are_rows_or_whole_requests(text: str, expected: object) -> None:
    assert body(text) == expected


def test_json_comes_from_standard_input_and_from_files_too(tmp_path: Path) -> None:
    assert body("-", stdin="[3]") == {"instances": [[3]]}
    (tmp_path / "row.json").write_text('{"instances": [5]}')
    assert body(str(tmp_path / "row.json")) == {"instances": [5]}


@pytest.mark.parametrize(
    ("shape", "rank", "rows"), [((3,), 1, 3), ((2, 3), 3, 1), ((4, 2, 3), 3, 4), ((), 1, 1), ((2, 3), None, 2)]
)
def test_an_array_is_a_row_or_a_batch_of_them_as_the_model_takes_it(
    tmp_path: Path, shape: tuple[int, ...], rank: int | None, rows: int
) -> None:
    np.save(tmp_path / "array.npy", np.zeros(shape))
    assert len(body(str(tmp_path / "array.npy"), rank)["instances"]) == rows


@pytest.mark.parametrize(("rank", "instances"), [(2, [[1, 2], [3, 4]]), (3, [[[1, 2], [3, 4]]])])
def test_a_table_is_rows_or_one_recording_with_or_without_names(
    tmp_path: Path, rank: int, instances: list[object]
) -> None:
    for text in ("a,b\n1,2\n3,4\n", "1,2\n\n3,4\n"):
        (tmp_path / "table.csv").write_text(text)
        assert body(str(tmp_path / "table.csv"), rank) == {"instances": instances}


def test_a_column_of_numbers_is_rows_of_one_number_each(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("x\n1\n2\n")
    assert body(str(tmp_path / "table.csv"), 1) == {"instances": [1, 2]}


def test_a_folder_is_its_pictures_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.PNG", "deeper/c.jpg", "a.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"as it is")
    found = list(requests([str(tmp_path)], 3, io.BytesIO()))
    names = [Path(asked.name).name for asked in found]
    assert names == ["a.webp", "b.PNG", "c.jpg"]
    assert all(isinstance(asked, PredictRequest) and asked.picture == b"as it is" for asked in found)


def test_a_picture_is_told_by_its_bytes_where_its_name_does_not(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "upload", "PNG")
    (asked,) = requests([str(tmp_path / "upload")], 3, io.BytesIO())
    assert isinstance(asked, PredictRequest)
    assert asked.picture


FILES = {
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


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_input_is_told_with_its_name(tmp_path: Path, name: str) -> None:
    text, words = FILES[name]
    (tmp_path / name).write_text(text)
    assert wrong(str(tmp_path / name)).startswith(f"{tmp_path / name}: {words}")


def test_what_is_neither_file_nor_number_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    assert wrong("shoe.png").startswith("shoe.png: no such file, and no number; expected")
    assert "no pictures in this folder" in wrong(str(tmp_path))
    assert "no JSON" in wrong("[1, 2")


def test_one_bad_input_does_not_keep_the_others_out() -> None:
    assert [type(asked) for asked in requests(["1", "x", "2"], 1, io.BytesIO())] == [
        PredictRequest,
        InvalidInput,
        PredictRequest,
    ]


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "no NumPy array" in wrong(str(tmp_path / "array.npy"))
