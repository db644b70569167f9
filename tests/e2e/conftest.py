"""What the container tests share. Without an engine that answers they are skipped, with the reason."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Asks this machine's own ports: never through a proxy that the environment may name.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="session")
def docker() -> Callable[..., str]:
    """Runs `docker ...` from the repository's root and gives what it printed; a failure shows its errors."""
    if not shutil.which("docker"):
        pytest.skip("no container engine: there is no `docker` command")
    probe = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no container engine: {probe.stderr.strip().splitlines()[-1]}")

    def run(*arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=ROOT, env=env)
        if check and done.returncode:
            pytest.fail(f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return (done.stdout + done.stderr).strip()

    return run


@pytest.fixture(scope="session")
def build(docker: Callable[..., str]) -> Iterator[Callable[[str], str]]:
    """Builds a target of the Dockerfile and gives the image's name."""
    built: list[str] = []

    def image(target: str) -> str:
        name = f"fitting-room-e2e:{target}-{uuid.uuid4().hex[:8]}"
        # The last stage is the default one: it is not named, as in the docs.
        options = [] if target == "serve" else ["--target", target]
        docker("build", "-f", "deploy/Dockerfile", *options, "-t", name, ".")
        built.append(name)
        return name

    yield image
    for name in built:
        docker("image", "rm", "--force", name, check=False)


@pytest.fixture(scope="session")
def image(build: Callable[[str], str]) -> str:
    return build("serve")


@pytest.fixture(scope="session")
def ask() -> Callable[..., tuple[int, Any]]:
    """Sends a request and gives (status, decoded JSON or text); a dict is sent as JSON, bytes as a PNG."""

    def send(url: str, body: Any = None, timeout: float = 30) -> tuple[int, Any]:
        kind = "image/png" if isinstance(body, bytes) else "application/json"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": kind} if data else {})
        try:
            with HTTP.open(request, timeout=timeout) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except json.JSONDecodeError:
            return status, text

    return send


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """Asks `probe` until `is_right` takes its answer, and gives that; fails with the last answer."""

    def wait(
        probe: Callable[[], Any], is_right: Callable[[Any], bool] = bool, what: str = "", seconds: float = 120
    ) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = probe()
            except OSError as error:
                # Nobody listens there yet, or no longer.
                answer = error
            if not isinstance(answer, OSError) and is_right(answer):
                return answer
            if time.monotonic() > deadline:
                pytest.fail(f"{what or 'the condition'} did not come within {seconds} s; last: {answer!r}")
            time.sleep(0.25)

    return wait
