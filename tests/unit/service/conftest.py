from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import create_app
from service.settings import Settings
from tests.unit.service.fakes import FakeService

MakeService = Callable[..., FakeService]


@pytest.fixture
def make_service(tmp_path: Path) -> MakeService:
    """Makes a service with these settings; it has looked at its empty models folder."""

    def make(**settings: Any) -> FakeService:
        service = FakeService(create_app(Settings(models=tmp_path, **settings)))
        service.app.extensions["watcher"].scan()
        return service

    return make


@pytest.fixture
def service(make_service: MakeService) -> FakeService:
    return make_service()
