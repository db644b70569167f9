"""The models that all servers are measured with, one small version each: `python -m benchmarks.first_models FOLDER`."""

import shutil
import sys
from pathlib import Path

VERSIONS = (Path("regression", "1"), Path("clothing", "1"))


def copy(folder: Path) -> None:
    for version in VERSIONS:
        shutil.copytree("models" / version, folder / version)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
