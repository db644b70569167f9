from pathlib import Path

import pytest
from PIL import Image

from service.tensors.files import InvalidInput, read_file


@pytest.mark.parametrize(
    ("text", "rank", "instances"),
    [
        ("a,b\n1,2\n3,4\n", 2, [[1, 2], [3, 4]]),
        ("1,2\n\n3,4\n", 2, [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", 3, [[[1, 2], [3, 4]]]),
        ("x\n1\n2\n", 1, [1, 2]),
    ],
    ids=["names of columns", "an empty line", "one recording", "rows of one number"],
)
def test_table_is_rows(tmp_path: Path, text: str, rank: int, instances: list[object]) -> None:
    (tmp_path / "table.csv").write_text(text)
    assert read_file(tmp_path / "table.csv", rank).body == {"instances": instances}


def test_picture_needs_no_suffix(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "upload", "PNG")
    assert read_file(tmp_path / "upload", 3).picture == (tmp_path / "upload").read_bytes()


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".csv", "1,2\n3\n", "row 2 has 1 values, the first has 2"),
        (".csv", "1,2\n3,x\n", "row 2 has 'x'; expected a number"),
        (".csv", "a,b\n", "no rows; expected numbers, a row a line"),
        (".json", "{", "no JSON: "),
        (".txt", "hello", "expected a picture (.avif, .bmp, "),
    ],
)
def test_invalid_file_is_named(tmp_path: Path, suffix: str, text: str, message: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_text(text)
    with pytest.raises(InvalidInput) as raised:
        read_file(path, 1)
    assert raised.value.name == str(path)
    assert str(raised.value).startswith(message)
