"""Several replicas behind the balancer: none of their clients' requests is lost while replicas come and go."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.e2e.stack import Ask, Docker, Stack, balancer_follows_replicas, up

WaitUntil = Callable[..., object]
CLIENTS = 8

METRICS = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 8501)
connection.request("GET", "/metrics")
print(connection.getresponse().read().decode())
"""


@pytest.fixture(scope="module")
def stack(docker: Docker, image: str, ask: Ask) -> Iterator[Stack]:
    with up(docker, image, ask, "balancer", SERVICE_CPUS="1") as stack:
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
            connection.request("POST", "/v1/models/regression:predict", json.dumps({"instances": [number]}))
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


def predictions(stack: Stack, replica: str) -> float:
    """How many a replica has answered, by its own count."""
    page = stack.docker("exec", replica, "python", "-c", METRICS)
    counts = [line for line in page.splitlines() if line.startswith('serving_requests_total{model="regression"')]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def wait_until_all_are_asked(stack: Stack, wait_until: WaitUntil) -> None:
    before = {replica: predictions(stack, replica) for replica in stack.replicas()}
    wait_until(
        lambda: [replica for replica in before if predictions(stack, replica) <= before[replica]],
        lambda idle: not idle,
        "a prediction by each replica",
    )


def wait_for_more(load: Load, wait_until: WaitUntil, requests: int = 100) -> None:
    already = load.answered
    wait_until(lambda: load.answered - already, lambda more: more >= requests, f"{requests} requests more")


def look_for_replicas(stack: Stack) -> None:
    """What stands for the balancer without following the replicas by itself sees them at its start."""
    if not balancer_follows_replicas(stack.docker):
        stack.compose("up", "--detach", "--wait", "--force-recreate", "--no-deps", "balancer")
        vars(stack).pop("address", None)  # its port is another now


def test_replicas_that_come_are_asked_and_those_that_go_lose_no_request(stack: Stack, wait_until: WaitUntil) -> None:
    with loaded(stack) as load:
        scale(stack, 3)
        wait_for_more(load, wait_until)
    look_for_replicas(stack)
    with loaded(stack) as load:
        wait_until_all_are_asked(stack, wait_until)
        scale(stack, 1)
        wait_for_more(load, wait_until)
    assert len(stack.replicas()) == 1


def test_a_replica_killed_under_load_loses_no_request(stack: Stack, docker: Docker, wait_until: WaitUntil) -> None:
    scale(stack, 3)
    look_for_replicas(stack)
    with loaded(stack) as load:
        wait_until_all_are_asked(stack, wait_until)
        docker("kill", stack.replicas()[0])
        wait_for_more(load, wait_until)
    assert len(stack.replicas()) == 2


def test_the_balancer_runs_without_any_right_that_it_does_not_need(stack: Stack) -> None:
    status = stack.compose("exec", "-T", "balancer", "cat", "/proc/1/status")
    assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
    assert "\nCapEff:\t0000000000000000\n" in status
    assert "\nNoNewPrivs:\t1\n" in status
    assert "Read-only file system" in stack.compose("exec", "-T", "balancer", "touch", "/etc/file", check=False)
