"""The soak's odd requests come to what they should; else ten minutes of them would say nothing."""

from pathlib import Path

import pytest

from benchmarks import bodies, first_models
from benchmarks.odd_requests import OddRequests
from tests.integration.server import Server, running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    first_models.copy(tmp_path / "models")
    return tmp_path / "models"


def odd_requests(server: Server, models: Path, folder: Path) -> OddRequests:
    made = bodies.make({"png-1", "v2_binary-1"}, folder)
    return OddRequests(server.port, models, made["png-1"], made["v2_binary-1"])


def test_each_kind_comes_to_what_it_should_and_the_version_that_came_has_gone(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log") as server:
        odd = odd_requests(server, models, tmp_path)
        first = odd.send(0)
        assert odd.send(0) == first > 20
        assert [path.name for path in (models / "regression").iterdir()] == ["1"]


def test_what_comes_to_something_else_is_named(models: Path, tmp_path: Path) -> None:
    expected = pytest.raises(RuntimeError, match="POST /v1/models/clothing:classify: 413 instead of 200")
    with running(models, tmp_path / "log", max_body_bytes=100) as server, expected:
        odd_requests(server, models, tmp_path).send(0)
