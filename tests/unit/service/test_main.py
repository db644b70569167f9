import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.__main__ import _greet, main
from service.lifecycle.registry import Registry
from service.runtime.cgroup import usable_cores
from service.settings import Settings, variable
from tests.unit.service.fakes import FakeService

MAX_SECONDS = 10

Main = Callable[..., Any]
Fail = Callable[..., str]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def call_main(monkeypatch: pytest.MonkeyPatch) -> Main:
    """Calls main() with these flags; returns what gunicorn would run."""
    for name in [name for name in os.environ if name.startswith(("SERVING_", "MODEL_"))]:
        monkeypatch.delenv(name)

    started: list[Any] = []
    monkeypatch.setattr(
        "service.__main__.ServiceArbiter", lambda app, *_: SimpleNamespace(run=lambda: started.append(app))
    )

    def call(*flags: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["python -m service", *flags])
        main()
        return started[-1]

    return call


@pytest.fixture
def fail(call_main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fail:
    """The same, which must stop; returns the error."""

    def call(*flags: str) -> str:
        with pytest.raises(SystemExit) as raised:
            call_main("--models", str(tmp_path), *flags)
        assert raised.value.code == 2
        error = capsys.readouterr().err
        # One line, without the usage, which is longer than a screen.
        assert error.startswith("python -m service: error: ")
        assert error.endswith(" (--help lists the settings)\n")
        assert error.count("\n") == 1
        return error

    return call


@pytest.fixture
def start(call_main: Main, tmp_path: Path) -> Main:
    return lambda *flags: call_main("--models", str(tmp_path), "--port", free_port(), *flags)


def test_help_has_every_setting(call_main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        call_main("--help")
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for spec in fields(Settings):
        names = "".join(f", {name}" for name in spec.metadata["aliases"])
        assert f"--{spec.name.replace('_', '-')} " in text
        assert f"{spec.metadata['help']} (default: {str(spec.default) or 'empty'}; {variable(spec)}{names})" in text
    assert "auto|tensorflow|litert" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "http"], "--port='http': expected a whole number"),
        (["--models", "no/such/folder"], "SERVING_MODELS='no/such/folder': there is no such folder"),
        (["--models", __file__], "there is no such folder"),
        (["--models", "s3://key:secret@bucket"], "SERVING_MODELS: not a store that the service knows; expected a fol"),
        (["--models", "hf://a/b", "--store-folder", __file__], f"SERVING_STORE_FOLDER={__file__!r} cannot be made: "),
        (["--port"], "--port: expected one argument"),
        (["--models-config", "none.toml"], "none.toml: there is no such file"),
        (["--api-keys-file", "none.toml"], "none.toml: there is no such file"),
        (["--capture-file", "no/folder/file"], "'no/folder/file' cannot be written: No such file or directory"),
        (["--capture-file", str(Path(__file__).parent)], " cannot be written: Is a directory"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 8501 (SERVING_HOST, SERVING_PORT)"),
    ],
)
def test_service_cannot_start(fail: Fail, flags: list[str], message: str) -> None:
    assert message in fail(*flags)


@pytest.mark.parametrize(
    ("flag", "name", "address", "host"),
    [
        ("--operations-port", "SERVING_OPERATIONS_PORT", "127.0.0.1", "127.0.0.1"),
        ("--port", "SERVING_PORT", "::1", "[::1]"),
    ],
)
def test_port_that_is_taken(fail: Fail, flag: str, name: str, address: str, host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        other.bind((address, 0))
        other.listen()
        port = str(other.getsockname()[1])
        error = fail("--host", host, "--port", free_port(), flag, port)
    assert f"cannot listen on {address}, port {port} (SERVING_HOST, {name})" in error


def test_missing_opentelemetry(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert "SERVING_OTEL=1: OpenTelemetry is not installed; start by SERVING_OTEL=1 make serve" in fail("--otel", "1")


def test_gunicorn_gets_the_settings(start: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start().cfg.workers == usable_cores()
    monkeypatch.setenv("SERVING_WORKERS", "5")
    assert start().cfg.workers == 5
    config = start("--workers", "3", "--shutdown-seconds", "9", "--operations-port", free_port()).cfg
    assert (config.workers, config.graceful_timeout) == (3, 9)
    assert config.worker_class_str == "service.server.worker.LoopWorker"
    # The workers listen.
    assert config.address == []


def test_misspelt_variable_is_logged(
    start: Main, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SERVING_PROT", "9000")
    start().cfg.on_starting(None)
    assert len([line for line in caplog.messages if "'SERVING_PROT'" in line]) == 1


def test_missing_temporary_folder_is_logged(
    start: Main, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = start().cfg
    config.when_ready(None)
    assert caplog.text == ""

    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none_usable)
    config.when_ready(None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "TMPDIR" in record.message


@pytest.mark.parametrize(("age", "greets"), [(1, True), (2, False)])
def test_worker_watches_its_models_and_the_first_one_greets(
    start: Main, capsys: pytest.CaptureFixture[str], age: int, greets: bool
) -> None:
    app = start("--workers", "1")
    before = set(threading.enumerate())
    app.cfg.post_worker_init(SimpleNamespace(app=app, age=age))
    service = FakeService(app.wsgi())
    assert service.registry.first_scan_done.wait(MAX_SECONDS)
    service.app.watcher.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(MAX_SECONDS)
    assert service.registry.ready
    assert ("Fitting Room serves http://127.0.0.1:" in capsys.readouterr().out) is greets


def test_greeting_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes write meanwhile."""
    pieces: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    registry = Registry()
    registry.end_first_scan()
    _greet(registry, Settings())
    (greeting,) = pieces
    assert greeting.endswith("\n")


def test_first_process_does_not_import_what_only_workers_need() -> None:
    script = (
        "import sys, service.__main__, service.server.worker\n"
        "print(sorted({'flask', 'numpy', 'PIL', 'prometheus_client', 'simdjson', 'uvloop'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
