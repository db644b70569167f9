"""The compose file, monitoring/, deploy/nginx.conf and the Dockerfile fit together and fit the service."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from service.server import connection
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
SETTINGS = Settings()
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
NGINX = (ROOT / "deploy/nginx.conf").read_text()
LISTENS_FOR_HEALTH, *LISTENS_FOR_CLIENTS = re.findall(r"^\s*listen ([\d.:]+)", NGINX, re.MULTILINE)
# The container's own, as folder and ports of the machine are mapped to them, and the balancer's: the certificate.
NOT_HANDED_ON = {
    f"SERVING_{name}" for name in ("MODELS", "HOST", "PORT", "GRPC_PORT", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA")
}


def load_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


COMPOSE = load_yaml("docker-compose.yml")["services"]
PROMETHEUS = load_yaml("monitoring/prometheus.yml")


def directives(name: str) -> list[str]:
    """Of nginx, from top to bottom: a location's own come last."""
    return re.findall(rf"^\s*{name} ([^;{{]+);", NGINX, re.MULTILINE)


def mounts(service: str) -> dict[str, Path]:
    """Folders and files of the repository by their path in a compose service's container."""
    volumes = COMPOSE[service]["volumes"]
    # A path that a variable can replace: the one that is there without it.
    plain = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume) for volume in volumes if isinstance(volume, str)]
    parts = [volume.split(":") for volume in plain]
    return {part[1]: ROOT / part[0] for part in parts if part[0].startswith("./")}


def test_balancer_reaches_all_replicas_of_the_service() -> None:
    servers = [server.split() for server in directives("server")]
    ports = re.findall(r"SERVING_(?:GRPC_)?PORT=(\d+)", DOCKERFILE)
    assert ports == LISTENS_FOR_CLIENTS == ["8501", "8500"]
    assert [server[0] for server in servers] == [f"service:{port}" for port in ports]
    assert all("resolve" in server for server in servers)
    assert "valid=1s" in directives("resolver")[0].split()
    assert COMPOSE["service"]["expose"] == sorted(ports)
    assert COMPOSE["balancer"]["ports"] == ["${SERVING_PORT:-8501}:8501", "${SERVING_GRPC_PORT:-8500}:8500"]
    assert "ports" not in COMPOSE["service"]
    # The check of its health is of nginx itself.
    assert COMPOSE["balancer"]["healthcheck"]["test"][-1] == f"http://{LISTENS_FOR_HEALTH}"
    assert LISTENS_FOR_HEALTH.startswith("127.0.0.1:")


def test_balancers_timeouts_and_limits_are_those_of_the_service() -> None:
    assert directives("client_header_timeout")[0] == f"{connection.HEAD_SECONDS}s"
    assert directives("client_body_timeout")[0] == f"{connection.BODY_SECONDS}s"
    assert directives("send_timeout")[0] == f"{connection.WRITE_SECONDS}s"
    balancer = COMPOSE["balancer"]
    assert balancer["environment"] == {
        "BODY_BYTES": f"${{SERVING_MAX_BODY_BYTES:-{SETTINGS.max_body_bytes}}}",
        "KEEP_ALIVE_SECONDS": f"${{SERVING_KEEP_ALIVE_SECONDS:-{SETTINGS.keep_alive_seconds}}}",
        "REQUEST_MS": f"${{SERVING_REQUEST_TIMEOUT_MS:-{SETTINGS.request_timeout_ms}}}",
        "SHUTDOWN_SECONDS": f"${{SERVING_SHUTDOWN_SECONDS:-{SETTINGS.shutdown_seconds}}}",
        **{name: f"${{SERVING_{name}:-}}" for name in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA")},
    }
    # Idle connections are closed before the service does, and whoever drains has time for it.
    keep_alive = re.findall(r"keepalive_timeout (.+?);", balancer["command"][-1])
    assert keep_alive == ["$$((KEEP_ALIVE_SECONDS * 800))ms", "$${KEEP_ALIVE_SECONDS}s"]
    period = f"${{SERVING_SHUTDOWN_SECONDS:-{SETTINGS.shutdown_seconds}}}s10s"
    assert COMPOSE["service"]["stop_grace_period"] == balancer["stop_grace_period"] == period
    assert "worker_shutdown_timeout $$((SHUTDOWN_SECONDS + 5))s;" in balancer["command"][-1]


def test_prometheus_scrapes_all_replicas() -> None:
    (job,) = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "fitting-room"]
    (found,) = job["dns_sd_configs"]
    (name,) = found["names"]
    assert found["type"] == "A"
    assert str(found["port"]) in COMPOSE[name]["expose"]
    # With a port for operations, the script writes another configuration.
    (script,) = COMPOSE["prometheus"]["entrypoint"][2:]
    (replaced,) = re.findall('"s/(.+?)/', script)
    assert (ROOT / "monitoring/prometheus.yml").read_text().count(replaced) == 1
    (beside,) = PROMETHEUS["rule_files"]
    assert f"/etc/prometheus/{beside} /tmp" in script


def test_prometheus_finds_its_rules_and_the_alertmanager() -> None:
    for name in ("prometheus.yml", *PROMETHEUS["rule_files"]):
        assert mounts("prometheus")[f"/etc/prometheus/{name}"] == ROOT / "monitoring" / name
    (alertmanagers,) = PROMETHEUS["alerting"]["alertmanagers"]
    (target,) = alertmanagers["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert COMPOSE[host]["ports"] == [f"127.0.0.1:${{ALERTMANAGER_PORT:-9093}}:{port}"]
    assert mounts(host)["/etc/alertmanager/alertmanager.yml"] == ROOT / "monitoring/alertmanager.yml"


def test_grafana_finds_prometheus_its_provisioning_and_dashboards() -> None:
    (source,) = load_yaml("monitoring/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = load_yaml("monitoring/grafana/provisioning/dashboards/files.yml")["providers"]
    mounted = mounts("grafana")
    assert mounted["/etc/grafana/provisioning"] == ROOT / "monitoring/grafana/provisioning"
    assert mounted[provider["options"]["path"]] == ROOT / "monitoring/grafana/dashboards"
    home = Path(COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).is_file()


def test_mounts_exist_and_are_read_only() -> None:
    for name, service in COMPOSE.items():
        assert all(path.exists() for path in mounts(name).values()), name
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                assert volume["read_only"] is True
            elif not re.match(r"[a-z-]+-data:", volume):
                assert volume.endswith(":ro"), volume


def test_settings_are_handed_on_as_they_are_and_those_of_the_image_exist() -> None:
    """Without a value of its own: what is unset stays so."""
    names = {variable(spec) for spec in fields(Settings)}
    environment = COMPOSE["service"]["environment"].items()
    assert {k: v for k, v in environment if k.startswith("SERVING_")} == dict.fromkeys(names - NOT_HANDED_ON)
    assert names >= NOT_HANDED_ON
    aliases = {alias for spec in fields(Settings) for alias in spec.metadata["aliases"]}
    assert set(re.findall(r"\b((?:SERVING|MODEL)_[A-Z_]+)=", DOCKERFILE)) <= names | aliases


def test_images_are_pinned_and_ours_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ARG VERSION={project['version']}\n" in DOCKERFILE
    images = [service["image"] for service in COMPOSE.values() if "build" not in service]
    images += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE)
    assert {image.partition(":")[0] for image in images} >= {"python", "nginx", "prom/prometheus", "grafana/grafana"}
    for image in images:
        assert re.fullmatch(r"[a-z]+(/[a-z]+)?:v?\d+\.\d+[\w.-]*", image), image
