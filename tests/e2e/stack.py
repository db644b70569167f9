"""The compose project for real, under a name and on ports of its own."""

import os
import re
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest
import yaml

from tests.e2e.engine import ABOUT_31, ROOT, TEN, ask, docker

BALANCER_CONFIG = ROOT / "deploy/nginx.conf"


@dataclass
class Stack:
    project: str
    models: Path
    image: str
    environment: dict[str, str] = field(default_factory=dict)

    def compose(self, *arguments: str, check: bool = True) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MODEL"))}
        own = {
            "IMAGE": self.image,
            "MODELS_DIR": str(self.models),
            # A busy machine is no reason to be turned away.
            "SERVING_MAX_QUEUE_MS": "10000",
            # Port 0: the engine takes one that is free.
            "SERVING_PORT": "127.0.0.1:0",
            "PROMETHEUS_PORT": "0",
            "ALERTMANAGER_PORT": "0",
        }
        project = ("--project-name", self.project, "--env-file", os.devnull)
        return docker("compose", *project, *arguments, env=kept | own | self.environment, check=check)

    def inspect(self, service: str, template: str) -> str:
        container = self.compose("ps", "--all", "--quiet", service)
        return docker("inspect", "--format", template, container)

    def replicas(self) -> list[str]:
        """The service's containers that run."""
        return self.compose("ps", "--quiet", "service").split()

    @cached_property
    def address(self) -> str:
        return self.compose("port", "balancer", "8501")

    @cached_property
    def prometheus_address(self) -> str:
        return self.compose("port", "prometheus", "9090")

    def url(self, path: str) -> str:
        return f"http://{self.address}{path}"

    def check_prediction(self, version: str = "") -> None:
        assert ask(self.url(f"/v1/models/regression{version}:predict"), TEN) == (200, ABOUT_31)

    def prometheus(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The series that answer a query, as (labels, value)."""
        query = urllib.parse.urlencode({"query": expression})
        status, answer = ask(f"http://{self.prometheus_address}/api/v1/query?{query}")
        assert status == 200, (expression, answer)
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]


@contextmanager
def up(image: str, *services: str, build: bool = False, settings: Mapping[str, str]) -> Iterator[Stack]:
    environment = dict(settings)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(ROOT / "models", models)
        if not balancer_follows_replicas():
            environment["BALANCER_CONFIG"] = str(older_balancer_config(Path(folder)))
        stack = Stack(f"fitting-room-e2e-{uuid.uuid4().hex[:8]}", models, image, environment)
        try:
            stack.compose("up", "--detach", "--build" if build else "--no-build", "--wait", *services)
            yield stack
            print(stack.compose("logs", "--no-color", check=False))  # pytest shows it where a test failed
        except pytest.fail.Exception:
            print(stack.compose("logs", "--no-color", check=False))
            raise
        finally:
            stack.compose("down", "--volumes", "--remove-orphans", check=False)


def balancer_follows_replicas() -> bool:
    """Whether what stands for the balancer's image is the nginx that it names, or an older one without `resolve`."""
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["balancer"]["image"]
    version = re.search(r"nginx/([\d.]+)", docker("run", "--rm", "--entrypoint", "nginx", image, "-v"))
    assert version, image
    return tuple(map(int, version[1].split("."))) >= (1, 27, 3)


def older_balancer_config(folder: Path) -> Path:
    """Looks for the replicas at the start alone; the rest is what the project has."""
    text = BALANCER_CONFIG.read_text()
    assert text.count(" resolve max_fails=0;") == 1
    (folder / "nginx.conf").write_text(text.replace(" resolve max_fails=0;", " max_fails=0;"))
    return folder / "nginx.conf"
