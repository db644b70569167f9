import json
from pathlib import Path

import pytest

from benchmarks import sections
from benchmarks.__main__ import TEMPLATE
from benchmarks.sections import NEXT, Section

HEADING = "## A run of its own"


@pytest.fixture
def section(tmp_path: Path) -> Section:
    return Section(HEADING, tmp_path / "own.json", lambda found: f"{HEADING}\n\nfound {found['what']}")


def test_a_section_is_kept_and_takes_the_place_of_the_one_before(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "DOCUMENT", page := tmp_path / "page.md")
    page.write_text(TEMPLATE.read_text())
    section.keep({"what": "old"})
    assert json.loads(section.results.read_text()) == {"what": "old"}
    first = page.read_text()
    assert first.index("found old") < first.index(NEXT)
    section.keep({"what": "new"})
    assert page.read_text() == first.replace("found old", "found new")


def test_a_section_that_nobody_measured_leaves_the_page_as_it_is(section: Section) -> None:
    assert section.place("# Page\n\n## Measure it yourself\n") == "# Page\n\n## Measure it yourself\n"
