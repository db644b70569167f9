"""The pages, as far as no browser is needed."""

import re
from pathlib import Path

import pytest

from service.api.pages import STATIC, TEMPLATES
from tests.unit.service.fakes import FakeService

OURS = [path for path in STATIC.rglob("*") if path.is_file() and "vendor" not in path.parts]


def test_the_page_is_html_that_names_what_it_is_made_of(service: FakeService) -> None:
    answer = service.get("/")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert service.get(path).status_code == 200, path


@pytest.mark.parametrize(
    ("file", "mimetype"),
    [("main.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")],
)
def test_each_part_has_its_type_and_is_asked_for_again_after_a_release(
    service: FakeService, file: str, mimetype: str
) -> None:
    answer = service.get(f"/static/{file}")
    assert (answer.mimetype, answer.headers["Cache-Control"]) == (mimetype, "no-cache, max-age=0")
    assert answer.headers["ETag"]


@pytest.mark.parametrize("file", ["nothing.js", "../settings.py", "..%2Fsettings.py", "%2Fetc%2Fpasswd"])
def test_nothing_but_the_parts_is_handed_out(service: FakeService, file: str) -> None:
    assert service.get(f"/static/{file}").status_code == 404


@pytest.mark.parametrize("path", [*OURS, *TEMPLATES.iterdir()], ids=lambda path: path.name)
def test_no_part_of_ours_names_another_host(path: Path) -> None:
    named = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
    assert named <= {"www.w3.org"}  # the name of SVG, which nobody asks for


def test_what_is_not_ours_lies_with_version_and_licence() -> None:
    for folder in (STATIC / "vendor").iterdir():
        assert re.fullmatch(r"[a-z-]+-\d+\.\d+\.\d+", folder.name)
        assert (folder / "LICENSE").is_file()
