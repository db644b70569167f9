"""Two processes of this machine fit together, by tests/integration/shared_fit.py; one of them is killed on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

import numpy as np

from tests.integration import shared_fit
from training.errors import ConfigError
from training.fit import strategy

ROOT = Path(__file__).parents[2]
SECONDS = 600  # until a process that hangs is ended
KILLED_AT = 5  # step of the second epoch


def pair(folder: Path, killed_at: int | None = None) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of the chief and of the other, which kills itself if one does."""
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            listening = stack.enter_context(socket.socket())
            listening.bind(("localhost", 0))
            ports.append(listening.getsockname()[1])
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    with ExitStack() as stack:
        processes = []
        for index in range(2):
            command = [sys.executable, "-m", "tests.integration.shared_fit", str(folder)]
            config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
            process = subprocess.Popen(
                command + ([str(killed_at)] if index and killed_at is not None else []),
                cwd=ROOT,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "TF_CONFIG": config},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        outputs = [process.communicate(timeout=SECONDS) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backups of both runs."""
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def killed(folder: Path) -> list[tuple[int, str, str]]:
    return pair(folder, killed_at=KILLED_AT)


@pytest.fixture(scope="module")
def resumed(folder: Path, killed: object) -> list[Any]:
    """The outcome of both workers when they are started again."""
    ended = pair(folder)
    assert [code for code, _, _ in ended] == [0, 0], ended
    return [json.loads(output.splitlines()[-1]) for _, output, _ in ended]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One worker, which nothing interrupts."""
    return shared_fit.fit(strategy.ALONE, tmp_path_factory.mktemp("alone"))


def test_killed_worker_ends_the_other_with_an_error(killed: list[tuple[int, str, str]], folder: Path) -> None:
    (code, _, errors), (killed_code, _, _) = killed
    assert killed_code == -signal.SIGKILL
    assert code == 1
    assert "the other workers are out of reach; start all of them again, and they go on" in errors
    assert [path.name for path in folder.iterdir()] == ["state.npz"]
    with np.load(folder / "state.npz") as state:
        assert json.loads(str(state["arr_0"]))["epoch"] == 1


def test_resumed_workers_end_as_one_that_nothing_interrupts(resumed: list[Any], alone: Any) -> None:
    for name in ("accuracy", "val_accuracy"):
        assert resumed[0]["history"][name] == pytest.approx(alone["history"][name], abs=1e-6)
    for found, expected in zip(resumed[0]["weights"], alone["weights"], strict=True):
        assert np.allclose(found, expected, atol=1e-5)
    assert alone["history"]["val_accuracy"][-1] > 0.6, "it learned nothing, so the comparison says nothing"


def test_both_workers_hold_the_same_model(resumed: list[Any]) -> None:
    chief, other = resumed
    assert (chief["chief"], other["chief"]) == (True, False)
    assert chief["weights"] == other["weights"]
    assert chief["history"] == other["history"]


def test_without_tf_config_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="--strategy multiworker needs TF_CONFIG, expected like"):
        strategy.start("multiworker")
