"""The dashboards as Grafana's files: every panel is described, and asks for what there is."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.promql import exported_bounds, exported_names, names_in

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
# What Grafana replaces before it asks Prometheus.
RATE_INTERVAL = "$__rate_interval"


def dashboards() -> Iterator[Any]:
    for file in DASHBOARDS:
        yield json.loads(file.read_text())


def panels() -> Iterator[Any]:
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            yield from [panel, *panel.get("panels", [])] if panel["type"] == "row" else [panel]


def query_panels() -> list[Any]:
    return [panel for panel in panels() if panel["type"] != "row"]


def expressions() -> list[str]:
    """Every PromQL expression, with those of the variables reduced to their selector."""
    asked = [one["query"] for board in dashboards() for one in board["templating"]["list"]]
    variables = [query["query"] for query in asked if isinstance(query, dict)]
    found = [re.fullmatch(r"label_values\((.+), \w+\)", query) for query in variables]
    selectors = [match.group(1) for match in found if match]
    assert len(selectors) == len(variables), "a variable's query is not label_values(SELECTOR, LABEL)"
    return selectors + [target["expr"] for panel in query_panels() for target in panel["targets"]]


def recorded_names() -> set[str]:
    groups = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_there_are_dashboards() -> None:
    assert [file.name for file in DASHBOARDS] == ["models.json", "serving.json"]


@pytest.mark.parametrize("dashboard", list(dashboards()), ids=lambda dashboard: dashboard["title"])
def test_each_dashboard_leads_to_the_others_with_what_is_chosen(dashboard: Any) -> None:
    (link,) = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert link["includeVars"]
    assert link["keepTime"]
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "model", "version"]


@pytest.mark.parametrize("panel", query_panels(), ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_in_which_unit_and_from_where(panel: Any) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]


@pytest.mark.parametrize("dashboard", list(dashboards()), ids=lambda dashboard: dashboard["title"])
def test_panels_have_their_own_id_and_place(dashboard: Any) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        assert x + w <= 24, panel["title"]
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells


def test_dashboards_have_a_stable_uid_of_their_own() -> None:
    uids = [dashboard["uid"] for dashboard in dashboards()]
    assert all(uids)
    assert len(uids) == len(set(uids))
    assert not any("id" in dashboard for dashboard in dashboards()), "an id belongs to one Grafana's database"


@pytest.mark.parametrize("expression", expressions())
def test_every_query_names_metrics_that_are_exported(expression: str) -> None:
    assert names_in(expression), expression
    assert names_in(expression) <= exported_names() | recorded_names() | {"up", "ALERTS"}
    assert set(re.findall(r'\ble="([^"]+)"', expression)) <= exported_bounds()


@pytest.mark.parametrize("expression", expressions())
def test_rates_are_taken_over_the_interval_that_grafana_fits_to_the_scrapes(expression: str) -> None:
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {RATE_INTERVAL}
