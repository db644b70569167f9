"""The exercises up to where TensorFlow would start, and docs/exercises.md against them."""

import re
from pathlib import Path

import pytest

from training.exercises import EXERCISES, Config

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "exercises.md").read_text("utf-8")


def table(page: str) -> dict[str, list[str]]:
    """The cells of each row by the exercise's name."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if re.match(r"\| [a-z]+-", line)]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def test_all_exercises_are_done_unless_some_are_named() -> None:
    assert Config().chosen == EXERCISES
    assert [each.name for each in Config(only="two-convolutions,units-512").chosen] == ["units-512", "two-convolutions"]


def test_the_page_has_a_row_for_every_exercise_with_its_layers_and_no_more_epochs_than_it_may() -> None:
    rows = table(PAGE)
    assert list(rows) == [each.name for each in EXERCISES]
    for each in EXERCISES:
        layers, epochs, *_ = rows[each.name]
        assert layers == each.layers
        assert int(epochs) == each.epochs if each.stop == "never" else int(epochs) <= each.epochs


def test_the_page_shows_every_picture_that_lies_beside_it() -> None:
    shown = set(re.findall(r"\]\(exercises/([\w-]+\.png)\)", PAGE))
    assert shown == {path.name for path in (ROOT / "docs" / "exercises").iterdir()}


@pytest.mark.parametrize("each", EXERCISES, ids=lambda each: each.name)
def test_the_page_explains_every_exercise(each: object) -> None:
    assert PAGE.count(f"`{each.name}`") >= 1  # type: ignore[attr-defined]
