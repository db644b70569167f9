"""The shipped models, and a hundred small ones beside them: `python -m benchmarks.hundred_models FOLDER`."""

import shutil
import sys
from pathlib import Path

SHIPPED = Path("models")
SMALL = SHIPPED / "regression" / "1"
MODELS = 100
# Each of the hundred, and a second version of one that is shipped.
FURTHER = MODELS + 1


def copy(folder: Path) -> None:
    shutil.copytree(SHIPPED, folder)
    shutil.copytree(SMALL, folder / "regression" / "2")
    for number in range(MODELS):
        shutil.copytree(SMALL, folder / f"regression_{number:02}" / "1")


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
