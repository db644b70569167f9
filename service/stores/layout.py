"""Which files of a store are of which version."""

from collections.abc import Collection, Iterable

from service.lifecycle.repository import Key, model_name_fault, version_number
from service.serving_config import GRAPH_FILES, TWIN_FILE
from service.stores.errors import StoreError

# Files that a version has at least one of.
_GRAPHS = {*GRAPH_FILES, TWIN_FILE}

# By version, the path of each file below the version's folder, and its path in the store.
Versions = dict[Key, dict[str, str]]


class Layout:
    """`model`: what a model is called that has no name of its own. `is_one_model`: the root holds the versions of that
    one, as a base path does. `is_free`: of archives and repositories, whose root may be the models folder, a model or a
    version."""

    def __init__(self, model: str, *, is_one_model: bool, is_free: bool) -> None:
        # A stranger's repository must not say how models are served, nor where requests are captured.
        self.has_policies = not is_one_model and not is_free
        self._model = model
        self._is_one_model = is_one_model
        self._is_free = is_free

    @property
    def expected(self) -> str:
        return "<version>/saved_model.pb" if self._is_one_model else "<model>/<version>/saved_model.pb"

    def versions(self, paths: Iterable[str]) -> Versions:
        """Complete ones and others. Raises StoreError for a path that leads out of its version."""
        found: Versions = {}
        paths = list(paths)
        folders = self._folders(paths)
        for path in paths:
            parts = path.split("/")
            if not (rest := parts[folders:]):
                continue
            model = parts[0] if folders == 2 else self._model
            number = version_number(parts[folders - 1]) if folders else 1
            if number is None or model_name_fault(model):
                continue
            if any(part in ("", ".", "..") or "\0" in part for part in rest):
                raise StoreError("refused", f"{path!a} leads out of its version's folder")
            found.setdefault((model, number), {})["/".join(rest)] = path
        return found

    def _folders(self, paths: list[str]) -> int:
        """How many folders there are above a version's files."""
        if self._is_free:
            if is_complete(paths):
                return 0
            if any(_is_graph_of_version(path) for path in paths):
                return 1
        return 1 if self._is_one_model else 2


def is_complete(names: Collection[str]) -> bool:
    """Whether a graph is among the files of a version."""
    return not _GRAPHS.isdisjoint(names)


def _is_graph_of_version(path: str) -> bool:
    version, _, rest = path.partition("/")
    return rest in _GRAPHS and version_number(version) is not None
