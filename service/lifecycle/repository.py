"""The repository: which versions exist on disk, as <models>/<model>/<version>/."""

import logging
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from service.errors import NotFound
from service.inference.folder import folder_entries
from service.serving_config import GRAPH_FILES, OTHER_FORMATS, graph_file

# What may be called what: the one rule for the names of models and the numbers of versions.
#
# Folders, paths of requests, `models.toml` and the command line follow it, so that whatever is served can be named.

# Of int64, as TensorFlow Serving's versions.
MAX_VERSION = 2**63 - 1
# Joiners within words of Persian and of many languages of India, and within emoji.
_JOINERS = "\u200c\u200d"


def version_number(text: str) -> int | None:
    """The number that these digits write, zeros in front or not; None where it is none, or none of int64."""
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(MAX_VERSION)):
        return None
    number = int(digits)
    return number if number <= MAX_VERSION else None


def model_name_fault(name: str) -> str | None:
    """What keeps a folder of this name from being a model; None where nothing does.

    A path ends a model's name at a slash or a colon. What cannot be printed hides in lines of the log, and bytes that
    are no text cannot be written into them at all. A dot in front is that of an export under way.
    """
    if name.startswith("."):
        return "its name begins with a dot"
    if ":" in name:
        return "its name has a colon, where a path would end it"
    if not all(map(_is_printable, name)):
        return "its name has a character that cannot be printed"
    return None


def _is_printable(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


# Models in the wrong place: what lies in the models folder where no version can be, and what to do about it.
#
# Expected is <models>/<model>/<version>/saved_model.pb. The usual mistakes: the mounted folder is a model or a version,
# or holds the models folder; a SavedModel lies in no version's folder, or in one whose name is no number; a file of
# Keras or LiteRT.

# The models folder itself, among the places.
MODELS_FOLDER = "."
# Folders that are looked into at each poll. A home folder that is taken for one of models has thousands.
MAX_FOLDERS = 200

_LAYOUT = "expected <models>/<model>/<version>/saved_model.pb"
_KERAS = 'it is a file of Keras; expected a SavedModel: model.export("<models>/{name}/1") makes one'
_LITERT = "it is a LiteRT model alone; expected a SavedModel, which may bring such a twin in its assets.extra"
_OTHER = "it is no SavedModel; " + _LAYOUT
_ADVICE = {"Keras": _KERAS, "LiteRT": _LITERT}


class MisplacedModels:
    """One look: `places` is what was found, by its path within the models folder, each with what to do."""

    def __init__(self, root: Path) -> None:
        self.places: dict[str, str] = {}
        self._root = root
        self._folders = 0

    def check_root(self, names: Iterable[str]) -> None:
        """`names`: of what lies in the models folder."""
        if graph := _graph_among(names):
            self.places[MODELS_FOLDER] = (
                f"{graph} lies in the models folder itself, so it is a version; {_LAYOUT}: SERVING_MODELS is the "
                "folder two levels above"
            )
            return
        for name in names:
            if version_number(name) is not None and (graph := self._graph_in(name)):
                self.places[MODELS_FOLDER] = (
                    f"{name}/{graph} lies in the models folder, so it is a model, with a version {name}; {_LAYOUT}: "
                    "SERVING_MODELS is the folder one level above"
                )
                return
            self._check_file(name, Path(name).stem)

    def check_model(self, model: str, children: Iterable["os.DirEntry[str]"], *, has_versions: bool) -> None:
        """`children`: of its folder."""
        children = [child for child in children if not child.name.startswith(".")]
        if graph := _graph_among([child.name for child in children]):
            if MODELS_FOLDER not in self.places:
                self.places[model] = f"{graph} lies in it, and not in a folder of a version; expected {model}/1/{graph}"
            return
        for child in children:
            place = f"{model}/{child.name}"
            if child.name.isdigit() or _is_link_to_version(child):
                continue
            if graph := self._graph_in(place):
                self.places[place] = f"{graph} lies in it, but a version is a number; expected {model}/1/{graph}"
            elif not has_versions:
                self._check_file(place, model)
                if graph := self._graph_of_version_in(place):
                    self.places[model] = (
                        f"it holds models of its own ({graph}): the models folder is one level too high; {_LAYOUT}: "
                        f"SERVING_MODELS is the folder {model} in it"
                    )
                    return

    def _check_file(self, place: str, model: str) -> None:
        found = OTHER_FORMATS.get(Path(place).suffix.lower())
        if found is not None and (self._root / place).is_file():
            self.places[place] = _ADVICE.get(found, _OTHER).format(name=model)

    def _graph_in(self, place: str) -> str | None:
        if not self._may_check():
            return None
        found = graph_file(self._root / place)
        return found.name if found else None

    def _graph_of_version_in(self, place: str) -> str | None:
        if not self._may_check():
            return None
        try:
            names = sorted(child.name for child in (self._root / place).iterdir())
        except OSError:
            return None
        versions = (f"{place}/{name}" for name in names if version_number(name) is not None)
        return next((f"{version}/{graph}" for version in versions if (graph := self._graph_in(version))), None)

    def _may_check(self) -> bool:
        self._folders += 1
        return self._folders <= MAX_FOLDERS


def _graph_among(names: Iterable[str]) -> str | None:
    names = set(names)
    return next((name for name in GRAPH_FILES if name in names), None)


def _is_link_to_version(child: "os.DirEntry[str]") -> bool:
    """As `latest` often is one."""
    return child.is_symlink() and version_number(Path(os.path.realpath(child.path)).name) is not None


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

        What nobody could name does not count (service/lifecycle/repository.py), nor what lies in the wrong place
        (service/lifecycle/repository.py); the log says so once, but for names with a dot in front (exports under way).

        Raises:
            OSError: the root itself cannot be read. Models that vanish meanwhile are passed over.
        """
        found: dict[tuple[str, int], Path] = {}
        unreadable: dict[str, str] = {}
        passed_over: dict[str, str] = {}
        with os.scandir(self.root) as models:
            names = sorted(model.name for model in models)
        misplaced = MisplacedModels(self.root)
        misplaced.check_root(names)
        for model in names:
            if self.only_model not in ("", model):
                continue
            if misfit := model_name_fault(model):
                if not model.startswith(".") and (self.root / model).is_dir():
                    passed_over[model] = misfit
                continue
            try:
                children = folder_entries(self.root / model)
                for version in children:
                    if not (version.name.isascii() and version.name.isdigit() and _is_folder(version)):
                        continue
                    if (number := version_number(version.name)) is None:
                        passed_over[f"{model}/{version.name}"] = f"a version is a number of at most {MAX_VERSION}"
                    else:
                        found[model, number] = Path(version.path)
                misplaced.check_model(model, children, has_versions=any(name == model for name, _ in found))
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
    return f"nothing is served: {reason}" if place == MODELS_FOLDER else f"{place!a} is not served: {reason}"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself
