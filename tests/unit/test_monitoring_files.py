"""What can be known of the compose file and of monitoring/ without an engine: their parts fit together."""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics, scrape_page
from service.registry import Registry
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
SAMPLE_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
# What Grafana replaces before it asks Prometheus.
RATE_INTERVAL = "$__rate_interval"


def load_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


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


def names_in(expression: str) -> set[str]:
    """The metric names in an expression: what is neither label, function nor operator."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring) \([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-z_:][a-z0-9_:]+\b(?!\s*\()", bare)) - {"or", "and", "unless"}


def exported_names() -> set[str]:
    families = scrape_page(Metrics(CollectorRegistry()), Registry()).collect()
    return {family.name + suffix for family in families for suffix in SAMPLE_SUFFIXES[family.type]}


def test_there_is_a_dashboard() -> None:
    assert [file.name for file in DASHBOARDS] == ["serving.json"]


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
    assert names_in(expression) <= exported_names() | {"up"}


@pytest.mark.parametrize("expression", expressions())
def test_rates_are_taken_over_the_interval_that_grafana_fits_to_the_scrapes(expression: str) -> None:
    assert set(re.findall(r"\[([^\]]*)\]", expression)) <= {RATE_INTERVAL}


def test_metric_names_are_told_from_labels_and_functions() -> None:
    expression = 'sum by (le, model) (rate(a_total{model=~"b_total"}[5m])) / count(up) or vector(0)'
    assert names_in(expression) == {"a_total", "up"}


def test_prometheus_scrapes_the_service_where_compose_runs_it() -> None:
    jobs = {job["job_name"]: job for job in load_yaml("monitoring/prometheus.yml")["scrape_configs"]}
    services = load_yaml("docker-compose.yml")["services"]
    ((host, port),) = [target.split(":") for target in jobs["fitting-room"]["static_configs"][0]["targets"]]
    assert services[host]["ports"] == [f"${{SERVING_PORT:-8501}}:{port}"]
    assert any('up{job="fitting-room"}' in expression for expression in expressions())


def test_grafana_fits_rates_to_the_interval_that_prometheus_scrapes_at() -> None:
    (source,) = load_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    scraped = load_yaml("monitoring/prometheus.yml")["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in load_yaml("docker-compose.yml")["services"]


def mounts(service: str) -> dict[str, Path]:
    """Folders and files of the repository by their path in a compose service's container."""
    volumes = load_yaml("docker-compose.yml")["services"][service]["volumes"]
    parts = [volume.split(":") for volume in volumes if isinstance(volume, str)]
    return {part[1]: ROOT / part[0] for part in parts if part[0].startswith("./")}


def test_everything_that_compose_mounts_is_there_and_read_only() -> None:
    for name, service in load_yaml("docker-compose.yml")["services"].items():
        for path in mounts(name).values():
            assert path.exists(), path
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                assert volume["read_only"] is True
            elif volume.startswith("./"):
                assert volume.endswith(":ro"), volume


def test_grafana_finds_its_provisioning_and_dashboards_where_compose_mounts_them() -> None:
    mounted = mounts("grafana")
    (provider,) = load_yaml("monitoring/grafana/provisioning/dashboards/files.yml")["providers"]
    assert mounted["/etc/grafana/provisioning"] == ROOT / "monitoring/grafana/provisioning"
    assert mounted[provider["options"]["path"]] == ROOT / "monitoring/grafana/dashboards"
    home = load_yaml("docker-compose.yml")["services"]["grafana"]["environment"]
    folder, name = home["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rsplit("/", 1)
    assert (mounted[folder] / name).is_file()


def test_compose_hands_on_settings_that_exist() -> None:
    settings = {variable(spec) for spec in fields(Settings)}
    environment = load_yaml("docker-compose.yml")["services"]["service"]["environment"]
    assert set(environment) <= settings


def test_the_image_sets_only_variables_that_the_service_reads() -> None:
    known = {name for spec in fields(Settings) for name in (variable(spec), *spec.metadata["aliases"])}
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert set(re.findall(r"\b((?:SERVING|MODEL)_[A-Z_]+)=", dockerfile)) <= known


def test_the_image_is_labelled_with_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "deploy/Dockerfile").read_text()


def test_compose_waits_longer_for_a_stop_than_the_service_drains() -> None:
    grace = load_yaml("docker-compose.yml")["services"]["service"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().shutdown_seconds


def test_images_are_pinned_by_release_and_named_without_a_registry() -> None:
    compose = load_yaml("docker-compose.yml")["services"]
    images = [service["image"] for service in compose.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+:\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 3
    for image in images:
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+[\w.-]*", image), image
