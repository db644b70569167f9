"""`python -m service`: settings from flags and SERVING_* variables, then gunicorn."""

import signal

if __name__ == "__main__":
    # Ctrl-C ends the process without a traceback: during the imports, which take a second, and in `predict` also while
    # requests are on their way. The server then has handlers of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import gc
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from gunicorn.app.base import BaseApplication

from service.cli import key, platforms, tensorflow_model_server
from service.engines.tensorflow import op_libraries
from service.errors import FailedPrecondition
from service.lifecycle.model_server_config import check_first_labels, config_file
from service.lifecycle.policies import policy_file
from service.observability.logging import logging_config
from service.observability.rotating_file import RotatingFile
from service.runtime.cgroup import usable_cores
from service.runtime.config_file import InvalidFile
from service.runtime.fetching import begin_first_fetch
from service.runtime.shared_memory import SharedMemory
from service.runtime.tuning import limit_blas_threads
from service.security.api_keys import key_file
from service.security.rate_limit import RateLimits
from service.server.arbiter import ServiceArbiter
from service.server.tls import InvalidTls, tls
from service.server.worker import has_http2
from service.settings import InvalidSetting, Settings, parse_files, unknown_variables, variable
from service.stores.location import InvalidLocation, Location, fetched, location_of

if TYPE_CHECKING:
    from service.stores.fetcher import FetchingProcess

# What a worker imports, sooner or later.
FOR_WORKERS = ("service.app", "service.engines.litert", "service.server.connection", "service.security.cors", "uvloop")

# Not __name__, which is __main__ here.
logger = logging.getLogger("service")


def main() -> None:
    # Until gunicorn takes over: the first process of a container ignores the signal by default.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    limit_blas_threads()
    if sys.argv[1:2] == ["key"]:
        key.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["predict"]:
        # Not at the top: it takes NumPy and Pillow, which the first process does not need.
        from service.cli import predict

        sys.exit(predict.main(sys.argv[2:]))
    if sys.argv[1:2] == [tensorflow_model_server.COMMAND]:
        _run_model_server(sys.argv[2:])
    elif tensorflow_model_server.is_meant(sys.argv[1:]):
        # As TensorFlow Serving's image does.
        _run_model_server(tensorflow_model_server.with_defaults_of_image(sys.argv[1:]))
    else:
        parser = _parser()
        is_sagemaker = sys.argv[1:2] == [platforms.SERVE]
        given = vars(parser.parse_args(sys.argv[2:] if is_sagemaker else None))
        flags = {name: text for name, text in given.items() if text}
        try:
            settings = platforms.sagemaker_settings(flags) if is_sagemaker else platforms.settings(flags)
        except InvalidSetting as error:
            parser.error(str(error))
        if reason := _run(settings):
            parser.error(reason)


def _run_model_server(arguments: list[str]) -> None:
    """With the flags, output and exit status of TensorFlow Serving's command."""
    if "--help" in arguments:
        print(tensorflow_model_server.usage())
        return
    try:
        flags = tensorflow_model_server.parse(arguments)
        if flags.get("version"):
            print(tensorflow_model_server.versions())
            return
        settings, warnings = tensorflow_model_server.settings_of(flags)
        reason = _run(settings, warnings)
    except tensorflow_model_server.UsageError as error:
        reason = str(error)
    if reason:
        sys.stderr.write(f"Failed to start server. Error: {reason}\n")
        sys.exit(255)


def _run(settings: Settings, warnings: Sequence[str] = ()) -> str | None:
    """Serve until a signal ends it. Returns why it cannot start. `warnings`: to log."""
    # IPv6 addresses may be written as in URLs.
    settings = replace(settings, host=settings.host.removeprefix("[").removesuffix("]"))
    try:
        location = location_of(settings)
    except InvalidLocation as error:
        return str(error)
    if location is not None:
        settings = fetched(settings, location)
        if reason := _store_error(settings, location):
            return reason
    if reason := _startup_error(settings):
        return reason
    settings = replace(settings, workers=settings.workers or usable_cores())
    memory = SharedMemory()
    _Gunicorn(settings, memory, warnings, _fetching(settings, location, memory) if location else None).run()
    return None


def _fetching(settings: Settings, location: Location, memory: SharedMemory) -> "FetchingProcess":
    # Not at the top: a folder needs nothing of it.
    from service.stores.fetcher import FetchingProcess

    begin_first_fetch(memory)
    return FetchingProcess(settings, location, memory)


def _store_error(settings: Settings, location: Location) -> str | None:
    """Why nothing can be fetched from there."""
    if location.scheme in ("s3", "gs", "az") and not _is_there("obstore"):
        return f"{location}: the package obstore is not installed (pip install obstore)"
    return _folder_error("SERVING_STORE_FOLDER", settings.store_folder)


def _folder_error(name: str, value: str) -> str | None:
    """Why nothing can be written into the setting's folder, which is made where it is missing."""
    folder = Path(value)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"{name}={str(folder)!r} cannot be made: {error.strerror}"
    return None if os.access(folder, os.W_OK) else f"{name}={str(folder)!r} cannot be written"


def _startup_error(settings: Settings) -> str | None:
    """Why the service cannot start with these settings; None if it can."""
    if not (settings.base_path or settings.model_config_file) and not Path(settings.models).is_dir():
        return f"SERVING_MODELS={settings.models!r}: there is no such folder"
    try:
        if settings.model_config_file:
            check_first_labels(
                config_file(settings).check(),
                allow_unavailable=settings.allow_version_labels_for_unavailable_models,
            )
        else:
            policy_file(settings).check()
        if settings.api_keys_file:
            key_file(settings.api_keys_file, settings.rate_limit, RateLimits()).check()
    except (InvalidFile, FailedPrecondition) as error:
        return str(error)
    if settings.capture_file:
        try:
            # Requests are captured in the background, where the error would go unnoticed.
            RotatingFile(Path(settings.capture_file), settings.capture_max_bytes).check()
        except OSError as error:
            return f"SERVING_CAPTURE_FILE={settings.capture_file!r} cannot be written: {error.strerror}"
    if settings.drift_snapshots:
        reason = _folder_error("SERVING_DRIFT_SNAPSHOTS", settings.drift_snapshots)
        if reason is not None:
            return reason
    if settings.op_libraries:
        reason = op_libraries.why_not_loadable(parse_files(settings.op_libraries))
        if reason is not None:
            return reason
    if settings.otel and not _is_there("opentelemetry.exporter.otlp.proto.http"):
        return (
            "SERVING_OTEL=1: OpenTelemetry is not installed; start by SERVING_OTEL=1 make serve; in "
            "containers, build the image with --build-arg OTEL=1 "
            "(or: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http)"
        )
    try:
        tls(settings)
    except InvalidTls as error:
        return str(error)
    if settings.grpc_port and not has_http2():
        return (
            f"SERVING_GRPC_PORT={settings.grpc_port}: gRPC needs the package ngh2, which is not installed (it has no "
            "wheel for some machines); SERVING_GRPC_PORT=0 serves HTTP alone"
        )
    ports = {
        "SERVING_PORT": settings.port,
        "SERVING_GRPC_PORT": settings.grpc_port,
        "SERVING_OPERATIONS_PORT": settings.operations_port,
    }
    for name, port in ports.items():
        if port and (reason := _listen_error(settings.host, name, port)):
            return reason
    return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _listen_error(host: str, name: str, port: int) -> str | None:
    """Why the port cannot be used. The workers would not notice: with SO_REUSEPORT they join whoever has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the workers do: connections that still wind down from the last run do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host}, port {port} (SERVING_HOST, {name}): {error.strerror}"
    return None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage: its dozens of flags would hide the message."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the settings)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m service",
        description="Serve the SavedModels of a folder over HTTP: TensorFlow Serving's REST API, pictures as "
        "requests, Prometheus metrics. Every flag is also an environment variable; a flag counts more.",
        epilog="`python -m service predict` asks a model, `python -m service key` makes an API key, `python -m service "
        "serve` serves as Amazon SageMaker starts it. docs/settings.md says more about each flag; docs/api.md "
        "describes the routes.",
    )
    for spec in fields(Settings):
        choices = get_args(spec.type)
        others = "".join(f", {name}" for name in spec.metadata["aliases"])
        default = str(spec.default) or "empty"
        parser.add_argument(
            f"--{spec.name.replace('_', '-')}",
            metavar="|".join(choices) if choices else spec.name.rpartition("_")[2].upper(),
            help=f"{spec.metadata['help']} (default: {default}; {variable(spec)}{others})",
        )
    return parser


class _Gunicorn(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(
        self,
        settings: Settings,
        memory: SharedMemory,
        warnings: Sequence[str] = (),
        fetching: "FetchingProcess | None" = None,
    ) -> None:
        self._settings = settings
        self._fetching = fetching
        self._warnings = warnings
        self.memory = memory
        # A worker's own, in its process.
        self.slot = 0
        super().__init__(prog="python -m service")

    def run(self) -> None:
        ServiceArbiter(self, self.memory, self._fetching).run()

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            # Each worker process has sockets of its own, and listens when it is ready to.
            "bind": [f"unix:{settings.unix_socket}"] if settings.unix_socket else [],
            "workers": settings.workers,
            "worker_class": "service.server.worker.LoopWorker",
            "graceful_timeout": settings.shutdown_seconds,
            # For a stuck worker. Loading a big SavedModel can hold the interpreter for long.
            "timeout": 120,
            "control_socket_disable": True,
            "logconfig_dict": logging_config(settings),
            "proc_name": "fitting-room",
            "on_starting": self._on_starting,
            "post_worker_init": self._post_worker_init,
            "when_ready": self._when_ready,
            "child_exit": self._child_exit,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # In the worker, after the fork: TensorFlow's threads do not survive one.
        from service.app import create_app

        return create_app(self._settings, self.memory, self.slot)

    def _on_starting(self, arbiter: ServiceArbiter) -> None:
        for message in self._warnings:
            logger.warning("%s", message)
        _warn_of_unknown_variables(arbiter)
        if self._settings.workers > 1:
            _import_for_workers()

    def _post_worker_init(self, worker: Any) -> None:
        app = worker.app.wsgi()
        app.watcher.start()
        if app.api_keys is not None:
            app.api_keys.start()
        if app.snapshots is not None:
            app.snapshots.start()
        # Once, and only for a person: a collector of JSON lines has the log.
        if worker.age == 1 and self._settings.log_format == "text":
            threading.Thread(target=_greet, args=(app.registry, self._settings), daemon=True).start()

    def _when_ready(self, _arbiter: ServiceArbiter) -> None:
        try:
            tempfile.gettempdir()
        except FileNotFoundError as error:
            logger.warning(
                "there is no temporary folder to write to (%s; TMPDIR can name one): models that write files fail; "
                "all else is served",
                error.strerror,
            )

    def _child_exit(self, arbiter: ServiceArbiter, worker: Any) -> None:
        arbiter.worker_ended(worker)


def _import_for_workers() -> None:
    """Import what workers need before they are forked: once, and into memory that they share. A worker that is alone
    does it itself, so that the first process stays small. None of these modules starts a thread."""
    for name in FOR_WORKERS:
        import_module(name)
    # Else each worker's collector would write to the objects, and so copy them.
    gc.collect()
    gc.freeze()


def _warn_of_unknown_variables(_server: Any) -> None:
    # In a hook of gunicorn: before it there is no log.
    for message in unknown_variables(os.environ, map(variable, fields(Settings))):
        logger.warning("%s", message)


def _greet(registry: Any, settings: Settings) -> None:
    from service.cli.greeting import greeting

    registry.first_scan_done.wait()
    # In one piece: other threads and processes write lines of the log meanwhile.
    sys.stdout.write(greeting(registry, settings) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
