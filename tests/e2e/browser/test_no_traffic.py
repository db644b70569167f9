"""A person who looks at a fresh service is no traffic: nothing is predicted, nothing has drifted, no alert fires."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.browser.conftest import SHIPPED, OpenPage
from tests.integration.server import Server, running

ALERTS = SHIPPED.parent / "monitoring/alerts.yml"
# Longer than any alert of these metrics waits before it fires.
MINUTES = 30


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Server]:
    with running(SHIPPED, tmp_path / "service.log") as server:
        yield server


def samples(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(server.request("/metrics").body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


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


def test_to_open_the_page_and_click_through_it_is_no_traffic(
    open_page: OpenPage, fresh: Server, tmp_path: Path
) -> None:
    look_at_everything(page := open_page("/", fresh))
    page.close()
    metrics = samples(fresh)
    assert sum(value for _, value in metrics["serving_playground_runs_total"]) > 20
    for name in ("serving_requests_total", "serving_inference_duration_seconds_count", "serving_batch_size_count"):
        assert [labels for labels, value in metrics.get(name, ()) if value] == []
    for name in ("serving_prediction_total", "serving_outlier_score_count", "serving_drift_window_rows"):
        assert [labels for labels, value in metrics.get(name, ()) if value] == []
    assert metrics.get("serving_drift_psi", []) == []
    no_alert_fires(metrics, tmp_path)


def no_alert_fires(metrics: dict[str, list[tuple[dict[str, str], float]]], folder: Path) -> None:
    """By promtool, where the metrics stay as they are for half an hour."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    target = {"job": "fitting-room", "instance": "service:8501"}
    series = [("up", target, 1.0)]
    series += [(name, labels | target, value) for name, found in metrics.items() for labels, value in found]
    rules = yaml.safe_load(ALERTS.read_text())
    alerts = sorted({rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule})
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _written(name, labels), "values": f"{value!r}x{MINUTES}"}
                    for name, labels, value in series
                ],
                "alert_rule_test": [{"eval_time": f"{MINUTES}m", "alertname": alert} for alert in alerts],
            }
        ],
    }
    file = folder / "real_metrics.yml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _written(name: str, labels: dict[str, str]) -> str:
    escaped = {label: value.replace("\\", "\\\\").replace('"', '\\"') for label, value in labels.items()}
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in escaped.items()) + "}"
