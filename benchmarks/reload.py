"""Versions come and go under a steady load; every response is checked. Code 1 where one failed or was misrouted.

Version N of every model predicts 3x + N: a response tells which version made it. Versions are added, moved to by label,
broken and removed, and take each other's place in every way there is, each in a model of its own.
"""

import asyncio
import hashlib
import itertools
import json
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bodies import JSON, ROW
from benchmarks.clients import Clients, ClientsProcess, Response, http_request, percentile
from benchmarks.process import Body, Running, cores, pinned_to, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

WHOLE_SECONDS, WHOLE_STEPS = 60, 5
# A shorter step has no time left to settle in.
STEP_SECONDS = 5
WORKERS, CONNECTIONS = 2, 16
# Requests a second: a small part of what two workers can do, so that waiting has other causes than load.
RATE = 400
# Of the model whose requests wait between two versions, by clients of its own.
WAITING_RATE, WAITING_CONNECTIONS = 40, 4
MAX_SHOWN_FAULTS = 20
POLL_SECONDS = 0.2
# Within this every worker process has polled twice; what was to move has moved, or it is a fault.
SETTLE_SECONDS = 2 * POLL_SECONDS + 0.4
DEADLINE_SECONDS = 60
# Checked in a row, each on a connection of its own: by any worker process.
SURE_RESPONSES = 12
ZERO = b'{"instances": [0.0]}'
# 3x + N is read back as N: float32 holds these x to a few millionths.
MAX_X, MAX_ERROR = 50, 0.01
# Versions that cannot be loaded are numbered from here.
BROKEN = 90

SOURCE = Path("models/regression/1")
GRAPH, TWIN = Path("saved_model.pb"), Path("assets.extra/model.tflite")
# The model whose labels say which version predicts.
LABELLED = "labelled"
# Models by how one version takes another's place. REFILLED: always version 1, with new files. UNLOADED: the old one is
# unloaded first, and requests wait. SYNCED changes with the whole models folder alone, as by git-sync.
NEWEST, LATEST, LISTED, MOVED = "newest", "latest", "listed", "moved"
LINKED, RENAMED, REFILLED, UNLOADED, SYNCED = "linked", "renamed", "refilled", "unloaded", "synced"
REPLACEMENTS = {
    NEWEST: "higher numbers",
    LATEST: "latest = 1",
    LISTED: "changed lists",
    MOVED: "moved labels",
    LINKED: "models' links moved",
    RENAMED: "models' folders exchanged",
    REFILLED: "same numbers with new files",
    UNLOADED: "unloaded first",
    SYNCED: "whole folders exchanged",
}
SEAMLESS = (NEWEST, LATEST, LISTED, MOVED, LINKED, RENAMED, REFILLED)


def route_of(model: str, version: int | None = None, label: str = "") -> str:
    return f"/v1/models/{model}" + (f"/versions/{version}" if version else f"/labels/{label}" if label else "")


LABEL_ROUTES = [route_of(LABELLED), route_of(LABELLED, label="stable"), route_of(LABELLED, label="canary")]
ROUTES = [*map(route_of, REPLACEMENTS), *LABEL_ROUTES, route_of(LABELLED, 1)]


def version_of(content: bytes, x: float) -> int | None:
    """Which version predicts this; None: none does."""
    with suppress(ValueError, KeyError, IndexError, TypeError):
        offset = float(json.loads(content)["predictions"][0]) - 3.0 * x
        if abs(offset - round(offset)) < MAX_ERROR:
            return round(offset)
    return None


class SteadyClients(Clients):
    """Each request is for one of the routes at random: any connection, and so any worker process, gets all of them."""

    def __init__(self, port: int, rate: float, routes: list[str]) -> None:
        super().__init__(port, rate)
        self._routes = routes
        self._random = random.Random(1)  # noqa: S311  # nothing secret

    def add(self, route: str) -> None:
        self._routes.append(route)

    async def remove(self, route: str) -> None:
        """When it returns, no request for the route is under way."""
        self._routes.remove(route)
        while any(client.is_waiting and client.key[0] == route for client in self.clients):
            await asyncio.sleep(0.001)

    def next_request(self) -> tuple[Any, bytes]:
        route, x = self._random.choice(self._routes), float(self._random.randrange(MAX_X))
        return (route, x), http_request(f"{route}:predict", Body(json.dumps({"instances": [x]}).encode(), JSON))

    def read(self, key: Any, status: int, body: bytes) -> Any:
        """The version that predicted, or what went wrong."""
        return version_of(body, key[1]) if status == 200 else body[:300].decode(errors="replace")


class Models:
    """`folder`, a link; `made`: versions ready to be copied, and each again as `broken-N`, with half a twin."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.made = folder / "models", folder / "made"
        self._current, self._labels = dict.fromkeys(REPLACEMENTS, 1), (1, 1)
        self._drafts = itertools.count()
        for version in range(1, steps + 2):
            self._make(version, self.made / str(version))
            damaged_copy(self.made / str(version), self.made / f"broken-{version}", TWIN)
        (folder / "revision-1").mkdir()
        link(folder / "revision-1", self.folder)
        for model in (LABELLED, *REPLACEMENTS):
            publish(self.made / "1", self.folder / model / "1")
        self.folder.joinpath(LINKED).rename(target := self._draft())
        link(target, self.folder / LINKED)
        self.write_policies()

    def _make(self, number: int, version: Path) -> None:
        """The shipped regression with `number` as its bias, in the twin alone: the run serves by LiteRT."""
        shutil.copytree(SOURCE, version)
        extra = version / "assets.extra"
        bias = struct.pack("<f", json.loads((extra / "metrics.json").read_text())["bias"])
        twin = (version / TWIN).read_bytes()
        if twin.count(bias) != 1:
            raise RuntimeError(f"{SOURCE / TWIN} has the bias of metrics.json {twin.count(bias)} times, not once")
        (version / TWIN).write_bytes(twin := twin.replace(bias, struct.pack("<f", number)))
        config = json.loads((extra / "serving.json").read_text())
        config["twin"]["sha256"] = hashlib.sha256(twin).hexdigest()
        (extra / "serving.json").write_text(json.dumps(config))

    def write_policies(self, labels: tuple[int, int] | None = None) -> None:
        """`labels`: stable and canary; None: as before."""
        self._labels = stable, canary = labels or self._labels
        (draft := self.folder / ".models.toml").write_text(
            f"[models.{LABELLED}.labels]\nstable = {stable}\ncanary = {{version = {canary}, share = 0.2}}\n"
            f"[models.{LATEST}]\nversions = {{latest = 1}}\n"
            f"[models.{LISTED}]\nversions = [{self._current[LISTED]}]\n"
            f"[models.{MOVED}]\nversions = []\nlabels = {{stable = {self._current[MOVED]}}}\n"
            f"[models.{UNLOADED}]\nversions = {{latest = 1}}\nreplace = 'unload_first'\n"
        )
        draft.rename(self.folder / "models.toml")

    def put(self, model: str, version: int, source: Path) -> None:
        """A version in the place of the one that is there."""
        self._current[model] = version
        folder, new = self.folder / model, self._draft()
        if model == LINKED:
            shutil.copytree(source, new / str(version))
            link(new, folder)
        elif model == RENAMED:
            shutil.copytree(source, new / str(version))
            self._exchange(new, folder)
        elif model == REFILLED:
            shutil.copytree(source, new)
            self._exchange(new, folder / "1")
        else:
            publish(source, folder / str(version))
            self.write_policies()

    def keep_only(self, model: str, version: int) -> None:
        """Remove the versions that are not to be loaded any more."""
        if model in (NEWEST, LATEST, LISTED, MOVED, UNLOADED):
            for other in (self.folder / model).iterdir():
                if other.name != str(version):
                    shutil.rmtree(other)

    def sync(self, version: int) -> None:
        """A copy of everything, with another version of one model, in the place of the whole folder."""
        before, copy = self.folder.resolve(), self.folder.with_name(f"revision-{version}")
        shutil.copytree(self.folder, copy, symlinks=True)
        shutil.rmtree(copy / SYNCED)
        shutil.copytree(self.made / str(version), copy / SYNCED / str(version))
        link(copy, self.folder)
        shutil.rmtree(before)

    def _exchange(self, new: Path, folder: Path) -> None:
        """By two renames: for a moment it is not there."""
        folder.rename(old := self._draft())
        new.rename(folder)
        shutil.rmtree(old)

    def _draft(self) -> Path:
        """Beside the models folder, on the same file system."""
        return self.folder.with_name(f"draft-{next(self._drafts)}")


def publish(source: Path, version: Path) -> None:
    """As an export does: a copy beside, then one rename."""
    shutil.copytree(source, draft := version.with_name(f".{version.name}"))
    draft.rename(version)


def damaged_copy(source: Path, version: Path, file: Path) -> None:
    """Whole but for one file, of which it has the first half."""
    shutil.copytree(source, version, ignore=shutil.ignore_patterns(file.name))
    content = (source / file).read_bytes()
    (version / file).write_bytes(content[: len(content) // 2])


def link(target: Path, place: Path) -> None:
    """In one rename."""
    (draft := place.with_name(f".{place.name}")).symlink_to(target)
    draft.rename(place)


class Allowed:
    """Which versions may predict on a route, since when. `gaps`: routes that may answer 503 between two versions."""

    def __init__(self, *gaps: str) -> None:
        self._gaps = gaps
        self._changes: dict[str, list[tuple[float, Set[int]]]] = {}

    def now(self, route: str) -> Set[int]:
        return self._changes[route][-1][1]

    def change(self, route: str, versions: Set[int]) -> None:
        self._changes.setdefault(route, []).append((time.monotonic(), versions))

    def fault(self, response: Response) -> str:
        """Empty where the response is as it should be. A request may have been routed at any moment until its end."""
        route = response.key[0] if response.key else ""
        changes = self._changes.get(route, [])
        before = [versions for moment, versions in changes if moment <= response.sent][-1:]
        later = [versions for moment, versions in changes if response.sent < moment <= response.received]
        allowed = set[int]().union(*before, *later)
        if response.status == 503 and route in self._gaps and len(allowed) > 1:
            return ""
        if response.status != 200:
            return f"{route}: {response.status or 'no response'}: {response.value}"
        if response.value in allowed:
            return ""
        return f"{route}: version {response.value} predicted, expected {' or '.join(map(str, sorted(allowed)))}"


class Reloads:
    """`waiting`: clients of their own for the model whose requests wait between two versions."""

    def __init__(self, running: Running, models: Models, clients: ClientsProcess, waiting: ClientsProcess) -> None:
        self.allowed, self.counts = Allowed(route_of(UNLOADED)), Counter[str]()
        self._running, self._models, self._clients = running, models, clients
        for route in ROUTES:
            self.allowed.change(route, {1})
        clients.call("resize", CONNECTIONS)
        waiting.call("resize", WAITING_CONNECTIONS)

    def step(self, number: int) -> None:
        """Version `number` takes the place of the one before, everywhere."""
        self._add(number)
        self._label(number - 1, number)
        broken = self._label_broken(number)
        self._label(number, number)
        shutil.rmtree(broken)
        self._remove(number - 1)
        self._replace(number)

    def _add(self, number: int) -> None:
        """Every second one first as a copy that is under way: in its final place, with half a twin."""
        source, target, route = self._made(number), self._folder(number), route_of(LABELLED, number)
        if number % 2:
            publish(source, target)
        else:
            damaged_copy(source, target, TWIN)
            self._wait_until_failed(LABELLED, number)
            shutil.copy(source / TWIN, target / TWIN)
            self.counts["half copied"] += 1
        self._wait_until_predicted(route, number)
        self.allowed.change(route, {number})
        self._clients.call("add", route)
        self.counts["added"] += 1

    def _label(self, stable: int, canary: int) -> None:
        with self._moving(dict(zip(LABEL_ROUTES, ({stable, canary}, {stable}, {canary}), strict=True))):
            self._models.write_policies(labels=(stable, canary))
        self.counts["switched"] += 1

    def _label_broken(self, number: int) -> Path:
        """A label that is moved to what cannot be loaded stays where it is. Returns the broken version's folder."""
        folder = self._folder(BROKEN + number)
        damaged_copy(self._made(number), draft := folder.with_name(".draft"), (GRAPH, TWIN)[number % 2])
        draft.rename(folder)
        self._models.write_policies(labels=(BROKEN + number, number))
        self._wait_until_failed(LABELLED, BROKEN + number)
        time.sleep(SETTLE_SECONDS)
        self.counts["broken"] += 1
        return folder

    def _remove(self, number: int) -> None:
        self._clients.call("remove", route_of(LABELLED, number))
        shutil.rmtree(self._folder(number))
        self._wait(lambda: not self._status(LABELLED, number), f"version {number} is still there")
        self.counts["removed"] += 1

    def _replace(self, number: int) -> None:
        """In every way; first by a version that cannot be loaded, which must change nothing."""
        models = self._models
        for model in SEAMLESS:
            models.put(model, BROKEN + number, models.made / f"broken-{number}")
        for model in SEAMLESS:
            self._wait_until_failed(model, 1 if model == REFILLED else BROKEN + number)
            self.counts["failed successors"] += 1
        time.sleep(SETTLE_SECONDS)
        with self._moving({route_of(model): {number} for model in (*SEAMLESS, UNLOADED)}):
            for model in (*SEAMLESS, UNLOADED):
                # A broken one with a higher number would be the latest still.
                models.keep_only(model, number - 1)
                models.put(model, number, self._made(number))
            for model in (*SEAMLESS, UNLOADED):
                self._wait_until_predicted(route_of(model), number)
        with self._moving({route_of(SYNCED): {number}}):
            models.sync(number)
            self._wait_until_predicted(route_of(SYNCED), number)
        for model in REPLACEMENTS:
            models.keep_only(model, number)
            self.counts[REPLACEMENTS[model]] += 1

    @contextmanager
    def _moving(self, routes: dict[str, set[int]]) -> Iterator[None]:
        """Allow the versions of before and after until what is done inside has settled, then those of after alone."""
        for route, versions in routes.items():
            self.allowed.change(route, versions | self.allowed.now(route))
        yield
        time.sleep(SETTLE_SECONDS)
        for route, versions in routes.items():
            self.allowed.change(route, versions)

    def _made(self, number: int) -> Path:
        return self._models.made / str(number)

    def _folder(self, number: int) -> Path:
        return self._models.folder / LABELLED / str(number)

    def _status(self, model: str, number: int) -> dict[str, Any]:
        """As any worker process has it."""
        statuses = json.loads(self._running.request("GET", route_of(model))[1]).get("model_version_status", [])
        return next((one for one in statuses if int(one["version"]) == number), {})

    def _wait_until_failed(self, model: str, number: int) -> None:
        """Also where a version of the same number serves on."""
        self._wait(
            lambda: bool(self._status(model, number).get("status", {}).get("error_message")),
            f"version {number} of {model} is not given up",
        )

    def _wait_until_predicted(self, route: str, number: int) -> None:
        def is_predicted() -> bool:
            responses = (self._running.request("POST", f"{route}:predict", ZERO) for _ in range(SURE_RESPONSES))
            return all(version_of(content, 0.0) == number for _, content in responses)

        self._wait(is_predicted, f"version {number} does not predict on {route}")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} after {DEADLINE_SECONDS} s")
            time.sleep(0.05)


def main() -> None:
    parser = report.parser("benchmarks.reload", f"{__doc__}\nThe docs are written from {WHOLE_SECONDS} s on.")
    parser.add_argument(
        "--seconds",
        type=int,
        default=WHOLE_SECONDS,
        help=f"with reloads, and as long without, in turn (default: %(default)s); {WHOLE_STEPS} versions are added, in "
        f"a shorter run one for each {STEP_SECONDS} s",
    )
    options = parser.parse_args()
    seconds = max(STEP_SECONDS, options.seconds)
    found, faults = _measure(seconds, min(WHOLE_STEPS, seconds // STEP_SECONDS))
    report.finish("reload", found, write=seconds >= WHOLE_SECONDS and not options.dry_run)
    if faults:
        shown = [f"{count} x {fault}" for fault, count in Counter(faults).most_common(MAX_SHOWN_FAULTS)]
        sys.exit("\n".join([f"{len(faults)} requests failed or were misrouted:", *shown]))


def _measure(seconds: int, steps: int) -> tuple[dict[str, Any], list[str]]:
    """What was found, and what was wrong with each response that was. The service has two cores, the clients one."""
    both = cores()
    with tempfile.TemporaryDirectory(prefix="reload-") as name, pinned_to(both[1]), ExitStack() as stack:
        models = Models(Path(name), steps)
        flags = ("--engine", "litert", "--poll-seconds", str(POLL_SECONDS), *fitting_room.PATIENCE)
        server = fitting_room.server(*flags, models=str(models.folder), prepare=None)
        first = f"{route_of(NEWEST)}:predict"
        running = stack.enter_context(serving(server, first, ROW, both, Path(name), WORKERS))
        routes = [route for route in ROUTES if route != route_of(UNLOADED)]
        clients = stack.enter_context(ClientsProcess(SteadyClients, running.port, RATE, routes))
        waiting = stack.enter_context(ClientsProcess(SteadyClients, running.port, WAITING_RATE, [route_of(UNLOADED)]))
        reloads = Reloads(running, models, clients, waiting)
        # Connections, caches and processors warm up.
        time.sleep(1)
        phases: dict[str, list[tuple[float, float]]] = {"without reloads": [], "with reloads": []}
        for step in range(steps):
            began = time.monotonic()
            reloads.step(step + 2)
            time.sleep(max(0.0, began + seconds / steps - time.monotonic()))
            turned = time.monotonic()
            time.sleep(turned - began)
            phases["with reloads"].append((began, turned))
            phases["without reloads"].append((turned, time.monotonic()))
            print(f"{step + 1} of {steps}: version {step + 2}", file=sys.stderr, flush=True)
        responses, waited = clients.call("end"), waiting.call("end")
    faults = [fault for one in (*responses, *waited) if (fault := reloads.allowed.fault(one))]
    return {
        "seconds": seconds,
        "steps": steps,
        "workers": WORKERS,
        "connections": CONNECTIONS,
        "requests_per_second": RATE,
        "changes": dict(reloads.counts),
        "phases": {name: _figures(responses, spans, reloads.allowed) for name, spans in phases.items()},
        "checked": len(responses) + len(waited),
        "between": sum(one.status == 503 for one in waited),
        "faults": len(faults),
    }, faults


def _figures(responses: list[Response], spans: list[tuple[float, float]], allowed: Allowed) -> dict[str, float]:
    """Of the requests that were sent in these spans of time."""
    mine = [one for one in responses if any(began <= one.sent < ended for began, ended in spans)]
    failed = sum(one.status != 200 for one in mine)
    # Those that failed weigh on the percentiles as long as they took.
    times = [(one.received - one.sent) * 1e3 for one in mine]
    if len(times) < 100:
        raise RuntimeError(f"only {len(times)} responses: too few for percentiles")
    return {
        "responses": len(mine),
        "failed": failed,
        "misrouted": sum(bool(allowed.fault(one)) for one in mine) - failed,
        "p50_ms": percentile(times, 50),
        "p99_ms": percentile(times, 99),
        # Loading keeps a worker process busy for moments that a p99 of a minute may not show.
        "p999_ms": percentile(times, 99.9),
    }


def section(found: Mapping[str, Any]) -> list[str]:
    latencies, counts = ("p50_ms", "p99_ms", "p999_ms"), ("responses", "failed", "misrouted")
    quiet, reloading = found["phases"]["without reloads"], found["phases"]["with reloads"]
    changes = ", ".join(f"{many} {what}" for what, many in found["changes"].items())
    waited = f" {found['between']:,} got 503 between two versions." if "between" in found else ""
    rows = [
        [name, *(f"{one[count]:,}" for count in counts), *(number(one[each]) for each in latencies)]
        for name, one in found["phases"].items()
    ]
    ratios = [number(reloading[each] / quiet[each]) for each in latencies]
    return [
        f"{found['seconds']} s with reloads and as long without, in {found['steps']} turns each (A/B/A/B); a steady "
        f"{found['requests_per_second']} requests/s over {found['connections']} kept-alive connections, "
        f"{found['workers']} workers. Versions: {changes}.",
        f"{found['checked']:,} responses were checked, {found['faults']:,} failed or came from a version that they may "
        f"not come from.{waited}",
        report.table(
            ["", "responses", "failed", "misrouted", "p50 ms", "p99 ms", "p99.9 ms"],
            [*rows, ["with ÷ without", "", "", "", *ratios]],
        ),
    ]


if __name__ == "__main__":
    main()
