"""A model in the models folder of a running service, which other tests may use too."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from service.inference.version import State
from tests.integration.server import SHIPPED, TEN, Server

VERSION_1 = SHIPPED / "regression" / "1"


def publish(source: Path, version: Path) -> None:
    """As an export does: copied beside, then one rename."""
    draft = version.parent / f".{version.name}"
    shutil.copytree(source, draft)
    draft.rename(version)


def write_policies(models: Path, text: str) -> None:
    (draft := models / ".models.toml").write_text(text)
    draft.rename(models / "models.toml")


@dataclass(frozen=True)
class Model:
    server: Server
    name: str

    @property
    def folder(self) -> Path:
        return self.server.models / self.name

    @property
    def path(self) -> str:
        return f"/v1/models/{self.name}"

    def version_path(self, number: int) -> str:
        return f"{self.path}/versions/{number}:predict"

    def publish(self, number: int, source: Path = VERSION_1) -> None:
        publish(source, self.folder / str(number))

    def predict(self) -> int:
        return self.server.request(f"{self.path}:predict", TEN).status

    def states(self) -> dict[int, State]:
        known: list[dict[str, Any]] = self.server.request(self.path).json().get("model_version_status", [])
        return {int(one["version"]): State(one["state"]) for one in known}

    def state(self, number: int) -> State | None:
        return self.states().get(number)

    def wait_for_state(self, number: int, state: State = State.AVAILABLE) -> None:
        self.server.wait_for(
            lambda: self.state(number) is state, f"{self.name} version {number} is not {state} but {self.states()}"
        )

    def default_versions(self, times: int = 12) -> set[str | None]:
        """The versions that answer requests that name none, by any worker."""
        path = f"{self.path}/metadata"
        return {self.server.request(path).json().get("model_spec", {}).get("version") for _ in range(times)}

    def wait_for_default(self, number: int) -> None:
        wanted = {str(number)}
        self.server.wait_for(
            # Many requests only once there is something to see.
            lambda: self.default_versions(1) == wanted == self.default_versions(),
            f"version {number} is not the default",
        )

    def failure(self, number: int, reason: str) -> dict[str, str]:
        """The status of a version (`error_code`, `error_message`) once it cannot be loaded for this reason. Now and
        then it is tried again, and is LOADING meanwhile."""
        found: list[dict[str, str]] = []

        def has_failed() -> bool:
            known = self.server.request(self.path).json().get("model_version_status", [])
            found[:] = [one["status"] for one in known if (one["version"], one["state"]) == (str(number), State.END)]
            return any(reason in one["error_message"] for one in found)

        self.server.wait_for(has_failed, f"{self.name} version {number} did not fail for {reason!r}")
        return found[0]

    def requests(self, number: int, status: int = 200) -> float:
        """How many predictions of a version are counted."""
        labels = f'model="{self.name}",protocol="v1",status="{status}",verb="predict",version="{number}"'
        return self.server.sample(f"serving_requests_total{{{labels}}}")


@contextmanager
def asking(server: Server, path: str) -> Iterator[Counter[str]]:
    """A client that sends one request after the other, each on a connection of its own: how often each status came,
    and each kind of broken connection."""
    outcomes: Counter[str] = Counter()
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.wait(0.01):
            try:
                outcome = str(server.request(path, TEN).status)
            except (OSError, HTTPException) as error:
                # urllib wraps it.
                outcome = type(getattr(error, "reason", error)).__name__
            outcomes[outcome] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        stopped.set()
        thread.join()
