"""The log of a service that runs: its lines, and what happens when nobody can write or read them."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration.conftest import SHIPPED
from tests.integration.server import Server, running

REGRESSION = "/v1/models/regression:predict"
TEN = {"instances": [10.0]}


def request_lines(server: Server) -> list[dict[str, Any]]:
    # The last one may still be being written; and LiteRT has a line of its own, which is no JSON.
    whole = server.log.read_text().rpartition("\n")[0].splitlines()
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in lines if line["logger"] == "service.requests"]


def dropped(server: Server) -> float:
    page = server.request("/metrics").body.decode()
    return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith("serving_log_dropped_total"))


def test_every_request_of_every_worker_has_its_line_and_its_answer_the_same_id(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log", workers=2, log_format="json") as server:
        ids = {server.request(REGRESSION, TEN).headers["x-request-id"] for _ in range(50)}
        server.wait_for(lambda: len(request_lines(server)) >= 50, "lines are missing")
        lines = request_lines(server)
        assert {line["request_id"] for line in lines} == ids
        assert {(line["model"], line["status"], line["batch_size"]) for line in lines} == {("regression", 200, 1)}
        for line in lines:
            stages = sum(line[f"{stage}_ms"] for stage in ("decode", "queue", "inference", "encode"))
            assert 0 < stages <= line["total_ms"]


def test_the_last_lines_before_the_end_are_written(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log", log_format="json") as server:
        server.request(REGRESSION, TEN)
    assert len(request_lines(server)) == 1


def test_a_full_disk_costs_lines_and_no_answers(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full, running(SHIPPED, tmp_path / "log", full.fileno()) as server:
        assert {server.request(REGRESSION, TEN).status for _ in range(50)} == {200}
        server.wait_for(lambda: dropped(server) >= 50, "nothing is dropped")


def test_a_reader_that_has_stopped_holds_no_request_up(tmp_path: Path) -> None:
    """The log is a pipe, as under Docker, and full."""
    read_end, write_end = os.pipe()
    try:
        with running(SHIPPED, tmp_path / "log", write_end) as server:
            fill(write_end)
            # Each waits at most a minute for its answer.
            assert {server.request(REGRESSION, TEN).status for _ in range(200)} == {200}
    finally:
        os.close(read_end)
        os.close(write_end)


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)
