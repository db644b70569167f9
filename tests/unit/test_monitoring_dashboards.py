"""The dashboards as Grafana's files: panels are described and query existing metrics."""

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
    queries = [one["query"] for board in dashboards() for one in board["templating"]["list"]]
    variables = [query["query"] for query in queries if isinstance(query, dict)]
    found = [re.fullmatch(r"label_values\((.+), \w+\)", query) for query in variables]
    selectors = [match.group(1) for match in found if match]
    assert len(selectors) == len(variables), "a variable's query is not label_values(SELECTOR, LABEL)"
    return selectors + [target["expr"] for panel in query_panels() for target in panel["targets"]]


def recorded_names() -> set[str]:
    groups = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def test_there_are_dashboards() -> None:
    assert [file.name for file in DASHBOARDS] == ["models.json", "serving.json"]


def test_dashboards_link_to_each_other_and_keep_the_choice() -> None:
    for dashboard in dashboards():
        (link,) = dashboard["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(dashboard["tags"])
        assert link["includeVars"]
        assert link["keepTime"]
        assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "model", "version"]


def test_panels_have_description_unit_and_source() -> None:
    for panel in query_panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("dashboard", list(dashboards()), ids=lambda dashboard: dashboard["title"])
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


def test_dashboards_have_uids() -> None:
    uids = [dashboard["uid"] for dashboard in dashboards()]
    assert all(uids)
    assert len(uids) == len(set(uids))
    assert not any("id" in dashboard for dashboard in dashboards()), "an id belongs to one Grafana's database"


def test_queries_use_existing_metrics_and_grafanas_interval() -> None:
    known = exported_names() | recorded_names() | {"up", "ALERTS"}
    for expression in expressions():
        assert set() < names_in(expression) <= known, expression
        assert set(re.findall(r'\ble="([^"]+)"', expression)) <= exported_bounds(), expression
        assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {RATE_INTERVAL}, expression
