"""What the container tests share. Without an engine that answers they are skipped, with the reason."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.e2e.engine import docker

IMAGES = ("image", "otel_image", "full_image")


def build(which: str) -> str:
    """The image's name."""
    if not shutil.which("docker"):
        pytest.skip("no container engine: there is no `docker` command")
    probe = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no container engine: {probe.stderr.strip().splitlines()[-1]}")
    if which == "full_image" and "E2E_FULL" not in os.environ:
        pytest.skip("downloads TensorFlow; E2E_FULL=1 runs it")
    name = f"fitting-room-e2e:{uuid.uuid4().hex[:8]}"
    if which == "otel_image":
        environment = os.environ | {"IMAGE": name, "SERVING_OTEL": "1"}
        docker("compose", "--env-file", os.devnull, "build", "service", env=environment)
    else:
        # The last stage is the default one: it is not named, as in the docs.
        target = ("--target", "full") if which == "full_image" else ()
        docker("build", "-f", "deploy/Dockerfile", *target, "--tag", name, ".")
    return name


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> "Iterator[dict[str, Future[str]]]":
    """Those that the chosen tests need, built one after the other: only the first is waited for."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    needed = {name for test in tests for name in test.fixturenames}
    with ThreadPoolExecutor(1) as builder:
        images = {which: builder.submit(build, which) for which in IMAGES if which in needed}
        yield images
    for image in images.values():
        if not image.exception():
            docker("image", "rm", "--force", image.result(), check=False)


@pytest.fixture(scope="session")
def image(images: "dict[str, Future[str]]") -> str:
    return images["image"].result()


@pytest.fixture(scope="session")
def otel_image(images: "dict[str, Future[str]]") -> str:
    return images["otel_image"].result()


@pytest.fixture(scope="session")
def full_image(images: "dict[str, Future[str]]") -> str:
    return images["full_image"].result()
