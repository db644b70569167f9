import pytest

from tests.unit.service.clocks import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of batching, health and pace."""
    clock = FakeClock()
    monkeypatch.setattr("time.perf_counter", clock)
    monkeypatch.setattr("service.inference.health.perf_counter", clock)
    return clock
