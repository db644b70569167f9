"""requirements/*.txt and the package registry: there is a wheel of each package for each machine."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEWEST = {"serve": "3.14", "serve-otel": "3.14", "full": "3.13", "full-otel": "3.13"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("lock", "python"), [(lock, python) for lock in NEWEST for python in ("3.11", NEWEST[lock])])
def test_lock_has_wheels(lock: str, python: str, architecture: str, tmp_path: Path) -> None:
    machine = ("--python-version", python, "--python-platform", f"{architecture}-manylinux_2_28")
    # Resolved, not downloaded.
    options = ("--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(tmp_path))
    command = [sys.executable, "-m", "uv", "pip", "install", *options, *machine]
    done = subprocess.run(
        [*command, "--requirement", str(ROOT / "requirements" / f"{lock}.txt")], capture_output=True, text=True
    )
    if "error sending request" in done.stderr:
        pytest.skip("the package registry does not answer")
    assert done.returncode == 0, done.stderr
