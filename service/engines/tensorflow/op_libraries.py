"""Check the libraries with operations beyond TensorFlow's own (SERVING_OP_LIBRARIES).

A library runs code when it is loaded, and cannot be unloaded. So the service tries them at its start in a process of
their own; worker processes load them before their first SavedModel (`c_api.load_op_library`).
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

SETTING = "SERVING_OP_LIBRARIES"

# Packages with operations, by prefixes of the operations' names.
_PACKAGES = {
    "TFText>": "tensorflow-text",
    "SimpleML": "tensorflow-decision-forests",
    "Addons>": "tensorflow-addons",
    "IO>": "tensorflow-io",
    "TFRA>": "tensorflow-recommenders-addons",
    "Tfq": "tensorflow-quantum",
    "Horovod": "horovod",
    # tensorflow-text, before its operations had a prefix.
    "CaseFoldUTF8": "tensorflow-text",
    "ConstrainedSequence": "tensorflow-text",
    "FastBertNormalize": "tensorflow-text",
    "FastWordpiece": "tensorflow-text",
    "FindSourceOffsets": "tensorflow-text",
    "MaxSpanningTree": "tensorflow-text",
    "NormalizeUTF8": "tensorflow-text",
    "PhraseTokenize": "tensorflow-text",
    "RegexSplitWithOffsets": "tensorflow-text",
    "RougeL": "tensorflow-text",
    "SentenceFragments": "tensorflow-text",
    "Sentencepiece": "tensorflow-text",
    "SplitMergeTokenize": "tensorflow-text",
    "TokenizerFromLogits": "tensorflow-text",
    "UnicodeScriptTokenize": "tensorflow-text",
    "WhitespaceTokenize": "tensorflow-text",
    "WordpieceTokenize": "tensorflow-text",
}


def of_tensorflow_text() -> str:
    """The setting for the libraries of an installed TensorFlow Text; empty without them, or without TensorFlow."""
    spec = find_spec("tensorflow_text")
    if spec is None or find_spec("tensorflow") is None:
        return ""
    return ":".join(f"{folder}/python/*/*.so" for folder in spec.submodule_search_locations or ())


def why_not_loadable(paths: Sequence[Path]) -> str | None:
    """Which library cannot be loaded, and why; None if all can. Takes a second, since it loads TensorFlow."""
    command = [sys.executable, "-m", __name__, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if not done.returncode:
        return None
    *_, last = ["TensorFlow cannot be loaded", *done.stdout.split("\n")[:-1]]
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"{SETTING}: {last}: the process that tries to ends by {name}"
    return f"{SETTING}: {last}"


def missing_op(op: str) -> str:
    """Which package has the operation that a graph needs, and how to load it."""
    package = next((package for start, package in _PACKAGES.items() if op.startswith(start)), None)
    source = f"the package {package} brings it" if package else "TensorFlow itself does not have it"
    return f"its graph has the operation {op!r}, and {source}; name the library that does in {SETTING}"


def main(paths: Sequence[str]) -> int:
    """Load each library. Prints its name first, so that the parent knows which one killed this process."""
    from service.engines.base import LoadError
    from service.engines.tensorflow import c_api

    try:
        c_api.tensorflow()
        for path in paths:
            print(f"{path} cannot be loaded", flush=True)
            c_api.load_op_library(Path(path))
    except ModuleNotFoundError:
        print(f"TensorFlow, whose they are, is not installed; install it with {c_api.TENSORFLOW_INSTALL}")
    except LoadError as error:
        print(error)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
