"""Alerts and dashboards: valid, of existing metrics; each alert fires, stays silent and has a runbook."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from service.metrics.instruments import Histograms

ROOT = Path(__file__).parents[2]
RULE_TESTS = sorted((Path(__file__).parent / "monitoring").glob("*.yml"))
RULES = [
    rule for group in yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({alert["alert"] for alert in ALERTS})
ALERTMANAGER = yaml.safe_load((ROOT / "monitoring/alertmanager.yml").read_text())
RUNBOOK = "docs/operations/alerts.md"
DASHBOARDS = [json.loads(file.read_text()) for file in sorted(ROOT.glob("monitoring/grafana/dashboards/*.json"))]
# A row that is folded up holds its panels.
PANELS = [
    panel
    for dashboard in DASHBOARDS
    for place in dashboard["panels"]
    for panel in (place, *place.get("panels", []))
    if panel["type"] != "row"
]


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool (Debian's package prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "rules", ROOT / "monitoring/alerts.yml")
    promtool("check", "config", ROOT / "monitoring/prometheus.yml")


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire(file: Path) -> None:
    promtool("test", "rules", file)


def test_every_alert_is_tested_to_fire_and_to_stay_silent() -> None:
    fires, silent = set(), set()
    for case in (case for file in RULE_TESTS for case in yaml.safe_load(file.read_text())["tests"]):
        for moment in case["alert_rule_test"]:
            expected = moment.get("exp_alerts", [])
            fires |= {(moment["alertname"], alert["exp_labels"]["severity"]) for alert in expected}
            silent |= set() if expected else {moment["alertname"]}
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert silent == set(NAMES)


def test_alerts_have_a_severity_and_a_section_of_the_runbook() -> None:
    for alert in ALERTS:
        assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"})
        assert alert["annotations"].keys() == {"summary", "runbook"}
        assert alert["annotations"]["runbook"] == f"{RUNBOOK}#{alert['alert'].lower()}"
    assert sorted(re.findall(r"^## (\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)) == NAMES


def names_in(expression: str) -> set[str]:
    """The metric names in a PromQL expression: what is neither label, function nor operator."""
    bare = re.sub(
        r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right) ?\([^)]*\)", " ", expression
    )
    return set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]+\b(?!\s*\()", bare)) - {"or", "and", "unless"}


def queries() -> list[str]:
    """Every PromQL expression of the dashboards, with those of the variables reduced to their selector."""
    variables = [one["query"] for dashboard in DASHBOARDS for one in dashboard["templating"]["list"]]
    texts = [query["query"] for query in variables if isinstance(query, dict)]
    found = [re.fullmatch(r"label_values\((.+), \w+\)", text) for text in texts]
    assert all(found), "a variable's query is not label_values(SELECTOR, LABEL)"
    return [match[1] for match in found if match] + [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_rules_and_dashboards_use_existing_metrics_and_bounds() -> None:
    metrics = Metrics(CollectorRegistry())
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    families = list(scrape_page(metrics, Registry()).collect())
    exported = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    histograms = [family for family in metrics.families if isinstance(family, Histograms)]
    bounds = {repr(float(bound)) for family in histograms for bound in family.bounds}
    known = exported | {"up", "ALERTS"} | {rule["record"] for rule in RULES if "record" in rule}
    for expression in [rule["expr"] for rule in RULES] + queries():
        assert set() < names_in(expression) <= known, expression
        assert set(re.findall(r'\ble="([^"]+)"', expression)) <= bounds, expression


def test_alerts_use_the_scrape_job() -> None:
    jobs = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    used = {job for alert in ALERTS for job in re.findall(r'job="([^"]+)"', alert["expr"])}
    assert used == {"fitting-room"} <= {job["job_name"] for job in jobs}


def test_alertmanager_routes_to_its_receivers_by_known_labels() -> None:
    route, rules = ALERTMANAGER["route"], ALERTMANAGER["inhibit_rules"]
    assert {one["receiver"] for one in (route, *route["routes"])} == {one["name"] for one in ALERTMANAGER["receivers"]}
    # Whoever runs it says where alerts go.
    assert all(receiver.keys() == {"name"} for receiver in ALERTMANAGER["receivers"])
    matchers = [matcher for one in route["routes"] for matcher in one["matchers"]]
    matchers += [matcher for rule in rules for matcher in (*rule["source_matchers"], *rule["target_matchers"])]
    for label, value in (re.fullmatch(r'(\w+)=~?"(.+)"', matcher).groups() for matcher in matchers):  # type: ignore[union-attr]
        known = {"alertname": NAMES, "severity": ["critical", "warning"]}[label]
        assert any(re.fullmatch(value, name) for name in known), (label, value)


def test_dashboards_have_uids_link_to_each_other_and_keep_the_choice() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS if dashboard["uid"]}) == len(DASHBOARDS) == 2
    for dashboard in DASHBOARDS:
        # It belongs to one Grafana's database.
        assert "id" not in dashboard
        (link,) = dashboard["links"]
        assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
        assert set(link["tags"]) <= set(dashboard["tags"])
        assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "model", "version"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["title"])
def test_panels_do_not_overlap(dashboard: Any) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        assert x + w <= 24, panel["title"]
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells


def test_panels_have_description_unit_source_and_grafanas_interval() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert set(re.findall(r"\[([^\]]*)\]", target["expr"])) <= {"$__rate_interval"}, panel["title"]
