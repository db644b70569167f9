"""What a service with several workers captures, and what comes of it when it is asked again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from service.observability.capture import decode_line, decode_tensors
from tests.integration.conftest import SHIPPED
from tests.integration.server import Server, running

REGRESSION = "/v1/models/regression:predict"
ROOT = Path(__file__).parents[2]


def asked(number: int) -> dict[str, list[float]]:
    return {"instances": [float(number)]}


def dropped(server: Server) -> float:
    page = server.request("/metrics").body.decode()
    return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith("serving_capture_dropped_total"))


def replay(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "training", "replay", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_several_workers_capture_is_whole_and_is_answered_alike_when_it_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    with running(SHIPPED, tmp_path / "log", workers=2, capture_file=file, capture_share=1.0) as server:
        for number in range(50):
            assert server.request(REGRESSION, asked(number)).status == 200
        picture = (SHIPPED / "clothing" / "2" / "assets.extra" / "sample.png").read_bytes()
        assert server.request("/v1/models/clothing:classify", picture, "image/png").status == 200
        assert dropped(server) == 0
    lines = [decode_line(line) for line in file.read_bytes().splitlines()]
    of_regression = [line for line in lines if line.model == "regression"]
    assert sorted(decode_tensors(line.inputs)["x"].item() for line in of_regression) == list(range(50))
    for against, requests in (("regression/1", 50), ("clothing/1", 1)):
        done = replay(str(file), "--against", against, "--engine", "litert", "--json")
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        assert (told["requests"], told["rows"], told["agreeing"]) == (requests, requests, requests)
        assert told["not_run"] == told["damaged"] == []
    assert told["confusion"] == {"Sneaker": {"Sneaker": 1}}


def test_a_full_disk_costs_captures_and_no_answers(tmp_path: Path) -> None:
    with running(SHIPPED, tmp_path / "log", capture_file="/dev/full", capture_share=1.0) as server:
        assert {server.request(REGRESSION, asked(1)).status for _ in range(50)} == {200}
        server.wait_for(lambda: dropped(server) == 50, "not all were dropped")
    log = server.log.read_text()
    assert log.count("/dev/full: requests are not captured: [Errno 28] No space left on device") == 1
