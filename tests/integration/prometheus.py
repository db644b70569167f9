"""A real Prometheus (Debian's package) with the configuration and the rules of monitoring/, at a scrape a second."""

import json
import math
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.server import DEADLINE_SECONDS, free_port, wait_for

MONITORING = Path(__file__).parents[2] / "monitoring"

Sample = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Prometheus:
    port: int

    def query(self, expression: str) -> list[Sample]:
        """The series that answer it, as (labels, value); those of no finite value are left out."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
        found = [(series["metric"], float(series["value"][1])) for series in result]
        return [(labels, value) for labels, value in found if math.isfinite(value)]


@contextmanager
def prometheus(folder: Path, scraped_port: int) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("there is no prometheus (Debian's package of this name)")
    port = free_port()
    log = folder / "log"
    options = {
        "config.file": str(_configuration(folder, scraped_port)),
        "storage.tsdb.path": str(folder / "data"),
        "web.listen-address": f"127.0.0.1:{port}",
    }
    with log.open("w") as output:
        command = [binary, *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _is_ready(port), lambda: f"Prometheus never came up:\n{log.read_text()}")
        yield Prometheus(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _configuration(folder: Path, scraped_port: int) -> Path:
    """The kept one, with another target, and seconds instead of minutes between scrapes and evaluations."""
    rules: Any = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    kept: Any = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (job,) = [job for job in kept["scrape_configs"] if job["job_name"] == "fitting-room"]
    target = {"static_configs": [{"targets": [f"127.0.0.1:{scraped_port}"]}]}
    own = {name: value for name, value in job.items() if not name.endswith("_sd_configs")} | target
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": kept["rule_files"],
        "scrape_configs": [own],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path
