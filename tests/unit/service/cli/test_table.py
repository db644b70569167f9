"""Answers as lines for a person."""

import io

import pytest

from service.cli.predict import Progress, rows_of, table


def test_labels_come_best_first_and_what_is_unlike_all_known_is_said_to() -> None:
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
)
def test_predictions_are_told_as_they_are(answer: dict[str, object], rows: list[list[str]]) -> None:
    assert rows_of("10", answer, "") == rows


def test_columns_stand_under_each_other_also_where_a_row_is_short() -> None:
    assert table([["a.png", "hat"], ["longer.png", "bag", "unlike"]]) == "a.png       hat\nlonger.png  bag  unlike"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("total", "stream", "is_shown"), [(10, Terminal(), True), (2, Terminal(), False), (10, io.StringIO(), False)]
)
def test_a_bar_is_for_who_waits_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, total: int, stream: io.StringIO, is_shown: bool
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(total)
    progress.step()
    progress.end()
    assert (f"1/{total}" in stream.getvalue()) == is_shown
