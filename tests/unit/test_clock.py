"""Who knows the time of day, which may jump: waits, deadlines and retries go by clocks that do not."""

import re
from pathlib import Path

SERVICE = Path(__file__).parents[2] / "service"
# `Date` of an answer; when a retry will be, told to people; whether a key has expired; what is written of a request.
MAY = {"server/answers.py", "retries.py", "api_keys.py", "logs.py", "request_log.py", "spans.py", "capture.py"}

TIME_OF_DAY = re.compile(r"\btime\.time|\btime_ns\b|\bdatetime\.|\bdate\.today|\blocaltime\b|from time import time\b")


def test_only_what_tells_the_date_looks_at_it() -> None:
    files = {path.relative_to(SERVICE).as_posix(): path.read_text() for path in SERVICE.rglob("*.py")}
    assert {name for name, text in files.items() if TIME_OF_DAY.search(text)} <= MAY
    assert "server/answers.py" in files
