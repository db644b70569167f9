import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from service import create_app
from service.settings import Settings
create_app(Settings(models=Path(sys.argv[1]), otel=sys.argv[2] == "1"))
print("opentelemetry" in sys.modules)
"""


@pytest.mark.parametrize(("otel", "is_loaded"), [("0", "False"), ("1", "True")])
def test_opentelemetry_is_loaded_only_where_it_is_wanted(tmp_path: Path, otel: str, is_loaded: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), otel]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == is_loaded
