import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from service import create_app
from service.settings import Settings
for otel in (False, True):
    create_app(Settings(models=sys.argv[1], otel=otel))
    print(*sorted({"opentelemetry", "prometheus_client"} & set(sys.modules)))
"""


def test_optional_packages_are_loaded_only_where_wanted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\nopentelemetry\n"
