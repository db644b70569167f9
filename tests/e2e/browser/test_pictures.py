"""Trying a model that takes pictures, as a person does."""

import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import OpenPage, at_every_size
from tests.integration.server import SHIPPED, Server

SNEAKER = SHIPPED / "clothing/2/assets.extra/sample.png"


def choose(page: Page, picture: Path) -> None:
    page.set_input_files("input[type=file]", picture)


def test_a_chosen_picture_gets_its_label_with_bars_best_first_and_lines_that_do_the_same(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    choose(page, SNEAKER)
    expect(page.locator(".verdict")).to_contain_text("Sneaker: 99.6% sure")
    scores = [float(text.removesuffix("%")) for text in page.locator(".bars .score").all_inner_texts()]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    expect(page.locator(".known")).to_be_visible()
    page.get_by_text("Do the same from a terminal").click()
    page.get_by_role("button", name="Copy the curl code").click()
    copied = page.wait_for_function("navigator.clipboard.readText()").json_value()
    assert copied.startswith("curl -s -H 'Content-Type: image/png' --data-binary @'sample.png' 'http://127.0.0.1:")
    assert copied.endswith("/v1/models/clothing/versions/2:classify'")


def test_a_sample_says_what_it_is_and_the_model_shows_what_it_saw(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    page.get_by_role("button", name="Sample 7: Dress").click()
    expect(page.locator(".verdict")).to_contain_text("Dress: 98.6% sure. Correct.")
    seen = page.get_by_alt_text("What the model saw")
    for side in ("naturalWidth", "naturalHeight"):
        expect(seen).to_have_js_property(side, 28)


def test_both_versions_answer_side_by_side(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    page.get_by_label("Version 1").check()
    choose(page, SNEAKER)
    expect(page.locator(".answer h2")).to_have_text([re.compile("Version 2"), re.compile("Version 1")])
    page.get_by_label("Version 2").uncheck()
    expect(page.locator(".answer h2")).to_have_text([re.compile("Version 1")])


# On a board of 224 x 224, in one stroke.
TROUSERS = [(80, 205), (92, 25), (132, 25), (144, 205)]


@at_every_size
def test_a_drawing_gets_its_label_as_soon_as_the_pen_is_lifted(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    page.get_by_text("Draw a picture").click()
    board = page.locator(".board")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    assert box
    places = [(box["x"] + x * box["width"] / 224, box["y"] + y * box["height"] / 224) for x, y in TROUSERS]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()
    expect(page.get_by_alt_text("The picture: drawing.png")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("Trouser")


def test_what_looks_like_nothing_known_is_said_to(open_page: OpenPage, tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.new("L", (28, 28), 255).save(blank)
    page = open_page("/#/try/clothing")
    choose(page, blank)
    expect(page.locator(".strange")).to_be_visible()


def test_samples_of_a_test_split_are_said_to_be(open_page: OpenPage, doubtful: Server) -> None:
    expect(open_page("/#/try/clothing").locator(".samples .note")).to_contain_text("not fitted to these")
    expect(open_page("/#/try/few", doubtful).locator(".samples .note")).to_have_text(
        "These pictures came with the model."
    )


def test_a_threshold_from_few_pictures_tells_nothing(open_page: OpenPage, doubtful: Server) -> None:
    page = open_page("/#/try/few", doubtful)
    choose(page, SNEAKER)
    expect(page.locator(".unsure")).to_contain_text("Too few pictures to tell")
    expect(page.locator(".known")).to_have_count(0)


def test_scores_that_are_no_probabilities_have_no_percent(open_page: OpenPage, doubtful: Server) -> None:
    page = open_page("/#/try/logits", doubtful)
    choose(page, SNEAKER)
    expect(page.locator(".verdict")).to_contain_text("no probability")
    page.get_by_role("button", name="Which parts mattered?").click()
    expect(page.locator(".occlusion [role=status]")).to_contain_text("speak for Sneaker")
    expect(page.locator(".answer")).not_to_contain_text("%")
    scores = [float(text) for text in page.locator(".bars .score").all_inner_texts()]
    assert scores[0] == -scores[1] > 1


def test_the_map_of_what_mattered_is_laid_over_the_picture_and_taken_away(open_page: OpenPage) -> None:
    page = open_page("/#/try/photos")
    page.get_by_role("button", name="Sample 1: dress").click()
    button = page.get_by_role("button", name="Which parts mattered?")
    button.click()
    expect(page.locator(".map")).to_be_visible()
    expect(page.locator(".occlusion [role=status]")).to_contain_text("speak for dress")
    button.click()
    expect(page.locator(".map")).to_be_hidden()


def test_a_photo_is_taken_by_the_camera(open_page: OpenPage) -> None:
    page = open_page("/#/try/photos")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.get_by_alt_text("The picture: photo.jpg")).to_be_visible()
    expect(page.locator(".verdict")).to_be_visible()


def test_a_pasted_and_a_dropped_picture_are_taken(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    expect(page.locator(".drop")).to_be_visible()
    give = """async ([target, event]) => {
        const file = new File([await (await fetch("/playground/models/clothing/versions/2/files/sample.png")).blob()],
                              event + ".png", {type: "image/png"});
        const data = new DataTransfer();
        data.items.add(file);
        const made = event === "paste" ? new ClipboardEvent(event, {clipboardData: data, bubbles: true})
                                       : new DragEvent(event, {dataTransfer: data, bubbles: true});
        document.querySelector(target).dispatchEvent(made);
    }"""
    for target, event in (("body", "paste"), (".drop", "drop")):
        page.evaluate(give, [target, event])
        expect(page.get_by_alt_text(f"The picture: {event}.png")).to_be_visible()
        expect(page.locator(".verdict")).to_contain_text("Sneaker")


def test_a_damaged_picture_gets_the_services_sentence_beside_where_it_was_given(
    open_page: OpenPage, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(SNEAKER.read_bytes()[:100])
    page = open_page("/#/try/clothing")
    choose(page, damaged)
    expect(page.locator(".inputs .error")).to_contain_text("truncated or damaged")
    open_page.forgiven.add("status of 400")


@at_every_size
@pytest.mark.parametrize("model", ["clothing", "photos"])
def test_nothing_sticks_out_of_the_page(open_page: OpenPage, model: str) -> None:
    page = open_page(f"/#/try/{model}")
    page.get_by_role("button", name=re.compile("Sample 1:")).click()
    expect(page.locator(".verdict")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
