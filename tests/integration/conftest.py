import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.models import VERSION_1, Model
from tests.integration.server import SHIPPED, Server, running

numbers = itertools.count()


@pytest.fixture(scope="module")
def unmeasured_imports() -> Iterator[None]:
    """Imports of models without the processes that measure time and memory."""
    from training.importing import summary  # with TensorFlow, which few tests need

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "cost", lambda *_: None)
        yield


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder of the test's own, with the shipped regression."""
    shutil.copytree(VERSION_1, tmp_path / "models" / "regression" / "1")
    return tmp_path / "models"


@pytest.fixture
def model(service: Server) -> Iterator[Model]:
    """A model of the test's own in the module's service, without versions."""
    model = Model(service, f"model{next(numbers)}")
    model.folder.mkdir()
    yield model
    shutil.rmtree(model.folder)
    (service.models / "models.toml").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a SavedModel of each kind, none with a twin, beside a broken one."""
    from tests.integration.saved_models import save_kinds  # with TensorFlow, which few tests need

    models = tmp_path_factory.mktemp("models")
    save_kinds(models)
    damaged = models / "damaged" / "1"
    shutil.copytree(models / "linear" / "1", damaged)
    (damaged / "saved_model.pb").write_bytes(b"\xffnot a protocol buffer")
    return models


@pytest.fixture(scope="session")
def tensorflow_server(strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The strangers' models, by the engine `tensorflow`."""
    with running(strangers, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped models."""
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server
