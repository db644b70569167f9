"""Files of loaded versions that change in place: they are told of once, and not loaded.

Only where one worker process has loaded them, because it began after the change, do the others follow: else the same
request would get one answer or the other. docs/adr/0032 says why so.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service.inference.version import LoadedVersion
from service.lifecycle.repository import FileState
from service.lifecycle.workers import Agreement

Key = tuple[str, int]
Changes = Mapping[str, FileState | None]

# Between two looks; longer where the look itself takes long, as on a file server.
MIN_PAUSE_SECONDS = 2.0
PAUSE_FOR_EACH_SECOND = 50
# In the sentence.
MAX_NAMES = 3

logger = logging.getLogger(__name__)


class ChangedFiles:
    """Used by the watcher alone."""

    def __init__(self, agreement: Agreement, clock: Callable[[], float] = time.monotonic) -> None:
        self._agreement = agreement
        self._clock = clock
        self._next_look = 0.0
        self._seen: dict[Key, Changes] = {}
        self._told: dict[Key, Changes] = {}
        self._followed: set[Key] = set()

    def look(self, loaded: Mapping[Key, LoadedVersion], wanted: Mapping[Key, Path]) -> None:
        """`loaded`: what is AVAILABLE. What changed counts once two looks in a row find the same: it may still be
        being written, or removed."""
        if (began := self._clock()) < self._next_look:
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
        self._next_look = now + max(MIN_PAUSE_SECONDS, (now - began) * PAUSE_FOR_EACH_SECOND)

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
