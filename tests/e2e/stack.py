"""The compose project for real, under a name and on ports of its own."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.e2e.engine import docker, port_in
from tests.integration.prometheus import Prometheus
from tests.integration.server import ROOT


@dataclass
class Stack:
    project: str
    models: Path
    image: str
    environment: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MODEL"))}
        own = {
            "IMAGE": self.image,
            "MODELS_DIR": str(self.models),
            # A busy machine is no reason to be turned away.
            "SERVING_MAX_QUEUE_MS": "10000",
            # Port 0: the engine takes one that is free.
            "SERVING_PORT": "127.0.0.1:0",
            "SERVING_GRPC_PORT": "127.0.0.1:0",
            "PROMETHEUS_PORT": "0",
            "ALERTMANAGER_PORT": "0",
        }
        project = ("--project-name", self.project, "--env-file", os.devnull)
        return docker("compose", *project, *arguments, env=kept | own | self.environment, check=check)

    def replicas(self) -> list[str]:
        """The service's containers that run."""
        return self.compose("ps", "--quiet", "service").split()

    def port(self, service: str, inside: int) -> int:
        """Another one after each start of a container."""
        return port_in(self.compose("port", service, str(inside)))

    @property
    def balancer_port(self) -> int:
        return self.port("balancer", 8501)

    @property
    def grpc_port(self) -> int:
        return self.port("balancer", 8500)

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.port("prometheus", 9090))


@contextmanager
def up(image: str, *services: str, **settings: str) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        shutil.copytree(ROOT / "models", models)
        if not balancer_follows_replicas():
            settings["BALANCER_CONFIG"] = str(older_balancer_config(Path(folder)))
        stack = Stack(f"fitting-room-e2e-{uuid.uuid4().hex[:8]}", models, image, settings)
        try:
            stack.compose("up", "--detach", "--no-build", "--wait", *services)
            yield stack
        finally:
            print(stack.compose("logs", "--no-color", check=False))  # pytest shows it where a test failed
            stack.compose("down", "--volumes", "--remove-orphans", check=False)


def balancer_follows_replicas() -> bool:
    """Whether what stands for the balancer's image is the nginx that it names, or an older one without `resolve`."""
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["balancer"]["image"]
    version = re.search(r"nginx/([\d.]+)", docker("run", "--rm", "--entrypoint", "nginx", image, "-v"))
    assert version, image
    return tuple(map(int, version[1].split("."))) >= (1, 27, 3)


def older_balancer_config(folder: Path) -> Path:
    """Looks for the replicas at the start alone; the rest is what the project has."""
    text = (ROOT / "deploy/nginx.conf").read_text()
    for there, here in (
        ("server service:8501 resolve ", "server service:8501 "),
        ("server service:8500 resolve ", "server service:8500 "),
        ("listen 8500 ", "listen 8500 http2 "),
        ("http2 on;", ""),
    ):
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"
