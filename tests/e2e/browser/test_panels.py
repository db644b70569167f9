"""Trying the models that take no pictures."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import OpenPage, at_every_size
from tests.integration.server import SHIPPED, Server

RECORDING = SHIPPED / "activity/1/assets.extra/samples/03.csv"


def test_any_x_gets_its_y_and_the_line_shows_what_was_learned(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    for part in ("y = 3 · x + 1", "weight w = 3, bias b = 1"):
        expect(page.locator(".equation")).to_contain_text(part)
    expect(page.locator("circle.point")).to_have_count(6)
    page.get_by_label("x", exact=True).fill("-2")
    expect(page.locator("output")).to_have_text("y = -5")
    page.get_by_label("Slider for x").focus()
    page.keyboard.press("End")
    expect(page.locator("output")).to_have_text("y = 37")


def test_what_the_model_cannot_answer_is_said_and_left_out_of_the_curve(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/logarithm", strangers)
    expect(page.locator("output")).to_have_text("y = 2.3026")
    ends = page.locator("polyline.learned").last.get_attribute("points") or ""
    assert float(ends.split(",")[0]) > 300  # the plot is 640 wide, and x = 0 in its middle
    page.get_by_label("x", exact=True).fill("-2")
    expect(page.locator("output")).to_have_text("y is not a finite number")
    page.get_by_label("x", exact=True).fill("200")
    expect(page.get_by_role("alert")).to_contain_text("x is above 100")
    open_page.forgiven.add("status of 400")


@at_every_size
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
        ("1,2,3\n", "Line 1 has 3 values; expected 6, one per channel."),
        ("1,2,3,4,5,6\n1,2,x,4,5,6\n", "Line 2: 'x' is not a number."),
        ("1;2;3;4;5;6\n" * 60, "mine.csv has 60 steps; the model needs at least 100."),
        ("", "The file is empty. Expected one line per step, with one number per channel."),
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
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("heading", name="Answer")).to_be_visible()
    expect(page.locator(".tensors-panel pre").first).to_contain_text('"sum"')
    for mistake, sentence in (("[1, ", "is not valid JSON"), ('["ten"]', "expected a number")):
        page.locator("textarea").first.fill(mistake)
        page.get_by_role("button", name="Predict").click()
        # Beside its field.
        expect(page.locator("form > div").first.get_by_role("alert")).to_contain_text(sentence)
    open_page.forgiven.add("status of 400")


def test_a_model_that_could_not_be_loaded_says_why(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/broken", strangers)
    expect(page.locator(".stage")).to_contain_text(re.compile("Version 1 .*TensorFlow cannot load it"))


def test_a_model_of_strings_answers_and_has_its_other_signature(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/try/vocabulary", strangers)
    page.get_by_label("words").fill('["shoe"]')
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".json")).to_contain_text('"upper": ["SHOE"]')
    page.get_by_label("Signature").select_option("length")
    page.get_by_label("words").fill('["shoe"]')
    page.get_by_role("button", name="Predict").click()
    expect(page.locator(".json")).to_have_text("[4]")
