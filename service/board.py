"""What the worker processes tell each other: small files in a folder that lives as long as the service.

Each worker writes how far it is with every version. A wish is for all of them: to load a model, or to unload it.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

# A version that is loaded and warmed up, in this worker at least; whether the others are so far is another question.
PREPARED = "PREPARED"

_REPORT, _WISH, _SLOW, _SAID = "worker-", "wish-", "slow-", "said-"

logger = logging.getLogger(__name__)

Kind = TypeVar("Kind")
# PREPARED or one of TensorFlow Serving's states, by model and version.
Progress = dict[str, dict[int, str]]


class Report(msgspec.Struct, frozen=True):
    """`heard`: by model, the last wish that the worker has acted upon. `is_serving`: it has tried all that it found at
    its start. `folders`: by model and version the folders (`Folder.identity`) that it has loaded, or could not."""

    progress: Progress = {}
    heard: dict[str, int] = {}
    is_serving: bool = False
    folders: dict[str, dict[int, list[str]]] = {}

    def of(self, model: str, version: int) -> str | None:
        return self.progress.get(model, {}).get(version)

    def has_tried(self, model: str, version: int, folder: str) -> bool:
        return folder in self.folders.get(model, {}).get(version, ())


class Wish(msgspec.Struct, frozen=True):
    """The last one for a model counts. `number` grows from wish to wish."""

    model: str
    action: Literal["load", "unload"]
    number: int


class Slow(msgspec.Struct, frozen=True):
    """A version that no event loop is to run, as long as the service lives."""

    model: str
    version: int


class Board:
    def __init__(self, folder: Path | None = None, worker: int | None = None) -> None:
        """`folder` None: there is one worker only, and nobody to tell."""
        self._folder = folder
        self._own = f"{_REPORT}{os.getpid() if worker is None else worker}"
        self._drafts = count()
        self._published: Report | None = None
        self._is_writable = True
        self._wishes: dict[str, Wish] = {}
        self._slow: set[Slow] = set()

    def publish(self, report: Report) -> None:
        """Where the disk is full, the next time."""
        if report == self._published:
            return
        try:
            self._write(self._own, report)
        except OSError as error:
            if self._is_writable:
                logger.error("%s: other worker processes cannot be told of versions: %s", self._folder, error.strerror)
            self._is_writable = False
        else:
            self._published = report
            self._is_writable = True

    def others(self) -> list[Report]:
        """The reports of all other workers that live."""
        return self._read(lambda name: name.startswith(_REPORT) and name != self._own, Report)

    def wish(self, model: str, action: Literal["load", "unload"]) -> int:
        """Its number. Raises OSError where it cannot be written."""
        before = self.wishes().get(model)
        wish = Wish(model, action, before.number + 1 if before else 1)
        self._write(_WISH + hashlib.sha256(model.encode()).hexdigest(), wish)
        # Replaced, not changed: the watcher may be going through it.
        self._wishes = {**self._wishes, model: wish}
        return wish.number

    def is_first(self, sentence: str) -> bool:
        """Whether no other worker process has asked this: what is about the disk need not be logged by all of them."""
        if self._folder is None:
            return True
        try:
            (self._folder / (_SAID + hashlib.sha256(sentence.encode()).hexdigest())).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            return True  # better twice than never
        return True

    def wishes(self) -> dict[str, Wish]:
        if self._folder is not None:
            self._wishes = {wish.model: wish for wish in self._read(lambda name: name.startswith(_WISH), Wish)}
        return self._wishes

    def note_slow(self, slow: Slow) -> None:
        """Where the disk is full, for this worker alone."""
        # Replaced, not changed, as above.
        self._slow = {*self._slow, slow}
        try:
            self._write(_SLOW + hashlib.sha256(msgspec.json.encode(slow)).hexdigest(), slow)
        except OSError as error:
            logger.error("%s: other worker processes cannot be told of slow versions: %s", self._folder, error.strerror)

    def slow(self) -> set[Slow]:
        return self._slow.union(self._read(lambda name: name.startswith(_SLOW), Slow))

    def _write(self, name: str, content: msgspec.Struct) -> None:
        if self._folder is not None:
            # With a dot until it is whole, and a name of its own: several may wish at a time.
            draft = self._folder / f".{name}-{self._own}-{next(self._drafts)}"
            try:
                draft.write_bytes(msgspec.json.encode(content))
                draft.rename(self._folder / name)
            except OSError:
                with suppress(OSError):
                    draft.unlink()
                raise

    def _read(self, is_wanted: Callable[[str], bool], kind: type[Kind]) -> list[Kind]:
        found = []
        for path in self._folder.iterdir() if self._folder is not None else ():
            if is_wanted(path.name):
                try:
                    found.append(msgspec.json.decode(path.read_bytes(), type=kind))
                except FileNotFoundError:
                    continue  # its worker has just ended
        return found


def forget_worker(folder: Path, worker: int) -> None:
    """To be called when a worker process has ended: nobody waits for it any more."""
    (folder / f"{_REPORT}{worker}").unlink(missing_ok=True)
