"""Libraries with operations beyond TensorFlow's own, which the operator names (SERVING_OP_LIBRARIES).

A library runs code as soon as it is loaded, in a process that cannot get rid of it again. So the start tries them in a
process of their own, and worker processes load them before their first SavedModel (engines/tensorflow/c_api.py).
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SETTING = "SERVING_OP_LIBRARIES"

# By what the names of their operations begin with, packages that are known to bring some.
_PACKAGES = {
    "TFText>": "tensorflow-text",
    "SimpleML": "tensorflow-decision-forests",
    "Addons>": "tensorflow-addons",
    "IO>": "tensorflow-io",
    "TFRA>": "tensorflow-recommenders-addons",
    "Tfq": "tensorflow-quantum",
    "Horovod": "horovod",
    # Of tensorflow-text, before it gave its operations a name of their own.
    "CaseFoldUTF8": "tensorflow-text",
    "ConstrainedSequence": "tensorflow-text",
    "FastBertNormalize": "tensorflow-text",
    "FastWordpiece": "tensorflow-text",
    "FindSourceOffsets": "tensorflow-text",
    "MaxSpanningTree": "tensorflow-text",
    "NormalizeUTF8": "tensorflow-text",
    "PhraseTokenize": "tensorflow-text",
    "RegexSplitWithOffsets": "tensorflow-text",
    "SentenceFragments": "tensorflow-text",
    "Sentencepiece": "tensorflow-text",
    "SplitMergeTokenize": "tensorflow-text",
    "TokenizerFromLogits": "tensorflow-text",
    "UnicodeScriptTokenize": "tensorflow-text",
    "WhitespaceTokenize": "tensorflow-text",
    "WordpieceTokenize": "tensorflow-text",
}


def load_obstacle(paths: Sequence[Path]) -> str | None:
    """Why the libraries cannot be loaded, and which; None where they can. Takes a second, for TensorFlow is loaded."""
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
    """What is missing for a graph that has this operation, and what to do about it."""
    package = next((package for start, package in _PACKAGES.items() if op.startswith(start)), None)
    whose = f"the package {package} brings it" if package else "TensorFlow itself does not have it"
    return f"its graph has the operation {op!r}, and {whose}; name the library that does in {SETTING}"


def main(paths: Sequence[str]) -> int:
    """Loads each and says so before, that who asked knows of which one this process ended."""
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
