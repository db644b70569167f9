from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service import create_app
from service.inference.infer import Inference
from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics
from tests.unit.service.fakes import FakeService, patient_settings

MakeService = Callable[..., FakeService]


@pytest.fixture(params=["flask", "server"])
def make_service(tmp_path: Path, request: pytest.FixtureRequest) -> MakeService:
    """Makes a service with these settings; it has looked at its empty models folder. Every test that asks it asks
    twice: by Flask's routes, and through the server with its short road."""

    def make(**settings: Any) -> FakeService:
        service = FakeService(create_app(patient_settings(tmp_path, **settings)), by_flask=request.param == "flask")
        service.app.extensions["watcher"].scan()
        return service

    return make


@pytest.fixture
def page() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def inference(page: CollectorRegistry) -> Inference:
    return Inference(Registry(), Metrics(page))


@pytest.fixture
def service(make_service: MakeService) -> FakeService:
    return make_service()
