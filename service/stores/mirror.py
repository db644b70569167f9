"""Keeps a folder as the store is: fetches versions that are complete, removes those that are gone.

A version is complete once two listings in a row find the same files, sizes and ETags of it, a graph among them. It is
fetched beside what serves, and renamed once.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

from service.lifecycle.policies import FILE_NAME, decode
from service.lifecycle.repository import Key
from service.runtime.config_file import InvalidFile
from service.runtime.fetching import FetchReport
from service.stores.archive import unpack
from service.stores.errors import StoreError
from service.stores.folder import FetchFolder, Identity, files_below
from service.stores.layout import Layout, is_complete
from service.stores.sources import File, Source

MAX_CONNECTIONS = 4
MAX_RETRY_SECONDS = 300.0
PROGRESS_SECONDS = 10.0
MAX_POLICIES_BYTES = 1024 * 1024

Choose = Callable[[Collection[Key]], set[Key]]

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """Why something is not fetched; `identity`: what it was then. It is tried again at `retry_at`, and when the store
    has something else there."""

    identity: Identity
    error: StoreError
    tries: int
    retry_at: float


class Mirror(ABC):
    """`failures`: what cannot be fetched, by its name. `has_begun`: whether there is what to begin with."""

    def __init__(
        self,
        source: Source,
        folder: FetchFolder,
        layout: Layout,
        choose: Choose,
        report: FetchReport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`choose`: of versions, those that the policies want."""
        self._source = source
        self._folder = folder
        self._layout = layout
        self._choose = choose
        self._report = report
        self._clock = clock
        self.failures: dict[str, Failure] = {}
        self.has_begun = False

    def poll(self) -> None:
        """List, fetch what is due, remove what is gone. Raises StoreError if the store does not answer, or asks to be
        left alone; then nothing is removed."""
        try:
            files = self._source.listing()
        except StoreError:
            self.has_begun |= bool(self._folder.versions())
            raise
        self._report.listed()
        self._follow(files)

    @abstractmethod
    def _follow(self, files: list[File]) -> None: ...

    def _try(self, name: str, identity: Identity, fetch: Callable[[], None]) -> None:
        """Raises StoreError for what the whole store suffers from."""
        before = self.failures.get(name)
        if before and before.identity == identity and self._clock() < before.retry_at:
            return
        try:
            fetch()
            self.failures.pop(name, None)
            return
        except StoreError as caught:
            error = caught
        except OSError as caught:
            error = StoreError("full", f"it cannot be written: {caught.strerror}")
        tries = before.tries + 1 if before and before.identity == identity else 1
        pause = inf if error.kind == "refused" else min(2.0**tries, MAX_RETRY_SECONDS)
        self.failures[name] = Failure(identity, error, tries, self._clock() + pause)
        self._report.failed(error.kind)
        if before is None or str(before.error) != str(error):
            logger.error("%s cannot be fetched: %s", name, error)
        if error.kind in ("unreachable", "throttled"):
            raise error

    def _remove(self, keys: Collection[Key]) -> None:
        for key in keys:
            self._folder.remove(key)
            logger.info("%s version %d is gone in the store, and removed", *key)


class ObjectMirror(Mirror):
    """Of a store that lists the files of versions."""

    _before: Mapping[Key, Identity] | None = None
    _is_empty = False

    def _follow(self, files: list[File]) -> None:
        by_path = {file.path: file for file in files}
        found = self._layout.versions(by_path)
        listed = {
            key: {name: (by_path[path].size, by_path[path].etag) for name, path in paths.items()}
            for key, paths in found.items()
        }
        before, self._before = self._before, listed
        self._update_policies(by_path.get(FILE_NAME))
        local = self._folder.versions()
        chosen = self._choose([key for key, names in listed.items() if is_complete(names)])
        names = {key: f"{key[0]} version {key[1]}" for key in chosen}
        for name in self.failures.keys() - names.values() - {FILE_NAME}:
            del self.failures[name]
        if before is None:
            self.has_begun |= bool(local) and all(local.get(key) == listed[key] for key in chosen)
            return
        self._note_empty(len(files), is_empty=not chosen)
        self._remove([key for key in local if key not in listed and key not in before])
        try:
            for key in sorted(chosen, key=lambda key: (-key[1], key[0])):
                if local.get(key) != listed[key] == before.get(key):
                    fetch = partial(self._fetch, key, listed[key], found[key], by_path)
                    self._try(names[key], listed[key], fetch)
        finally:
            self.has_begun |= bool(self._folder.versions()) or not chosen

    def _fetch(self, key: Key, identity: Identity, paths: Mapping[str, str], by_path: Mapping[str, File]) -> None:
        size = sum(size for size, _ in identity.values())
        self._folder.make_room(size, self._dispensable(key))
        draft = self._folder.draft()
        progress = Progress(f"{key[0]} version {key[1]}", size, len(paths), self._report)
        try:
            with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
                pieces = []
                for name, path in paths.items():
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    pieces.append(pool.submit(self._source.fetch, by_path[path], draft / name, progress.add))
                try:
                    for piece in pieces:
                        piece.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            self._folder.install(key, draft, identity)
        finally:
            self._folder.discard(draft)
        progress.end()

    def _note_empty(self, count: int, *, is_empty: bool) -> None:
        if is_empty and not self._is_empty:
            files = f"{count} other file{'s' * (count != 1)}" if count else "nothing"
            logger.warning("the store holds no version to serve but %s; expected %s", files, self._layout.expected)
        self._is_empty = is_empty

    def _dispensable(self, key: Key) -> list[Key]:
        """What no policy wants, neither now nor once the version is there; oldest first."""
        local = self._folder.versions().keys()
        kept = self._choose(local) | self._choose(local | {key}) | self._choose((self._before or {}).keys())
        return sorted(local - kept, key=lambda key: key[1])

    def _update_policies(self, file: File | None) -> None:
        """models.toml, if the store has one beside the models: as soon as it is valid, so that a start never fails for
        it."""
        if not self._layout.has_policies:
            return
        before = self._folder.policies
        if file is None:
            self.failures.pop(FILE_NAME, None)
            if before is not None:
                self._folder.remove_policies()
            return
        identity = {FILE_NAME: (file.size, file.etag)}
        if identity == before:
            self.failures.pop(FILE_NAME, None)
        else:
            self._try(FILE_NAME, identity, partial(self._fetch_policies, file, identity))

    def _fetch_policies(self, file: File, identity: Identity) -> None:
        if file.size > MAX_POLICIES_BYTES:
            raise StoreError("refused", f"it has {file.size} bytes; at most {MAX_POLICIES_BYTES} are expected")
        draft = self._folder.draft()
        try:
            self._source.fetch(file, draft / FILE_NAME, self._report.fetched)
            try:
                decode((draft / FILE_NAME).read_bytes(), Path(FILE_NAME))
            except InvalidFile as error:
                raise StoreError("refused", str(error)) from None
            self._folder.install_policies(draft / FILE_NAME, identity)
        finally:
            self._folder.discard(draft)


class ArchiveMirror(Mirror):
    """Of one archive, whose versions are known once it is unpacked."""

    _before: Identity | None = None

    def _follow(self, files: list[File]) -> None:
        (file,) = files
        identity = {"": (file.size, file.etag)}
        before, self._before = self._before, identity
        local = self._folder.versions()
        if local and all(each == identity for each in local.values()):
            self.failures.clear()
            self.has_begun = True
            return
        try:
            if identity == before:
                self._try("the archive", identity, partial(self._fetch, file, identity))
        finally:
            self.has_begun |= before is not None and bool(self._folder.versions())

    def _fetch(self, file: File, identity: Identity) -> None:
        self._folder.make_room(file.size, ())
        draft = self._folder.draft()
        progress = Progress("the archive", file.size, 1, self._report)
        try:
            self._source.fetch(file, draft / "archive", progress.add)
            (tree := draft / "tree").mkdir()
            unpack(draft / "archive", tree, self._folder.limit())
            (draft / "archive").unlink()
            found = self._layout.versions(files_below(tree))
            chosen = self._choose([key for key, names in found.items() if is_complete(names)])
            if not chosen:
                raise StoreError("refused", f"the archive holds no version; expected {self._layout.expected}")
            for key in sorted(chosen):
                version = self._folder.draft()
                for name, path in found[key].items():
                    (version / name).parent.mkdir(parents=True, exist_ok=True)
                    (tree / path).rename(version / name)
                self._folder.install(key, version, identity)
            self._remove(self._folder.versions().keys() - chosen)
        finally:
            self._folder.discard(draft)
        progress.end()


class Progress:
    """Of a fetch, in the log and in the metrics. Used by several threads."""

    def __init__(self, name: str, size: int, files: int, report: FetchReport) -> None:
        self._name = name
        self._size = size
        self._report = report
        self._done = 0
        self._lock = threading.Lock()
        self._began = self._last = time.monotonic()
        logger.info("fetching %s: %d file%s, %s", name, files, "s" * (files != 1), _shown(size))

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._report.fetched(size)
            if (now := time.monotonic()) - self._last >= PROGRESS_SECONDS:
                self._last = now
                logger.info("fetching %s: %s of %s", self._name, _shown(self._done), _shown(self._size))

    def end(self) -> None:
        logger.info("fetched %s: %s in %.1f s", self._name, _shown(self._done), time.monotonic() - self._began)


def _shown(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 0 else "of unknown size"
