"""The registry: the state of every version, the loaded ones, and which of them answers a request."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import random
from typing import TypeVar

from service.errors import InvalidRequest, NotFound, ServingError, Unavailable
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.policies import Policies, label_refused
from service.lifecycle.repository import MODELS_FOLDER, Key, not_served, version_number
from service.lifecycle.traffic import Traffic, route

__all__ = ["LoadedVersion", "Registry", "State", "VersionStatus"]

Entry = TypeVar("Entry")
# `get` or `get_at_once`: by model, version and label.
Find = Callable[[str, int | None, str | None], LoadedVersion]

_NO_TRAFFIC = Traffic()
_UNSETTLED = (State.START, State.LOADING)
# While a model with `unload_first` is between two versions.
_BETWEEN = (*_UNSETTLED, State.UNLOADING)


class WouldWait(Exception):
    """The version is still being loaded."""


class Registry:
    """Requests read it without a lock: the watcher, its only writer, replaces mappings and never changes them."""

    def __init__(self, timeout_seconds: float = 25, draw: Callable[[], float] = random) -> None:
        """`timeout_seconds`: how long `get` waits; shorter than a request's deadline, so that the client gets the
        reason. `draw`: a number in [0, 1) for each request that a canary may answer."""
        self._timeout_seconds = timeout_seconds
        self._draw = draw
        self._changed = threading.Condition()
        self._policies = Policies()
        self.policies_error = ""
        # `Repository.skipped`, as of the last poll.
        self.skipped: Mapping[str, str] = {}
        self._statuses: Mapping[str, Mapping[int, VersionStatus]] = {}
        self._traffic: Mapping[str, Traffic] = {}
        self._held: Mapping[str, Mapping[int, frozenset[int]]] = {}
        self._replacements: Mapping[Key, tuple[VersionStatus, LoadedVersion]] = {}
        self._awaited: frozenset[str] = frozenset()
        self._with_strings: frozenset[str] = frozenset()
        self._with_pictures: frozenset[str] = frozenset()
        self._when_wanted: Callable[[str], None] = lambda _model: None
        self.first_scan_done = threading.Event()
        # Set on SIGTERM: the service finishes its requests and is no longer ready.
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether the service takes requests: the first scan is done, at least one version is AVAILABLE if there was
        anything to load, and the service is not draining. Misplaced models count as something to load."""
        if self.draining or not self.first_scan_done.is_set():
            return False
        statuses = [status for versions in self._statuses.values() for status in versions.values()]
        if not statuses:
            return not self.skipped
        return any(status.state is State.AVAILABLE for status in statuses) or not any(
            status.state is State.LOADING or status.error for status in statuses
        )

    def get(self, model: str, version: int | None = None, label: str | None = None) -> LoadedVersion:
        """The version that answers; without `version` and `label` the stable one, else the highest AVAILABLE one.

        Waits while the first scan is still loading the model, since another worker process may already be ready; while
        the model is loaded on demand; and between two versions with `unload_first`.

        Raises:
            NotFound: no such model or version is AVAILABLE.
            InvalidRequest: no such label.
            Unavailable: loading takes longer than the timeout.
        """
        if not self.first_scan_done.is_set():
            self._wait_for_first_scan(model, version)
        if loaded := self._find(model, version, label):
            return loaded
        if self._is_awaited(model, version, label):
            self._wait_until_loaded(model, version, label)
            if loaded := self._find(model, version, label):
                return loaded
        raise self._not_found(model, version, label)

    def get_at_once(self, model: str, version: int | None = None, label: str | None = None) -> LoadedVersion:
        """`get` for the event loop: raises WouldWait instead of waiting."""
        if not self.first_scan_done.is_set():
            raise WouldWait
        if loaded := self._find(model, version, label):
            return loaded
        if self._is_awaited(model, version, label):
            raise WouldWait
        raise self._not_found(model, version, label)

    def check_ready(self, model: str, version: int | None = None) -> LoadedVersion | None:
        """The version that answers; None if it is still to be loaded on demand. Loads nothing, and never waits.

        Raises:
            Unhealthy: its runs fail. Else what `get` raises.
        """
        traffic = self._traffic.get(model, _NO_TRAFFIC)
        loaded = traffic.default if version is None else traffic.versions.get(version)
        if loaded is not None:
            loaded.health.check()
        elif not self._loads_on_demand(model):
            raise self._not_found(model, version, None)
        return loaded

    def unhealthy(self, model: str, version: int | None = None, label: str | None = None) -> LoadedVersion | None:
        """One of the versions that `get` may return, if all of those are unhealthy; else None."""
        traffic = self._traffic.get(model, _NO_TRAFFIC)
        if version is None and label is not None:
            version = traffic.labels.get(label)
        if version is None and label is None:
            possible = [traffic.default, traffic.canary if traffic.share else None]
        else:
            possible = [traffic.versions.get(version)] if version is not None else []
        candidates = [loaded for loaded in possible if loaded is not None]
        return candidates[0] if candidates and not any(one.health.is_healthy for one in candidates) else None

    def is_quick(self, model: str, version: str | None = None) -> bool:
        """Whether this version is quick; without one, every version of the model. True if there is none, for that error
        is quick too."""
        if model in self._awaited:
            return False
        versions = self._traffic.get(model, _NO_TRAFFIC).versions
        if all(loaded.pace.is_quick for loaded in versions.values()):
            return True
        number = None if version is None else version_number(version)
        return number is not None and number in versions and versions[number].pace.is_quick

    def takes_strings(self, model: str) -> bool:
        return model in self._with_strings

    def takes_pictures(self, model: str) -> bool:
        return model in self._with_pictures

    def statuses(self) -> Mapping[str, Mapping[int, VersionStatus]]:
        """By model and version. A version is listed as long as it is on disk, or loaded."""
        return self._statuses

    def labels(self) -> Mapping[str, Mapping[str, int]]:
        """By model and label, the version that the label names now."""
        return {model: traffic.labels for model, traffic in self._traffic.items() if traffic.labels}

    def defaults(self) -> Mapping[str, int]:
        """By model, the version that answers requests without one. Not the canary."""
        return {model: traffic.default.version for model, traffic in self._traffic.items() if traffic.default}

    def default_model(self, named: str = "") -> str:
        """The model of requests that name none: the one of this name, else the first; empty where there is none."""
        return named or min(self._statuses, default="")

    def loaded(self) -> list[LoadedVersion]:
        return [loaded for traffic in self._traffic.values() for loaded in traffic.versions.values()]

    def traffic(self, model: str) -> Traffic:
        return self._traffic.get(model, _NO_TRAFFIC)

    def held(self, model: str) -> Mapping[int, frozenset[int]]:
        """The versions that are no longer wanted and still answer, each with the successors that it waits for."""
        return self._held.get(model, {})

    def replacements(self) -> dict[Key, LoadedVersion]:
        """The versions that will replace a loaded one of the same number."""
        return {key: loaded for key, (_, loaded) in self._replacements.items()}

    def check_labels(self, policies: Policies, *, allow_unavailable: bool) -> None:
        """A label may name a version once that is AVAILABLE. `allow_unavailable`: a new label may name any version.

        Raises:
            FailedPrecondition: as in TensorFlow Serving, the policies must not be carried out then.
        """
        for model, policy in policies.models.items():
            labels, statuses = self.traffic(model).labels, self._statuses.get(model, {})
            for label, version in policy.label_versions.items():
                is_allowed = allow_unavailable and labels.get(label, version) == version
                status = statuses.get(version)
                if not is_allowed and (status is None or status.state is not State.AVAILABLE):
                    raise label_refused(model, label, version)

    def when_wanted(self, callback: Callable[[str], None]) -> None:
        """Called, in any thread, with a model that is loaded on demand when a request needs it."""
        self._when_wanted = callback

    def end_first_scan(self) -> None:
        with self._changed:
            self.first_scan_done.set()
            self._changed.notify_all()

    def set_policies(self, policies: Policies, error: str = "") -> None:
        """`error`: why models.toml cannot be read; `policies` are the previous ones then."""
        with self._changed:
            self._policies = policies
            self.policies_error = error
            for model in self._statuses:
                self._route(model, self._versions(model))

    def set_status(self, model: str, version: int, status: VersionStatus, loaded: LoadedVersion | None = None) -> None:
        """`loaded`: given with AVAILABLE, and with LOADING while only other worker processes are still loading: then it
        already answers requests for this version. Without it no request reaches the version."""
        with self._changed:
            self._statuses = _with(self._statuses, model, version, status)
            self._route(model, _with({model: self._versions(model)}, model, version, loaded).get(model, {}))
            self._changed.notify_all()

    def make_available(self, model: str, version: int) -> None:
        """Once every worker process has loaded it."""
        status = replace(self._statuses[model][version], state=State.AVAILABLE)
        self.set_status(model, version, status, self._traffic[model].versions[version])

    def replace_loaded(self, loaded: LoadedVersion) -> None:
        """The same version with other batching."""
        with self._changed:
            self.set_status(loaded.model, loaded.version, self._statuses[loaded.model][loaded.version], loaded)

    def hold(self, model: str, version: int, successors: frozenset[int]) -> bool:
        """Keep a version that is no longer wanted until all `successors` answer. Returns whether anything changed."""
        if self.held(model).get(version, frozenset()) == successors:
            return False
        with self._changed:
            self._held = _with(self._held, model, version, successors or None)
            self._route(model, self._versions(model))
        return True

    def set_replacement(self, model: str, version: int, status: VersionStatus, loaded: LoadedVersion) -> None:
        """`loaded`: takes the place of the loaded version of this number on `swap`."""
        with self._changed:
            self._replacements = {**self._replacements, (model, version): (status, loaded)}

    def drop_replacement(self, model: str, version: int) -> None:
        with self._changed:
            self._replacements = {key: one for key, one in self._replacements.items() if key != (model, version)}

    def swap(self, model: str, version: int) -> LoadedVersion:
        """Put the replacement in place. Returns the version before; requests that hold it finish on it."""
        with self._changed:
            status, loaded = self._replacements[model, version]
            before = self._versions(model)[version]
            self.set_status(model, version, replace(status, state=State.AVAILABLE), loaded)
            self.drop_replacement(model, version)
        return before

    def set_failure(self, model: str, version: int, error: str = "", folder: str = "") -> None:
        """`error`: why a loaded version cannot be replaced; it goes on serving. Empty: nothing is wrong any more."""
        with self._changed:
            status = replace(self._statuses[model][version], error=error, failed_folder=folder)
            self.set_status(model, version, status, self._versions(model)[version])

    def retire(self, model: str, version: int) -> LoadedVersion | None:
        """Take a loaded version out of the traffic. Requests that hold it finish on it."""
        loaded = self._traffic[model].versions.get(version)
        if loaded is not None:
            status = replace(self._statuses[model][version], state=State.UNLOADING, error="", failed_folder="")
            self.set_status(model, version, status)
        self.drop_replacement(model, version)
        self.hold(model, version, frozenset())
        return loaded

    def remove(self, model: str, version: int) -> None:
        with self._changed:
            self._statuses = _with(self._statuses, model, version, None)
            self._route(model, _with({model: self._versions(model)}, model, version, None).get(model, {}))
            self._changed.notify_all()

    def _versions(self, model: str) -> Mapping[int, LoadedVersion]:
        return self._traffic.get(model, _NO_TRAFFIC).versions

    def _route(self, model: str, versions: Mapping[int, LoadedVersion]) -> None:
        # Only what is said of this model changes: of a thousand models each would else take a thousand times as long.
        traffic = {**self._traffic}
        before = traffic.pop(model, _NO_TRAFFIC).labels
        statuses = self._statuses.get(model)
        if statuses:
            traffic[model] = route(self._policies.of(model), statuses, versions, before, self.held(model))
        self._traffic = traffic
        self._awaited = _with_name(self._awaited, model, bool(statuses) and self._is_awaited(model))
        self._with_strings = _with_name(
            self._with_strings, model, any(loaded.takes_strings for loaded in versions.values())
        )
        self._with_pictures = _with_name(
            self._with_pictures, model, any(loaded.takes_pictures for loaded in versions.values())
        )

    def _loads_on_demand(self, model: str) -> bool:
        return self._policies.of(model).load == "on_demand" and self._is_any(model, _UNSETTLED)

    def _is_awaited(self, model: str, version: int | None = None, label: str | None = None) -> bool:
        """Whether a request for something that is not loaded waits for it."""
        if self._loads_on_demand(model):
            return True
        if not self._unloads_first(model):
            return False
        if label is not None:
            version = self._traffic.get(model, _NO_TRAFFIC).labels.get(label)
        elif version is None:
            return self._is_any(model, _BETWEEN)
        status = self._statuses.get(model, {}).get(version) if version is not None else None
        return status is not None and status.state in _BETWEEN

    def _unloads_first(self, model: str) -> bool:
        return self._policies.of(model).replace == "unload_first"

    def _is_any(self, model: str, states: tuple[State, ...]) -> bool:
        return any(status.state in states for status in self._statuses.get(model, {}).values())

    def _find(self, model: str, version: int | None, label: str | None) -> LoadedVersion | None:
        traffic = self._traffic.get(model, _NO_TRAFFIC)
        if version is not None:
            return traffic.versions.get(version)
        if label is None:
            return traffic.canary if traffic.canary is not None and self._draw() < traffic.share else traffic.default
        if label in traffic.labels:
            return traffic.versions.get(traffic.labels[label])
        if model in self._statuses:
            known = f"the labels {', '.join(sorted(traffic.labels))}" if traffic.labels else "no labels"
            raise InvalidRequest(f"Unrecognized servable version label: {label}; {model} has {known}")
        return None

    def _wait_for_first_scan(self, model: str, version: int | None) -> None:
        """Until it has tried every version of the model that it found, or loaded the requested one."""
        is_tried = self._wait_for(
            lambda: (
                self.first_scan_done.is_set()
                or self._is_settled(model)
                or (version is not None and version in self._versions(model))
            )
        )
        if not is_tried:
            raise Unavailable("the models are still being loaded; /v2/health/ready tells when that is done")

    def _is_settled(self, model: str) -> bool:
        statuses = self._statuses.get(model, {}).values()
        return bool(statuses) and not any(status.state in _UNSETTLED for status in statuses)

    def _wait_until_loaded(self, model: str, version: int | None, label: str | None) -> None:
        reason = "is between two versions"
        if self._loads_on_demand(model):
            self._when_wanted(model)
            reason = "is loaded on demand"
        is_settled = self._wait_for(
            lambda: self._find(model, version, label) is not None or not self._is_awaited(model, version, label)
        )
        if not is_settled:
            raise Unavailable(f"{model} {reason}, which takes longer than {self._timeout_seconds:g} s")

    def _wait_for(self, condition: Callable[[], bool]) -> bool:
        """False on timeout."""
        with self._changed:
            return self._changed.wait_for(condition, self._timeout_seconds)

    def _not_found(self, model: str, version: int | None, label: str | None) -> ServingError:
        """With TensorFlow Serving's message, and the reason."""
        if label is not None:
            version = self._traffic.get(model, _NO_TRAFFIC).labels.get(label)
        requested = f"Latest({model})" if version is None else f"Specific({model}, {version})"
        statuses = self._statuses.get(model, {})
        kind: type[ServingError] = NotFound
        if not statuses:
            reason = self._skip_reason(model) or "no such model; GET /v1/models lists them"
        elif version is not None and version not in statuses:
            reason = f"{model} has the versions {', '.join(map(str, sorted(statuses)))}"
        else:
            number = max(statuses) if version is None else version
            status = statuses[number]
            reason = f"version {number} is {status.state}" + (f": {status.error}" if status.error else "")
            if self._unloads_first(model) and (status.state in _BETWEEN or status.error):
                kind = Unavailable
        return kind(f"Servable not found for request: {requested} ({reason})")

    def _skip_reason(self, model: str) -> str | None:
        for place, reason in self.skipped.items():
            if place == MODELS_FOLDER or place.split("/")[0] == model:
                return not_served(place, reason)
        return None


def _with(
    table: Mapping[str, Mapping[int, Entry]], model: str, version: int, entry: Entry | None
) -> dict[str, Mapping[int, Entry]]:
    """A copy of the table with that entry set; None removes it."""
    versions = {**table.get(model, {})}
    if entry is None:
        versions.pop(version, None)
    else:
        versions[version] = entry
    if versions:
        return {**table, model: versions}
    return {name: others for name, others in table.items() if name != model}


def _with_name(names: frozenset[str], name: str, is_in: bool) -> frozenset[str]:
    return names | {name} if is_in else names - {name}
