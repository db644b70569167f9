"""The models of first_models.py, and a hundred small ones beside them: `python -m benchmarks.hundred_models FOLDER`."""

import shutil
import sys
from pathlib import Path

from benchmarks import first_models

SMALL = Path("models", "regression", "1")
MODELS = 100
# Each of the hundred, and a second version of one of the first.
FURTHER = MODELS + 1


def copy(folder: Path) -> None:
    first_models.copy(folder)
    shutil.copytree(SMALL, folder / "regression" / "2")
    for number in range(MODELS):
        shutil.copytree(SMALL, folder / f"regression_{number:02}" / "1")


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
