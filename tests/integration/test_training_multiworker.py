"""Two processes of this machine fit together, by tests/integration/shared_fit.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import numpy as np

ROOT = Path(__file__).parents[2]
SECONDS = 600  # until a process that hangs is ended


@contextmanager
def fit(strategy: str, folder: Path, config: str | None, killed_at: int | None = None) -> Iterator[Any]:
    """The process; ended with the block, whatever happens in it."""
    arguments = [strategy, str(folder), *([] if killed_at is None else [str(killed_at)])]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    if config is not None:
        environment["TF_CONFIG"] = config
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.shared_fit", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pair(folder: Path, killed_at: int | None = None) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of the chief and of the other, who kills itself if anyone does."""
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            listening = stack.enter_context(socket.socket())
            listening.bind(("localhost", 0))
            ports.append(listening.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                fit(
                    "multiworker",
                    folder,
                    json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
                    killed_at if index else None,
                )
            )
            for index in range(2)
        ]
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def result(output: str) -> Any:
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with fit("one", tmp_path_factory.mktemp("alone"), None) as process:
        output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return result(output)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    ended = pair(tmp_path_factory.mktemp("together"))
    assert [code for code, _, _ in ended] == [0, 0], ended
    return [result(output) for _, output, _ in ended]


def test_two_workers_end_at_the_accuracy_of_one(alone: Any, together: list[Any]) -> None:
    for name in ("accuracy", "val_accuracy"):
        assert together[0]["history"][name] == pytest.approx(alone["history"][name], abs=1e-6)
    assert alone["history"]["val_accuracy"][-1] > 0.6, "it learned nothing, so the comparison says nothing"


def test_two_workers_end_at_the_weights_of_one(alone: Any, together: list[Any]) -> None:
    for found, expected in zip(together[0]["weights"], alone["weights"], strict=True):
        assert np.allclose(found, expected, atol=1e-5)


def test_both_workers_hold_the_same_model(together: list[Any]) -> None:
    chief, other = together
    assert (chief["chief"], other["chief"]) == (True, False)
    assert chief["weights"] == other["weights"]
    assert chief["history"] == other["history"]


def test_after_one_is_killed_all_go_on_where_they_were(tmp_path: Path, together: list[Any]) -> None:
    (code, _, errors), (killed, _, _) = pair(tmp_path, killed_at=5)
    assert killed == -signal.SIGKILL
    assert code == 1
    assert "the other workers are out of reach; start all of them again, and they go on" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    ended = pair(tmp_path)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert [result(output) for _, output, _ in ended] == together


def test_without_tf_config_nothing_is_fitted(tmp_path: Path) -> None:
    with fit("multiworker", tmp_path, None) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "--strategy multiworker needs TF_CONFIG, expected like" in errors
    assert not list(tmp_path.iterdir())
