from typing import Any

import pytest

from benchmarks.overload.section import HEADING, is_reached, write

AT_CAPACITY: dict[str, Any] = {
    "clients": 28,
    "accepted": 70.0,
    "refused": 0.0,
    "others": {},
    "p50_ms": 380.0,
    "p99_ms": 450.0,
    "refused_p99_ms": 0.0,
    "cpu_us": 14_000.0,
}
KIND: dict[str, Any] = {
    "title": "a model",
    "steps": [{**AT_CAPACITY, "clients": 14}, AT_CAPACITY],
    "capacity": AT_CAPACITY,
    "overload": {**AT_CAPACITY, "clients": 280, "accepted": 68.0, "refused": 900.0, "p99_ms": 560.0},
    "pss_mb": {"capacity": 700.0, "first half": 710.0, "second half": 712.0, "after": 705.0},
    "recovery_seconds": 0.4,
    "load_share": 0.1,
}


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({}, True),
        ({"overload": {**KIND["overload"], "p99_ms": 1400.0}}, False),
        ({"overload": {**KIND["overload"], "accepted": 60.0}}, False),
        ({"overload": {**KIND["overload"], "others": {"503": 1}}}, False),
        ({"pss_mb": {**KIND["pss_mb"], "second half": 760.0}}, False),
        ({"recovery_seconds": None}, False),
        ({"recovery_seconds": 2.1}, False),
        ({"load_share": 0.95}, False),
    ],
)
def test_every_target_counts(change: dict[str, Any], reached: bool) -> None:
    assert is_reached({**KIND, **change}) is reached


def test_the_section_has_a_table_of_loads_and_one_of_targets() -> None:
    kind = {**KIND, "overload": {**KIND["overload"], "others": {"0": 3, "503": 2}}}
    text = write({"machine": "a machine", "made": "2026-11-23", "seconds": 60, "kinds": {"slow": kind}})
    assert text.startswith(f"{HEADING}\n\na machine; 2026-11-23.")
    assert "| capacity | 28 | 70.0 | 0.00 | 380 | 450 | 0.00 | 14,000 |" in text
    assert "| overload | 280 | 68.0 | 900 | 380 | 560 | 0.00 | 14,000 |" in text
    assert "| p99 of the accepted ÷ at capacity | 1.24 | at most 3 | reached |" in text
    assert "| neither accepted nor refused | 3 lost, 2 of 503 | none | **missed** |" in text
