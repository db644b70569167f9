"""For people who use a keyboard, a screen reader, or need contrast: axe-core's rules, and the way by Tab."""

from collections.abc import Callable
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import SIZES, OpenPage

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def answered(page: Page) -> None:
    page.get_by_role("button", name="Sample 7").click()
    expect(page.locator(".verdict")).to_be_visible()
    page.get_by_text("Do the same from a terminal").first.click()
    page.get_by_role("button", name="Which parts mattered?").click()
    expect(page.locator(".map")).to_be_visible()


def refused(page: Page) -> None:
    page.get_by_label("x", exact=True).fill("")
    expect(page.get_by_role("alert").filter(has_text="expected a number")).to_be_visible()


PLACES: dict[str, Callable[[Page], None]] = {
    "/#/try/clothing": answered,
    "/#/try/photos": lambda page: expect(page.locator(".strip img[src]").first).to_be_visible(),
    "/#/try/regression": refused,
    "/#/try/activity": lambda page: expect(page.locator(".verdict")).to_be_visible(),
    "/#/models": lambda page: expect(page.locator(".thumbnail img").first).to_be_visible(),
    "/#/models/clothing/2": lambda page: expect(page.locator(".markdown")).to_be_visible(),
    "/#/live": lambda page: expect(page.locator(".tiles div").first).to_be_visible(),
}


@pytest.mark.parametrize("place", PLACES)
def test_axe_finds_nothing(open_page: OpenPage, place: str) -> None:
    page = open_page("/")
    page.emulate_media(reduced_motion="reduce")
    page.goto(page.url.rstrip("/") + place)
    PLACES[place](page)
    for (width, height), scheme in zip(SIZES.values(), SCHEMES, strict=True):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_everything_is_reached_and_done_with_the_keyboard_alone(open_page: OpenPage) -> None:
    page = open_page("/#/try/clothing")
    expect(page.locator(".strip img[src]").first).to_be_visible()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
        reached.append(name)
        if name == "Sample 2: T-shirt/top":
            break
    assert reached[0] == "Skip to content"
    assert {"Try", "Models", "Live", "API", "clothing", "Use the camera", "Draw a picture"} <= set(reached)
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_contain_text("T-shirt/top")


def test_the_focus_is_visible(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
