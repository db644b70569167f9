"""Trying the models that take no pictures."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import SHIPPED, OpenPage
from tests.integration import saved_models
from tests.integration.server import Server, running

RECORDING = SHIPPED / "activity/1/assets.extra/samples/03.csv"


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that says nothing of itself but its signature, and one that cannot be loaded."""
    models = tmp_path_factory.mktemp("models")
    saved_models.save_sum_and_difference(models / "sum_and_difference" / "1")
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "saved_model.pb").write_bytes(b"\xffnot a protocol buffer")
    with running(models, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


def test_any_x_gets_its_y_and_the_line_shows_what_was_learned(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    expect(page.locator(".equation")).to_contain_text("y = 3 · x + 1")
    expect(page.locator(".equation")).to_contain_text("weight w = 3, bias b = 1")
    expect(page.locator("circle.point")).to_have_count(6)
    page.get_by_label("x", exact=True).fill("-2")
    expect(page.locator("output")).to_have_text("y = -5")
    page.get_by_label("x, by dragging").focus()
    page.keyboard.press("End")
    expect(page.locator("output")).to_have_text("y = 37")


def test_what_is_no_number_is_told_beside_the_field(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    page.get_by_label("x", exact=True).fill("")
    expect(page.get_by_role("alert")).to_have_text("x: expected a number, such as 10 or -0.5")


def test_dragging_on_the_plot_asks_for_that_x(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    page.locator(".plot svg").click(position={"x": 100, "y": 100})
    expect(page.locator("output")).not_to_have_text("y = 31")


def test_the_answer_changes_as_the_window_moves_over_the_recording(open_page: OpenPage) -> None:
    page = open_page("/#/try/activity")
    window = page.get_by_label("Window of 100 steps")
    expect(page.locator(".verdict")).to_contain_text("Standing")
    window.focus()
    page.keyboard.press("End")
    expect(page.locator(".verdict")).to_contain_text("Badminton")
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".verdict")).to_contain_text("Running")
    assert page.locator(".u-legend .u-series").count() == 7  # the steps and six channels


def test_a_recording_of_ones_own_is_taken_as_csv(open_page: OpenPage) -> None:
    page = open_page("/#/try/activity")
    page.set_input_files("input[type=file]", RECORDING)
    expect(page.get_by_role("heading", name="03.csv")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("Running")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,2,3\n", "Line 1 has 3 values; the model takes 6 channels."),
        ("1,2,3,4,5,6\n1,2,x,4,5,6\n", "Line 2: 'x' is no number."),
        ("1;2;3;4;5;6\n" * 60, "mine.csv has 60 steps; the model takes windows of 100."),
        ("", "The file is empty; expected a step a line, with a number for each channel."),
    ],
)
def test_a_file_that_is_no_recording_gets_a_sentence(
    open_page: OpenPage, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "mine.csv").write_text(text)
    page = open_page("/#/try/activity")
    expect(page.locator(".verdict")).to_be_visible()
    page.set_input_files("input[type=file]", tmp_path / "mine.csv")
    expect(page.get_by_role("alert")).to_have_text(sentence)


def test_any_other_model_has_a_form_with_an_example_that_works(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/sum_and_difference", strangers)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()
    expect(page.locator(".tensors-panel pre").first).to_contain_text('"sum"')


def test_a_mistake_in_the_form_is_told_beside_its_field(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/sum_and_difference", strangers)
    field = page.locator("textarea").first
    field.fill("[1, ")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("form > div").first.get_by_role("alert")).to_contain_text("is no JSON")
    field.fill('["ten"]')
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("form > div").first.get_by_role("alert")).to_contain_text("expected a number")
    open_page.forgive(400)


def test_a_model_that_could_not_be_loaded_says_why(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/broken", strangers)
    expect(page.locator(".stage")).to_contain_text(re.compile("Version 1 is END. .*TensorFlow cannot load it"))


def test_a_model_that_is_not_there_is_said_to_be_missing(open_page: OpenPage) -> None:
    page = open_page("/#/try/hats")
    expect(page.get_by_role("alert").first).to_have_text("There is no model hats here; this is activity.")
