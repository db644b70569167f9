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
        (("SERVING_OTEL=1",), "serve-otel"),
        (("SERVING_OTEL=true", "TENSORFLOW=1"), "full-otel"),
    ],
)
def test_make_serve_uses_the_environment(variables: tuple[str, ...], environment: str) -> None:
    options = ("--dry-run", "--no-print-directory", "PYTHON=true")
    environ = {"PATH": os.environ["PATH"]}  # without the variables of a surrounding make
    command = ["make", *options, "serve", *variables]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, check=True)
    assert done.stdout.splitlines()[-1] == f"exec .venv/{environment}/bin/python -m service"
