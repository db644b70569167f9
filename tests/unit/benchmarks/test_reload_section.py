from typing import Any

import pytest

from benchmarks.reload.__main__ import _seconds
from benchmarks.reload.section import HEADING, write

RESULTS: dict[str, Any] = {
    "machine": "a machine",
    "made": "2026-11-22",
    "seconds": 60,
    "steps": 5,
    "workers": 2,
    "connections": 16,
    "requests_per_second": 400,
    "changes": {"added": 5, "removed": 5},
    "checked": 48_000,
    "faults": 1,
    "phases": {
        "without": {"answers": 24_000, "failed": 0, "misrouted": 0, "p50_ms": 0.5, "p99_ms": 1.0, "p999_ms": 4.0},
        "with": {"answers": 24_000, "failed": 1, "misrouted": 0, "p50_ms": 0.55, "p99_ms": 2.0, "p999_ms": 5.0},
    },
}


def test_the_tables_rows_stand_beside_each_other_with_their_ratios() -> None:
    lines = write(RESULTS).splitlines()
    assert lines[0] == HEADING
    assert lines[-3:] == [
        "| without reloads | 24,000 | 0 | 0 | 0.500 | 1.00 | 4.00 |",
        "| with reloads | 24,000 | 1 | 0 | 0.550 | 2.00 | 5.00 |",
        "| with ÷ without | | | | 1.10 | 2.00 | 1.25 |",
    ]
    assert "Versions: 5 added, 5 removed." in lines[2]
    assert "48,000 were checked, 1 failed" in lines[4]


@pytest.mark.parametrize("text", ["4", "-1", "ten"])
def test_seconds_that_are_too_few_are_refused(text: str) -> None:
    with pytest.raises(Exception, match="expected a whole number, at least 5"):
        _seconds(text)
