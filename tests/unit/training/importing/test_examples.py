"""Examples of an imported model, from files and arrays."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidRequest
from service.serving_config import ImageSpec
from service.tensors.signature import Signature, TensorSpec
from training.errors import DatasetError
from training.importing.examples import Examples, made_up, read

FLOAT, TEXT, INTEGER = "DT_FLOAT", "DT_STRING", "DT_INT32"
PICTURES = {"pixels": (FLOAT, (-1, 2, 2, 3))}
ROWS = {"x": (FLOAT, (-1, 2))}
TWO = {"size": (FLOAT, (-1, 1)), "kind": (TEXT, (-1, 1))}
IMAGE = ImageSpec(height=2, width=2)


def signature(inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> Signature:
    return Signature("", {name: TensorSpec(f"{name}:0", *spec) for name, spec in inputs.items()}, {})


def examples(given: Any, inputs: Any = ROWS, answers: Any = None, names: tuple[str, ...] = (), scale: float = 1) -> Any:
    return read(given, answers, signature(inputs), IMAGE if inputs is PICTURES else None, names, scale)


def file(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", [[1.0, 2.0], [3.0, 4.0]]),
        ("x.npz", {"x": [[1, 2], [3, 4]], "labels": [1, 0]}),
        ("x.npz", {"x_test": [[1, 2], [3, 4]], "y_test": [[0, 1], [1, 0]]}),
        ("x.csv", "1,2\n3,4\n"),
        ("x.csv", "a,label,b\n1,1,2\n3,0,4\n"),
        ("x.csv", "a,b,class\n1,2,yes\n3,4,no\n"),
        ("x.json", [[1, 2], [3, 4]]),
        ("x.json", {"instances": [[1, 2], [3, 4]], "labels": ["yes", "no"]}),
        ("x.json", {"inputs": {"x": [[1, 2], [3, 4]]}}),
    ],
)
def test_rows_and_answers_of_a_file(name: str, content: Any, tmp_path: Path) -> None:
    found = examples(file(tmp_path, name, content), names=("no", "yes"))
    assert found.inputs["x"].dtype == np.float32
    assert found.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert found.answers is None or found.answers.tolist() == [1, 0]


def test_several_inputs_by_their_columns(tmp_path: Path) -> None:
    found = examples(file(tmp_path, "x.csv", "kind,target,size\nshoe,0.5,1\nTräger,2.5,3\n"), TWO)
    assert found.inputs["kind"].tolist() == [[b"shoe"], ["Träger".encode()]]
    assert found.inputs["size"].tolist() == [[1], [3]]
    assert found.answers.tolist() == [0.5, 2.5]


def test_features_of_a_model_that_parses_examples(tmp_path: Path) -> None:
    path = file(tmp_path, "x.json", {"examples": [{"x": 1.0}, {"x": 2.0}]})
    found = examples(path, {"inputs": (TEXT, (-1,))})
    assert [type(each) for each in found.inputs["inputs"]] == [bytes, bytes]


def test_pictures_by_class(tmp_path: Path) -> None:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 4), colour).save(tmp_path / name / "1.png")
    found = examples(tmp_path, PICTURES)
    assert found.names == ("blue", "red")
    assert found.answers.tolist() == [0, 1]
    assert found.inputs["pixels"][:, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert [path.parent.name for path in found.files] == ["blue", "red"]
    one = examples(tmp_path / "red" / "1.png", PICTURES)
    assert (one.count, one.answers) == (1, None)


@pytest.mark.parametrize("value", [0.5, 128.0])
def test_arrays_are_what_the_graph_takes_before_its_scale(value: float) -> None:
    assert np.round(examples(np.full((3, 2), value), scale=1 / 256).inputs["x"]).tolist() == [[128, 128]] * 3


@pytest.mark.parametrize(
    ("name", "content", "inputs", "says"),
    [
        ("x.npy", [[1.0, 2.0, 3.0]], ROWS, "'x' has the shape [-1, 2] (-1: any size); these are [1, 3]"),
        ("x.npy", np.zeros((0, 2)), ROWS, "it has no rows"),
        ("x.npy", ["a"], ROWS, "takes numbers"),
        ("x.npy", [[1.0]], TWO, "it has no names, and the model takes size, kind"),
        ("x.npz", {"a": [1.0], "b": [1.0]}, ROWS, "it has a, b; expected the inputs x"),
        ("x.npz", {"x": [[1, 2]], "y": [1, 2]}, ROWS, "it has 2 answers for 1 rows"),
        ("x.npz", {"x": [[1, 2]], "y": ["maybe"]}, ROWS, "'maybe' is none of the labels no, yes"),
        ("x.npz", {"size": [1, 2], "kind": ["a"]}, TWO, "its inputs have 1 and 2 rows"),
        ("x.csv", "", ROWS, "no rows"),
        ("x.csv", "1,2\n3\n", ROWS, "row 2 has 1 values, expected 2"),
        ("x.csv", "kind,sizes\na,1\n", TWO, "its columns are kind, sizes; expected size, kind"),
        ("x.json", "{", ROWS, "x.json: "),
        ("x.json", {"instances": [[1, "a"]]}, ROWS, "expected a number"),
        ("x.txt", "1", ROWS, "expected .npy, .npz, .csv, .json, pictures"),
        ("x.png", "1", ROWS, "the model takes no pictures"),
    ],
)
def test_unfit_file_is_one_sentence(name: str, content: Any, inputs: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        examples(file(tmp_path, name, content), inputs, names=("no", "yes"))
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file or folder"):
        examples(tmp_path / "none.npy")


def test_made_up_rows_are_in_the_range_that_the_model_takes() -> None:
    def run(inputs: Any) -> Any:
        if inputs["words"].max() >= 50 or inputs["words"].shape[1] != 16:
            raise InvalidRequest("out of range")
        return {}

    found = made_up(signature({"words": (INTEGER, (-1, -1))}), run, 5, None, ())
    assert found is not None
    assert found.inputs["words"].shape == (5, 16)
    assert found.made_up == 5
    assert made_up(signature({"words": (INTEGER, (-1, 3))}), run, 5, None, ()) is None


def test_few_examples_are_topped_up_between_their_ends() -> None:
    given = Examples(inputs={"x": np.array([[0.0, 5.0], [1.0, 5.0]], np.float32)}, answers=np.array([0, 1]))
    found = made_up(signature(ROWS), lambda _: {}, 10, None, (), given)
    assert found is not None
    assert str(found) == "2 examples and 8 made-up inputs"
    assert found.inputs["x"].shape == (10, 2)
    assert (found.inputs["x"][:, 1] == 5).all()
    part = found.part(5)
    assert (part.count, part.made_up, part.given().inputs["x"].tolist()) == (5, 3, [[0, 5], [1, 5]])
