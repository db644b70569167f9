"""The pages beside trying: what is served, and what it does now."""

import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.e2e.browser.conftest import OpenPage, at_every_size
from tests.integration.server import SHIPPED, Server, running


@at_every_size
def test_every_version_is_listed_with_its_state_and_leads_to_its_own_files(open_page: OpenPage) -> None:
    page = open_page("/#/models")
    names = page.locator("tbody th a")
    expect(names).to_have_text(["activity 1", "clothing 2", "clothing 1", "photos 1", "regression 1"])
    clothing, regression = page.locator("tbody tr").nth(1), page.locator("tbody tr").nth(4)
    for part in ("default", "AVAILABLE", "94.8%", "MB", "litert"):
        expect(clothing).to_contain_text(part)
    expect(regression).to_contain_text("loss 1.2e-13")
    page.get_by_role("link", name="clothing 2").click()
    expect(page.locator(".facts")).to_contain_text("94.8% on test data")
    expect(page.locator(".facts")).to_contain_text("392,386")
    expect(page.locator(".figures figcaption")).to_have_text(["confusion matrix", "learning curve", "reliability"])
    expect(page.locator(".markdown")).to_contain_text("Known failures")
    for image in page.locator(".figures img").all():
        expect(image).to_have_js_property("complete", value=True)
        assert image.evaluate("image => image.naturalWidth") > 0


def test_the_accuracy_on_a_few_examples_is_a_count(open_page: OpenPage, doubtful: Server) -> None:
    expect(open_page("/#/models", doubtful).get_by_role("row", name="few 1")).to_contain_text("9 of 9")
    expect(open_page("/#/models/few/1", doubtful).locator(".facts")).to_contain_text("9 of 9 on test data")


def test_a_strangers_version_is_listed_without_what_it_does_not_say(open_page: OpenPage, strangers: Server) -> None:
    page = open_page("/#/models", strangers)
    broken, vocabulary = page.locator("tbody tr").first, page.locator("tbody tr").last
    expect(broken).to_contain_text("TensorFlow cannot load it")
    expect(vocabulary.locator("[data-head=Accuracy]")).to_have_text("–")
    expect(vocabulary.locator("[data-head=Size]")).to_contain_text("KB")
    expect(vocabulary.locator(".thumbnail img")).to_have_count(0)
    vocabulary.get_by_role("link").click()
    expect(page.locator(".facts")).to_contain_text("words: BYTES [any]")
    expect(page.locator(".facts")).not_to_contain_text("Parameters")


def test_of_a_hundred_thumbnails_those_in_sight_are_fetched(open_page: OpenPage, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number in range(100):
        shutil.copytree(SHIPPED / "regression", models / f"regression_{number:02}")
    with running(models, tmp_path / "log") as server:
        page = open_page("/#/models", server)
        expect(page.locator("tbody tr")).to_have_count(100)
        for thumbnail in (page.locator(".thumbnail").first, page.locator(".thumbnail").last):
            thumbnail.scroll_into_view_if_needed()
            expect(thumbnail.locator("img")).to_be_visible()
        assert page.locator(".thumbnail img").count() < 60
        page.close()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/#/models/clothing/7", "clothing has no version 7."),
        ("/#/try/hats", "There is no model named hats. Here is activity."),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(open_page: OpenPage, path: str, sentence: str) -> None:
    expect(open_page(path).get_by_role("alert").first).to_have_text(sentence)


HOSTILE_CARD = """# Card
<img src=x onerror="document.title='taken over'"><script>document.title = 'taken over'</script>
[a link](javascript:document.title='taken over') ![a picture](http://192.0.2.1/track.png)
<form action="http://192.0.2.1/"><input></form>
"""


def test_a_model_card_can_run_nothing_and_ask_nothing_elsewhere(open_page: OpenPage, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "regression", tmp_path / "models/regression")
    (tmp_path / "models/regression/1/assets.extra/README.md").write_text(HOSTILE_CARD)
    with running(tmp_path / "models", tmp_path / "log") as server:
        page = open_page("/#/models/regression/1", server)
        expect(page.locator(".markdown")).to_contain_text("a link")
        assert page.title() == "Fitting Room"
        assert page.locator(".markdown").locator("script, form, input, img, [onerror]").count() == 0
        assert page.locator('.markdown a[href^="javascript"]').count() == 0
        page.close()
    # The browser says that it would not have run it either.
    open_page.forgiven.add("inline event handler")


def test_the_live_page_draws_what_is_asked_meanwhile(open_page: OpenPage, service: Server) -> None:
    page = open_page("/#/live")
    expect(page.get_by_role("heading", name="Requests per second")).to_be_visible()

    def is_drawn() -> bool:
        """Once two readings differ."""
        service.request("/v1/models/regression:predict", {"instances": [10.0]})
        service.request("/v1/models/regression:predict", {"instances": ["ten"]})
        return page.locator(".charts .u-legend").count() >= 4

    service.wait_for(is_drawn, "nothing is drawn")
    expect(page.locator(".charts .u-label", has_text="regression 1").first).to_be_visible()
    expect(page.locator(".charts .u-label", has_text="400")).to_be_visible()
    expect(page.locator(".tiles div", has_text="Workers")).to_have_text(re.compile(r"[1-9]"))


def test_without_traffic_and_drift_no_box_on_the_live_page_is_empty(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    page.route("**/metrics", lambda route: route.fulfill(body="serving_workers 2\n"))
    page.evaluate("location.hash = '#/live'")
    expect(page.locator(".live .card")).to_have_count(5)
    for card in page.locator(".live .card").all():
        expect(card.locator("p")).to_be_visible()


def test_where_metrics_have_another_port_the_live_page_says_so_and_shows_no_boxes(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    page.route("**/metrics", lambda route: route.fulfill(status=404))
    page.evaluate("location.hash = '#/live'")
    expect(page.get_by_role("alert")).to_contain_text("SERVING_OPERATIONS_PORT")
    expect(page.locator(".live .card:visible")).to_have_count(0)
    open_page.forgiven.add("status of 404")


def test_quantiles_and_labels_are_read_as_prometheus_reads_them(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    before = 'h_bucket{le="1"} 0\nh_bucket{le="2"} 0\nh_bucket{le="+Inf"} 0\n'
    after = 'h_bucket{le="1"} 50\nh_bucket{le="2"} 100\nh_bucket{le="+Inf"} 100\nc{a="x\\"y",b="z"} 3\n# HELP c\n'
    found = page.evaluate(
        """async ([before, after]) => {
            const {parseMetrics, quantiles} = await import("/static/metrics.js");
            const [then, now] = [before, after].map(parseMetrics);
            return [quantiles(then, now, "h", [0.25, 0.5, 0.75, 0.99]), quantiles(now, now, "h", [0.5]), now.c];
        }""",
        [before, after],
    )
    assert found == [[0.5, 1, 1.5, 1.98], [None], [{"labels": {"a": 'x"y', "b": "z"}, "value": 3}]]


def test_light_and_dark_can_be_chosen_and_are_kept(open_page: OpenPage) -> None:
    page = open_page("/#/models")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.reload()
    assert before != after == page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_service_that_is_gone_is_said_to_be_gone(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    page.context.set_offline(True)
    page.get_by_label("x", exact=True).fill("3")
    expect(page.get_by_role("alert")).to_have_text("The service does not respond. Is it still running?")
    open_page.forgiven.add("ERR_INTERNET_DISCONNECTED")


def test_a_busy_service_is_asked_again(open_page: OpenPage) -> None:
    page = open_page("/#/models")
    times = iter((429, 429))

    def answer(route: Route) -> None:
        if status := next(times, None):
            route.fulfill(status=status, headers={"Retry-After": "0"})
        else:
            route.continue_()

    page.route("**/predict", answer)
    page.evaluate("location.hash = '#/try/regression'")
    expect(page.locator("output")).to_have_text("y = 31")
    open_page.forgiven.add("status of 429")


def test_the_settled_page_is_small(open_page: OpenPage) -> None:
    sizes: dict[str, int] = {}
    page = open_page("/#/models")  # so that the listener is there before the page that counts
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    session.on(
        "Network.loadingFinished", lambda found: sizes.__setitem__(found["requestId"], int(found["encodedDataLength"]))
    )
    page.goto(page.url.split("#")[0] + "?again#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    assert 5_000 < sum(sizes.values()) < 300_000, json.dumps(sizes)


def test_an_operation_of_the_docs_can_be_tried(open_page: OpenPage) -> None:
    page = open_page("/docs")
    operation = page.locator("#operations-v1-predict")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("model", exact=True).fill("regression")
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response")).to_contain_text("30.999998")
