"""A container engine, and what the containers answer."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
REGRESSION = "/v1/models/regression:predict"
TEN = {"instances": [10.0]}
# Of the regression, for TEN.
ABOUT_31 = {"predictions": [pytest.approx(31, abs=0.01)]}
# Asks this machine's own ports: never through a proxy that the environment may name.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def docker(*arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Runs `docker ...` from the repository's root and gives what it printed; a failure shows its errors."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, cwd=ROOT, env=env)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return (done.stdout + done.stderr).strip()


def ask(url: str, body: Any = None, timeout: float = 30, **headers: str) -> tuple[int, Any]:
    """Status, and decoded JSON or text. A dict is sent as JSON, bytes as a PNG."""
    kind = "image/png" if isinstance(body, bytes) else "application/json"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers | ({"Content-Type": kind} if data else {}))
    try:
        with HTTP.open(request, timeout=timeout) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except json.JSONDecodeError:
        return status, text


def wait_until(
    probe: Callable[[], Any], is_right: Callable[[Any], bool] = bool, what: str = "", seconds: float = 120
) -> Any:
    """Asks `probe` until `is_right` takes its answer, and gives that; fails with the last answer."""
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


def new_key(image: str, folder: Path) -> str:
    """A key that the image makes; the file in the folder knows it."""
    printed = docker("run", "--rm", image, "key", "--name", "alice", "--scope", "predict")
    (folder / "api-keys.toml").write_text(printed.partition("For the file:")[2])
    # The container's user is another.
    folder.chmod(0o755)
    (folder / "api-keys.toml").chmod(0o644)
    (key,) = (line for line in printed.splitlines() if line.startswith("fr_"))
    return key
