"""Publishes a version as a whole: it is written to a dot-directory, which no server loads, then renamed."""

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.lifecycle.repository import version_number


@contextmanager
def staging(model_dir: Path) -> Iterator[Path]:
    """A new dot-directory in `model_dir`, on the file system of the version that it becomes.

    It is removed at the end, also after an exception or Ctrl-C. What a kill -9 leaves can be deleted.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=model_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nothing is left here once it is published


def publish(folder: Path, finish: Callable[[int], None]) -> Path:
    """Renames `folder` to the next version beside it; `finish` first writes what depends on the number.

    Of two exports that want the same number one fails, because a folder that is not empty cannot be renamed over. It
    takes the next number.
    """
    while True:
        version = next_version(folder.parent)
        finish(version)
        make_readable(folder)
        try:
            return folder.rename(folder.parent / str(version))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise


def next_version(model_dir: Path) -> int:
    """One more than the highest number there: gaps are not filled, nothing is replaced.

    Numbers that the service does not serve do not count.
    """
    numbers = (version_number(path.name) for path in model_dir.iterdir())
    return max((number for number in numbers if number is not None), default=0) + 1


def make_readable(folder: Path) -> None:
    """Lets every user read it: mkdtemp gives 0700, and a container runs as another user."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
