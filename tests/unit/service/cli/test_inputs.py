import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cli import inputs
from service.cli.inputs import Item, ModelInput, source
from service.tensors.files import InvalidInput, PredictRequest

NUMBER = {"x": ModelInput(1)}


def items(text: str | Path, model: dict[str, ModelInput] = NUMBER, stdin: bytes = b"") -> list[Item]:
    return list(source(str(text), model, io.BytesIO(stdin)).items)


def instances(text: str | Path, model: dict[str, ModelInput] = NUMBER) -> Any:
    (item,) = items(text, model)
    assert isinstance(item.request, PredictRequest)
    assert item.request.body is not None
    return item.request.body["instances"]


def error(text: str | Path, model: dict[str, ModelInput] = NUMBER) -> str:
    request = items(text, model)[-1].request
    assert isinstance(request, InvalidInput)
    return str(request)


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
    (item,) = items(text.replace("{folder}", str(tmp_path)), stdin=b"[3]")
    assert isinstance(item.request, PredictRequest)
    assert item.request.body == expected
    # A number is as deep as a row.
    assert instances("10", {"x": ModelInput(2)}) == [[10]]


@pytest.mark.parametrize("text", ["a nice shirt, too", "10", "[sic] it fits", '["as JSON"]', "x" * 5000], ids=range(5))
def test_text_for_a_model_of_texts(text: str) -> None:
    expected = ["as JSON"] if "JSON" in text else text
    assert instances(text, {"words": ModelInput(1, is_text=True)}) == [expected]


def test_folder_is_its_pictures_sorted_by_name(tmp_path: Path) -> None:
    (tmp_path / "deeper/still").mkdir(parents=True)
    for name in ("b.PNG", "deeper/still/c.jpg", "a.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"as it is")
    found = items(tmp_path)
    assert [Path(item.request.name).name for item in found] == ["a.webp", "b.PNG", "c.jpg"]
    assert [item.folders for item in found] == [(), (), ("deeper", "still")]
    assert all(isinstance(item.request, PredictRequest) and item.request.picture == b"as it is" for item in found)


def test_invalid_input_says_why(tmp_path: Path) -> None:
    assert error("shoe.png").startswith("no such file, and no number; expected")
    assert error(tmp_path).startswith("no pictures in this folder")
    assert error("[1, 2").startswith("no JSON")
    assert error("").startswith("this input is empty; expected")


def test_unreadable_file_is_an_invalid_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "row.json").touch()
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert error(tmp_path / "row.json") == "Permission denied"


@pytest.mark.parametrize(
    ("shape", "rank", "rows"), [((3,), 1, 3), ((2, 3), 3, 1), ((4, 2, 3), 3, 4), ((), 1, 1), ((2, 3), None, 2)]
)
def test_array_is_a_row_or_a_batch(tmp_path: Path, shape: tuple[int, ...], rank: int | None, rows: int) -> None:
    np.save(tmp_path / "array.npy", np.zeros(shape))
    assert len(instances(tmp_path / "array.npy", {"x": ModelInput(rank)})) == rows


def test_array_of_bytes_is_text(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.array([b"hat", "Schürze".encode()]))
    assert instances(tmp_path / "array.npy") == ["hat", "Schürze"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_large_array_is_sent_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, order: Any) -> None:
    monkeypatch.setattr(inputs, "MAX_PART_BYTES", 40)
    array = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]], np.uint8, order=order)
    path = tmp_path / f"array.{suffix}"
    (np.save if suffix == "npy" else np.savez_compressed)(path, array)
    found = items(path, {"x": ModelInput(2)})
    bodies = [item.request.body for item in found if isinstance(item.request, PredictRequest)]
    assert bodies == [{"instances": [[1, 2], [3, 4], [5, 6]]}, {"instances": [[7, 8], [9, 0]]}]
    assert [(item.first_row, item.rows) for item in found] == [(0, 3), (3, 2)]


def test_arrays_of_several_inputs_are_taken_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", b=np.array([1, 2]), a=np.array([[0.5], [1.5]]), labels=np.arange(7))
    model = {"a": ModelInput(2), "b": ModelInput(1)}
    assert instances(tmp_path / "x.npz", model) == [{"a": [0.5], "b": 1}, {"a": [1.5], "b": 2}]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2)}, "no array 'b', which is an input of the model; the file has 'a'"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "'a' has 2 rows, 'b' has 3"),
        ({"a": np.zeros(0), "b": np.zeros(0)}, "no rows"),
    ],
)
def test_arrays_must_fit_the_inputs(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert error(tmp_path / "x.npz", dict.fromkeys("ab", ModelInput(1))) == message


def npy(array: Any) -> bytes:
    np.save(file := io.BytesIO(), array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", npy(np.array([{"a": 1}], object)), "an array of object"),  # not unpickled
        ("x.npy", npy(np.zeros(2, "M8[s]")), "an array of datetime64"),
        ("x.npy", npy(np.array([b"\xff"])), "bytes that are not UTF-8"),
        ("x.npy", npy(np.zeros(100))[:-1], "the file ends within the array"),
        ("x.npy", b"not one", "no NumPy array: "),
        ("x.npz", b"not one", "no .npz: "),
    ],
    ids=range(6),
)
def test_file_without_an_array_is_invalid(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert error(tmp_path / name).startswith(message)
