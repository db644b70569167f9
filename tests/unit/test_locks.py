"""requirements/*.txt, and which of them is installed for what."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^\S+==.+?(?= \\$)", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", ["serve", "full"])
def test_a_lock_with_opentelemetry_adds_to_the_one_without_what_the_tests_run_with(lock: str) -> None:
    assert pins(lock) < pins(f"{lock}-otel") <= pins(lock) | pins("dev")
    assert any(pin.startswith("opentelemetry-exporter-otlp-proto-http==") for pin in pins(f"{lock}-otel"))


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
def test_make_serves_from_the_environment_that_has_what_is_asked_for(
    variables: tuple[str, ...], environment: str
) -> None:
    options = ("--dry-run", "--no-print-directory", "PYTHON=true")
    environ = {"PATH": os.environ["PATH"]}  # not what the surrounding make was asked for
    command = ["make", *options, "serve", *variables]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, check=True)
    assert done.stdout.splitlines()[-1] == f"exec .venv/{environment}/bin/python -m service"
