"""The reloads: one version after the other comes, is switched to by label, and goes, with broken ones beside it."""

import http.client
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks.reload import versions
from benchmarks.reload.checks import Allowed

POLL_SECONDS = 0.2
# Within this every worker process has looked twice; what was to move has moved, or it is a fault.
SETTLE_SECONDS = 2 * POLL_SECONDS + 0.4
PATIENCE_SECONDS = 60

# Its labels say who answers requests that name no version.
LABELLED = "labelled"
# No labels: the highest version that is AVAILABLE answers them.
NEWEST = "newest"
SHARE = 0.2
BROKEN = (versions.GRAPH, versions.TWIN)


class Clients(Protocol):
    def ask(self, route: str) -> None: ...

    def drop(self, route: str) -> None:
        """When it returns, nobody asks it any more."""


class Changes:
    def __init__(self, port: int, models: Path, made: Path, clients: Clients) -> None:
        """`made`: where versions lie that are ready to be copied."""
        self.allowed = Allowed()
        self.counts: Counter[str] = Counter()
        self._port, self._models, self._made, self._clients = port, models, made, clients
        self._stable = self._canary = 1

    def begin(self) -> None:
        for route in (route_of(NEWEST), route_of(LABELLED, label="stable"), route_of(LABELLED, label="canary")):
            self._allow(route, {1})
            self._clients.ask(route)
        self._allow(route_of(LABELLED), {1})
        self._clients.ask(route_of(LABELLED))
        self._ask_version(1)

    def step(self, number: int) -> None:
        """`number` takes over from the version before it."""
        self._add(number)
        self._ask_version(number)
        self._move(canary=number)
        broken = self._models / LABELLED / str(90 + number)
        versions.publish_broken(self._made / str(number), broken, BROKEN[number % len(BROKEN)])
        self.counts["broken"] += 1
        # A label that is moved to what cannot be loaded stays where it is.
        versions.label(self._models, LABELLED, stable=90 + number, canary=number, share=SHARE)
        self._wait(lambda: self._states(LABELLED).get(90 + number) == "END", f"{broken.name} is not given up")
        time.sleep(SETTLE_SECONDS)
        self._move(stable=number)
        shutil.rmtree(broken)
        self._remove(number - 1)

    def _add(self, number: int) -> None:
        source, target = self._made / str(number), self._models / LABELLED / str(number)
        self._allow(route_of(NEWEST), {number - 1, number})
        versions.publish(source, self._models / NEWEST / str(number))
        if number % 2:
            versions.publish(source, target)
        else:
            versions.publish_half(source, target)
            self._wait(lambda: self._states(LABELLED).get(number) == "END", f"half of {number} is not looked at")
            versions.complete(source, target)
            self.counts["half copied"] += 1
        for model in (LABELLED, NEWEST):
            self._wait_for_available(model, number)
        self.counts["added"] += 1
        time.sleep(SETTLE_SECONDS)
        self._allow(route_of(NEWEST), {number})

    def _move(self, *, stable: int | None = None, canary: int | None = None) -> None:
        before = (self._stable, self._canary)
        self._stable, self._canary = stable or self._stable, canary or self._canary
        self._allow_labels({before[0], self._stable}, {before[1], self._canary})
        versions.label(self._models, LABELLED, self._stable, self._canary, SHARE)
        time.sleep(SETTLE_SECONDS)
        self._allow_labels({self._stable}, {self._canary})
        self.counts["switched"] += 1

    def _remove(self, number: int) -> None:
        self._clients.drop(route_of(LABELLED, number))
        for model in (LABELLED, NEWEST):
            shutil.rmtree(self._models / model / str(number))
        for model in (LABELLED, NEWEST):
            self._wait_for_removed(model, number)
        self.counts["removed"] += 1

    def _ask_version(self, number: int) -> None:
        self._allow(route_of(LABELLED, number), {number})
        self._clients.ask(route_of(LABELLED, number))

    def _allow_labels(self, stable: set[int], canary: set[int]) -> None:
        self._allow(route_of(LABELLED, label="stable"), stable)
        self._allow(route_of(LABELLED, label="canary"), canary)
        self._allow(route_of(LABELLED), stable | canary)

    def _allow(self, route: str, numbers: set[int]) -> None:
        self.allowed.change(route, numbers, time.monotonic())

    def _wait_for_available(self, model: str, number: int) -> None:
        what = f"version {number} of {model} is not AVAILABLE"
        self._wait(lambda: self._states(model).get(number) == "AVAILABLE", what)

    def _wait_for_removed(self, model: str, number: int) -> None:
        self._wait(lambda: number not in self._states(model), f"version {number} of {model} is still there")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} after {PATIENCE_SECONDS} s")
            time.sleep(0.05)

    def _states(self, model: str) -> dict[int, str]:
        """By version, as any worker process has them."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", route_of(model))
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return {int(one["version"]): one["state"] for one in answer.get("model_version_status", [])}


def route_of(model: str, version: int | None = None, label: str = "") -> str:
    return f"/v1/models/{model}" + (f"/versions/{version}" if version else f"/labels/{label}" if label else "")
