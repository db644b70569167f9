"""What is made of pip-audit's report. Whether the packages have known vulnerabilities is `make audit`'s business."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from deploy import audit

GOOD = {"name": "flask", "version": "3.1.3", "vulns": []}
BAD = {
    "name": "pillow",
    "version": "12.0.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["12.0.1"]}, {"id": "GHSA-x", "fix_versions": []}],
}
UNKNOWN = {"name": "wrapt", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("packages", "vulnerable", "remark"),
    [
        (
            [GOOD, BAD],
            ["pillow 12.0.0: PYSEC-2026-1, mended in: 12.0.1", "pillow 12.0.0: GHSA-x, mended in: none yet"],
            "2 packages audited, 2 known vulnerabilities",
        ),
        (
            [GOOD, *(UNKNOWN | {"name": name} for name in "abcd")],
            [],
            "1 packages audited, 0 known vulnerabilities; the registry has no advisories for a, b, c and 1 more",
        ),
    ],
)
def test_findings(packages: list[dict[str, Any]], vulnerable: list[str], remark: str) -> None:
    assert audit.findings(report(*packages), "") == (vulnerable, [remark])


def test_without_a_registry_nothing_is_audited_and_it_is_said_why() -> None:
    log = "Traceback ...\nrequests.exceptions.ProxyError: unable to connect\n"
    (remark,) = audit.findings("", log)[1]
    assert remark.startswith("not audited, for the registry's advisories cannot be had: requests.exceptions.ProxyError")


def test_a_lock_that_pip_audit_refuses_is_no_missing_registry() -> None:
    with pytest.raises(SystemExit, match="pip-audit failed: ERROR: requirement flask does not contain a hash"):
        audit.findings("", "ERROR: requirement flask does not contain a hash\n")


@pytest.mark.parametrize(("package", "code"), [(GOOD, None), (UNKNOWN, None), (BAD, 1)])
def test_a_known_vulnerability_and_nothing_else_fails(
    monkeypatch: pytest.MonkeyPatch, package: dict[str, Any], code: int | None
) -> None:
    audited: list[str] = []

    def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        audited.append(command[-1])
        return subprocess.CompletedProcess(command, 0, report(package), "")

    monkeypatch.setattr(subprocess, "run", run)
    if code is None:
        audit.main()
    else:
        with pytest.raises(SystemExit) as raised:
            audit.main()
        assert raised.value.code == code
    assert [path.rpartition("/")[2] for path in audited] == ["serve-otel.txt", "full-otel.txt"]
