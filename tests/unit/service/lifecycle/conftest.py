from pathlib import Path

import pytest

from service.runtime.shared_memory import SharedMemory
from tests.unit.service.lifecycle.worker import Worker


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory()


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "models")
