import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import shipped_bodies
from benchmarks.sizing import HEADING, SECTION, BatchCost, Cost, Form, section

ROOT = Path(__file__).parents[3]


def found() -> dict[str, object]:
    costs = [Cost("small/1", {"JSON": Form(4412, 80.0), "picture": Form(401, 200.0)}, 62.9, 104.9)]
    batches = [BatchCost(1, 20_000.0, 130.0)]
    about = {"machine": "a machine", "made": "2026-11-23"}
    return {**about, "costs": list(map(asdict, costs)), "batches": list(map(asdict, batches))}


def test_the_section_says_what_fills_a_core_and_a_workers_memory() -> None:
    text = section(found())
    assert text.startswith(f"{HEADING}\n\na machine; 2026-11-23.")
    assert "| small/1 | JSON | 4.41 | 80.0 | 12,500 | 62.9 | 42.0 |" in text
    assert "| small/1 | picture | 0.401 | 200 | 5,000 |  |  |" in text
    assert "| 1 | 20,000 | 130 |" in text


def test_the_page_has_what_was_measured_last() -> None:
    page = (ROOT / "docs/operations/sizing.md").read_text()
    assert SECTION.place(page) == page


@pytest.mark.parametrize(
    ("version", "forms"),
    [
        ("regression/1", {"JSON", "v2 binary"}),
        ("clothing/2", {"picture", "JSON", "v2 binary"}),
        ("photos/1", {"picture", "v2 binary"}),
    ],
)
def test_a_version_is_asked_in_every_form_that_it_takes(version: str, forms: set[str]) -> None:
    made = shipped_bodies.encode(ROOT / "models" / version / "assets.extra")
    assert set(made) == forms
    content, headers = made["v2 binary"]
    (described,) = json.loads(content[: int(headers["Inference-Header-Content-Length"])])["inputs"]
    assert described["shape"][0] == 1
    assert len(content) - int(headers["Inference-Header-Content-Length"]) == described["parameters"]["binary_data_size"]
