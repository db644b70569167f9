"""The engine `tensorflow`: runs any SavedModel."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from service.engines.base import LoadError, LoadOptions, outputs_of_no_rows
from service.engines.saved_model.meta_graph import read_tags
from service.engines.tensorflow.c_api import TensorFlowError
from service.engines.tensorflow.op_libraries import missing_op
from service.engines.tensorflow.session import EXECUTORS, Executor, Session, SignatureRunner
from service.errors import GraphError, InvalidRequest, ServingError, without_paths
from service.serving_config import graph_file
from service.tensors.dtypes import Array, declared_shape, has_declared_shape, shape_text
from service.tensors.signature import Signature

# Messages of TensorFlow. The first: the graph needs the other executor.
_UNSUPPORTED_EXECUTOR = "Single-threaded executor does not support"
_NO_GRAPH = "Could not find meta graph def matching supplied tags"
_NO_FILE = "Could not find SavedModel"
_UNKNOWN_OP = re.compile(r"Op type not registered '(.+?)'")
_VARIABLES = "variables/variables.index"

# Parts to remove from messages.
_PREFIX = re.compile(r"^\d+ root error\(s\) found\.\s*\(0\) (?:[A-Z_]+: )?")
_TAIL = re.compile(r" (in binary running on|with these attrs:) .*")
_NODE = re.compile(r"\{\{\w+ (.*?)\}\}")

# HTTP status by TensorFlow's code, as in TensorFlow Serving (model_servers/http_server.cc); 500 for all others. The
# exception is DATA_LOSS, which is 500 there: data that a running graph finds damaged came with the request.
_STATUSES: Mapping[int, int] = {
    1: 499,  # CANCELLED
    3: 400,  # INVALID_ARGUMENT
    4: 504,  # DEADLINE_EXCEEDED
    5: 404,  # NOT_FOUND
    6: 409,  # ALREADY_EXISTS
    7: 403,  # PERMISSION_DENIED
    8: 429,  # RESOURCE_EXHAUSTED
    9: 400,  # FAILED_PRECONDITION
    10: 409,  # ABORTED
    11: 400,  # OUT_OF_RANGE
    12: 501,  # UNIMPLEMENTED
    14: 503,  # UNAVAILABLE
    15: 400,  # DATA_LOSS
    16: 401,  # UNAUTHENTICATED
}
# Client errors that the input did not cause.
_BLAMELESS = (429, 499)

DEFAULT_OPTIONS = LoadOptions()

logger = logging.getLogger(__name__)


class SavedModelEngine:
    """Runs a SavedModel in a TensorFlow session."""

    name = "tensorflow"
    runs_on_caller = False

    def __init__(self, version_dir: Path, options: LoadOptions = DEFAULT_OPTIONS) -> None:
        """Raises LoadError, and ModuleNotFoundError if TensorFlow is not installed."""
        self._version_dir = version_dir
        self._options = options
        for executor in EXECUTORS:
            try:
                self._runners = self._load(executor)
                return
            except TensorFlowError as error:
                if executor == EXECUTORS[-1] or _UNSUPPORTED_EXECUTOR not in str(error):
                    raise LoadError(self._why_not(error)) from None

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return self._runners[signature](inputs)
        except TensorFlowError as error:
            if any(not array.size for array in inputs.values()):
                # The graph may need rows; without any, the outputs are known anyway.
                with suppress(InvalidRequest):
                    return outputs_of_no_rows(self.signatures[signature], inputs)
            message = sentence(str(error), self._version_dir)
            raise graph_error(error.code, message, self.signatures[signature], inputs) from None

    def release(self) -> None:
        """Nothing to release: TensorFlow does not keep memory by size."""

    def _load(self, executor: Executor) -> dict[str, SignatureRunner]:
        """A runner for each signature that TensorFlow can run. Raises TensorFlowError if it can run none."""
        session = Session(self._version_dir, executor, self._options)
        # TensorFlow would load such a version, which would then fail at every request.
        if session.has_variables and not (self._version_dir / _VARIABLES).is_file():
            raise LoadError(f"its variables are missing: it holds no {_VARIABLES}")
        signatures = session.signatures
        if not signatures:
            raise LoadError("it has no signature that takes and gives plain tensors")
        runners, errors = {}, []
        for name, signature in signatures.items():
            try:
                runners[name] = SignatureRunner(session, signature)
            except TensorFlowError as error:
                if _UNSUPPORTED_EXECUTOR in str(error):
                    raise
                errors.append(error)
                what = "/".join(self._version_dir.parts[-2:]), name, sentence(str(error), self._version_dir)
                logger.warning("%s: TensorFlow cannot run the signature %r: %s", *what)
        if not runners:
            raise errors[0]
        self.signatures: Mapping[str, Signature] = {name: signatures[name] for name in runners}
        return runners

    def _why_not(self, error: TensorFlowError) -> str:
        file = graph_file(self._version_dir)
        if str(error).startswith(_NO_GRAPH):
            tags = self._options.tags
            message = f"it has no graph with the {'tag' if len(tags) == 1 else 'tags'} {' + '.join(tags)!r}"
            if file is None or file.suffix != ".pb":
                return message
            found = ", ".join(" + ".join(graph) or "none" for graph in read_tags(file.read_bytes()))
            return f"{message}; tags found: {found or 'none, for it holds no graph'}"
        if file is not None and str(error).startswith(_NO_FILE):
            # TensorFlow's Python package can neither read nor write such a file.
            return f"its graph is in {file.name}, which the TensorFlow that is installed cannot read; export it anew"
        if unknown := _UNKNOWN_OP.search(str(error)):
            return missing_op(unknown[1])
        message = f"TensorFlow cannot load it: {sentence(str(error), self._version_dir)}"
        # TensorFlow does not name a text file that it cannot parse.
        return message if file is None or file.suffix == ".pb" else f"{message} (its graph is in {file.name})"


def graph_error(code: int, message: str, signature: Signature, inputs: Mapping[str, Array]) -> ServingError:
    """The error for a run that failed with this TF_Code."""
    status = _STATUSES.get(code, 500)
    specs = signature.inputs
    undeclared = [name for name, array in inputs.items() if not has_declared_shape(array, specs[name])]
    if undeclared:
        # The shape is to blame, whatever operation failed.
        status = 400 if status >= 500 else status
        shapes = ", ".join(
            f"{name!r} has the shape {shape_text(inputs[name].shape)}, declared is {declared_shape(specs[name])}"
            for name in undeclared
        )
        message = f"{message} ({shapes})"
    if status == 400:
        error = InvalidRequest(f"the model refuses this input: {message}")
        error.grpc_status = None if undeclared else code
        return error
    blames = "refuses this input" if status < 500 and status not in _BLAMELESS else "failed"
    return GraphError(f"the model {blames}: {message}", status, code)


def sentence(message: str, version_dir: Path) -> str:
    """TensorFlow's message as clients may read it: without nodes, advice to programmers, host name and folders."""
    first = _PREFIX.sub("", message).strip().partition("\n")[0]
    return without_paths(_NODE.sub(r"\1", _TAIL.sub("", first)).strip(), version_dir)
