"""Models in the wrong place: what lies in the models folder where no version can be, and what to do about it.

Expected is <models>/<model>/<version>/saved_model.pb. Looked for are the usual mistakes: the folder that is mounted is
a model or a version, or holds the models folder; a SavedModel without a version's folder, or in one whose name is no
number; a file of Keras or LiteRT.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.lifecycle.names import version_number
from service.serving_config import GRAPH_FILES, graph_file

# The models folder itself, among the places.
ROOT = "."
# Folders that are looked into at each poll. A home folder that is taken for one of models has thousands.
MAX_FOLDERS = 200

_LAYOUT = "expected <models>/<model>/<version>/saved_model.pb"
_KERAS = 'it is a file of Keras; expected a SavedModel: model.export("<models>/{name}/1") makes one'
_LITERT = "it is a LiteRT model alone; expected a SavedModel, which may bring such a twin in its assets.extra"
_OTHER = "it is no SavedModel; " + _LAYOUT
_MODEL_FILES = {".keras": _KERAS, ".h5": _KERAS, ".hdf5": _KERAS, ".tflite": _LITERT, ".onnx": _OTHER, ".pt": _OTHER}


class Misplaced:
    """One look: `places` is what was found, by its path within the models folder, each with what to do."""

    def __init__(self, root: Path) -> None:
        self.places: dict[str, str] = {}
        self._root = root
        self._folders = 0

    def look_at_root(self, names: Iterable[str]) -> None:
        """`names`: of what lies in the models folder."""
        if graph := _graph_among(names):
            self.places[ROOT] = (
                f"{graph} lies in the models folder itself, so it is a version; {_LAYOUT}: SERVING_MODELS is the "
                "folder two levels above"
            )
            return
        for name in names:
            if version_number(name) is not None and (graph := self._graph_in(name)):
                self.places[ROOT] = (
                    f"{name}/{graph} lies in the models folder, so it is a model, with a version {name}; {_LAYOUT}: "
                    "SERVING_MODELS is the folder one level above"
                )
                return
            self._look_at_file(name, Path(name).stem)

    def look_at_model(self, model: str, children: Iterable["os.DirEntry[str]"], *, has_versions: bool) -> None:
        """`children`: of its folder."""
        children = [child for child in children if not child.name.startswith(".")]
        if graph := _graph_among([child.name for child in children]):
            if ROOT not in self.places:
                self.places[model] = f"{graph} lies in it, and not in a folder of a version; expected {model}/1/{graph}"
            return
        for child in children:
            place = f"{model}/{child.name}"
            if child.name.isdigit() or _is_link_to_version(child):
                continue
            if graph := self._graph_in(place):
                self.places[place] = f"{graph} lies in it, but a version is a number; expected {model}/1/{graph}"
            elif not has_versions:
                self._look_at_file(place, model)
                if graph := self._graph_of_version_in(place):
                    self.places[model] = (
                        f"it holds models of its own ({graph}): the models folder is one level too high; {_LAYOUT}: "
                        f"SERVING_MODELS is the folder {model} in it"
                    )
                    return

    def _look_at_file(self, place: str, model: str) -> None:
        told = _MODEL_FILES.get(Path(place).suffix.lower())
        if told is not None and (self._root / place).is_file():
            self.places[place] = told.format(name=model)

    def _graph_in(self, place: str) -> str | None:
        if not self._may_look():
            return None
        found = graph_file(self._root / place)
        return found.name if found else None

    def _graph_of_version_in(self, place: str) -> str | None:
        if not self._may_look():
            return None
        try:
            names = sorted(child.name for child in (self._root / place).iterdir())
        except OSError:
            return None
        versions = (f"{place}/{name}" for name in names if version_number(name) is not None)
        return next((f"{version}/{graph}" for version in versions if (graph := self._graph_in(version))), None)

    def _may_look(self) -> bool:
        self._folders += 1
        return self._folders <= MAX_FOLDERS


def lies_below(version: Path) -> Iterator[str]:
    """What a version's folder without a SavedModel holds of a model, for the sentence that says so."""
    for child in sorted(version.iterdir()):
        if child.suffix.lower() in _MODEL_FILES:
            yield child.name
        elif graph := graph_file(child):
            yield f"{child.name}/{graph.name}"


def _graph_among(names: Iterable[str]) -> str | None:
    names = set(names)
    return next((name for name in GRAPH_FILES if name in names), None)


def _is_link_to_version(child: "os.DirEntry[str]") -> bool:
    """As `latest` often is one."""
    return child.is_symlink() and version_number(Path(os.path.realpath(child.path)).name) is not None
