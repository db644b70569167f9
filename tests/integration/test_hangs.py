"""Models that hang, and what becomes of everybody else."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from service.serving_config import RowProof, ServingConfig, write_serving_config
from tests.integration.saved_models import save_endless, save_linear
from tests.integration.server import DEADLINE_SECONDS, TEN, Server, at_start_of_python, running

FOR_EVER, SECONDS, AT_ONCE = ({"instances": [rounds]} for rounds in (1e15, 6e6, 0.0))

# A second instead of five until a worker gives up.
IMPATIENT = """
from service.inference import loop_watchdog
loop_watchdog.POLL_SECONDS /= 5
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`quick` is quick when it is warmed up, so that the event loop runs it; `slow` and `other` are run by threads."""
    folder = tmp_path_factory.mktemp("models")
    save_endless(folder / "quick" / "1")
    # So that it is timed. It is never run with others here.
    proof = RowProof(signatures=("serving_default",), rows_tried=1, largest_difference=0.0, tolerance=0.0)
    write_serving_config(folder / "quick" / "1", ServingConfig(example=AT_ONCE, independent_rows=proof))
    for name in ("slow", "other"):
        save_endless(folder / name / "1", least_rounds=10_000)
    save_linear(folder / "linear" / "1")
    return folder


def predict(server: Server, model: str, body: object = AT_ONCE) -> int:
    return server.request(f"/v1/models/{model}:predict", body).status


def is_ready(server: Server, model: str) -> bool:
    return server.request(f"/v2/models/{model}/ready").status == 200


def healthy(server: Server, model: str) -> float:
    return server.sample(f'serving_model_healthy{{model="{model}",version="1"}}')


def test_version_that_hangs_is_left_alone_until_it_runs_again_and_nobody_else_notices(
    models: Path, tmp_path: Path
) -> None:
    settings = {"request_timeout_ms": 3000, "unhealthy_after": 1, "threads": 8, "shutdown_seconds": 1}
    with running(models, tmp_path / "log", **settings) as server, ThreadPoolExecutor(40) as pool:
        assert predict(server, "slow", SECONDS) == 504
        assert predict(server, "slow") == 503
        server.wait_for(lambda: is_ready(server, "slow"), "never healthy again")
        # A busy machine may take longer than that.
        server.wait_for(lambda: predict(server, "slow") == 200, "it never answers again")
        assert healthy(server, "slow") == 1
        server.wait_until_logged("slow version 1 is healthy again")

        hanging = [pool.submit(predict, server, "slow", FOR_EVER) for _ in range(30)]
        others = [pool.submit(predict, server, "other") for _ in range(4)]
        assert [answer.result() for answer in others] == [200] * 4
        assert predict(server, "linear", TEN) == 200
        assert {answer.result() for answer in hanging} <= {504, 503}
        server.wait_for(lambda: predict(server, "slow") == 503, "it is never left alone")
        refused = server.request("/v1/models/slow:predict", AT_ONCE)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.json() == {
            "error": "slow version 1 is unhealthy: its runs do not end; it gets requests again once they have ended"
        }
        assert [is_ready(server, model) for model in ("slow", "other", "linear")] == [False, True, True]
        assert server.request("/v2/health/ready").status == 200
        assert (healthy(server, "slow"), healthy(server, "other")) == (0, 1)
        server.wait_for(lambda: server.log.read_text().count("slow version 1 is unhealthy") == 2, "it is not logged")
        assert predict(server, "other") == 200


def test_version_that_hangs_on_the_event_loop_costs_one_worker_once(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start_of_python(IMPATIENT, tmp_path, monkeypatch)
    settings = {"request_timeout_ms": 1000, "unhealthy_after": 1, "workers": 2, "shutdown_seconds": 1}
    with running(models, tmp_path / "log", **settings) as server:
        assert predict(server, "quick") == 200
        body = json.dumps(FOR_EVER).encode()
        head = f"POST /v1/models/quick:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS) as client:
            client.sendall(head.encode() + body)
            with suppress(ConnectionResetError):
                assert client.recv(4096) == b""
        server.wait_until_logged("quick version 1 has held up everybody for 1 s and cannot be stopped")
        server.wait_until_logged("exited with code 1")
        server.wait_until_all_workers_answer(2)
        # Now threads run it, and a busy machine may take longer than that.
        server.wait_for(lambda: predict(server, "quick") == 200, "it never answers again")
        # Each worker finds out for itself.
        assert {predict(server, "quick", FOR_EVER) for _ in range(5)} <= {504, 503}
        assert server.log.read_text().count("and cannot be stopped") == 1
        assert predict(server, "linear", TEN) == 200
