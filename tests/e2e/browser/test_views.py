"""The pages beside trying: what is served, and what it does now."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import SHIPPED, OpenPage
from tests.integration.server import Server


def test_every_version_is_listed_with_its_state_and_leads_to_its_own_files(open_page: OpenPage) -> None:
    page = open_page("/#/models")
    names = page.locator("tbody th a")
    expect(names).to_have_text(["activity 1", "clothing 2", "clothing 1", "photos 1", "regression 1"])
    page.get_by_role("link", name="clothing 2").click()
    expect(page.locator(".facts")).to_contain_text("94.8 % of the test split")
    expect(page.locator(".facts")).to_contain_text("392,386")
    expect(page.locator(".figures figcaption")).to_have_text(["confusion matrix", "learning curve", "reliability"])
    expect(page.locator(".markdown")).to_contain_text("Known failures")
    for image in page.locator(".figures img").all():
        expect(image).to_have_js_property("complete", value=True)
        assert image.evaluate("image => image.naturalWidth") > 0


def test_a_models_version_that_is_not_there_is_said_to_be_missing(open_page: OpenPage) -> None:
    page = open_page("/#/models/clothing/7")
    expect(page.get_by_role("alert")).to_have_text("There is no version 7 of clothing here.")


HOSTILE_CARD = """# Card
<img src=x onerror="document.title='taken over'"><script>document.title = 'taken over'</script>
[a link](javascript:document.title='taken over') ![a picture](http://192.0.2.1/track.png)
<form action="http://192.0.2.1/"><input></form>
"""


def test_a_model_card_can_run_nothing_and_ask_nothing_elsewhere(
    open_page: OpenPage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    from tests.integration.server import running

    models = tmp_path_factory.mktemp("models")
    shutil.copytree(SHIPPED / "regression", models / "regression")
    (models / "regression/1/assets.extra/README.md").write_text(HOSTILE_CARD)
    with running(models, models / "service.log") as server:
        page = open_page("/#/models/regression/1", server)
        expect(page.locator(".markdown")).to_contain_text("a link")
        assert page.title() == "Fitting Room"
        assert page.locator(".markdown").locator("script, form, input, img, [onerror]").count() == 0
        assert page.locator('.markdown a[href^="javascript"]').count() == 0
        page.close()
    # The browser says that it would not have run it either.
    open_page.console[:] = [line for line in open_page.console if "inline event handler" not in line]


def test_the_live_page_draws_what_is_asked_meanwhile(open_page: OpenPage, service: Server) -> None:
    page = open_page("/#/live")
    expect(page.get_by_role("heading", name="Requests a second")).to_be_visible()
    asked = re.compile(r"[1-9]")

    def is_drawn() -> bool:
        """Once two readings differ."""
        service.request("/v1/models/regression:predict", {"instances": [10.0]})
        service.request("/v1/models/regression:predict", {"instances": ["ten"]})
        return page.locator(".charts .u-legend").count() >= 4

    service.wait_for(is_drawn, "nothing is drawn")
    expect(page.locator(".charts .u-label", has_text="regression 1").first).to_be_visible()
    expect(page.locator(".charts .u-label", has_text="400")).to_be_visible()
    expect(page.locator(".tiles div", has_text="Workers")).to_have_text(asked)


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


def test_the_service_that_is_gone_is_said_to_be_gone(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page("/#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    page.context.set_offline(True)
    page.get_by_label("x", exact=True).fill("3")
    expect(page.get_by_role("alert")).to_have_text("The service does not answer. Is it still running?")
    open_page.console[:] = [line for line in open_page.console if "ERR_INTERNET_DISCONNECTED" not in line]


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
