import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from service.logs import JsonFormatter, logging_config
from service.settings import Settings

LOGGERS = ("gunicorn.error", "gunicorn.access")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), *map(logging.getLogger, LOGGERS)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()  # type: ignore[attr-defined]


def configure(**settings: Any) -> None:
    logging.config.dictConfig(logging_config(Settings(**settings)))


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


def test_text_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logging.getLogger("service.x").info("loaded")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" INFO loaded")


def test_json_lines_are_for_collectors(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json")
    logging.getLogger("service.x").error("broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "broken"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["debug", "info", "warning", "error"]), ("info", ["info", "warning", "error"]), ("error", ["error"])],
)
def test_lines_below_the_level_are_left_out(level: Any, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_level=level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("service.x"), name)(name)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == shown


@pytest.mark.parametrize(("level", "shown"), [("info", ["warning"]), ("debug", ["info", "warning"])])
def test_gunicorns_own_news_are_shown_to_who_debugs(
    level: Any, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_level=level)
    logging.getLogger("gunicorn.error").info("info")
    logging.getLogger("gunicorn.error").warning("warning")
    logging.getLogger("gunicorn.access").error("a request")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == shown
