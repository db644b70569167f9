"""The pages, as far as no browser is needed."""

import re
from pathlib import Path

import pytest

from service.api.pages import STATIC, TEMPLATES
from tests.unit.service.fakes import FakeService

OURS = [path for path in STATIC.rglob("*") if path.is_file() and "vendor" not in path.parts]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_refers_to_files_that_exist(service: FakeService, path: str) -> None:
    response = service.get(path)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', response.text)
    assert files
    assert all(service.get(file).status_code == 200 for file in files)


def test_static_files_are_revalidated(service: FakeService) -> None:
    for file, mimetype in (("main.js", "text/javascript"), ("style.css", "text/css"), ("icon.svg", "image/svg+xml")):
        response = service.get(f"/static/{file}")
        assert (response.mimetype, response.headers["Cache-Control"]) == (mimetype, "no-cache, max-age=0")
        assert response.headers["ETag"]


def test_other_files_are_404(service: FakeService) -> None:
    for file in ("nothing.js", "../settings.py", "..%2Fsettings.py", "%2Fetc%2Fpasswd"):
        assert service.get(f"/static/{file}").status_code == 404


@pytest.mark.parametrize("path", [*OURS, *TEMPLATES.iterdir()], ids=lambda path: path.name)
def test_pages_load_nothing_from_other_hosts(path: Path) -> None:
    hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
    assert hosts <= {"www.w3.org"}  # the namespace of SVG
