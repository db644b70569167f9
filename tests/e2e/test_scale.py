"""Several replicas behind the balancer: none of their clients' requests is lost while replicas come and go."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.e2e.engine import REGRESSION, docker, wait_until
from tests.e2e.stack import Stack, balancer_follows_replicas, up

CLIENTS = 8

METRICS = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 8501)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[Stack]:
    with up(image, "balancer", settings={"SERVICE_CPUS": "1"}) as stack:
        yield stack


@dataclass
class Load:
    """Predictions without a pause, each of a number of its own, by clients that keep their connections."""

    address: str
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_without_end(self, first: int) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        number = first
        while not self._stop.is_set():
            number += CLIENTS
            problem = self._problem(connection, number % 1000)
            with self._lock:
                self.answered += 1
                self.lost += [problem] if problem else []
        connection.close()

    def _problem(self, connection: http.client.HTTPConnection, number: int) -> str | None:
        try:
            connection.request("POST", REGRESSION, json.dumps({"instances": [number]}))
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        if answer.status != 200:
            return f"{answer.status} {body!r}"
        predicted = json.loads(body)["predictions"][0]
        return None if predicted == pytest.approx(3 * number + 1, rel=1e-3) else f"{number}: {predicted}"

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def loaded(stack: Stack) -> Iterator[Load]:
    """Under load from before to after; none of its requests may be lost."""
    load = Load(stack.address)
    threads = [threading.Thread(target=load.ask_without_end, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join()
    assert not load.lost, f"{len(load.lost)} of {load.answered}: {load.lost[:3]}"


def scale(stack: Stack, replicas: int) -> None:
    stack.compose("up", "--detach", "--wait", "--no-recreate", "--scale", f"service={replicas}", "service", "balancer")


def predictions(replica: str) -> float:
    """How many a replica has answered, by its own count."""
    page = docker("exec", replica, "python", "-c", METRICS)
    counts = [line for line in page.splitlines() if line.startswith('serving_requests_total{model="regression"')]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def wait_until_all_get_requests(stack: Stack) -> None:
    before = {replica: predictions(replica) for replica in stack.replicas()}
    wait_until(
        lambda: [replica for replica in before if predictions(replica) <= before[replica]],
        lambda idle: not idle,
        "a prediction by each replica",
    )


def wait_for_more(load: Load, requests: int = 100) -> None:
    already = load.answered
    wait_until(lambda: load.answered - already, lambda more: more >= requests, f"{requests} requests more")


def look_for_replicas(stack: Stack) -> None:
    """What stands for the balancer without following the replicas by itself sees them at its start."""
    if not balancer_follows_replicas():
        stack.compose("up", "--detach", "--wait", "--force-recreate", "--no-deps", "balancer")
        vars(stack).pop("address", None)  # its port is another now


def test_replicas_that_come_are_asked_and_those_that_go_lose_no_request(stack: Stack) -> None:
    with loaded(stack) as load:
        scale(stack, 3)
        wait_for_more(load)
    look_for_replicas(stack)
    with loaded(stack) as load:
        wait_until_all_get_requests(stack)
        scale(stack, 1)
        wait_for_more(load)
    assert len(stack.replicas()) == 1


def test_replica_killed_under_load_loses_no_request(stack: Stack) -> None:
    scale(stack, 3)
    look_for_replicas(stack)
    with loaded(stack) as load:
        wait_until_all_get_requests(stack)
        docker("kill", stack.replicas()[0])
        wait_for_more(load)
    assert len(stack.replicas()) == 2
