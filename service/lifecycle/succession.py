"""Succession: a version is unloaded only once its successor answers.

A version that is no longer wanted (its files are gone, or the policy selects others) stays until its successors are
AVAILABLE in every worker process: the version that will answer requests without a version, and those that its labels
will name. A successor that cannot be loaded leaves the old version in place. A version without successor goes at once.
"""

import logging
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from service.inference.folder import FileState
from service.inference.version import LoadedVersion, State
from service.lifecycle.loader import Retries
from service.lifecycle.policies import ModelPolicy
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Key
from service.lifecycle.traffic import successors
from service.lifecycle.workers import Agreement

# Replacing a folder takes two renames; between them it is missing.
MIN_ABSENT_SECONDS = 1.0

# Between two checks for changed files; longer if a check takes long, as on a file server.
MIN_CHECK_PAUSE_SECONDS = 2.0
PAUSE_PER_CHECK_SECOND = 50
# In a log message.
MAX_NAMES = 3

Changes = Mapping[str, FileState | None]

logger = logging.getLogger(__name__)


class Succession:
    """Used only by the watcher, under its lock."""

    def __init__(
        self,
        registry: Registry,
        agreement: Agreement,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._agreement = agreement
        self._retries = retries
        self._clock = clock
        self._changed_files = ChangedFiles(agreement, clock)
        self._absent_since: dict[Key, float] = {}

    def with_absent(self, found: Mapping[Key, Path]) -> dict[Key, Path]:
        """What is on disk, and what is loaded and was there less than MIN_ABSENT_SECONDS ago."""
        now = self._clock()
        loaded = self._loaded()
        self._absent_since = {key: self._absent_since.get(key, now) for key in loaded.keys() - found.keys()}
        recent = {key for key, since in self._absent_since.items() if now - since < MIN_ABSENT_SECONDS}
        return {**found, **{key: folder.path for key in recent if (folder := loaded[key].folder) is not None}}

    def replaced(self, wanted: Mapping[Key, Path]) -> set[Key]:
        """The AVAILABLE versions that are to be loaded again: their folder was replaced, or another worker process has
        loaded their changed files."""
        self._changed_files.poll(self._available(), wanted)
        replacements = self._registry.replacements()
        replaced = set()
        for key, loaded in self._loaded().items():
            status = self._registry.statuses()[key[0]][key[1]]
            if status.state is not State.AVAILABLE or key not in wanted or loaded.folder is None:
                continue
            replacement = replacements.get(key)
            if replacement is not None and (
                replacement.folder is None
                or replacement.folder.is_replaced(wanted[key])
                or replacement.folder.changed_files(wanted[key])
            ):
                self._registry.drop_replacement(*key)
                replacement = None
            if not (loaded.folder.is_replaced(wanted[key]) or self._changed_files.is_loaded_elsewhere(key)):
                # The folder may have been put back after a replacement failed.
                if status.error:
                    self._registry.set_failure(*key)
                    self._retries.forget(key)
            elif replacement is None:
                replaced.add(key)
        return replaced

    def stays(self, key: Key, policy: ModelPolicy, wanted: Set[int], is_on_disk: bool) -> bool:
        """Whether a loaded version that is no longer wanted goes on answering. `wanted`: of its model."""
        model, version = key
        before = self._registry.held(model).get(version, frozenset())
        states = self._registry.statuses()[model]
        failed = {
            number
            for number in wanted
            if states[number].state is not State.AVAILABLE and self._retries.has_failed((model, number))
        }
        coming = successors(policy, self._registry.traffic(model), version, wanted, failed, is_on_disk)
        coming |= {number for number in before if number in wanted or number in policy.named}
        missing = frozenset(number for number in coming if not self._agreement.is_available_everywhere((model, number)))
        if self._registry.hold(model, version, missing) and missing:
            numbers = " and ".join(map(str, sorted(missing)))
            reason = "is not wanted any more" if is_on_disk else "has vanished"
            logger.info(
                "%s version %d %s; it answers until version %s does in every worker process",
                *(model, version, reason, numbers),
            )
        return bool(missing)

    def _available(self) -> dict[Key, LoadedVersion]:
        statuses = self._registry.statuses()
        return {key: one for key, one in self._loaded().items() if statuses[key[0]][key[1]].state is State.AVAILABLE}

    def _loaded(self) -> dict[Key, LoadedVersion]:
        return {(loaded.model, loaded.version): loaded for loaded in self._registry.loaded()}


class ChangedFiles:
    """Files of loaded versions that change in place. Used only by the watcher.

    They are logged once and not loaded. If a worker process has started since and loaded them, the others load them
    too: else the answer would depend on the process. See docs/adr/0032.
    """

    def __init__(self, agreement: Agreement, clock: Callable[[], float] = time.monotonic) -> None:
        self._agreement = agreement
        self._clock = clock
        self._next_poll = 0.0
        self._found: dict[Key, Changes] = {}
        self._logged: dict[Key, Changes] = {}
        self._loaded_elsewhere: set[Key] = set()

    def poll(self, available: Mapping[Key, LoadedVersion], wanted: Mapping[Key, Path]) -> None:
        """A change counts once two polls in a row find the same files; until then they may still be being written."""
        if (began := self._clock()) < self._next_poll:
            return
        found: dict[Key, Changes] = {}
        for key, version in available.items():
            folder = version.folder
            path = wanted.get(key)
            if folder is None or path is None or folder.is_replaced(path):
                continue
            if changed := folder.changed_files(path):
                found[key] = changed
        settled = {key: changes for key, changes in found.items() if self._found.get(key) == changes}
        self._found = found
        for key, changes in settled.items():
            if self._logged.get(key) != changes:
                self._log(key, changes)
        self._logged = settled
        self._find_loaded_elsewhere({key: available[key] for key in settled})
        now = self._clock()
        self._next_poll = now + max(MIN_CHECK_PAUSE_SECONDS, (now - began) * PAUSE_PER_CHECK_SECOND)

    def is_loaded_elsewhere(self, key: Key) -> bool:
        """Whether another worker process has loaded the changed files, so that this one is to load them too."""
        return key in self._loaded_elsewhere

    def _find_loaded_elsewhere(self, changed: Mapping[Key, LoadedVersion]) -> None:
        found = {key for key, version in changed.items() if self._agreement.has_other_files(version)}
        for key in found - self._loaded_elsewhere:
            logger.warning("%s version %d: another worker process began with its changed files; they are loaded", *key)
        self._loaded_elsewhere = found

    def _log(self, key: Key, changes: Changes) -> None:
        names = ", ".join(map(ascii, list(changes)[:MAX_NAMES])) + (", ..." if len(changes) > MAX_NAMES else "")
        message = (
            f"{key[0]} version {key[1]}: its files have changed since it was loaded ({names}); they are not looked at, "
            "and it answers as before. Make a new version of them, or exchange its folder as a whole for another one"
        )
        if self._agreement.is_first(message + repr(sorted(changes.items()))):
            logger.warning("%s", message)
