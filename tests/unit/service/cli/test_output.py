import io
from pathlib import Path

import pytest

from service.cli.output import Evaluation, Progress, Table, rows_of


def test_rows_of_a_classification() -> None:
    results = {"results": [[["hat", 0.7512], ["bag", 0.2], ["shoe", 0.04], ["sock", 0.01]], [["bag", None]]]}
    assert rows_of("a.png", results, "0.42, Infinity") == [
        ["a.png[0]", "hat 75.1%", "bag 20.0%", "shoe 4.0%", ""],
        ["a.png[1]", "bag –", "unlike anything it knows (Infinity)"],
    ]


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        ({"predictions": [30.999998092651367]}, [["10", "31"]]),
        ({"predictions": [1, 2]}, [["10[0]", "1"], ["10[1]", "2"]]),
        ({"outputs": {"y": [1.0]}}, [["10", "{'y': [1.0]}"]]),
        ({"predictions": ["x" * 200]}, [["10", "x" * 97 + "..."]]),
    ],
    ids=["one", "two", "columns", "long"],
)
def test_rows_of_predictions(answer: dict[str, object], rows: list[list[str]]) -> None:
    assert rows_of("10", answer) == rows


@pytest.mark.parametrize("scores", [[1427.38, -3.2], [0.9, 0.8], [-0.5, 1.5]])
def test_scores_that_are_no_probabilities_have_no_percent(scores: list[float]) -> None:
    ((_, *cells),) = rows_of("a.png", {"results": [[["Sneaker", scores[0]], ["Bag", scores[1]]]]})
    assert cells == [f"Sneaker {scores[0]:.4g}", f"Bag {scores[1]:.4g}"]


def test_rows_of_a_part_are_numbered_from_its_first() -> None:
    assert rows_of("x.npy", {"predictions": [1]}, first_row=256) == [["x.npy[256]", "1"]]


def test_as_many_labels_as_wanted() -> None:
    assert len(rows_of("a", {"results": [[[label, 0.25] for label in "abcd"]]}, top_k=4)[0]) == 1 + 4


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    for row in (["a.png", "hat"], ["longer.png", "bag", "unlike"]):
        table.add([row])
    table.print()
    assert capsys.readouterr().out == "a.png       hat\nlonger.png  bag  unlike\n"


def evaluated(*pictures: tuple[str, str | None]) -> list[str]:
    """What is said of pictures in these folders, predicted so, of a model with two labels."""
    evaluation = Evaluation()
    for folder, label in pictures:
        other = "Bag" if label == "T-shirt/top" else "T-shirt/top"
        evaluation.add(Path(folder).parts, {"results": [[[label, 0.9], [other, 0.1]]]} if label else None)
    return [line.strip() for line in evaluation.lines() if line]


def test_folders_named_like_labels_are_counted() -> None:
    shirts = [("test/t-shirt_top", "T-shirt/top")] * 2
    assert evaluated(*shirts, ("bag", "T-shirt/top"), ("hats", "Bag"), ("", "Bag"), ("Bag", None)) == [
        "Accuracy: 2 of 3",
        "Bag          0 of 1",
        "T-shirt/top  2 of 2",
        "Most frequent confusions:",
        "1  Bag taken for T-shirt/top",
        "Not counted:",
        "1  in 'hats', which no label of the model is named",
        "1  beside the folders",
        "1  without an answer",
    ]


@pytest.mark.parametrize(
    ("pictures", "lines"),
    [
        ([("Bag", "Bag")] * 100, ["Accuracy: 100 of 100 (100.0%)", "Bag  100 of 100 (100.0%)"]),
        (
            [("holiday", "Bag"), ("work", "Bag")],
            ["No accuracy: the folders 'holiday', 'work' are not named like labels of the model (Bag, T-shirt/top)."],
        ),
        ([("", "Bag")], []),
    ],
    ids=["many", "other folders", "a plain folder"],
)
def test_evaluation(pictures: list[tuple[str, str | None]], lines: list[str]) -> None:
    assert evaluated(*pictures) == lines


def test_model_without_labels_has_no_accuracy() -> None:
    evaluation = Evaluation()
    evaluation.add(["Bag"], {"predictions": [1]})
    assert "the model has no labels" in "".join(evaluation.lines())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("total", "stream", "is_shown"),
    [(10, Terminal(), True), (2, Terminal(), False), (10, io.StringIO(), False)],
    ids=["terminal", "few", "file"],
)
def test_progress(monkeypatch: pytest.MonkeyPatch, total: int, stream: io.StringIO, is_shown: bool) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(total)
    progress.step(1)
    progress.clear()
    assert (f"1/{total}" in stream.getvalue()) == is_shown
