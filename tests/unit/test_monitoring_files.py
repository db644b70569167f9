"""The compose file, monitoring/ and the Dockerfile fit together and fit the service."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]


def load_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_prometheus_scrapes_all_replicas() -> None:
    jobs = {job["job_name"]: job for job in load_yaml("monitoring/prometheus.yml")["scrape_configs"]}
    services = load_yaml("docker-compose.yml")["services"]
    (found,) = jobs["fitting-room"]["dns_sd_configs"]
    (name,) = found["names"]
    assert (found["type"], services[name]["expose"]) == ("A", [str(found["port"])])


def test_prometheus_follows_the_port_for_operations() -> None:
    (script,) = load_yaml("docker-compose.yml")["services"]["prometheus"]["entrypoint"][2:]
    (replaced,) = re.findall('"s/(.+?)/', script)
    assert (ROOT / "monitoring/prometheus.yml").read_text().count(replaced) == 1
    (beside,) = load_yaml("monitoring/prometheus.yml")["rule_files"]
    assert f"/etc/prometheus/{beside} /tmp" in script


def test_grafana_knows_the_scrape_interval() -> None:
    (source,) = load_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    scraped = load_yaml("monitoring/prometheus.yml")["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in load_yaml("docker-compose.yml")["services"]


def test_prometheus_finds_its_rules_and_the_alertmanager() -> None:
    config = load_yaml("monitoring/prometheus.yml")
    mounted = mounts("prometheus")
    folder = Path("/etc/prometheus")
    assert mounted[str(folder / "prometheus.yml")] == ROOT / "monitoring/prometheus.yml"
    for name in config["rule_files"]:
        assert mounted[str(folder / name)] == ROOT / "monitoring" / name
    ((host, port),) = [
        target.split(":") for target in config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    ]
    assert load_yaml("docker-compose.yml")["services"][host]["ports"] == [
        f"127.0.0.1:${{ALERTMANAGER_PORT:-9093}}:{port}"
    ]
    assert mounts(host)["/etc/alertmanager/alertmanager.yml"] == ROOT / "monitoring/alertmanager.yml"


def mounts(service: str) -> dict[str, Path]:
    """Folders and files of the repository by their path in a compose service's container."""
    volumes = load_yaml("docker-compose.yml")["services"][service]["volumes"]
    # A path that a variable can replace: the one that is there without it.
    plain = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume) for volume in volumes if isinstance(volume, str)]
    parts = [volume.split(":") for volume in plain]
    return {part[1]: ROOT / part[0] for part in parts if part[0].startswith("./")}


def test_mounts_exist_and_are_read_only() -> None:
    for name, service in load_yaml("docker-compose.yml")["services"].items():
        for path in mounts(name).values():
            assert path.exists(), path
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                assert volume["read_only"] is True
            elif not re.match(r"[a-z-]+-data:", volume):
                assert volume.endswith(":ro"), volume


def test_grafana_finds_its_provisioning_and_dashboards() -> None:
    mounted = mounts("grafana")
    (provider,) = load_yaml("monitoring/grafana/provisioning/dashboards/files.yml")["providers"]
    assert mounted["/etc/grafana/provisioning"] == ROOT / "monitoring/grafana/provisioning"
    assert mounted[provider["options"]["path"]] == ROOT / "monitoring/grafana/dashboards"
    home = load_yaml("docker-compose.yml")["services"]["grafana"]["environment"]
    folder, name = home["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rsplit("/", 1)
    assert (mounted[folder] / name).is_file()


def test_compose_sets_existing_settings() -> None:
    settings = {variable(spec) for spec in fields(Settings)}
    environment = load_yaml("docker-compose.yml")["services"]["service"]["environment"]
    assert {name for name in environment if not name.startswith("OTEL_")} <= settings


def test_image_sets_existing_settings() -> None:
    known = {name for spec in fields(Settings) for name in (variable(spec), *spec.metadata["aliases"])}
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert set(re.findall(r"\b((?:SERVING|MODEL)_[A-Z_]+)=", dockerfile)) <= known


def test_image_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ARG VERSION={project['version']}\n" in (ROOT / "deploy/Dockerfile").read_text()


def test_grace_period_is_longer_than_draining() -> None:
    grace = load_yaml("docker-compose.yml")["services"]["service"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().shutdown_seconds


def test_images_are_pinned() -> None:
    compose = load_yaml("docker-compose.yml")["services"]
    images = [service["image"] for service in compose.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+:\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert {image.partition(":")[0] for image in images} >= {"python", "nginx", "prom/prometheus", "grafana/grafana"}
    for image in images:
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+[\w.-]*", image), image
