import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from service import create_app
from service.settings import Settings
create_app(Settings(models=sys.argv[1], otel=sys.argv[2] == "1"))
print(*sorted({"opentelemetry", "prometheus_client"} & set(sys.modules)))
"""


@pytest.mark.parametrize(("otel", "loaded"), [("0", ""), ("1", "opentelemetry")])
def test_optional_packages_are_loaded_only_where_they_are_wanted(tmp_path: Path, otel: str, loaded: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), otel]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == loaded
