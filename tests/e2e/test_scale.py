"""Several replicas behind the balancer: none of their clients' requests is lost while replicas come and go."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.e2e.engine import ask_inside, docker, wait_until
from tests.e2e.stack import Stack, balancer_follows_replicas, up
from tests.integration.server import PREDICT

CLIENTS = 8


@dataclass
class Load:
    """Predictions without a pause, each of a number of its own, by clients that keep their connections.

    `problems`: of each request; empty where it was answered rightly.
    """

    port: int
    problems: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask_without_end(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            self.problems.append(self._problem(connection, number % 1000))
            number += CLIENTS
        connection.close()

    def _problem(self, connection: http.client.HTTPConnection, number: int) -> str:
        try:
            connection.request("POST", PREDICT, json.dumps({"instances": [number]}))
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        if answer.status != 200:
            return f"{answer.status} {body!r}"
        predicted = json.loads(body)["predictions"][0]
        return "" if predicted == pytest.approx(3 * number + 1, rel=1e-3) else f"{number}: {predicted}"

    def wait_for_more(self, requests: int = 100) -> None:
        already = len(self.problems)
        wait_until(lambda: len(self.problems) - already, lambda more: more >= requests, f"{requests} requests more")


@contextmanager
def loaded(stack: Stack) -> Iterator[Load]:
    """Under load from before to after; none of its requests may be lost."""
    load = Load(stack.balancer_port)
    threads = [threading.Thread(target=load.ask_without_end, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    lost = [problem for problem in load.problems if problem]
    assert not lost, f"{len(lost)} of {len(load.problems)}: {lost[:3]}"


def scale(stack: Stack, replicas: int) -> None:
    stack.compose("up", "--detach", "--wait", "--no-recreate", "--scale", f"service={replicas}", "service", "balancer")


def predictions(replica: str) -> float:
    """How many a replica has answered, by its own count."""
    page = ask_inside(replica, "/metrics")
    counts = [line for line in page.splitlines() if line.startswith('serving_requests_total{model="regression"')]
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def wait_until_all_get_requests(stack: Stack) -> None:
    before = {replica: predictions(replica) for replica in stack.replicas()}
    wait_until(
        lambda: [replica for replica in before if predictions(replica) <= before[replica]],
        lambda idle: not idle,
        "a prediction by each replica",
    )


def look_for_replicas(stack: Stack) -> None:
    """What stands for the balancer without following the replicas by itself sees them at its start."""
    if not balancer_follows_replicas():
        stack.compose("up", "--detach", "--wait", "--force-recreate", "--no-deps", "balancer")


def test_no_request_is_lost_while_replicas_come_go_and_are_killed(image: str) -> None:
    with up(image, "balancer", SERVICE_CPUS="1") as stack:
        with loaded(stack) as load:
            scale(stack, 3)
            load.wait_for_more()
        look_for_replicas(stack)
        with loaded(stack) as load:
            wait_until_all_get_requests(stack)
            scale(stack, 2)
            load.wait_for_more()
            assert len(stack.replicas()) == 2
            docker("kill", stack.replicas()[0])
            load.wait_for_more()
        assert len(stack.replicas()) == 1
