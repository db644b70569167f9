"""The API for people."""

from playwright.sync_api import expect

from tests.e2e.browser.conftest import OpenPage


def test_every_operation_stands_there_and_can_be_tried(open_page: OpenPage) -> None:
    page = open_page("/docs")
    operation = page.locator("#operations-v1-predict")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("model", exact=True).fill("regression")
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response")).to_contain_text("30.999998")
