"""What the container tests share. Without an engine that answers they are skipped, with the reason."""

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.engine import docker


@pytest.fixture(scope="session")
def build() -> Iterator[Callable[[str], str]]:
    """Builds a target of the Dockerfile and gives the image's name."""
    if not shutil.which("docker"):
        pytest.skip("no container engine: there is no `docker` command")
    probe = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no container engine: {probe.stderr.strip().splitlines()[-1]}")
    built: list[str] = []

    def image(target: str) -> str:
        name = f"fitting-room-e2e:{target}-{uuid.uuid4().hex[:8]}"
        # The last stage is the default one: it is not named, as in the docs.
        options = [] if target == "serve" else ["--target", target]
        docker("build", "-f", "deploy/Dockerfile", *options, "-t", name, ".")
        built.append(name)
        return name

    yield image
    for name in built:
        docker("image", "rm", "--force", name, check=False)


@pytest.fixture(scope="session")
def image(build: Callable[[str], str]) -> str:
    """Built once for all tests, those of compose too."""
    return build("serve")
