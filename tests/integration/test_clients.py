"""Real clients of other projects, through gunicorn. Their packages conflict with each other's and ours, so their cases
(clients/*_cases.py) run in a virtual environment of their own: `make .venv/clients/installed`."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests.integration.saved_models import save_identity
from tests.integration.server import SHIPPED, Server, running

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv/clients"
CASES = Path(__file__).parent / "clients"
DTYPES = (tf.bool, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64)
FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
TIMEOUT_SECONDS = 300

pytestmark = pytest.mark.skipif(not (ENVIRONMENT / "installed").exists(), reason="needs `make .venv/clients/installed`")


@pytest.fixture(scope="module", params=["litert", "tensorflow"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The shipped models by two worker processes, once with each engine."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with running(SHIPPED, log, engine=request.param, workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def datatypes(strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The strangers' models, and for each datatype one that gives back what it gets."""
    models = tmp_path_factory.mktemp("models")
    for model in strangers.iterdir():
        (models / model.name).symlink_to(model)
    for dtype in (*DTYPES, *FLOATS):
        save_identity(models / f"identity_{dtype.name}" / "1", dtype, [None, 2])
    with running(models, tmp_path_factory.mktemp("log") / "service.log") as server:
        yield server


def run_cases(name: str, server: Server) -> None:
    python, cases = ENVIRONMENT / "bin/python", CASES / f"{name}_cases.py"
    command = [str(python), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"SERVICE_ADDRESS": f"127.0.0.1:{server.port}"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nthe service's log:\n{server.log.read_text()[-4000:]}"


@pytest.mark.parametrize("client", ["triton", "kserve", "ovms"])
def test_the_client_works_with_the_shipped_models(client: str, shipped: Server) -> None:
    run_cases(client, shipped)


def test_triton_s_client_works_with_every_datatype(datatypes: Server) -> None:
    run_cases("triton_strangers", datatypes)


def test_triton_s_client_loads_and_unloads_where_the_operator_lets_it(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "service.log", admin=1, workers=2) as server:
        run_cases("triton_admin", server)
