"""Succession: what serves goes only when its successor answers.

A version that is no longer wanted (its files are gone, or the policy names others) stays as long as those who would
answer its requests are not AVAILABLE in every worker process: whichever is to answer requests that name no version,
and whichever its labels are to name. One that cannot be loaded leaves the old one where it is. Where nobody is to
come, it goes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from service.inference.version import LoadedVersion, State
from service.lifecycle.changed_files import ChangedFiles
from service.lifecycle.policies import ModelPolicy
from service.lifecycle.registry import Registry
from service.lifecycle.retries import Retries
from service.lifecycle.traffic import successors
from service.lifecycle.workers import Agreement

Key = tuple[str, int]

# To replace a folder takes two renames, and between them it is not there.
MIN_ABSENT_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Succession:
    """Used by the watcher alone, under its lock."""

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
        """What is on disk, and what is loaded and was there less than a second ago."""
        now = self._clock()
        loaded = self._loaded()
        self._absent_since = {key: self._absent_since.get(key, now) for key in loaded.keys() - found.keys()}
        recent = {key for key, since in self._absent_since.items() if now - since < MIN_ABSENT_SECONDS}
        return {**found, **{key: folder.path for key in recent if (folder := loaded[key].folder) is not None}}

    def replaced(self, wanted: Mapping[Key, Path]) -> set[Key]:
        """What is AVAILABLE and has another folder in the place of its own, which is to be loaded; or other files,
        which another worker process has loaded."""
        self._changed_files.look(self._available(), wanted)
        replacements = self._registry.replacements()
        replaced = set()
        for key, loaded in self._loaded().items():
            status = self._registry.statuses()[key[0]][key[1]]
            if status.state is not State.AVAILABLE or key not in wanted or loaded.folder is None:
                continue
            coming = replacements.get(key)
            if coming is not None and (
                coming.folder is None
                or coming.folder.is_replaced(wanted[key])
                or coming.folder.changed_files(wanted[key])
            ):
                self._registry.drop_replacement(*key)
                coming = None
            if not (loaded.folder.is_replaced(wanted[key]) or self._changed_files.is_followed(key)):
                # Also where it has come back.
                if status.error:
                    self._registry.set_failure(*key)
                    self._retries.forget(key)
            elif coming is None:
                replaced.add(key)
        return replaced

    def stays(self, key: Key, policy: ModelPolicy, wanted: Set[int], is_on_disk: bool) -> bool:
        """Whether a loaded version that is not wanted any more goes on answering. `wanted`: of its model."""
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
        awaited = frozenset(number for number in coming if not self._agreement.is_available_everywhere((model, number)))
        if self._registry.hold(model, version, awaited) and awaited:
            numbers = " and ".join(map(str, sorted(awaited)))
            what = "is not wanted any more" if is_on_disk else "has vanished"
            told = (model, version, what, numbers)
            logger.info("%s version %d %s; it answers until version %s does in every worker process", *told)
        return bool(awaited)

    def _available(self) -> dict[Key, LoadedVersion]:
        statuses = self._registry.statuses()
        return {key: one for key, one in self._loaded().items() if statuses[key[0]][key[1]].state is State.AVAILABLE}

    def _loaded(self) -> dict[Key, LoadedVersion]:
        return {(loaded.model, loaded.version): loaded for loaded in self._registry.loaded()}
