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

from service.__main__ import _greet, _warn_of_misspelt, main
from service.lifecycle.registry import Registry
from service.runtime.cgroup import usable_cores
from service.runtime.shared_memory import SharedMemory
from service.settings import Settings, variable
from tests.unit.service.fakes import FakeService

SECONDS_AT_MOST = 10

Run = Callable[..., "Started"]


@dataclass
class Started:
    """What gunicorn was given to run."""

    app: Any

    @property
    def config(self) -> Any:
        return self.app.cfg


@dataclass
class FakeWorker:
    app: Any
    age: int
    pid: int = 4711


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls main() with these flags, and with no variable of ours but what the test sets."""
    for name in [name for name in os.environ if name.startswith(("SERVING_", "MODEL_"))]:
        monkeypatch.delenv(name)

    def call(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["python -m service", *flags])
        main()

    return call


@pytest.fixture
def run(command_line: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts the service with these flags, but for gunicorn's processes."""
    started: list[Started] = []

    @dataclass
    class FakeArbiter:
        app: Any
        memory: SharedMemory

        def run(self) -> None:
            started.append(Started(self.app))

    monkeypatch.setattr("service.__main__.ServiceArbiter", FakeArbiter)

    def start(*flags: str) -> Started:
        command_line("--models", str(tmp_path), "--port", free_port(), *flags)
        return started[-1]

    return start


def test_help_names_every_setting_with_its_variable_and_default(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line("--help")
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
    ("flags", "words"),
    [
        (["--port", "http"], "--port='http': expected a whole number"),
        (["--port", "70000"], "--port='70000': expected at most 65535"),
        (["--engine", "onnx"], "--engine='onnx': expected one of auto, tensorflow, litert"),
        (["--poll-seconds", "nan"], "--poll-seconds='nan': expected a finite number"),
        (["--models", "no/such/folder"], "SERVING_MODELS='no/such/folder': there is no such folder"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--port"], "--port: expected one argument"),
    ],
)
def test_a_bad_flag_stops_the_start_with_code_2_and_its_name(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line(*flags)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    # The sentence, and where more is: not the usage, which is longer than a screen.
    assert error.startswith("python -m service: error: ")
    assert error.endswith(" (--help lists the settings)\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("SERVING_THREADS", "0", "at least 1"), ("SERVING_LOG_LEVEL", "loud", "one of debug, info, warning, error")],
)
def test_a_bad_variable_stops_the_start_with_code_2_and_its_name(
    command_line: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    expected: str,
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit) as raised:
        command_line()
    assert raised.value.code == 2
    assert f"{name}='{text}': expected {expected}" in capsys.readouterr().err


def test_a_models_file_is_no_models_folder(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(SystemExit) as raised:
        command_line("--models", str(tmp_path / "models"))
    assert raised.value.code == 2
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SERVING_PORT", "SERVING_OPERATIONS_PORT"])
def test_a_port_that_is_taken_stops_the_start(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        flag = "--" + name.removeprefix("SERVING_").lower().replace("_", "-")
        flags = {"--models": str(tmp_path), "--port": free_port()} | {flag: port}
        with pytest.raises(SystemExit) as raised:
            command_line(*(word for pair in flags.items() for word in pair))
    assert raised.value.code == 2
    assert f"cannot listen on 127.0.0.1, port {port} (SERVING_HOST, {name})" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["not a host", "192.0.2.1", "::ffff:192.0.2.1"])
def test_an_address_that_is_not_ours_stops_the_start(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        command_line("--models", str(tmp_path), "--host", host)
    assert raised.value.code == 2
    assert f"cannot listen on {host}, port 8501 (SERVING_HOST, SERVING_PORT)" in capsys.readouterr().err


def test_gunicorn_is_told_what_the_settings_say(run: Run) -> None:
    config = run("--workers", "3", "--shutdown-seconds", "9").config
    assert (config.workers, config.graceful_timeout) == (3, 9)
    assert config.worker_class_str == "service.server.worker.LoopWorker"
    assert config.settings["proc_name"].get() == "fitting-room"


def test_gunicorn_leaves_it_to_the_workers_to_listen(run: Run) -> None:
    assert run("--operations-port", free_port()).config.address == []


def test_the_port_for_operations_is_another_one(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line("--operations-port", "8501")
    assert "SERVING_OPERATIONS_PORT='8501': expected another port than SERVING_PORT" in capsys.readouterr().err


def test_a_flag_counts_more_than_its_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_WORKERS", "5")
    assert run().config.workers == 5
    assert run("--workers", "6").config.workers == 6


def test_without_a_number_there_is_a_worker_for_each_core(run: Run) -> None:
    assert run().config.workers == usable_cores()


def test_without_a_temporary_folder_the_log_says_what_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = run()
    started.config.when_ready(None)
    assert caplog.text == ""

    def none_usable() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none_usable)
    started.config.when_ready(None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "TMPDIR" in record.message


@pytest.mark.parametrize("text", ["[models.m]\nversions = 'newest'", None])
def test_bad_policies_stop_the_start(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "policies.toml").write_text(text)
    with pytest.raises(SystemExit) as raised:
        command_line("--models", str(tmp_path), "--models-config", str(tmp_path / "policies.toml"))
    assert raised.value.code == 2
    expected = (
        "there is no such file" if text is None else "Invalid enum value 'newest' - at `versions` - in `models.m`"
    )
    assert f"policies.toml: {expected}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[keys]", None])
def test_a_bad_file_of_api_keys_stops_the_start(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(SystemExit) as raised:
        command_line("--models", str(tmp_path), "--api-keys-file", str(tmp_path / "keys.toml"))
    assert raised.value.code == 2
    expected = "there is no such file" if text is None else "there is no key in it"
    assert f"keys.toml: {expected}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "reason"), [("no/folder/file", "No such file or directory"), ("folder", "Is a directory")]
)
def test_a_file_for_captures_that_cannot_be_written_stops_the_start(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit):
        command_line("--models", str(tmp_path), "--capture-file", str(tmp_path / file))
    path = str(tmp_path / file)
    assert f"SERVING_CAPTURE_FILE={path!r} cannot be written: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize(("age", "greets"), [(1, True), (2, False)])
def test_a_worker_watches_its_models_and_the_first_one_greets(
    run: Run, capsys: pytest.CaptureFixture[str], age: int, greets: bool
) -> None:
    started = run("--workers", "1")
    before = set(threading.enumerate())
    started.config.post_worker_init(FakeWorker(started.app, age=age))
    service = FakeService(started.app.wsgi())
    assert service.registry.first_scan_done.wait(SECONDS_AT_MOST)
    service.app.watcher.stop()
    for thread in set(threading.enumerate()) - before:
        thread.join(SECONDS_AT_MOST)
    assert service.registry.ready
    assert ("Fitting Room serves http://127.0.0.1:" in capsys.readouterr().out) is greets


def test_the_process_that_watches_does_not_load_what_only_workers_need() -> None:
    script = (
        "import sys, service.__main__, service.server.worker\n"
        "print(sorted({'flask', 'numpy', 'PIL', 'prometheus_client', 'simdjson', 'uvloop'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_spans_need_an_extra_and_the_start_says_so(
    command_line: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As if it were not installed.
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SystemExit):
        command_line("--models", str(tmp_path), "--otel", "1")
    said = " ".join(capsys.readouterr().err.split())
    assert "SERVING_OTEL=1: OpenTelemetry is not installed; start by SERVING_OTEL=1 make serve" in said
    assert "build the image with --build-arg OTEL=1" in said


def test_the_greeting_is_written_in_one_piece_for_others_write_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_misspelt_variable_is_warned_of_once_there_is_a_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SERVING_PROT", "9000")
    _warn_of_misspelt(None)
    assert [line for line in caplog.messages if "SERVING_PROT" in line] == [
        "the variable 'SERVING_PROT' is ignored, since there is no such setting; did you mean SERVING_PORT?"
    ]


def test_an_address_of_ipv6_may_stand_in_brackets(
    command_line: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit):
            command_line("--host", "[::1]", "--port", str(port))
    assert f"cannot listen on ::1, port {port}" in capsys.readouterr().err
