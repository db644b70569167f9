"""The repository: which versions exist on disk, as <models>/<model>/<version>/."""

import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from service.errors import NotFound
from service.lifecycle.misplaced import ROOT, Misplaced
from service.lifecycle.names import MAX_VERSION, model_misfit, version_number
from service.serving_config import ASSETS, CONFIG_FILE, TWIN_FILE

# Of what lies in `assets.extra`, what is loaded with the version; service/drift/watch.py and
# service/lifecycle/warm_up_requests.py read the last two.
_LOADED_BESIDE = {
    os.path.join(ASSETS, name)  # noqa: PTH118
    for name in (CONFIG_FILE, TWIN_FILE, "reference.json", "tf_serving_warmup_requests")
}

logger = logging.getLogger(__name__)


class Repository:
    def __init__(
        self, root: Path, only_model: str = "", is_first: Callable[[str], bool] = lambda _sentence: True
    ) -> None:
        """`is_first`: whether no other worker process has said this sentence; asked before it is logged."""
        self.root = root
        self.only_model = only_model
        self._is_first = is_first
        self._found: dict[tuple[str, int], Path] = {}
        self._unreadable: dict[str, str] = {}
        self._passed_over: dict[str, str] = {}

    @property
    def passed_over(self) -> Mapping[str, str]:
        """What lies there and is not served, by its path within the root, each with the reason; and the one model that
        was asked for, where it is not there. As of the last look."""
        return self._passed_over

    def path(self, model: str, version: int) -> Path:
        """Where it is. Raises NotFound where it is no longer there."""
        try:
            return self.versions()[model, version]
        except (OSError, KeyError):
            raise NotFound(f"{model} version {version} is no longer on disk") from None

    def versions(self) -> dict[tuple[str, int], Path]:
        """Every version by (model, number). Of a model whose folder is there and cannot be read, what was there before:
        a file server that fails for a while must not take away what is served.

        What nobody could name does not count (service/lifecycle/names.py), nor what lies in the wrong place
        (service/lifecycle/misplaced.py); the log says so once, but for names with a dot in front (exports under way).

        Raises:
            OSError: the root itself cannot be read. Models that vanish meanwhile are passed over.
        """
        found: dict[tuple[str, int], Path] = {}
        unreadable: dict[str, str] = {}
        passed_over: dict[str, str] = {}
        with os.scandir(self.root) as models:
            names = sorted(model.name for model in models)
        misplaced = Misplaced(self.root)
        misplaced.look_at_root(names)
        for model in names:
            if self.only_model not in ("", model):
                continue
            if misfit := model_misfit(model):
                if not model.startswith(".") and (self.root / model).is_dir():
                    passed_over[model] = misfit
                continue
            try:
                children = _children(self.root / model)
                for version in children:
                    if not (version.name.isascii() and version.name.isdigit() and _is_folder(version)):
                        continue
                    if (number := version_number(version.name)) is None:
                        passed_over[f"{model}/{version.name}"] = f"a version is a number of at most {MAX_VERSION}"
                    else:
                        found[model, number] = Path(version.path)
                misplaced.look_at_model(model, children, has_versions=any(name == model for name, _ in found))
            except OSError as error:
                unreadable[model] = error.strerror or str(error)
                found |= {key: path for key, path in self._found.items() if key[0] == model}
        passed_over |= misplaced.places
        if self.only_model and not found and not passed_over:
            passed_over[self.only_model] = (
                f"SERVING_MODEL_NAME asks for it, and there is no {self.only_model}/<version>"
            )
        for model, reason in unreadable.items() - self._unreadable.items():
            logger.error("%s cannot be read (what is loaded of it goes on serving): %s", model, reason)
        for place, reason in passed_over.items() - self._passed_over.items():
            if self._is_first(sentence := not_served(place, reason)):
                logger.warning("%s", sentence)
        self._found, self._unreadable, self._passed_over = found, unreadable, passed_over
        return found


def not_served(place: str, reason: str) -> str:
    """The sentence about an entry of `passed_over`."""
    return f"nothing is served: {reason}" if place == ROOT else f"{place!a} is not served: {reason}"


# Of a file: its size, when it was written (ns) and its number on the file system.
FileState = tuple[int, int, int]


class Folder:
    """A version's folder, as long as what was loaded of it is there: this one, whatever its name leads to by then.

    It is held open, so that the file system numbers no other one like it. `path`: where it was, without links;
    `identity`: of the folder and its files as they were, the same in every process of this machine.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = Path(os.path.realpath(path))
        descriptor = os.open(self.path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        weakref.finalize(self, os.close, descriptor)
        self._number = _number(os.fstat(descriptor))
        self._files = loaded_files(self.path)
        self.identity = f"{self._number}:{_digest(self._files)}"

    def is_replaced(self, path: Path) -> bool:
        """Whether another folder lies there now. Where none does, none has taken its place."""
        try:
            return _number(path.stat()) != self._number
        except OSError:
            return False

    def changed_files(self, path: Path) -> dict[str, FileState | None]:
        """What is no longer as it was when this was opened, by path; None for what is gone. `path`: where the folder
        is now; where it is not there, nothing has changed."""
        if not path.is_dir():
            return {}
        now = loaded_files(path)
        return {
            name: now.get(name) for name in sorted(now.keys() | self._files) if now.get(name) != self._files.get(name)
        }


def _number(stat: os.stat_result) -> str:
    return f"{stat.st_dev:x}:{stat.st_ino:x}"


def _digest(files: Mapping[str, FileState]) -> str:
    return hashlib.sha256(repr(sorted(files.items())).encode(errors="surrogateescape")).hexdigest()[:16]


def loaded_files(version: Path) -> dict[str, FileState]:
    """What a version is loaded from: its files, but for those beside it that people alone look at."""
    files = {os.path.relpath(path, version): state for path, state in _files(version)}
    beside = ASSETS + os.sep
    return {name: state for name, state in files.items() if not name.startswith(beside) or name in _LOADED_BESIDE}


def fingerprint(version: Path) -> int:
    """Changes whenever a file of the version appears, vanishes, grows or is written, or its folder is another one."""
    files = list(_files(version))
    with suppress(OSError):
        files.append(("", (0, 0, version.stat().st_ino)))
    return hash(tuple(sorted(files)))


def _files(version: Path) -> Iterator[tuple[str, FileState]]:
    folders = [str(version)]
    while folders:
        try:
            children = _children(folders.pop())
        except OSError:
            continue
        for child in children:
            try:
                if child.is_dir(follow_symlinks=False):
                    folders.append(child.path)
                else:
                    stat = child.stat()
                    yield child.path, (stat.st_size, stat.st_mtime_ns, stat.st_ino)
            except OSError:
                continue


def _children(folder: "os.PathLike[str] | str") -> list["os.DirEntry[str]"]:
    """Of what is no folder, or none any more, none. Raises OSError where it cannot be read."""
    try:
        with os.scandir(folder) as children:
            return sorted(children, key=lambda child: child.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself
