import pytest

from service import create_app
from tests.unit.service.fakes import FakeService, patient_settings, signature, tensor


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    """For tests that change nothing."""
    service = FakeService(create_app(patient_settings(tmp_path_factory.mktemp("models"))))
    service.app.watcher.scan()
    for model in ("linear", "model"):
        service.add(signature({"x": tensor("DT_FLOAT", -1)}), model=model)
    return service
