import io
from pathlib import Path
from typing import Any

import pytest

from service.cli.inputs import requests
from service.tensors.files import InvalidInput, PredictRequest


def one(text: str, stdin: bytes = b"") -> PredictRequest | InvalidInput:
    (request,) = requests([text], 1, io.BytesIO(stdin))
    return request


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
        ("-", {"instances": [[3]]}),
        ("{folder}/row.json", {"instances": [5]}),
    ],
)
def test_text_is_a_row_or_a_whole_request(tmp_path: Path, text: str, expected: Any) -> None:
    (tmp_path / "row.json").write_text('{"instances": [5]}')
    request = one(text.replace("{folder}", str(tmp_path)), stdin=b"[3]")
    assert isinstance(request, PredictRequest)
    assert request.body == expected


def test_folder_is_its_pictures_sorted_by_name(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.PNG", "deeper/c.jpg", "a.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"as it is")
    found = list(requests([str(tmp_path)], 3, io.BytesIO()))
    assert [Path(request.name).name for request in found] == ["a.webp", "b.PNG", "c.jpg"]
    assert all(isinstance(request, PredictRequest) and request.picture == b"as it is" for request in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shoe.png", "no such file, and no number; expected"),
        ("{folder}", "no pictures in this folder"),
        ("[1, 2", "no JSON"),
    ],
)
def test_invalid_input_says_why(tmp_path: Path, text: str, message: str) -> None:
    name = text.format(folder=tmp_path)
    request = one(name)
    assert isinstance(request, InvalidInput)
    assert request.name == name
    assert str(request).startswith(message)


def test_unreadable_file_is_an_invalid_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "row.json").touch()
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert str(one(str(tmp_path / "row.json"))) == "Permission denied"


def test_invalid_input_does_not_affect_the_others() -> None:
    types = [type(request) for request in requests(["1", "x", "2"], 1, io.BytesIO())]
    assert types == [PredictRequest, InvalidInput, PredictRequest]
