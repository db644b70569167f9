from dataclasses import asdict, replace

import pytest

from benchmarks.soak import HEADING, Slice, grown, section

STEADY = Slice(requests=1_000, cpu_us=80.0, p99_ms=2.0, pss_mb=66.0, fds=40, threads=50)


@pytest.mark.parametrize(
    ("later", "found"),
    [
        (STEADY, []),
        (replace(STEADY, pss_mb=69.0, fds=39, threads=49), []),
        (replace(STEADY, pss_mb=69.5), ["memory"]),
        (replace(STEADY, fds=41, threads=51), ["file descriptors", "threads"]),
    ],
)
def test_what_grows_once_all_has_settled_is_named(later: Slice, found: list[str]) -> None:
    starting = replace(STEADY, threads=10, fds=20)
    assert grown([starting, starting, STEADY, STEADY, STEADY, later, replace(later, pss_mb=66.0), later]) == found


def test_the_section_says_what_grew() -> None:
    slices = [replace(STEADY, pss_mb=90.0)] * 2 + [STEADY] * 2
    about = {"machine": "a machine", "made": "2026-11-23", "minutes": 2}
    text = section({**about, "slices": [asdict(one) for one in slices]})
    assert text.startswith(f"{HEADING}\n\na machine; 2026-11-23. 2 minutes at full load")
    assert "4,000 requests, each answered as it should be. Nothing grew." in text
    assert "| PSS MB | 66.0 | 66.0 | 66.0 | 66.0 |" in text
    slices += [replace(STEADY, pss_mb=90.0)] * 2
    assert "**Grown: memory.**" in section({**about, "slices": [asdict(one) for one in slices]})
