"""A real browser before a real service: Debian's Chromium, headless. Where there is none, the tests are skipped."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.integration import saved_models
from tests.integration.server import DEADLINE_SECONDS, SHIPPED, Server, running

# As long as everything else is waited for; by itself it gives up after 5 s.
expect.set_options(timeout=DEADLINE_SECONDS * 1000)

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
# For tests of what stands where, or is reached: of the rest, one size says as much as two.
at_every_size = pytest.mark.parametrize("open_page", SIZES, indirect=True)
on_a_phone = pytest.mark.parametrize("open_page", ["phone"], indirect=True)


@dataclass
class OpenPage:
    """Opens a path of the service, or of another one.

    `console`: errors and warnings that stand there; those with words that are `forgiven` are meant.
    """

    context: BrowserContext
    service: Server
    console: list[str] = field(default_factory=list)
    forgiven: set[str] = field(default_factory=set)
    hosts: set[str] = field(default_factory=set)
    allowed: set[str] = field(default_factory=set)

    def __call__(self, path: str, server: Server | None = None) -> Page:
        page = self.context.new_page()
        page.on("console", lambda said: self.console.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        host = f"127.0.0.1:{(server or self.service).port}"
        self.allowed.add(host)
        page.goto(f"http://{host}{path}")
        return page

    def complaints(self) -> list[str]:
        return [line for line in self.console if not any(words in line for words in self.forgiven)]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped models."""
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models that say nothing about themselves but their signatures; one that cannot be loaded; and one whose
    metrics.json is of another kind."""
    models = tmp_path_factory.mktemp("models")
    saved_models.save_logarithm(models / "logarithm" / "1")
    saved_models.save_sum_and_difference(models / "sum_and_difference" / "1")
    saved_models.save_vocabulary(models / "vocabulary" / "1")
    assets = models / "vocabulary" / "1" / "assets.extra"
    assets.mkdir()
    (assets / "metrics.json").write_text('{"accuracy": "high", "loss": [1], "parameters": null}')
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "saved_model.pb").write_bytes(b"\xffnot a protocol buffer")
    with running(models, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


@pytest.fixture(scope="session")
def doubtful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`few` is tested on 9 pictures, with an outlier threshold from 53, and its samples are anybody's; `logits` answers
    scores that are no probabilities."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(SHIPPED / "clothing" / "2", models / "few" / "1")
    assets = models / "few" / "1" / "assets.extra"
    (assets / "metrics.json").write_text('{"accuracy": 1.0, "test_size": 9, "outlier_fit_size": 53}')
    config = json.loads((assets / "serving.json").read_text())
    (assets / "serving.json").write_text(json.dumps(config | {"samples_from": "examples"}))
    saved_models.save_logits(models / "logits" / "1")
    (models / "logits" / "1" / "assets.extra").mkdir()
    (models / "logits" / "1" / "assets.extra" / "serving.json").write_text('{"labels": ["Bag", "Sneaker"]}')
    with running(models, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


# Not for the session: as long as Playwright's event loop runs, tests elsewhere could not run theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: there is no `chromium` command (Debian: apt-get install chromium)")
    # As root, as in a CI container, Chromium has no sandbox. The camera is a moving test picture.
    options = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Server, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """On a desktop, unless a test says otherwise. In the end nothing may stand in the console, and no request may have
    gone to another host."""
    size = getattr(request, "param", "desktop")
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=size == "phone",
        permissions=["clipboard-read", "clipboard-write"],
    )
    opener = OpenPage(context, service)
    yield opener
    context.close()
    assert opener.complaints() == []
    assert opener.hosts - {""} <= opener.allowed  # what is made in the page (blob:, data:) has no host
