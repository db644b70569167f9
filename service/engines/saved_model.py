"""The engine `tensorflow`: runs any SavedModel as it is."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from service.engines.interface import LoadError
from service.engines.meta_graph import read_tags
from service.engines.tensorflow_c import INVALID_ARGUMENT, OUT_OF_RANGE, TensorFlowError
from service.engines.tensorflow_session import EXECUTORS, Call, Executor, Session
from service.errors import InvalidRequest
from service.signature import Signature
from service.tensors import Array
from service.without_paths import without_paths

# What TensorFlow says of the first executor where a graph needs the second.
_EXECUTOR_REFUSES = "Single-threaded executor does not support"
_NO_GRAPH = "Could not find meta graph def matching supplied tags"
_VARIABLES = "variables/variables.index"

# Of several errors TensorFlow lists each.
_PREFIX = re.compile(r"^\d+ root error\(s\) found\.\s*\(0\) (?:[A-Z_]+: )?")
_TAIL = re.compile(r" (in binary running on|with these attrs:) .*")
_NODE = re.compile(r"\{\{\w+ (.*?)\}\}")

logger = logging.getLogger(__name__)


class SavedModelEngine:
    name = "tensorflow"
    runs_on_caller = False

    def __init__(self, version_dir: Path) -> None:
        """Raises LoadError; ModuleNotFoundError where TensorFlow is not installed."""
        self._version_dir = version_dir
        for executor in EXECUTORS:
            try:
                self._calls = self._load(executor)
                return
            except TensorFlowError as error:
                if executor == EXECUTORS[-1] or _EXECUTOR_REFUSES not in str(error):
                    raise LoadError(self._why_not(error)) from None

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return self._calls[signature](inputs)
        except TensorFlowError as error:
            if error.code not in (INVALID_ARGUMENT, OUT_OF_RANGE):
                raise
            raise InvalidRequest(f"the model refuses this input: {sentence(str(error), self._version_dir)}") from None

    def release(self) -> None:
        """What TensorFlow keeps of freed memory it does not keep by sizes."""

    def _load(self, executor: Executor) -> dict[str, Call]:
        """A call for each signature; one that TensorFlow cannot run is left out, unless there is no other."""
        session = Session(self._version_dir, executor)
        # TensorFlow loads such a version, which then fails at every request.
        if session.has_variables and not (self._version_dir / _VARIABLES).is_file():
            raise LoadError(f"its variables are missing: it holds no {_VARIABLES}")
        signatures = session.signatures
        if not signatures:
            raise LoadError("it has no signature that takes and gives plain tensors")
        calls, obstacles = {}, []
        for name, signature in signatures.items():
            try:
                calls[name] = Call(session, signature)
            except TensorFlowError as error:
                if _EXECUTOR_REFUSES in str(error):
                    raise
                obstacles.append(error)
                version = "/".join(self._version_dir.parts[-2:])
                logger.warning(
                    "%s: TensorFlow cannot run the signature %r: %s",
                    version,
                    name,
                    sentence(str(error), self._version_dir),
                )
        if not calls:
            raise obstacles[0]
        self.signatures: Mapping[str, Signature] = {name: signatures[name] for name in calls}
        return calls

    def _why_not(self, error: TensorFlowError) -> str:
        if str(error).startswith(_NO_GRAPH):
            tags = read_tags((self._version_dir / "saved_model.pb").read_bytes())
            found = ", ".join(" + ".join(graph) or "none" for graph in tags)
            return f"it has no graph with the tag 'serve'; tags found: {found or 'none, for it holds no graph'}"
        return f"TensorFlow cannot load it: {sentence(str(error), self._version_dir)}"


def sentence(message: str, version_dir: Path) -> str:
    """What TensorFlow says, without the nodes around it, advice to programmers, and names of this machine: its host's
    and its folders'. Clients read it."""
    first = _PREFIX.sub("", message).strip().partition("\n")[0]
    return without_paths(_NODE.sub(r"\1", _TAIL.sub("", first)).strip(), version_dir)
