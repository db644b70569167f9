from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service import create_app
from service.inference.infer import Inference
from service.metrics.definitions import Metrics
from tests.unit.service.fakes import FakeService, patient_settings

MakeService = Callable[..., FakeService]


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[MakeService]:
    """Makes a service with these settings; it has scanned its empty models folder."""
    made = []

    def make(**settings: Any) -> FakeService:
        service = FakeService(create_app(patient_settings(tmp_path, **settings)))
        service.app.watcher.scan()
        made.append(service)
        return service

    yield make
    for service in made:
        service.app.dispatcher.close()


@pytest.fixture
def page() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(page: CollectorRegistry) -> Metrics:
    return Metrics(page)


@pytest.fixture
def inference(metrics: Metrics) -> Inference:
    return Inference(metrics)


@pytest.fixture
def service(make_service: MakeService) -> FakeService:
    return make_service()
