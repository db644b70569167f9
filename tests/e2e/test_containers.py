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

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "python:3.11-slim-bookworm"
MEGABYTE = 1_000_000
# A busy machine is no reason to be turned away.
PATIENT = ("--env", "SERVING_MAX_QUEUE_MS=10000")
LOCKED_DOWN = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

Docker = Callable[..., str]
Ask = Callable[..., tuple[int, Any]]


@dataclass
class Container:
    name: str
    docker: Docker

    @property
    def address(self) -> str:
        return self.docker("port", self.name, "8501/tcp").splitlines()[0]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def state(self) -> Any:
        return json.loads(self.docker("inspect", "--format", "{{json .State}}", self.name))

    def logs(self) -> str:
        return self.docker("logs", self.name)


@pytest.fixture
def start(docker: Docker, wait_until: Callable[..., Any]) -> Iterator[Callable[..., Container]]:
    """Runs an image, without any right that it does not need, until its HEALTHCHECK says healthy."""
    started: list[Container] = []

    def run(image: str, *options: str, then: Sequence[str] = ()) -> Container:
        container = Container(f"fitting-room-e2e-{uuid.uuid4().hex[:8]}", docker)
        started.append(container)
        publish = ("--publish", "127.0.0.1:0:8501")
        docker("run", "--detach", "--name", container.name, *publish, *PATIENT, *LOCKED_DOWN, *options, image, *then)
        state = wait_until(container.state, lambda state: has_settled(state), "a healthy container")
        assert state["Status"] == "running", container.logs()
        return container

    yield run
    for container in started:
        docker("rm", "--force", "--volumes", container.name, check=False)


def has_settled(state: Any) -> bool:
    return bool(state["Status"] == "exited" or state["Health"]["Status"] != "starting")


def size_over_base(docker: Docker, image: str) -> int:
    sizes = docker("image", "inspect", "--format", "{{.Size}}", image, BASE_IMAGE).split()
    return int(sizes[0]) - int(sizes[1])


def test_the_image_adds_at_most_300_mb_to_its_base(
    docker: Docker, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = size_over_base(docker, image)
    with capsys.disabled():
        print(f"\nimage size: {size / MEGABYTE:.0f} MB over {BASE_IMAGE}")
    assert size <= 300 * MEGABYTE


def test_the_container_is_healthy_and_answers(image: str, start: Callable[..., Container], ask: Ask) -> None:
    container = start(image)
    assert container.state()["Health"]["Status"] == "healthy"
    status, answer = ask(f"{container.url}/v1/models/regression:predict", {"instances": [10.0]})
    assert (status, answer) == (200, {"predictions": [pytest.approx(31, abs=0.01)]})
    assert ask(f"{container.url}/openapi.json")[0] == 200


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one core: nothing to be held back from")
def test_a_container_held_to_one_core_takes_one_worker(image: str, start: Callable[..., Container], ask: Ask) -> None:
    container = start(image, "--cpus", "1")
    assert "\nserving_workers 1.0\n" in ask(f"{container.url}/metrics")[1]


def test_the_image_holds_neither_pip_nor_tensorflow(docker: Docker, image: str) -> None:
    code = "import importlib.util as u; print([n for n in ('pip', 'tensorflow') if u.find_spec(n)])"
    assert docker("run", "--rm", "--entrypoint", "python", image, "-I", "-c", code) == "[]"


def test_a_setting_that_cannot_be_is_named_when_the_container_stops(docker: Docker, image: str) -> None:
    assert "SERVING_PORT='abc'" in docker("run", "--rm", "--env", "SERVING_PORT=abc", image, check=False)
    assert "--threads='many'" in docker("run", "--rm", image, "--threads", "many", check=False)


def test_a_stopped_container_answers_what_it_had_accepted_and_exits_0(
    docker: Docker, image: str, start: Callable[..., Container], ask: Ask, wait_until: Callable[..., Any]
) -> None:
    container = start(image)
    body = json.dumps({"instances": [10.0]}).encode()
    accepted = http.client.HTTPConnection(container.address, timeout=60)
    accepted.putrequest("POST", "/v1/models/regression:predict")
    accepted.putheader("Content-Length", str(len(body)))
    accepted.endheaders(body[:5])
    live = f"{container.url}/v2/health/live"
    assert ask(live)[0] == 200
    stop = threading.Thread(target=docker, args=("stop", "--time", "40", container.name))
    stop.start()
    wait_until(lambda: turns_away(ask, live), what="the end of accepting requests")
    accepted.send(body[5:])
    answer = accepted.getresponse()
    assert (answer.status, json.load(answer)) == (200, {"predictions": [pytest.approx(31, abs=0.01)]})
    accepted.close()
    stop.join()
    assert container.state()["ExitCode"] == 0, container.logs()


def turns_away(ask: Ask, url: str) -> bool:
    """Whether a new request is no longer accepted: refused, answered with 503, or left waiting."""
    try:
        return ask(url, timeout=1)[0] == 503
    except OSError:
        return True


def test_a_model_mounted_as_for_tensorflow_serving_is_served(
    image: str, start: Callable[..., Container], ask: Ask
) -> None:
    mount = ("--volume", f"{ROOT / 'models/regression'}:/models/half_plus_two:ro")
    container = start(image, *mount, "--env", "MODEL_NAME=half_plus_two")
    assert ask(f"{container.url}/v1/models") == (200, {"models": ["half_plus_two"]})
    status, _ = ask(f"{container.url}/v1/models/half_plus_two:predict", {"instances": [10.0]})
    assert status == 200


def test_kserves_runtime_serves_a_folder_of_versions(
    docker: Docker, image: str, start: Callable[..., Container], ask: Ask
) -> None:
    runtime = yaml.safe_load((ROOT / "deploy/kubernetes/kserve/cluster-serving-runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    environment = {one["name"]: one["value"].replace("{{.Name}}", "straight-line") for one in container["env"]}
    options = [f"--env={name}={value}" for name, value in environment.items()]
    options += ["--volume", f"{ROOT / 'models/regression'}:/mnt/models:ro", "--publish", "127.0.0.1:0:8080"]
    shell, *then = list[str]([*container["command"], *container["args"]])
    served = start(image, *options, "--entrypoint", shell, then=then)
    url = f"http://{docker('port', served.name, '8080/tcp').splitlines()[0]}"
    assert ask(f"{url}/v1/models") == (200, {"models": ["straight-line"]})
    status, answer = ask(f"{url}/v1/models/straight-line:predict", {"instances": [10.0]})
    assert (status, answer) == (200, {"predictions": [pytest.approx(31, abs=0.01)]})


@pytest.mark.skipif("E2E_FULL" not in os.environ, reason="downloads TensorFlow; E2E_FULL=1 runs it")
def test_the_full_image_serves_a_savedmodel_that_has_no_twin(
    docker: Docker,
    build: Callable[[str], str],
    start: Callable[..., Container],
    ask: Ask,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(ROOT / "models/regression/1", tmp_path / "plain/1")
    shutil.rmtree(tmp_path / "plain/1/assets.extra")
    # pytest's folders are closed to others; the container's user is one.
    tmp_path.chmod(0o755)
    image = build("full")
    with capsys.disabled():
        print(f"\nfull image size: {size_over_base(docker, image) / MEGABYTE:.0f} MB over {BASE_IMAGE}")
    container = start(image, "--volume", f"{tmp_path}:/models:ro")
    status, answer = ask(f"{container.url}/v1/models/plain:predict", {"instances": [10.0]})
    assert (status, answer) == (200, {"predictions": [pytest.approx(31, abs=0.01)]})


def test_a_key_made_by_the_image_lets_in_and_health_has_a_port_of_its_own(
    docker: Docker, image: str, start: Callable[..., Container], tmp_path: Path
) -> None:
    printed = docker("run", "--rm", image, "key", "--name", "alice", "--scope", "predict")
    (key,) = (line for line in printed.splitlines() if line.startswith("fr_"))
    (tmp_path / "api-keys.toml").write_text(printed.partition("For the file:")[2])
    # Made by root with a mode that only root may read in some places; the container's user is another.
    tmp_path.chmod(0o755)
    (tmp_path / "api-keys.toml").chmod(0o644)
    environment = ("SERVING_API_KEYS_FILE=/keys/api-keys.toml", "SERVING_OPERATIONS_PORT=8502")
    options = [f"--env={setting}" for setting in environment]
    container = start(image, *options, "--volume", f"{tmp_path}:/keys:ro", "--publish", "127.0.0.1:0:8502")
    # Asked by the image's own health check, which has no key.
    assert container.state()["Health"]["Status"] == "healthy"
    statuses = []
    for headers in ({}, {"X-API-Key": key}):
        connection = http.client.HTTPConnection(container.address, timeout=60)
        connection.request("GET", "/v1/models/regression", headers=headers)
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [401, 200]
    operations = docker("port", container.name, "8502/tcp").splitlines()[0]
    connection = http.client.HTTPConnection(operations, timeout=60)
    connection.request("GET", "/metrics")
    assert b"serving_api_keys_valid 1.0" in connection.getresponse().read()
    connection.close()
