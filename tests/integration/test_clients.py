"""Real clients of other projects, through gunicorn. Their packages conflict with each other's and ours, so their cases
(clients/*_cases.py) run in a virtual environment of their own: `make .venv/clients/installed`."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.server import EAGER, ROOT, Server, running

ENVIRONMENT = ROOT / ".venv/clients"
CASES = Path(__file__).parent / "clients"
TIMEOUT_SECONDS = 300

pytestmark = pytest.mark.skipif(not (ENVIRONMENT / "installed").exists(), reason="needs `make .venv/clients/installed`")


def run_cases(name: str, server: Server) -> None:
    python, cases = ENVIRONMENT / "bin/python", CASES / f"{name}_cases.py"
    command = [str(python), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(cases)]
    environment = os.environ | {"SERVICE_ADDRESS": f"127.0.0.1:{server.port}"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nthe service's log:\n{server.log.read_text()[-4000:]}"


@pytest.mark.parametrize("client", ["triton", "triton_grpc", "kserve", "ovms"])
def test_client_works_with_the_shipped_models(client: str, server: Server) -> None:
    run_cases(client, server)


def test_tritons_client_works_with_every_datatype(tensorflow_server: Server) -> None:
    run_cases("triton_strangers", tensorflow_server)


def test_tritons_client_loads_and_unloads_where_the_operator_lets_it(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "service.log", admin=1, workers=2, poll_seconds=EAGER) as server:
        run_cases("triton_admin", server)
