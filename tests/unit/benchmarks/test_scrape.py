from dataclasses import asdict, replace

import pytest

from benchmarks.scrape import HEADING, Cost, section

QUICK = Cost(workers=4, lines=8_304, packed_bytes=41_500, first_ms=50.0, asked_ms=[16.0, 17.0, 60.0], idle_ms=[9.0])


@pytest.mark.parametrize(
    ("cost", "word"),
    [
        (QUICK, "reached."),
        (replace(QUICK, asked_ms=[16.0, 21.0, 60.0]), "**missed**."),
        (replace(QUICK, idle_ms=[20.0]), "**missed**."),
    ],
)
def test_the_section_says_how_long_a_scrape_takes_and_whether_that_is_short_enough(cost: Cost, word: str) -> None:
    text = section({"machine": "a machine", "made": "2026-11-23", "costs": [asdict(QUICK), asdict(cost)]})
    assert text.startswith(f"{HEADING}\n\na machine; 2026-11-23. Written by `python -m benchmarks.scrape`: 100 small")
    assert "8,304 lines, 41.5 KB packed." in text
    assert f"Wanted are medians under 20 ms: {word}" in text
    assert "| 4 | 17.0 | 60.0 | 9.00 | 9.00 | 50.0 |" in text
