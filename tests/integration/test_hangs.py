"""Models that hang, clients that leave, and what becomes of everybody else. Real SavedModels, real HTTP."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from service.serving_config import RowProof, ServingConfig, write_serving_config
from tests.integration.odd_saved_models import save_endless
from tests.integration.saved_models import save_linear
from tests.integration.server import DEADLINE_SECONDS, Server, running

FOR_EVER, SECONDS, AT_ONCE = ({"instances": [rounds]} for rounds in (1e15, 4e6, 0.0))
TEN = {"instances": [10.0]}


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


def sample(server: Server, series: str) -> str | None:
    for line in server.request("/metrics").body.decode().splitlines():
        if line.startswith(series + " "):
            return line.rpartition(" ")[2]
    return None


def send(server: Server, model: str, body: object) -> socket.socket:
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", server.port), DEADLINE_SECONDS)
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


def is_ready(server: Server, model: str) -> bool:
    return server.request(f"/v2/models/{model}/ready").status == 200


def test_a_version_that_hangs_is_cut_off_and_then_left_alone_and_nobody_else_notices(
    models: Path, tmp_path: Path
) -> None:
    with running(models, tmp_path / "log", request_timeout_ms=6000, threads=8) as server:
        with ThreadPoolExecutor(40) as pool:
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
        version = 'model="{}",version="1"'
        assert sample(server, f"serving_model_healthy{{{version.format('slow')}}}") == "0.0"
        assert sample(server, f"serving_model_healthy{{{version.format('other')}}}") == "1.0"
        server.wait_until_logged("slow version 1 is unhealthy")
        assert server.log.read_text().count("slow version 1 is unhealthy") == 1
        assert predict(server, "other") == 200


def test_a_version_that_hung_and_runs_again_is_healthy_again(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", request_timeout_ms=2000, unhealthy_after=1) as server:
        assert predict(server, "slow", SECONDS) == 504
        assert predict(server, "slow") == 503
        server.wait_for(lambda: is_ready(server, "slow"), "never healthy again")
        # A busy machine may take longer than that.
        server.wait_for(lambda: predict(server, "slow") == 200, "it never answers again")
        assert sample(server, 'serving_model_healthy{model="slow",version="1"}') == "1.0"
        server.wait_until_logged("slow version 1 is healthy again")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_version_that_hangs_on_the_event_loop_costs_one_worker_and_never_does_again(
    models: Path, tmp_path: Path, workers: int
) -> None:
    with running(models, tmp_path / "log", request_timeout_ms=3000, workers=workers) as server:
        assert predict(server, "quick") == 200
        with send(server, "quick", FOR_EVER) as client, suppress(ConnectionResetError):
            assert client.recv(4096) == b""
        server.wait_until_logged("quick version 1 has held up everybody for 5 s and cannot be stopped")
        server.wait_until_logged("exited with code 1")
        server.wait_until_all_workers_answer(workers)
        # Now threads run it, and a busy machine may take longer than that.
        server.wait_for(lambda: predict(server, "quick") == 200, "it never answers again")
        # Of several workers, each finds out for itself.
        answers = [predict(server, "quick", FOR_EVER) for _ in range(10)]
        assert set(answers) == {504, 503}
        assert server.log.read_text().count("has held up everybody for 5 s") == 1
        assert predict(server, "linear", TEN) == 200


def test_what_a_client_asked_that_has_left_is_not_run(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", threads=1, request_timeout_ms=0) as server:
        # Long enough for the service to notice that the other has left, which takes a second or two.
        with send(server, "slow", SECONDS) as busy:
            server.wait_for(lambda: sample(server, "serving_connections") == "2.0", "the request never came")
            send(server, "other", AT_ONCE).close()
            server.wait_for(
                lambda: sample(server, 'serving_rejected_total{reason="client_left"}') == "1.0", "never noticed"
            )
            assert busy.recv(4096).startswith(b"HTTP/1.1 200 OK")
        assert predict(server, "linear", TEN) == 200
        assert sample(server, 'serving_batch_size_count{model="slow",version="1"}') == "1.0"
        assert sample(server, 'serving_batch_size_count{model="other",version="1"}') in (None, "0.0")
