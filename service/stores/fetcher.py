"""The fetching process: one child of the first process. It lists the store, and keeps the folder as the store is."""

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from math import inf
from pathlib import Path

from service.lifecycle.policies import policy_file
from service.lifecycle.policy_source import PolicySource
from service.lifecycle.repository import Key
from service.runtime.fetching import FetchReport
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.settings import Settings
from service.stores.errors import StoreError
from service.stores.folder import FetchFolder
from service.stores.layout import Layout
from service.stores.location import Location
from service.stores.mirror import ArchiveMirror, Mirror, ObjectMirror
from service.stores.sources import source_of

# Shown by `ps` and `top`.
PROCESS_NAME = "store-fetcher"
# Between the two listings that a version needs, where the poll interval is longer.
MAX_SETTLE_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
MIN_RESTART_SECONDS = 5.0
_LOCK = ".lock"

logger = logging.getLogger(__name__)


class FetchingProcess:
    """Starts it, starts it again if it dies, ends it. Used by the first process."""

    def __init__(self, settings: Settings, location: Location, memory: SharedMemory) -> None:
        """`settings`: those that serve the folder it fetches into."""
        self._settings = settings
        self._location = location
        self._memory = memory
        self._pid = 0
        self._started = 0.0

    def keep(self) -> None:
        """Call it about every second."""
        if self._pid or (self._started and time.monotonic() - self._started < MIN_RESTART_SECONDS):
            return
        self._started = time.monotonic()
        self._pid = os.fork()
        if not self._pid:
            _become(self._settings, self._location, self._memory)

    def reap(self) -> None:
        """Call it before anybody else waits for children."""
        if not self._pid:
            return
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._pid, 0
        if pid:
            self._pid = 0
            logger.error(
                "the process that fetches models ended (%s); another is started",
                f"signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"code {os.waitstatus_to_exitcode(status)}",
            )

    def stop(self) -> None:
        if self._pid:
            with suppress(ProcessLookupError):
                # It leaves nothing half done, whenever it ends.
                os.kill(self._pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0


def _become(settings: Settings, location: Location, memory: SharedMemory) -> None:
    """Never returns."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            signal.signal(number, signal.SIG_IGN)
        with suppress(OSError):
            Path("/proc/self/comm").write_text(PROCESS_NAME)
        threading.Thread(target=_end_with, args=(memory.first_process,), daemon=True).start()
        run(settings, location, memory)
    except BaseException:
        logger.exception("the process that fetches models failed")
    finally:
        # What the first process has to do at its end is not to be done here.
        os._exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def run(settings: Settings, location: Location, memory: SharedMemory) -> None:
    """Returns only if nothing is to be looked for any more."""
    root = Path(settings.store_folder)
    _wait_for_lock(root)
    report = FetchReport(memory)
    layout = Layout(
        settings.model_name or location.name,
        is_one_model=bool(settings.base_path),
        is_free=location.is_archive or location.scheme == "hf",
    )
    policies = PolicySource(policy_file(settings), Values(memory))

    def choose(keys: Collection[Key]) -> set[Key]:
        policies.read()
        content = policies.content
        # Of other models, models.toml says that they are elsewhere.
        elsewhere = set() if settings.base_path else content.places.base_paths.keys()
        only = content.places.only
        return content.wanted(
            {
                (model, version)
                for model, version in keys
                if model not in elsewhere and (only is None or model in only) and settings.model_name in ("", model)
            }
        )

    kind = ArchiveMirror if location.is_archive else ObjectMirror
    mirror = kind(source_of(location), FetchFolder(root, settings.store_max_bytes), layout, choose, report)
    logger.info("models are fetched from %s into %s", location, root)
    Loop(mirror, location, report, settings.poll_seconds).run()


class Loop:
    """Polls the mirror, more seldom while the store fails."""

    def __init__(self, mirror: Mirror, location: Location, report: FetchReport, poll_seconds: float) -> None:
        self._mirror = mirror
        self._location = location
        self._report = report
        self._poll_seconds = poll_seconds
        self._failures = 0
        self._last_error = ""
        self._has_begun = False

    def run(self) -> None:
        while (pause := self.step()) is not None:
            time.sleep(pause)
        while True:
            signal.pause()

    def step(self) -> float | None:
        """Poll once. Returns the pause until the next time; None if there is none to be."""
        error: StoreError | None = None
        try:
            self._mirror.poll()
        except StoreError as caught:
            error = caught
        except OSError as caught:
            error = StoreError("full", f"the folder cannot be written: {caught.strerror}")
        self._note(error)
        if self._mirror.has_begun and not self._has_begun:
            self._report.end_first_fetch()
            self._has_begun = True
        if error is not None:
            # Spread, so that many services do not come back at once.
            backoff = min(2.0**self._failures, MAX_BACKOFF_SECONDS) * random.uniform(0.75, 1.25)  # noqa: S311
            return max(self._poll_seconds, backoff, error.retry_after)
        if not self._poll_seconds and self._has_begun:
            return None
        return self._poll_seconds if self._has_begun else min(self._poll_seconds or inf, MAX_SETTLE_SECONDS)

    def _note(self, error: StoreError | None) -> None:
        self._report.set_failing(error is not None or bool(self._mirror.failures))
        if error is None:
            if self._failures:
                logger.info("%s answers again", self._location)
            self._failures, self._last_error = 0, ""
            return
        self._failures += 1
        if not any(failure.error is error for failure in self._mirror.failures.values()):
            self._report.failed(error.kind)
        if str(error) != self._last_error:
            self._last_error = str(error)
            logger.error("%s: %s; what is there goes on serving, and it is tried again", self._location, error)


def _wait_for_lock(root: Path) -> None:
    """Two services must not fetch into the same folder. The kernel frees the lock at the end of this process."""
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    is_logged = False
    while True:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
            return
        except BlockingIOError:
            if not is_logged:
                logger.warning(
                    "another service fetches into %s; waiting until it ends, or set SERVING_STORE_FOLDER", root
                )
            is_logged = True
            time.sleep(0.5)
