"""A person who looks at a fresh service is no traffic: nothing is predicted, nothing has drifted, no alert fires."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect

from tests.e2e.browser.conftest import OpenPage, on_a_phone
from tests.integration.server import SHIPPED, running

ALERTS = SHIPPED.parent / "monitoring/alerts.yml"
# Longer than any alert of these metrics waits before it fires.
MINUTES = 30
TRAFFIC = {
    "serving_requests_total",
    "serving_inference_duration_seconds_count",
    "serving_batch_size_count",
    "serving_prediction_total",
    "serving_outlier_score_count",
    "serving_drift_window_rows",
}


def look_at_everything(page: Page) -> None:
    def go(place: str) -> None:
        page.evaluate("place => { location.hash = place; }", place)

    for model in ("clothing", "photos"):
        go(f"#/try/{model}")
        page.get_by_role("button", name="Sample 1:").click()
        expect(page.locator(".verdict")).to_be_visible()
        page.get_by_role("button", name="Which parts mattered?").click()
        expect(page.locator(".map")).to_be_visible()
    go("#/try/clothing")
    page.get_by_label("Version 1").check()
    for number in range(1, 21):
        page.get_by_role("button", name=f"Sample {number}:").click()
    expect(page.locator(".answer h2")).to_have_count(2)
    page.get_by_text("Draw a picture").click()
    page.locator(".board").click(position={"x": 60, "y": 60})
    expect(page.get_by_alt_text("The picture: drawing.png")).to_be_visible()
    go("#/try/regression")
    expect(page.locator("output")).to_have_text("y = 31")
    page.get_by_label("x", exact=True).fill("3")
    expect(page.locator("output")).to_have_text("y = 10")
    go("#/try/activity")
    expect(page.locator(".recording .verdict")).to_be_visible()
    for version in ("activity/1", "clothing/1", "clothing/2", "photos/1", "regression/1"):
        go(f"#/models/{version}")
        expect(page.locator(".facts")).to_be_visible()
    go("#/live")
    expect(page.locator(".tiles div", has_text="Workers")).to_be_visible()


@on_a_phone
def test_to_open_the_page_and_click_through_it_is_no_traffic(open_page: OpenPage, tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "service.log") as fresh:
        look_at_everything(page := open_page("/", fresh))
        page.close()
        metrics = fresh.request("/metrics").body.decode()
    samples = re.findall(r"^(\w+)(?:{(.*)})? (\S+)$", metrics, re.MULTILINE)
    assert sum(float(value) for name, _, value in samples if name == "serving_playground_runs_total") > 20
    assert [sample for sample in samples if sample[0] in TRAFFIC and float(sample[2])] == []
    assert "serving_drift_psi{" not in metrics
    no_alert_fires(samples, tmp_path)


def no_alert_fires(samples: list[tuple[str, str, str]], folder: Path) -> None:
    """By promtool, where the metrics stay as they are for half an hour."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    target = 'job="fitting-room", instance="service:8501"'
    series = [
        {"series": f"{name}{{{target}, {labels}}}", "values": f"{value}x{MINUTES}"}
        for name, labels, value in [("up", "", "1"), *samples]
    ]
    rules = yaml.safe_load(ALERTS.read_text())
    alerts = sorted({rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule})
    fired = [{"eval_time": f"{MINUTES}m", "alertname": alert} for alert in alerts]
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": fired}],
    }
    (folder / "real_metrics.yml").write_text(yaml.safe_dump(test))
    command = [promtool, "test", "rules", str(folder / "real_metrics.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
