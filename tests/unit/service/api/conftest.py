import pytest

from service import create_app
from tests.unit.service.api.models import add_models
from tests.unit.service.fakes import FakeService, patient_settings


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    """A service with the models of `models`, for tests that change nothing."""
    settings = patient_settings(tmp_path_factory.mktemp("models"), max_image_pixels=10_000)
    service = FakeService(create_app(settings))
    service.app.watcher.scan()
    add_models(service)
    return service
