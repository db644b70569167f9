"""The console examples of README and docs/api.md, run against the service as they stand there."""

import json
import re
import shlex
import subprocess
from typing import Any

import pytest

from tests.integration.server import ROOT, Server

EXAMPLES = [
    pytest.param(command, answer, id=f"{name}: {command[:60]}")
    for name in ("README.md", "docs/api.md")
    for block in re.findall(r"^```console\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    for command, answer in re.findall(r"^\$ (.+)\n(.+)\n", block, re.MULTILINE)
]
assert len(EXAMPLES) >= 10


def close(value: Any) -> Any:
    """Numbers compare approximately: another processor may round the last digits otherwise."""
    if isinstance(value, dict):
        return {key: close(item) for key, item in value.items()}
    if isinstance(value, list):
        return [close(item) for item in value]
    return pytest.approx(value, rel=0.02, abs=1e-3) if isinstance(value, float) else value


@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
def test_example_of_the_docs_answers_as_printed(server: Server, command: str, answer: str) -> None:
    arguments = shlex.split(command.replace("127.0.0.1:8501", f"127.0.0.1:{server.port}"))
    output = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True).stdout
    assert json.loads(output) == close(json.loads(answer))
