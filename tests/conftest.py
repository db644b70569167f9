from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy must not fail a test.
settings.register_profile("default", deadline=None)
# `make fuzz`: whatever has no number of its own tries so many.
settings.register_profile(
    "fuzz", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs in one of the processes of `make test`: a file, whose tests share services; all container tests, which
    share images."""
    tests = Path(__file__).parent
    for item in items:
        group = "containers" if item.path.parent == tests / "e2e" else str(item.path.relative_to(tests))
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged is sent to the first process as UTF-8, and some log characters that have none."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
