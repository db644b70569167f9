"""The alerts: valid, shown to fire and to stay silent, each with a section of the runbook."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.promql import exported_bounds, exported_names, names_in

ROOT = Path(__file__).parents[2]
RULE_TESTS = sorted((Path(__file__).parent / "monitoring").glob("*.yml"))
GROUPS = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDED = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]
NAMES = sorted({alert["alert"] for alert in ALERTS})
RUNBOOK = "docs/operations/alerts.md"


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    return found


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid(promtool: str) -> None:
    run(promtool, "check", "rules", str(ROOT / "monitoring/alerts.yml"))
    run(promtool, "check", "config", str(ROOT / "monitoring/prometheus.yml"))


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire(promtool: str, file: Path) -> None:
    run(promtool, "test", "rules", str(file))


def test_every_alert_is_tested_to_fire_and_to_stay_silent() -> None:
    fires, silent = set(), set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for moment in case["alert_rule_test"]:
                expected = moment.get("exp_alerts", [])
                fires |= {(moment["alertname"], alert["exp_labels"]["severity"]) for alert in expected}
                silent |= set() if expected else {moment["alertname"]}
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == set(NAMES)


def test_alerts_have_a_severity_and_annotations() -> None:
    for alert in ALERTS:
        assert alert["labels"].keys() == {"severity"}
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "runbook"}


def test_runbook_has_a_section_for_each_alert() -> None:
    assert sorted(re.findall(r"^## (\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)) == NAMES
    for alert in ALERTS:
        assert alert["annotations"]["runbook"] == f"{RUNBOOK}#{alert['alert'].lower()}"


def test_rules_use_existing_metrics_and_bounds() -> None:
    known = exported_names() | {"up"} | {recorded["record"] for recorded in RECORDED}
    for rule in ALERTS + RECORDED:
        assert set() < names_in(rule["expr"]) <= known, rule
        assert set(re.findall(r'le="([^"]+)"', rule["expr"])) <= exported_bounds(), rule


def test_alerts_use_the_scrape_job() -> None:
    jobs = {
        job["job_name"] for job in yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    }
    used = {job for alert in ALERTS for job in re.findall(r'job="([^"]+)"', alert["expr"])}
    assert used == {"fitting-room"} <= jobs


def test_alertmanager_routes_to_its_receivers_by_known_labels() -> None:
    config = yaml.safe_load((ROOT / "monitoring/alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in config["receivers"]}
    route = config["route"]
    assert {one["receiver"] for one in (route, *route["routes"])} == receivers
    rules = config["inhibit_rules"]
    matchers = [matcher for one in route["routes"] for matcher in one["matchers"]]
    matchers += [matcher for rule in rules for matcher in (*rule["source_matchers"], *rule["target_matchers"])]
    for label, value in (re.fullmatch(r'(\w+)=~?"(.+)"', matcher).groups() for matcher in matchers):  # type: ignore[union-attr]
        known = NAMES if label == "alertname" else ["critical", "warning"]
        assert any(re.fullmatch(value, name) for name in known), (label, value)


def test_receivers_have_no_integration() -> None:
    config = yaml.safe_load((ROOT / "monitoring/alertmanager.yml").read_text())
    assert all(receiver.keys() == {"name"} for receiver in config["receivers"])
