import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import _greet, _warn_of_unknown_variables, main
from service.lifecycle.registry import Registry
from service.runtime.cgroup import usable_cores
from service.runtime.shared_memory import SharedMemory
from service.settings import Settings, variable
from tests.unit.service.fakes import FakeService

MAX_SECONDS = 10

# Calls main() with these flags.
Main = Callable[..., None]
# The same, which must stop; returns the error.
Fail = Callable[..., str]
# The same, which must start; returns what gunicorn would run.
Start = Callable[..., Any]


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def call_main(monkeypatch: pytest.MonkeyPatch) -> Main:
    for name in [name for name in os.environ if name.startswith(("SERVING_", "MODEL_"))]:
        monkeypatch.delenv(name)

    def call(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["python -m service", *flags])
        main()

    return call


@pytest.fixture
def fail(call_main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fail:
    def call(*flags: str) -> str:
        models = () if "--models" in flags else ("--models", str(tmp_path))
        with pytest.raises(SystemExit) as raised:
            call_main(*models, *flags)
        assert raised.value.code == 2
        error = capsys.readouterr().err
        # One line, without the usage, which is longer than a screen.
        assert error.startswith("python -m service: error: ")
        assert error.endswith(" (--help lists the settings)\n")
        assert error.count("\n") == 1
        return error

    return call


@pytest.fixture
def start(call_main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    started: list[Any] = []

    @dataclass
    class FakeArbiter:
        app: Any
        memory: SharedMemory

        def run(self) -> None:
            started.append(self.app)

    monkeypatch.setattr("service.__main__.ServiceArbiter", FakeArbiter)

    def call(*flags: str) -> Any:
        call_main("--models", str(tmp_path), "--port", free_port(), *flags)
        return started[-1]

    return call


def test_help_has_every_setting(call_main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        call_main("--help")
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for spec in fields(Settings):
        assert f"--{spec.name.replace('_', '-')} " in text
        assert f"(default: {str(spec.default) or 'empty'}; {variable(spec)}" in text
        for name in spec.metadata["aliases"]:
            assert name in text
        assert spec.metadata["help"] in text
    assert "auto|tensorflow|litert" in text
    assert "text|json" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "http"], "--port='http': expected a whole number"),
        (["--port", "70000"], "--port='70000': expected at most 65535"),
        (["--engine", "onnx"], "--engine='onnx': expected one of auto, tensorflow, litert"),
        (["--poll-seconds", "nan"], "--poll-seconds='nan': expected a finite number"),
        (["--operations-port", "8501"], "SERVING_OPERATIONS_PORT='8501': expected another port than SERVING_PORT"),
        (["--models", "no/such/folder"], "SERVING_MODELS='no/such/folder': there is no such folder"),
        (["--models", __file__], "there is no such folder"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--port"], "--port: expected one argument"),
        (["--capture-file", "no/folder/file"], "'no/folder/file' cannot be written: No such file or directory"),
        (["--capture-file", str(Path(__file__).parent)], " cannot be written: Is a directory"),
    ],
)
def test_invalid_flag(fail: Fail, flags: list[str], message: str) -> None:
    assert message in fail(*flags)


def test_invalid_variable(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_THREADS", "0")
    assert "SERVING_THREADS='0': expected at least 1" in fail()


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--models-config", None, "there is no such file"),
        ("--models-config", "[models.m]\nversions = 'newest'", "Invalid enum value 'newest' - at `versions`"),
        ("--api-keys-file", None, "there is no such file"),
        ("--api-keys-file", "[keys]", "there is no key in it"),
    ],
)
def test_invalid_file(fail: Fail, tmp_path: Path, flag: str, text: str | None, message: str) -> None:
    path = tmp_path / "of.toml"
    if text is not None:
        path.write_text(text)
    assert f"of.toml: {message}" in fail(flag, str(path))


@pytest.mark.parametrize(
    ("flag", "family", "address", "host"),
    [
        ("--port", socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        ("--operations-port", socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        ("--port", socket.AF_INET6, "::1", "[::1]"),
    ],
)
def test_port_that_is_taken(fail: Fail, flag: str, family: int, address: str, host: str) -> None:
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        port = str(other.getsockname()[1])
        flags = {"--host": host, "--port": free_port()} | {flag: port}
        error = fail(*(word for pair in flags.items() for word in pair))
    name = "SERVING_" + flag.removeprefix("--").upper().replace("-", "_")
    assert f"cannot listen on {address}, port {port} (SERVING_HOST, {name})" in error


@pytest.mark.parametrize("host", ["not a host", "192.0.2.1", "::ffff:192.0.2.1"])
def test_address_of_another_machine(fail: Fail, host: str) -> None:
    assert f"cannot listen on {host}, port 8501 (SERVING_HOST, SERVING_PORT)" in fail("--host", host)


def test_missing_opentelemetry(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    error = fail("--otel", "1")
    assert "SERVING_OTEL=1: OpenTelemetry is not installed; start by SERVING_OTEL=1 make serve" in error
    assert "build the image with --build-arg OTEL=1" in error


def test_gunicorn_gets_the_settings(start: Start) -> None:
    config = start("--workers", "3", "--shutdown-seconds", "9", "--operations-port", free_port()).cfg
    assert (config.workers, config.graceful_timeout) == (3, 9)
    assert config.worker_class_str == "service.server.worker.LoopWorker"
    assert config.settings["proc_name"].get() == "fitting-room"
    # The workers listen.
    assert config.address == []


def test_flag_counts_more_than_its_variable(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start().cfg.workers == usable_cores()
    monkeypatch.setenv("SERVING_WORKERS", "5")
    assert start().cfg.workers == 5
    assert start("--workers", "6").cfg.workers == 6


def test_missing_temporary_folder_is_logged(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
    start: Start, capsys: pytest.CaptureFixture[str], age: int, greets: bool
) -> None:
    @dataclass
    class FakeWorker:
        app: Any
        age: int

    app = start("--workers", "1")
    before = set(threading.enumerate())
    app.cfg.post_worker_init(FakeWorker(app, age))
    service = FakeService(app.wsgi())
    assert service.registry.first_scan_done.wait(MAX_SECONDS)
    service.app.watcher.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(MAX_SECONDS)
    assert service.registry.ready
    assert ("Fitting Room serves http://127.0.0.1:" in capsys.readouterr().out) is greets


def test_greeting_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes write meanwhile."""
    pieces: list[bytes] = []

    class Terminal(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, piece: Any) -> int:
            pieces.append(bytes(piece))
            return len(piece)

    # As with PYTHONUNBUFFERED, which container images set.
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Terminal(), write_through=True))  # type: ignore[type-var]
    registry = Registry()
    registry.end_first_scan()
    _greet(registry, Settings())
    (greeting,) = pieces
    assert greeting.startswith(b"Fitting Room serves http://127.0.0.1:8501\n")
    assert greeting.endswith(b"\n")


def test_misspelt_variable_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SERVING_PROT", "9000")
    _warn_of_unknown_variables(None)
    assert len([line for line in caplog.messages if "'SERVING_PROT'" in line]) == 1


def test_first_process_does_not_import_what_only_workers_need() -> None:
    script = (
        "import sys, service.__main__, service.server.worker\n"
        "print(sorted({'flask', 'numpy', 'PIL', 'prometheus_client', 'simdjson', 'uvloop'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
