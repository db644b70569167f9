"""Memory is given back: versions are loaded and unloaded one after the other."""

import gc
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

from service import create_app
from service.lifecycle.registry import Registry
from service.lifecycle.watcher import Watcher
from service.settings import EngineChoice, Settings
from tests.integration.server import SHIPPED

# Each of the last 15 versions takes more than a megabyte, by either engine.
MAX_GROWTH_BYTES = 7 * 2**20


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_unloaded_versions_leave_no_memory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineChoice
) -> None:
    # What is taken away goes at the next look.
    monkeypatch.setattr("service.lifecycle.succession.MIN_ABSENT_SECONDS", 0)
    app = create_app(Settings(models=str(tmp_path), engine=engine))
    watcher: Watcher = app.watcher
    registry: Registry = app.registry
    watcher.scan()
    # As a worker process does after its first scan; and what other tests left need not be gone through each time.
    gc.freeze()
    sizes = []
    for number in range(1, 26):
        version = tmp_path / "clothing" / str(number)
        shutil.copytree(SHIPPED / "clothing" / "1", version)
        watcher.scan()
        watcher.scan()
        loaded = registry.get("clothing")
        for rows in (1, 3, 8):
            ((name, spec),) = loaded.engine.signatures["serving_default"].inputs.items()
            loaded.engine.run("serving_default", {name: np.zeros((rows, *(spec.shape or ())[1:]), np.float32)})
        del loaded
        shutil.rmtree(version)
        watcher.scan()
        assert not registry.statuses()
        sizes.append(psutil.Process().memory_info().rss)
    gc.unfreeze()
    assert sizes[-1] - sizes[9] < MAX_GROWTH_BYTES, sizes
