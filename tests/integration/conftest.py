import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import saved_models
from tests.integration.server import Server, running

SHIPPED = Path(__file__).parents[2] / "models"

KINDS = {
    "linear": saved_models.save_linear,
    "sum_and_difference": saved_models.save_sum_and_difference,
    "vocabulary": saved_models.save_vocabulary,
    "examples": saved_models.save_examples,
    "logarithm": saved_models.save_logarithm,
    "mean": saved_models.save_mean,
    "colour": saved_models.save_colour,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder of the test's own, with the shipped regression."""
    shutil.copytree(SHIPPED / "regression" / "1", tmp_path / "models" / "regression" / "1")
    return tmp_path / "models"


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a SavedModel of each kind, none with a twin, beside a broken one."""
    models = tmp_path_factory.mktemp("models")
    for name, save in KINDS.items():
        save(models / name / "1")
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
    """The shipped models, by two worker processes."""
    with running(SHIPPED, tmp_path_factory.mktemp("log") / "service.log", workers=2) as server:
        yield server
