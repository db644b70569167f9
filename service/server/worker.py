"""The worker process: gunicorn starts and watches it, uvloop runs it."""

import asyncio
import faulthandler
import gc
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from gunicorn.workers.base import Worker

from service.runtime.deaths import Ending
from service.runtime.tuning import tune_malloc
from service.server.arbiter import Heartbeat
from service.server.listener import BACKLOG, Accepting, bound_socket, connect_no_more, waiting

if TYPE_CHECKING:
    from service.app import App
    from service.server.connection import Connections

SWEEP_SECONDS = 1.0
# Connections at the port for operations.
MAX_OPERATIONS_CONNECTIONS = 64
# How long kept-alive connections stay open after SIGTERM, for a request that may be on its way.
LINGER_SECONDS = 1.0
# How long clients that are connecting at SIGTERM may take.
HANDSHAKE_SECONDS = 0.1
# Pause between polls of what is left.
DRAIN_SECONDS = 0.02


class LoopWorker(Worker):  # type: ignore[misc]  # gunicorn has no types
    """A gunicorn worker that serves connections on an event loop."""

    def __init__(self, age: int, ppid: int, sockets: list[Any], app: Any, timeout: float, cfg: Any, log: Any) -> None:
        """Called in the first process, before the fork. `app.memory`: the shared memory.

        Does what gunicorn's own does, except for the temporary file that is a worker's heartbeat: there may be no
        folder for one.
        """
        self.age = age
        self.pid = "[booting]"
        self.ppid = ppid
        self.sockets = sockets
        self.app = app
        self.timeout = timeout
        self.cfg = cfg
        self.booted = False
        self.aborted = False
        self.reloader = None
        self.nr = 0
        self.max_requests = sys.maxsize
        self.alive = True
        self.log = log
        self.slot = app.memory.reserve_slot()
        self.tmp = Heartbeat(app.memory, self.slot)
        self.ending = Ending()

    def init_process(self) -> None:
        # The first process loads this module, and must stay small.
        import uvloop

        tune_malloc()
        self.app.slot = self.slot
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._stopped = asyncio.Event()
        super().init_process()

    def init_signals(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self.loop.add_signal_handler(number, self._stop)
        # A worker that dies of a signal writes down the thread it came from; gunicorn ends stuck workers by SIGABRT.
        faulthandler.enable(self.tmp.fileno(), all_threads=True)

    def _stop(self) -> None:
        self.alive = False
        self._stopped.set()

    def run(self) -> None:
        app = cast("App", self.wsgi)
        try:
            with app.records.kept():
                self.loop.run_until_complete(self._serve(app))
        finally:
            if app.snapshots is not None:
                app.snapshots.close()
            app.version_records.end_in_order()
            self.loop.close()

    async def _serve(self, app: "App") -> None:
        from service.security.cors import Cors
        from service.server.connection import Connections, CorsConnection, HttpConnection, affordable_connections
        from service.server.tls import tls
        from service.settings import parse_origins

        settings = app.settings
        connections = Connections(
            affordable_connections(settings.max_connections),
            # One request may always take what it may.
            max(settings.max_buffered_bytes, settings.max_body_bytes),
            keep_alive_seconds=settings.keep_alive_seconds,
            max_age_seconds=settings.grpc_max_connection_age_seconds,
            on_change=app.metrics.connections.labels().set,
        )
        # Health and metrics respond however many clients there are.
        operations = Connections(MAX_OPERATIONS_CONNECTIONS, keep_alive_seconds=settings.keep_alive_seconds)
        origins = parse_origins(settings.cors_origins)
        cors = Cors(origins) if origins else None
        main = partial(CorsConnection, cors) if cors else HttpConnection
        ports = [(port, main, connections, app.admits[0]) for port in (settings.port, settings.grpc_port) if port]
        if settings.operations_port:
            ports.append((settings.operations_port, HttpConnection, operations, app.admits[1]))
        listeners = [bound_socket(settings.host, port) for port, *_ in ports]
        if self.sockets:
            # gunicorn's: the workers share it, since a path has one socket.
            ports.append((0, main, connections, app.admits[0]))
            listeners.append(self.sockets[0].sock)
        secured = tls(settings)
        # Probes and scrapers have no certificates.
        operations_secured = tls(replace(settings, tls_client_ca=""))
        await self._until_wanted(app)
        servers = []
        for listener, (port, kind, group, admit) in zip(listeners, ports, strict=True):
            common = (app.dispatcher, group, settings.max_body_bytes, admit, app.records.answered)
            http2 = partial(_http2_connection, *common, cors) if has_http2() else None
            protocol = partial(kind, *common, http2)
            # Who may use a path, its folder's permissions say.
            kept = operations_secured if group is operations else secured
            security = kept.context if kept is not None and port else None
            accepting = Accepting(listener, protocol, security)
            create = self.loop.create_server if port else self.loop.create_unix_server
            servers.append(await create(accepting, sock=listener, backlog=BACKLOG, ssl=security))
        self.app.memory.note_listening(self.slot)
        app.loop_watchdog.start()
        is_frozen = False
        while self._goes_on():
            if app.registry.first_scan_done.is_set() and not is_frozen:
                # What is loaded by now stays: the collector need not go through it again and again.
                gc.collect()
                gc.freeze()
                is_frozen = True
            for group in (connections, operations):
                group.sweep(time.monotonic())
            for kept in (secured, operations_secured):
                if kept is not None:
                    kept.poll()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), SWEEP_SECONDS)
        app.registry.draining = True
        listeners = [listener for listener in listeners if listener.family != socket.AF_UNIX]
        for listener in listeners:
            connect_no_more(listener)
        latest = time.monotonic() + self.cfg.graceful_timeout
        await self._accept_rest(listeners, latest)
        for server in servers:
            server.close()
        await self._drain((connections, operations), latest)
        app.dispatcher.close()

    def _goes_on(self) -> bool:
        self.notify()
        return self.alive and self.ppid == os.getppid()

    async def _until_wanted(self, app: "App") -> None:
        """A worker that replaces one that died leaves clients to the others until it has loaded what they have: its own
        clients would have to wait."""
        while self._goes_on() and not app.registry.first_scan_done.is_set() and app.agreement.others_serve():
            await asyncio.sleep(0.05)

    async def _accept_rest(self, listeners: "list[socket.socket]", latest: float) -> None:
        """Accept clients that have connected, or are just connecting."""
        await asyncio.sleep(HANDSHAKE_SECONDS)
        while any(map(waiting, listeners)) and time.monotonic() < latest:
            self.notify()
            await asyncio.sleep(DRAIN_SECONDS)

    async def _drain(self, groups: tuple["Connections", ...], latest: float) -> None:
        """Respond to what every connection has sent, and close it."""
        polls = 0
        # Connections that were just accepted are not among them yet.
        await asyncio.sleep(DRAIN_SECONDS)
        while any(groups) and time.monotonic() < latest:
            # Not by the clock: while the process stood still, it read nothing.
            polls += 1
            for connections in groups:
                connections.drain(close_idle=polls * DRAIN_SECONDS > LINGER_SECONDS)
            self.notify()
            await asyncio.sleep(DRAIN_SECONDS)


def has_http2() -> bool:
    """Whether the library is there: it has no wheel for some machines."""
    return find_spec("ngh2") is not None


def _http2_connection(*arguments: Any) -> asyncio.Protocol:
    # Imported with the first client that speaks it; others pay nothing.
    from service.server.http2_connection import Http2Connection

    return Http2Connection(*arguments)
