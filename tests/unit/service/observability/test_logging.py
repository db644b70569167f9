import io
import json
import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from service.observability.logging import JsonFormatter, LogWriter, written_by


def logged(*calls: tuple[str, str, str], **settings: str) -> list[str]:
    """The lines that a process of its own writes (logging is configured for a whole process): each call is a logger's
    name, a level and a message."""
    program = (
        "import json, logging, logging.config, sys\n"
        "from service.observability.logging import logging_config\n"
        "from service.settings import Settings\n"
        "settings, calls = json.loads(sys.argv[1])\n"
        "logging.config.dictConfig(logging_config(Settings(**settings)))\n"
        "for name, level, message in calls: getattr(logging.getLogger(name), level)(message)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([settings, calls])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def record(message: str, **attributes: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "service.x", "levelname": "WARNING", "msg": message, **attributes})


def test_a_json_line_says_when_who_and_what() -> None:
    line = json.loads(JsonFormatter().format(record("%s is %d", args=("x", 3), created=0.5, process=7)))
    assert line == {
        "time": "1970-01-01T00:00:00.500000+00:00",
        "level": "warning",
        "logger": "service.x",
        "process": 7,
        "message": "x is 3",
    }


def test_a_json_line_stays_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("over\ntwo lines")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: over\ntwo lines" in json.loads(line)["traceback"]


def test_a_json_line_takes_what_is_not_unicode() -> None:
    # The name of a folder that is not UTF-8, as Python gives it.
    line = JsonFormatter().format(record("model \udcff is broken"))
    assert json.loads(line)["message"].endswith("is broken")


def test_a_json_line_names_the_request_that_it_is_about() -> None:
    assert json.loads(JsonFormatter().format(record("failed", request_id="mine")))["request_id"] == "mine"


def test_meanwhile_another_writes_the_lines_and_afterwards_nobody_else() -> None:
    handler = logging.StreamHandler(before := io.StringIO())
    root = logging.getLogger()
    root.addHandler(handler)
    read_end, write_end = os.pipe()
    try:
        with written_by(LogWriter(write_end, lambda _: None), 10):
            root.error("f\u00fcr \udcff")
        root.error("afterwards")
        assert os.read(read_end, 100) == "für \\udcff\n".encode()
        assert before.getvalue() == "afterwards\n"
    finally:
        root.removeHandler(handler)
        os.close(read_end)
        os.close(write_end)


def test_text_lines_are_for_people() -> None:
    (line,) = logged(("service.x", "info", "loaded"))
    assert line.endswith(" INFO loaded")


def test_json_lines_are_for_collectors() -> None:
    (line,) = logged(("service.x", "error", "broken"), log_format="json")
    assert json.loads(line)["message"] == "broken"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["debug", "info", "warning", "error"]), ("info", ["info", "warning", "error"]), ("error", ["error"])],
)
def test_lines_below_the_level_are_left_out(level: str, shown: list[str]) -> None:
    lines = logged(*(("service.x", name, name) for name in ("debug", "info", "warning", "error")), log_level=level)
    assert [line.split()[-1] for line in lines] == shown


@pytest.mark.parametrize(("level", "shown"), [("info", ["warning"]), ("debug", ["info", "warning"])])
def test_gunicorns_own_news_are_shown_to_who_debugs(level: str, shown: list[str]) -> None:
    lines = logged(
        ("gunicorn.error", "info", "info"),
        ("gunicorn.error", "warning", "warning"),
        ("gunicorn.access", "error", "a request"),
        log_level=level,
    )
    assert [line.split()[-1] for line in lines] == shown
