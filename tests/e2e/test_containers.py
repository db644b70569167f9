"""The image by itself: its size, its start, its stop, and the habits of TensorFlow Serving's image."""

import http.client
import json
import shutil
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.engine import ABOUT_31, docker, port_in, predicted, wait_until
from tests.integration.server import PREDICT, ROOT, TEN, Answer, ask

BASE_IMAGE = "python:3.11-slim-bookworm"
# A busy machine is no reason to be turned away.
PATIENT = ("--env", "SERVING_MAX_QUEUE_MS=10000")
OF_KSERVE = ("--volume", f"{ROOT / 'models/regression'}:/mnt/models:ro", "--publish", "127.0.0.1:0:8080")
LOCKED_DOWN = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@dataclass
class Container:
    name: str

    def port(self, inside: int = 8501) -> int:
        return port_in(docker("port", self.name, f"{inside}/tcp"))

    def ask(self, path: str, body: Any = None) -> Answer:
        return ask(self.port(), path, body)

    def state(self) -> Any:
        return json.loads(docker("inspect", "--format", "{{json .State}}", self.name))


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
        assert state["Status"] == "running", docker("logs", container.name)
        return container

    yield run
    for container in started:
        docker("rm", "--force", "--volumes", container.name, check=False)


def has_settled(state: Any) -> bool:
    return bool(state["Status"] == "exited" or state["Health"]["Status"] != "starting")


def test_image_is_small_with_notices_and_neither_pip_nor_tensorflow(image: str) -> None:
    sizes = docker("image", "inspect", "--format", "{{.Size}}", image, BASE_IMAGE).split()
    assert int(sizes[0]) - int(sizes[1]) <= 300_000_000
    code = "import importlib.util as u; print([n for n in ('pip', 'tensorflow') if u.find_spec(n)])"
    assert docker("run", "--rm", "--entrypoint", "python", image, "-I", "-c", code) == "[]"
    notices = docker("run", "--rm", "--entrypoint", "cat", image, "/app/THIRD_PARTY_NOTICES")
    assert notices == (ROOT / "THIRD_PARTY_NOTICES").read_text().strip()


def test_container_is_healthy_keeps_to_its_core_and_answers_what_it_had_accepted_when_stopped(
    image: str, start: Callable[..., Container]
) -> None:
    container = start(image, "--cpus", "1")
    assert container.state()["Health"]["Status"] == "healthy"
    assert b"\nserving_workers 1.0\n" in container.ask("/metrics").body
    assert container.ask("/openapi.json").status == 200
    body = json.dumps(TEN).encode()
    port = container.port()
    accepted = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    accepted.putrequest("POST", PREDICT)
    accepted.putheader("Content-Length", str(len(body)))
    accepted.endheaders(body[:5])
    assert not turns_away(port)
    stop = threading.Thread(target=docker, args=("stop", "--time", "40", container.name))
    stop.start()
    wait_until(lambda: turns_away(port), what="the end of accepting requests")
    accepted.send(body[5:])
    answer = accepted.getresponse()
    assert (answer.status, json.load(answer)) == (200, ABOUT_31)
    accepted.close()
    stop.join()
    assert container.state()["ExitCode"] == 0, docker("logs", container.name)


def turns_away(port: int) -> bool:
    """Whether a new request is no longer accepted: refused, answered with an error, or left waiting."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/live", timeout=1).close()
    except OSError:
        return True
    return False


def test_mount_flags_and_ports_of_tensorflow_serving(image: str, start: Callable[..., Container]) -> None:
    options = ("--volume", f"{ROOT / 'models/regression'}:/models/line:ro", "--publish", "127.0.0.1:0:8500")
    container = start(image, *options, "--env", "MODEL_NAME=line", then=["--rest_api_timeout_in_ms=60000"])
    assert container.ask("/v1/models").json() == {"models": ["line"]}
    assert container.ask("/v1/models/line:predict", TEN).json() == ABOUT_31
    assert predicted(container.port(8500), "line") == pytest.approx(31, abs=0.01)
    assert "TensorFlow ModelServer: " in docker(
        "run", "--rm", "--entrypoint", "tensorflow_model_server", image, "--version"
    )


def test_compose_file_of_tensorflow_serving(image: str, tmp_path: Path) -> None:
    """As docs/tensorflow-serving.md has it, with free ports."""
    page = (ROOT / "docs/tensorflow-serving.md").read_text().partition("## Compose")[2]
    compose = yaml.safe_load(page.split("```")[1].removeprefix("yaml"))
    compose["services"]["serving"] |= {"image": image, "ports": ["127.0.0.1::8500", "127.0.0.1::8501"]}
    shutil.copytree(ROOT / "models/regression", tmp_path / "models/line")
    config = 'config { name: "line" base_path: "/models/line" model_platform: "tensorflow" }'
    (tmp_path / "models/models.config").write_text(f"model_config_list {{ {config} }}")
    tmp_path.chmod(0o755)
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(compose))
    project = ("compose", "--project-name", f"tfs-{uuid.uuid4().hex[:8]}", "--file", str(tmp_path / "compose.yaml"))
    try:
        docker(*project, "up", "--detach", "--wait")
        rest, grpc_port = (port_in(docker(*project, "port", "serving", port)) for port in ("8501", "8500"))
        assert ask(rest, "/v1/models/line:predict", TEN).json() == ABOUT_31
        assert predicted(grpc_port, "line") == pytest.approx(31, abs=0.01)
    finally:
        docker(*project, "down", "--volumes", "--timeout", "0", check=False)


def test_our_runtime_for_kserve(image: str, start: Callable[..., Container]) -> None:
    runtime = yaml.safe_load((ROOT / "deploy/kubernetes/kserve/cluster-serving-runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    environment = {one["name"]: one["value"].replace("{{.Name}}", "straight-line") for one in container["env"]}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    shell, *then = list[str]([*container["command"], *container["args"]])
    running = start(image, *options, *OF_KSERVE, "--entrypoint", shell, then=then)
    assert ask(running.port(8080), "/v1/models").json() == {"models": ["straight-line"]}
    assert ask(running.port(8080), "/v1/models/straight-line:predict", TEN).json() == ABOUT_31
    assert predicted(running.port(8080), "straight-line") == pytest.approx(31, abs=0.01)


def test_kserves_runtime_for_tensorflow_with_our_image(image: str, start: Callable[..., Container]) -> None:
    """As docs/tensorflow-serving.md has it, and as user 1000, whom KServe's own file names."""
    page = (ROOT / "docs/tensorflow-serving.md").read_text().partition("## KServe")[2]
    (container,) = yaml.safe_load(page.split("```")[1].removeprefix("yaml"))["containers"]
    then = [argument.replace("{{.Name}}", "straight-line") for argument in container["args"]]
    # The port is the image's own health check's, which KServe does not use; the flags count more.
    options = (*OF_KSERVE, "--publish", "127.0.0.1:0:9000", "--user", "1000", "--env", "SERVING_PORT=8080")
    running = start(image, *options, "--entrypoint", *container["command"], then=then)
    assert ask(running.port(8080), "/v1/models/straight-line:predict", TEN).json() == ABOUT_31
    assert predicted(running.port(9000), "straight-line") == pytest.approx(31, abs=0.01)


def test_full_image_serves_a_savedmodel_that_has_no_twin(
    full_image: str, start: Callable[..., Container], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "models/regression/1", tmp_path / "plain/1")
    shutil.rmtree(tmp_path / "plain/1/assets.extra")
    # pytest's folders are closed to others; the container's user is one.
    tmp_path.chmod(0o755)
    container = start(full_image, "--volume", f"{tmp_path}:/models:ro")
    assert container.ask("/v1/models/plain:predict", TEN).json() == ABOUT_31
