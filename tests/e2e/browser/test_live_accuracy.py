"""Expected and observed accuracy on the live page, beside that of the model card."""

from playwright.sync_api import expect

from tests.e2e.browser.conftest import OpenPage

METRICS = """
serving_workers 2
serving_expected_accuracy{model="clothing",version="2"} 0.8112
serving_expected_accuracy{model="mine",version="1"} 0.9
serving_card_accuracy{model="clothing",version="2"} 0.9477
serving_card_accuracy{model="other",version="1"} 0.9
serving_drift_window_outliers{model="clothing",version="2"} 0.012
serving_observed_accuracy{model="clothing",version="2"} 0.93
serving_observed_rows{model="clothing",version="2"} 250
serving_observed_rows{model="seldom",version="1"} 29
"""


def test_expected_and_observed_accuracy_stand_beside_the_card_s(open_page: OpenPage) -> None:
    page = open_page("/#/try/regression")
    page.route("**/metrics", lambda route: route.fulfill(body=METRICS))
    page.evaluate("location.hash = '#/live'")
    rows = page.get_by_role("region", name="Accuracy by version").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0).locator("td")).to_have_text(["clothing 2", "81.1%", "1.2%", "93.0%", "250", "94.8%"])
    expect(rows.nth(1).locator("td")).to_have_text(["mine 1", "90.0%", "–", "–", "0", "–"])
    expect(rows.nth(2).locator("td")).to_have_text(["seldom 1", "–", "–", "–", "29", "–"])
    expect(rows.nth(0).locator(".high")).to_have_text(["81.1%"])
