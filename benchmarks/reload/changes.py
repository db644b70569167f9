"""The reloads: one version after the other comes, is switched to by label, and goes, with broken ones beside it; and
takes another's place in every other way."""

import http.client
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from benchmarks.reload import versions
from benchmarks.reload.checks import Allowed
from benchmarks.reload.load import version_of
from benchmarks.reload.ways import FIRST_BROKEN, SEAMLESS, SYNCED, UNLOADED, WAYS, Ways

POLL_SECONDS = 0.2
# Within this every worker process has looked twice; what was to move has moved, or it is a fault.
SETTLE_SECONDS = 2 * POLL_SECONDS + 0.4
PATIENCE_SECONDS = 60
# In a row, each on a connection of its own: by any worker process.
SURE_ANSWERS = 12

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
    def __init__(self, port: int, ways: Ways, clients: Clients, waiting: Clients) -> None:
        """`waiting`: clients of their own for the model whose requests wait while one version takes the place of the
        other."""
        self.allowed = Allowed({route_of(UNLOADED)})
        self.counts: Counter[str] = Counter()
        self._port, self._ways, self._clients, self._waiting = port, ways, clients, waiting
        self._models, self._made = ways.models, ways.made
        self._stable = self._canary = 1

    def begin(self) -> None:
        for way in WAYS:
            self._allow(route_of(way), {1})
            (self._waiting if way == UNLOADED else self._clients).ask(route_of(way))
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
        broken = self._models / LABELLED / str(FIRST_BROKEN + number)
        versions.publish_broken(self._made / str(number), broken, BROKEN[number % len(BROKEN)])
        self.counts["broken"] += 1
        # A label that is moved to what cannot be loaded stays where it is.
        self._ways.write_policies(versions.labels(LABELLED, FIRST_BROKEN + number, number, SHARE))
        self._wait(lambda: self._states(LABELLED).get(FIRST_BROKEN + number) == "END", f"{broken.name} is not given up")
        time.sleep(SETTLE_SECONDS)
        self._move(stable=number)
        shutil.rmtree(broken)
        self._remove(number - 1)
        self._replace(number)

    def _replace(self, number: int) -> None:
        """In every way."""
        broken, whole = self._made / f"broken-{number}", self._made / str(number)
        for way in SEAMLESS:
            self._ways.put(way, FIRST_BROKEN + number, broken)
        for way in SEAMLESS:
            what = self._ways.number(way, FIRST_BROKEN + number)
            self._wait(partial(self._has_failed, way, what), f"version {what} of {way} is not given up")
            self.counts["failed successors"] += 1
        time.sleep(SETTLE_SECONDS)
        for way in (*SEAMLESS, UNLOADED):
            self._allow(route_of(way), {number - 1, number})
            # A broken one with a higher number would be the latest still.
            self._ways.clean(way, number - 1)
            self._ways.put(way, number, whole)
        self._end_replacing(number, *SEAMLESS, UNLOADED)
        self._allow(route_of(SYNCED), {number - 1, number})
        self._ways.sync(number)
        self._end_replacing(number, SYNCED)

    def _end_replacing(self, number: int, *ways: str) -> None:
        for way in ways:
            what = f"version {number} of {way} does not answer"
            self._wait(partial(self._is_answered_by, way, number), what)
        time.sleep(SETTLE_SECONDS)
        for way in ways:
            self._allow(route_of(way), {number})
            self._ways.clean(way, number)
            self.counts[WAYS[way]] += 1

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
        self._ways.write_policies(versions.labels(LABELLED, self._stable, self._canary, SHARE))
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
        return {int(one["version"]): one["state"] for one in self._statuses(model)}

    def _has_failed(self, model: str, version: int) -> bool:
        """Also one of the same number as what serves on."""
        statuses = {int(one["version"]): one["status"]["error_message"] for one in self._statuses(model)}
        return bool(statuses.get(version))

    def _statuses(self, model: str) -> list[dict[str, Any]]:
        _, content = self._request("GET", route_of(model))
        return json.loads(content).get("model_version_status", [])  # type: ignore[no-any-return]

    def _is_answered_by(self, model: str, number: int) -> bool:
        for _ in range(SURE_ANSWERS):
            _, content = self._request("POST", f"{route_of(model)}:predict", b'{"instances": [0.0]}')
            if version_of(content, 0.0) != number:
                return False
        return True

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def route_of(model: str, version: int | None = None, label: str = "") -> str:
    return f"/v1/models/{model}" + (f"/versions/{version}" if version else f"/labels/{label}" if label else "")
