"""The image by itself: its size, its start, its stop, and the habits of TensorFlow Serving's image."""

import http.client
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.engine import ABOUT_31, REGRESSION, ROOT, TEN, ask, docker, wait_until

BASE_IMAGE = "python:3.11-slim-bookworm"
MEGABYTE = 1_000_000
# A busy machine is no reason to be turned away.
PATIENT = ("--env", "SERVING_MAX_QUEUE_MS=10000")
LOCKED_DOWN = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@dataclass
class Container:
    name: str

    def address(self, port: int = 8501) -> str:
        return docker("port", self.name, f"{port}/tcp").splitlines()[0]

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        return ask(f"http://{self.address()}{path}", body)

    def state(self) -> Any:
        return json.loads(docker("inspect", "--format", "{{json .State}}", self.name))

    def logs(self) -> str:
        return docker("logs", self.name)


@pytest.fixture
def start() -> Iterator[Callable[..., Container]]:
    """Runs an image, without any right that it does not need, until its HEALTHCHECK says healthy."""
    started: list[Container] = []

    def run(image: str, *options: str, then: Sequence[str] = ()) -> Container:
        container = Container(f"fitting-room-e2e-{uuid.uuid4().hex[:8]}")
        started.append(container)
        publish = ("--publish", "127.0.0.1:0:8501")
        docker("run", "--detach", "--name", container.name, *publish, *PATIENT, *LOCKED_DOWN, *options, image, *then)
        state = wait_until(container.state, has_settled, "a healthy container")
        assert state["Status"] == "running", container.logs()
        return container

    yield run
    for container in started:
        docker("rm", "--force", "--volumes", container.name, check=False)


def has_settled(state: Any) -> bool:
    return bool(state["Status"] == "exited" or state["Health"]["Status"] != "starting")


def size_over_base(image: str) -> int:
    sizes = docker("image", "inspect", "--format", "{{.Size}}", image, BASE_IMAGE).split()
    return int(sizes[0]) - int(sizes[1])


def test_image_adds_at_most_300_mb_to_its_base(image: str) -> None:
    assert size_over_base(image) <= 300 * MEGABYTE


def test_image_holds_neither_pip_nor_tensorflow(image: str) -> None:
    code = "import importlib.util as u; print([n for n in ('pip', 'tensorflow') if u.find_spec(n)])"
    assert docker("run", "--rm", "--entrypoint", "python", image, "-I", "-c", code) == "[]"


def test_bad_setting_is_named_when_the_container_stops(image: str) -> None:
    assert "SERVING_PORT='abc'" in docker("run", "--rm", "--env", "SERVING_PORT=abc", image, check=False)
    assert "--threads='many'" in docker("run", "--rm", image, "--threads", "many", check=False)


def test_container_is_healthy_keeps_to_its_core_and_answers_what_it_had_accepted_when_stopped(
    image: str, start: Callable[..., Container]
) -> None:
    container = start(image, "--cpus", "1")
    assert container.state()["Health"]["Status"] == "healthy"
    assert "\nserving_workers 1.0\n" in container.ask("/metrics")[1]
    assert container.ask("/openapi.json")[0] == 200
    body = json.dumps(TEN).encode()
    accepted = http.client.HTTPConnection(container.address(), timeout=60)
    accepted.putrequest("POST", REGRESSION)
    accepted.putheader("Content-Length", str(len(body)))
    accepted.endheaders(body[:5])
    live = f"http://{container.address()}/v2/health/live"
    assert ask(live)[0] == 200
    stop = threading.Thread(target=docker, args=("stop", "--time", "40", container.name))
    stop.start()
    wait_until(lambda: turns_away(live), what="the end of accepting requests")
    accepted.send(body[5:])
    answer = accepted.getresponse()
    assert (answer.status, json.load(answer)) == (200, ABOUT_31)
    accepted.close()
    stop.join()
    assert container.state()["ExitCode"] == 0, container.logs()


def turns_away(url: str) -> bool:
    """Whether a new request is no longer accepted: refused, answered with 503, or left waiting."""
    try:
        return ask(url, timeout=1)[0] == 503
    except OSError:
        return True


def test_model_mounted_as_for_tensorflow_serving_is_served(image: str, start: Callable[..., Container]) -> None:
    mount = ("--volume", f"{ROOT / 'models/regression'}:/models/half_plus_two:ro")
    container = start(image, *mount, "--env", "MODEL_NAME=half_plus_two")
    assert container.ask("/v1/models") == (200, {"models": ["half_plus_two"]})
    assert container.ask("/v1/models/half_plus_two:predict", TEN) == (200, ABOUT_31)


def test_kserves_runtime_serves_a_folder_of_versions(image: str, start: Callable[..., Container]) -> None:
    runtime = yaml.safe_load((ROOT / "deploy/kubernetes/kserve/cluster-serving-runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    environment = {one["name"]: one["value"].replace("{{.Name}}", "straight-line") for one in container["env"]}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += ["--volume", f"{ROOT / 'models/regression'}:/mnt/models:ro", "--publish", "127.0.0.1:0:8080"]
    shell, *then = list[str]([*container["command"], *container["args"]])
    url = f"http://{start(image, *options, '--entrypoint', shell, then=then).address(8080)}"
    assert ask(f"{url}/v1/models") == (200, {"models": ["straight-line"]})
    assert ask(f"{url}/v1/models/straight-line:predict", TEN) == (200, ABOUT_31)


@pytest.mark.skipif("E2E_FULL" not in os.environ, reason="downloads TensorFlow; E2E_FULL=1 runs it")
def test_full_image_serves_a_savedmodel_that_has_no_twin(
    build: Callable[[str], str], start: Callable[..., Container], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "models/regression/1", tmp_path / "plain/1")
    shutil.rmtree(tmp_path / "plain/1/assets.extra")
    # pytest's folders are closed to others; the container's user is one.
    tmp_path.chmod(0o755)
    container = start(build("full"), "--volume", f"{tmp_path}:/models:ro")
    assert container.ask("/v1/models/plain:predict", TEN) == (200, ABOUT_31)
