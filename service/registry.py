"""The registry: which versions are loaded, and in which state every known one is."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from service.batcher import Batcher
from service.engines import Engine
from service.errors import InvalidRequest, NotFound, Unavailable
from service.serving_config import ServingConfig
from service.signature import Signature

Entry = TypeVar("Entry")


class State(StrEnum):
    """TensorFlow Serving's states."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`error` says why a version that ended could not be loaded."""

    state: State
    error: str = ""
    engine: str = ""
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    model: str
    version: int
    engine: Engine
    config: ServingConfig
    # None for a version whose row takes less than a millisecond: to wait for others would cost more than to run it.
    batcher: Batcher | None = None
    # As metrics write it.
    version_text: str = field(init=False)
    _label_outputs: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version_text", str(self.version))
        found = {name: _label_output(signature, self.config) for name, signature in self.engine.signatures.items()}
        object.__setattr__(self, "_label_outputs", {name: output for name, output in found.items() if output})

    def signature(self, name: str) -> Signature:
        """Raises InvalidRequest where there is none of that name."""
        try:
            return self.engine.signatures[name]
        except KeyError:
            known = ", ".join(map(repr, sorted(self.engine.signatures)))
            raise InvalidRequest(f'Serving signature key "{name}" not found; {self.model} has {known}') from None

    def label_output(self, signature_name: str) -> str | None:
        """The output that holds a score for each label: the only one whose rows are as long as the labels."""
        return self._label_outputs.get(signature_name)


def _label_output(signature: Signature, config: ServingConfig) -> str | None:
    if not config.labels:
        return None
    fitting = [
        name
        for name, spec in signature.outputs.items()
        if spec.dtype != "DT_STRING" and spec.shape is not None and spec.shape[1:] == (len(config.labels),)
    ]
    return fitting[0] if len(fitting) == 1 else None


class Registry:
    """Read by every request without a lock: what it holds is replaced, never changed, by the one watcher."""

    def __init__(self, patience_seconds: float = 30) -> None:
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._statuses: Mapping[str, Mapping[int, VersionStatus]] = {}
        self._loaded: Mapping[str, Mapping[int, LoadedVersion]] = {}
        self._slow: frozenset[str] = frozenset()
        self.first_scan_done = threading.Event()

    @property
    def ready(self) -> bool:
        """Everything found at the start was tried, and unless there was nothing, something is AVAILABLE."""
        return self.first_scan_done.is_set() and (bool(self._loaded) or not self._statuses)

    def get(self, model: str, version: int | None = None, label: str | None = None) -> LoadedVersion:
        """The version asked for; the highest AVAILABLE one where none is.

        While the first scan is still loading models, who asks waits: another worker process may already have
        said that the service is ready.

        Raises:
            NotFound: no such model or version is AVAILABLE.
            InvalidRequest: no such label.
            Unavailable: the first scan takes too long.
        """
        if not (self.first_scan_done.is_set() or self.first_scan_done.wait(self._patience_seconds)):
            raise Unavailable("the models are still being loaded; /v2/health/ready tells when that is done")
        loaded = self._loaded.get(model, {})
        if label is not None and model in self._statuses:
            raise InvalidRequest(f"Unrecognized servable version label: {label}; {model} has no labels")
        if version is None and loaded:
            return loaded[max(loaded)]
        if version is not None and version in loaded:
            return loaded[version]
        raise NotFound(self._why_not(model, version))

    def is_quick(self, model: str) -> bool:
        """Whether every version of the model is; True where there is none, for to say so is quick as well."""
        return model not in self._slow

    def statuses(self) -> Mapping[str, Mapping[int, VersionStatus]]:
        """By model and version, of all that are or were known and are still on disk."""
        return self._statuses

    def set_status(self, model: str, version: int, status: VersionStatus, loaded: LoadedVersion | None = None) -> None:
        """`loaded` comes with the state AVAILABLE; in every other state requests do not reach the version."""
        with self._lock:
            self._statuses = _with(self._statuses, model, version, status)
            self._replace_loaded(_with(self._loaded, model, version, loaded))

    def remove(self, model: str, version: int) -> None:
        """Requests that already hold the version finish on it; with the last of them its memory is given back."""
        with self._lock:
            self._replace_loaded(_with(self._loaded, model, version, None))
            self._statuses = _with(self._statuses, model, version, None)

    def _replace_loaded(self, table: Mapping[str, Mapping[int, LoadedVersion]]) -> None:
        self._loaded = table
        self._slow = frozenset(
            model
            for model, versions in table.items()
            if any(loaded.batcher is not None for loaded in versions.values())
        )

    def _why_not(self, model: str, version: int | None) -> str:
        """In TensorFlow Serving's words, and then the reason."""
        asked = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        statuses = self._statuses.get(model, {})
        if not statuses:
            reason = "no such model; GET /v1/models lists them"
        elif version is not None and version not in statuses:
            reason = f"{model} has the versions {', '.join(map(str, sorted(statuses)))}"
        else:
            number = max(statuses) if version is None else version
            status = statuses[number]
            reason = f"version {number} is {status.state}" + (f": {status.error}" if status.error else "")
        return f"Servable not found for request: {asked} ({reason})"


def _with(
    table: Mapping[str, Mapping[int, Entry]], model: str, version: int, entry: Entry | None
) -> dict[str, dict[int, Entry]]:
    """A copy of the table with that entry set, or gone where it is None."""
    copy = {name: dict(versions) for name, versions in table.items()}
    versions = copy.setdefault(model, {})
    if entry is None:
        versions.pop(version, None)
    else:
        versions[version] = entry
    if not versions:
        del copy[model]
    return copy
