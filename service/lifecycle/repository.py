"""The repository: which versions are on disk, as <models>/<model>/<version>/, or in base paths."""

import logging
import os
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from pathlib import Path

from service.errors import NotFound
from service.inference.folder import folder_entries
from service.serving_config import GRAPH_FILES, MODEL_FILES, OTHER_FORMATS, import_command, model_file

# Model and version.
Key = tuple[str, int]

# The largest int64, as in TensorFlow Serving.
MAX_VERSION = 2**63 - 1
# The models folder itself, as a place in `Repository.skipped`.
MODELS_FOLDER = "."
# Per poll, when looking for misplaced models: somebody may mount a home folder with thousands of folders.
MAX_FOLDERS = 200

# Zero-width joiners are part of words in Persian and many Indian languages, and of emoji.
_JOINERS = "\u200c\u200d"

_LAYOUT = "expected <models>/<model>/<version>/saved_model.pb (or model.tflite)"
_NO_VERSION = (
    "its base path has no folder with a number; expected <base path>/<version>/saved_model.pb (or model.tflite)"
)
_NO_SAVED_MODEL = "it is no SavedModel; " + _LAYOUT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where models lie. `base_paths`: by model, the folder with its versions, for those that are elsewhere than in the
    models folder. `only`: the models to serve; None for all."""

    base_paths: Mapping[str, Path] = field(default_factory=dict)
    only: Set[str] | None = None


class Repository:
    def __init__(
        self,
        root: Path,
        only_model: str = "",
        is_first: Callable[[str], bool] = lambda _message: True,
        pause_seconds: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`only_model`: the name of the only model of the folder to serve; empty for all. `is_first`: called before a
        message is logged; False if another worker process has logged it. `pause_seconds`: between two polls of the
        disk; in between, what the last one found counts."""
        self.root = root
        self.only_model = only_model
        self.places = Places()
        self._is_first = is_first
        self._pause_seconds = pause_seconds
        self._clock = clock
        self._next_poll = -inf
        self._found: dict[Key, Path] = {}
        self._unreadable: dict[str, str] = {}
        self._skipped: dict[str, str] = {}

    def look_in(self, places: Places) -> None:
        """From now on, and soon where they have changed."""
        if places != self.places:
            self.places = places
            self._next_poll = -inf

    @property
    def skipped(self) -> Mapping[str, str]:
        """What the last poll found and does not serve: the reason by path within the root. Includes `only_model` if it
        is missing."""
        return self._skipped

    def path(self, model: str, version: int) -> Path:
        """Raises NotFound if the version is no longer there."""
        try:
            return self.versions()[model, version]
        except (OSError, KeyError):
            raise NotFound(f"{model} version {version} is no longer on disk") from None

    def versions(self) -> dict[Key, Path]:
        """Every version on disk. Logs each change in what is skipped.

        A model whose folder cannot be read keeps its versions from the last poll: a file server that fails for a while
        must not take models out of service. Names that begin with a dot are exports under way; they are ignored.

        Raises:
            OSError: the root cannot be read.
        """
        if (now := self._clock()) < self._next_poll:
            return self._found
        found: dict[Key, Path] = {}
        unreadable: dict[str, str] = {}
        skipped: dict[str, str] = {}
        base_paths = self.places.base_paths
        names = self._names()
        misplaced = MisplacedModels(self.root, base_paths)
        misplaced.check_root([name for name in names if name not in base_paths])
        for model in names:
            if model not in base_paths and self.only_model not in ("", model):
                continue
            if fault := model_name_fault(model):
                if not model.startswith(".") and (self.root / model).is_dir():
                    skipped[model] = fault
                continue
            try:
                children = self._children(model)
                for child in children:
                    if not (child.name.isascii() and child.name.isdigit() and _is_folder(child)):
                        continue
                    if (number := version_number(child.name)) is None:
                        skipped[f"{model}/{child.name}"] = f"a version is a number of at most {MAX_VERSION}"
                    else:
                        found[model, number] = Path(child.path)
                has_versions = any(name == model for name, _ in found)
                misplaced.check_model(model, children, has_versions=has_versions)
                if model in base_paths and not has_versions:
                    skipped[model] = _NO_VERSION
            except OSError as error:
                reason = error.strerror or str(error)
                known = {key: path for key, path in self._found.items() if key[0] == model}
                if known or model not in base_paths:
                    unreadable[model] = reason
                    found |= known
                else:
                    skipped[model] = f"its base path cannot be read: {reason}"
        skipped |= misplaced.places
        if self.only_model and not found and not skipped:
            skipped[self.only_model] = f"SERVING_MODEL_NAME asks for it, and there is no {self.only_model}/<version>"
        self._log_changes(unreadable, skipped)
        self._found, self._unreadable, self._skipped = found, unreadable, skipped
        self._next_poll = now + self._pause_seconds
        return found

    def _names(self) -> list[str]:
        """Of the models to look for."""
        if (only := self.places.only) is not None:
            return sorted(only)
        with os.scandir(self.root) as entries:
            return sorted({*(entry.name for entry in entries), *self.places.base_paths})

    def _children(self, model: str) -> list["os.DirEntry[str]"]:
        """Raises OSError; also if there is no base path, which may be on a file server that is gone for a while."""
        if (base_path := self.places.base_paths.get(model)) is None:
            return folder_entries(self.root / model)
        with os.scandir(base_path) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    def _log_changes(self, unreadable: Mapping[str, str], skipped: Mapping[str, str]) -> None:
        for model, reason in unreadable.items() - self._unreadable.items():
            logger.error("%s cannot be read (what is loaded of it goes on serving): %s", model, reason)
        for place, reason in skipped.items() - self._skipped.items():
            if self._is_first(message := not_served(place, reason)):
                logger.warning("%s", message)


def not_served(place: str, reason: str) -> str:
    """The message for an entry of `Repository.skipped`."""
    return f"nothing is served: {reason}" if place == MODELS_FOLDER else f"{place!a} is not served: {reason}"


@lru_cache(1024)
def version_number(text: str) -> int | None:
    """The version that a folder's name or a part of a URL stands for; leading zeros are allowed. None if it is not a
    whole number from 0 to MAX_VERSION."""
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(MAX_VERSION)):
        return None
    number = int(digits)
    return number if number <= MAX_VERSION else None


def model_name_fault(name: str) -> str | None:
    """Why a folder of this name cannot be a model; None if it can.

    In a URL a model's name ends at a slash or a colon. Characters that cannot be printed would corrupt log lines. A
    leading dot marks an export under way.
    """
    if name.startswith("."):
        return "its name begins with a dot"
    if ":" in name:
        return "its name has a colon, where a path would end it"
    if not all(map(_is_printable, name)):
        return "its name has a character that cannot be printed"
    return None


def find_base_paths(root: Path) -> dict[str, Path]:
    """By model, each folder at or below this one that has versions. A model is called like its folder.

    Raises:
        ValueError: two folders have the same name.
    """
    found: dict[str, Path] = {}
    for folder, children, _ in os.walk(root):
        path = Path(folder)
        versions = [name for name in children if version_number(name) is not None and model_file(path / name)]
        if versions:
            if path.name in found:
                raise ValueError(f"{path} and {found[path.name]} have the same name; expected one folder of each name")
            found[path.name] = path
        # The first by name counts; and what is in a version is no model.
        children[:] = sorted(name for name in children if name not in versions)
    return found


class MisplacedModels:
    """Finds models in the wrong place. `places`: what to do about each, by its path within the models folder.

    The usual mistakes: the models folder is itself a model or a version, or holds the models folder; a SavedModel lies
    outside a version's folder, or in one whose name is not a number; a file of Keras or LiteRT.
    """

    def __init__(self, root: Path, base_paths: Mapping[str, Path]) -> None:
        """`base_paths`: of the models that lie elsewhere than in the models folder."""
        self.places: dict[str, str] = {}
        self._root = root
        self._base_paths = base_paths
        self._folders = 0

    def check_root(self, names: Iterable[str]) -> None:
        """`names`: of all entries of the models folder."""
        if file := _first_of(GRAPH_FILES, names):
            self.places[MODELS_FOLDER] = (
                f"{file} lies in the models folder itself, so it is a version; {_LAYOUT}: SERVING_MODELS is the "
                "folder two levels above"
            )
            return
        for name in names:
            if version_number(name) is not None and (file := self._model_in(name)):
                self.places[MODELS_FOLDER] = (
                    f"{name}/{file} lies in the models folder, so it is a model, with a version {name}; {_LAYOUT}: "
                    "SERVING_MODELS is the folder one level above"
                )
                return
            self._check_file(name, Path(name).stem)

    def check_model(self, model: str, children: Iterable["os.DirEntry[str]"], *, has_versions: bool) -> None:
        """`children`: the entries of the model's folder."""
        children = [child for child in children if not child.name.startswith(".")]
        if file := _first_of(MODEL_FILES, [child.name for child in children]):
            if MODELS_FOLDER not in self.places:
                self.places[model] = f"{file} lies in it, and not in a folder of a version; expected {model}/1/{file}"
            return
        for child in children:
            place = f"{model}/{child.name}"
            if child.name.isdigit() or _is_link_to_version(child):
                continue
            if file := self._model_in(place):
                self.places[place] = f"{file} lies in it, but a version is a number; expected {model}/1/{file}"
            elif not has_versions:
                self._check_file(place, model)
                if file := self._model_of_version_in(place):
                    self.places[model] = (
                        f"it holds models of its own ({file}): the models folder is one level too high; {_LAYOUT}: "
                        f"SERVING_MODELS is the folder {model} in it"
                    )
                    return

    def _check_file(self, place: str, model: str) -> None:
        found = OTHER_FORMATS.get(Path(place).suffix.lower())
        if found is None or not self._path(place).is_file():
            return
        match found:
            case "Keras":
                self.places[place] = f"it is a file of Keras: {import_command(place, model)}"
            case "LiteRT":
                self.places[place] = f"it is a LiteRT model; expected {model}/1/model.tflite"
            case _:
                self.places[place] = _NO_SAVED_MODEL

    def _model_in(self, place: str) -> str | None:
        if not self._count_folder():
            return None
        found = model_file(self._path(place))
        return found.name if found else None

    def _model_of_version_in(self, place: str) -> str | None:
        if not self._count_folder():
            return None
        try:
            names = sorted(child.name for child in self._path(place).iterdir())
        except OSError:
            return None
        versions = (f"{place}/{name}" for name in names if version_number(name) is not None)
        return next((f"{version}/{file}" for version in versions if (file := self._model_in(version))), None)

    def _path(self, place: str) -> Path:
        model, _, rest = place.partition("/")
        return self._base_paths.get(model, self._root / model) / rest

    def _count_folder(self) -> bool:
        """False once MAX_FOLDERS are exceeded."""
        self._folders += 1
        return self._folders <= MAX_FOLDERS


def _first_of(files: Iterable[str], names: Iterable[str]) -> str | None:
    names = set(names)
    return next((file for file in files if file in names), None)


def _is_link_to_version(child: "os.DirEntry[str]") -> bool:
    """Such as `latest`."""
    return child.is_symlink() and version_number(Path(os.path.realpath(child.path)).name) is not None


def _is_printable(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself
