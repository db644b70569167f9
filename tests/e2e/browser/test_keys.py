"""The page before a service that asks for a key."""

import hashlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import OpenPage
from tests.integration.server import SHIPPED, Server, running

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keys")
    keys = folder / "keys.toml"
    keys.write_text(f'[keys.alice]\nsha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\nscope = "predict"\n')
    with running(SHIPPED, folder / "service.log", api_keys_file=keys) as server:
        yield server


def test_the_key_is_asked_for_once_and_kept_for_this_tab_alone(open_page: OpenPage, guarded: Server) -> None:
    page = open_page("/#/try/regression", guarded)
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog.get_by_role("alert")).to_contain_text("needs an API key")
    dialog.get_by_label("API key").fill(KEY)
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("output")).to_have_text("y = 31")
    page.reload()
    expect(page.locator("output")).to_have_text("y = 31")
    page.get_by_text("Do the same from a terminal").click()
    assert KEY not in page.content()
    expect(page.locator(".snippet").first).to_contain_text('-H "Authorization: Bearer $API_KEY"')
    assert page.evaluate("Object.values(localStorage)") == []
    open_page.forgiven.add("status of 401")


def test_who_gives_no_key_is_told_that_one_is_needed(open_page: OpenPage, guarded: Server) -> None:
    page = open_page("/#/try/clothing", guarded)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main").get_by_role("alert")).to_contain_text("needs an API key")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    open_page.forgiven.add("status of 401")
