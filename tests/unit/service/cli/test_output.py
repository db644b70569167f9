import io
from pathlib import Path
from typing import Any

import pytest

from service.cli.output import Evaluation, Progress, Table, rows_of

OUTLIERS = {"results": [[["hat", 0.7512], ["bag", 0.2], ["shoe", 0.04], ["sock", 0.01]], [["bag", None]]]}


@pytest.mark.parametrize(
    ("answer", "more", "rows"),
    [
        (
            OUTLIERS,
            {"outlier_scores": "0.42, Infinity"},
            [
                ["a[0]", "hat 75.1%", "bag 20.0%", "shoe 4.0%", ""],
                ["a[1]", "bag –", "unlike anything it knows (Infinity)"],
            ],
        ),
        # No probabilities
        ({"results": [[["Bag", 1427.38], ["Hat", -3.2]]]}, {}, [["a", "Bag 1427", "Hat -3.2"]]),
        ({"results": [[["Bag", 0.9], ["Hat", 0.8]]]}, {}, [["a", "Bag 0.9", "Hat 0.8"]]),
        ({"results": [[["Bag", 1.5], ["Hat", -0.5]]]}, {}, [["a", "Bag 1.5", "Hat -0.5"]]),
        ({"results": [[[of, 0.25] for of in "abcd"]]}, {"top_k": 4}, [["a", *(f"{of} 25.0%" for of in "abcd")]]),
        ({"predictions": [30.999998092651367]}, {}, [["a", "31"]]),
        ({"predictions": [1, 2]}, {}, [["a[0]", "1"], ["a[1]", "2"]]),
        ({"predictions": [1]}, {"first_row": 256}, [["a[256]", "1"]]),
        ({"outputs": {"y": [1.0]}}, {}, [["a", "{'y': [1.0]}"]]),
        ({"predictions": ["x" * 200]}, {}, [["a", "x" * 97 + "..."]]),
    ],
)
def test_rows_of(answer: dict[str, Any], more: dict[str, Any], rows: list[list[str]]) -> None:
    assert rows_of("a", answer, **more) == rows


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


def test_share_of_many_is_in_percent_and_other_folders_have_none() -> None:
    assert evaluated(*[("Bag", "Bag")] * 100)[0] == "Accuracy: 100 of 100 (100.0%)"
    assert evaluated(("holiday", "Bag"), ("work", "Bag")) == [
        "No accuracy: the folders 'holiday', 'work' are not named like labels of the model (Bag, T-shirt/top)."
    ]
    assert evaluated(("", "Bag")) == []
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
