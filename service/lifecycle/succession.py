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

from service.inference.folder import FileState
from service.inference.version import LoadedVersion, State
from service.lifecycle.loader import Retries
from service.lifecycle.policies import ModelPolicy
from service.lifecycle.registry import Registry
from service.lifecycle.traffic import successors
from service.lifecycle.workers import Agreement

# Files of loaded versions that change in place: they are told of once, and not loaded.
#
# Only where one worker process has loaded them, because it began after the change, do the others follow: else the same
# request would get one answer or the other. docs/adr/0032 says why so.

Key = tuple[str, int]
Changes = Mapping[str, FileState | None]

# Between two looks; longer where the look itself takes long, as on a file server.
MIN_CHECK_PAUSE_SECONDS = 2.0
PAUSE_PER_CHECK_SECOND = 50
# In the sentence.
MAX_NAMES = 3

logger = logging.getLogger(__name__)


class ChangedFiles:
    """Used by the watcher alone."""

    def __init__(self, agreement: Agreement, clock: Callable[[], float] = time.monotonic) -> None:
        self._agreement = agreement
        self._clock = clock
        self._next_poll = 0.0
        self._seen: dict[Key, Changes] = {}
        self._told: dict[Key, Changes] = {}
        self._followed: set[Key] = set()

    def poll(self, loaded: Mapping[Key, LoadedVersion], wanted: Mapping[Key, Path]) -> None:
        """`loaded`: what is AVAILABLE. What changed counts once two looks in a row find the same: it may still be
        being written, or removed."""
        if (began := self._clock()) < self._next_poll:
            return
        seen: dict[Key, Changes] = {}
        for key, version in loaded.items():
            folder = version.folder
            path = wanted.get(key)
            if folder is None or path is None or folder.is_replaced(path):
                continue
            if changed := folder.changed_files(path):
                seen[key] = changed
        settled = {key: changes for key, changes in seen.items() if self._seen.get(key) == changes}
        self._seen = seen
        for key, changes in settled.items():
            if self._told.get(key) != changes:
                self._tell(key, changes)
        self._told = settled
        self._follow({key: loaded[key] for key in settled})
        now = self._clock()
        self._next_poll = now + max(MIN_CHECK_PAUSE_SECONDS, (now - began) * PAUSE_PER_CHECK_SECOND)

    def is_followed(self, key: Key) -> bool:
        """Whether its files are to be loaded as they are now, in its place."""
        return key in self._followed

    def _follow(self, changed: Mapping[Key, LoadedVersion]) -> None:
        followed = {key for key, version in changed.items() if self._agreement.is_loaded_otherwise(version)}
        for key in followed - self._followed:
            logger.warning("%s version %d: another worker process began with its changed files; they are loaded", *key)
        self._followed = followed

    def _tell(self, key: Key, changes: Changes) -> None:
        names = ", ".join(map(ascii, list(changes)[:MAX_NAMES])) + (", ..." if len(changes) > MAX_NAMES else "")
        sentence = (
            f"{key[0]} version {key[1]}: its files have changed since it was loaded ({names}); they are not looked at, "
            "and it answers as before. Make a new version of them, or exchange its folder as a whole for another one"
        )
        if self._agreement.is_first(sentence + repr(sorted(changes.items()))):
            logger.warning("%s", sentence)


# To replace a folder takes two renames, and between them it is not there.
MIN_ABSENT_SECONDS = 1.0


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
        self._changed_files.poll(self._available(), wanted)
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
