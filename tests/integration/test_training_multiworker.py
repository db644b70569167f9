"""Two processes of this machine fit together, by tests/integration/shared_fit.py; one of them is killed on the way."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from tests.integration import shared_fit
from tests.integration.server import ROOT, free_port
from training.fit import strategy


def pair(folder: Path, *killed_at: str) -> "list[subprocess.CompletedProcess[str]]":
    """The chief and the other, which kills itself if one does."""
    cluster = {"worker": [f"localhost:{free_port()}" for _ in range(2)]}

    def run(index: int) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tests.integration.shared_fit", str(folder), *(killed_at if index else ())]
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = os.environ | {"TF_CONFIG": config}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


def test_killed_worker_ends_the_other_and_restarted_both_end_as_one_that_nothing_interrupts(tmp_path: Path) -> None:
    together = tmp_path / "together"
    chief, killed = pair(together, "5")
    assert (chief.returncode, killed.returncode) == (1, -signal.SIGKILL)
    assert "the other workers are out of reach; start all of them again, and they go on" in chief.stderr
    with np.load(together / "state.npz") as state:
        assert json.loads(str(state["arr_0"]))["epoch"] == 1

    resumed = pair(together)
    assert [each.returncode for each in resumed] == [0, 0], resumed
    one, other = (json.loads(each.stdout.splitlines()[-1]) for each in resumed)
    assert (one.pop("chief"), other.pop("chief")) == (True, False)
    assert one == other

    alone = shared_fit.fit(strategy.ALONE, tmp_path / "alone")
    for name in ("accuracy", "val_accuracy"):
        assert one["history"][name] == pytest.approx(alone["history"][name], abs=1e-6)
    for found, expected in zip(one["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert alone["history"]["val_accuracy"][-1] > 0.6, "it learned nothing, so the comparison says nothing"
