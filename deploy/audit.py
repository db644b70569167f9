"""`make audit`: do the packages that the images hold have known vulnerabilities? By pip-audit, from the advisories that
the package registry publishes. Exits 1 if one has.

A mirror may have no advisories, and CI no network. Then this says what was not looked at, and does not fail.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Each holds what the one without OpenTelemetry does.
LOCKS = ("serve-otel", "full-otel")


def main() -> None:
    is_vulnerable = False
    for name in LOCKS:
        audited = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json"]
        done = subprocess.run(  # noqa: S603
            [*audited, "--requirement", str(ROOT / "requirements" / f"{name}.txt")], capture_output=True, text=True
        )
        vulnerable, remarks = findings(done.stdout, done.stderr)
        for line in (*vulnerable, *remarks):
            print(f"requirements/{name}.txt: {line}")
        is_vulnerable |= bool(vulnerable)
    if is_vulnerable:
        sys.exit(1)


def findings(report: str, log: str) -> tuple[list[str], list[str]]:
    """What is vulnerable, a line for each advisory; and what else is to be said.

    Raises:
        SystemExit: pip-audit failed, and not for want of a registry.
    """
    if not report:
        reason = log.strip().splitlines()[-1:] or ["it says nothing"]
        if "requests.exceptions." in log or "ServiceError" in log:
            return [], [f"not audited, for the registry's advisories cannot be had: {reason[0]}"]
        sys.exit(f"pip-audit failed: {reason[0]}")
    packages = json.loads(report)["dependencies"]
    vulnerable = [_line(package, advisory) for package in packages for advisory in package.get("vulns", ())]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = f"{len(packages) - len(skipped)} packages audited, {len(vulnerable)} known vulnerabilities"
    if skipped:
        known += f"; the registry has no advisories for {_some(skipped)}"
    return vulnerable, [known]


def _line(package: dict[str, str], advisory: dict[str, Sequence[str]]) -> str:
    mended = ", ".join(advisory["fix_versions"]) or "none yet"
    return f"{package['name']} {package['version']}: {advisory['id']}, mended in: {mended}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


if __name__ == "__main__":
    main()
