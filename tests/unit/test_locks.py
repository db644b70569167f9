"""requirements/*.txt, and which of them `make serve` installs."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==.+?(?= \\$)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", ["serve", "full"])
def test_opentelemetry_adds_pins_of_the_tests(lock: str) -> None:
    assert pins(lock) < pins(f"{lock}-otel") <= pins(lock) | pins("dev")
    assert any(pin.startswith("opentelemetry-exporter-otlp-proto-http==") for pin in pins(f"{lock}-otel"))


def test_heic_adds_its_decoder_alone() -> None:
    (added,) = pins("train-heic") - pins("train")
    assert added.startswith("pillow-heif==")
    assert pins("train") < pins("train-heic")


@pytest.mark.parametrize(
    ("variables", "environment"),
    [
        ((), "serve"),
        (("TENSORFLOW=1",), "full"),
        (("SERVING_OTEL=0",), "serve"),
        (("SERVING_OTEL=true", "TENSORFLOW=1"), "full-otel"),
    ],
)
def test_make_serve_uses_the_environment(variables: tuple[str, ...], environment: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", "PYTHON=true", "serve", *variables]
    environ = {"PATH": os.environ["PATH"]}  # without the variables of a surrounding make
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, check=True)
    assert done.stdout.splitlines()[-1] == f"exec .venv/{environment}/bin/python -m service"


def test_make_takes_the_first_python_that_fits(tmp_path: Path) -> None:
    # A python3 that is too new, and a python3.13 that writes its arguments down. Neither makes an environment.
    scripts = {"python3": "[ $1 = -V ] && echo Python 3.99; exit 1", "python3.13": f'echo "$@" >> {tmp_path}/calls'}
    (tmp_path / "bin").mkdir()
    for name, line in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/full.txt").touch()

    def make(*variables: str) -> str:
        command = ["make", "--makefile", str(ROOT / "Makefile"), ".venv/full/installed", *variables]
        environ = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ).stderr

    assert "Python 3.11 to 3.13 is needed, not 'Python 3.99'" in make("PYTHON=python3")
    assert not (tmp_path / "calls").exists()
    make()
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "-m venv --clear .venv/full"
