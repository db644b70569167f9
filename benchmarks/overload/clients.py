"""The clients, a process of their own: `python -m benchmarks.overload.clients PORT PATH BODY FILE`.

Each has a connection of its own, and asks again as soon as it is answered, also where it is refused: none thinks, none
waits as Retry-After says. Takes commands on its input, a line each: `clients N`, and `end`; says `done` once so many
are connected, and how many answers so far were no 200. Every answer is written to FILE at the end, see answers.py.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.overload.answers import Answers

# At a time, with a pause that is longer than a round of the service's: more would not fit into the queue of those that
# it has not accepted yet, and be lost.
CONNECTING, PAUSE_SECONDS = 500, 0.2
RECONNECT_SECONDS = 0.1


class Client(asyncio.Protocol):
    def __init__(self, clients: "Clients") -> None:
        self._clients = clients
        self._answer = b""
        self._asked = 0.0
        self._is_leaving = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self) -> None:
        self._asked = time.monotonic()
        self._transport.write(self._clients.request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer + data if self._answer else data
        if not is_whole(answer):
            self._answer = answer
            return
        self._answer = b""
        self._clients.answers.add(self._asked, time.monotonic(), int(answer[9:12]))
        self.ask()

    def leave(self) -> None:
        self._is_leaving = True
        self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._is_leaving:
            self._clients.lost(self, self._asked)


def is_whole(answer: bytes) -> bool:
    """Every answer of the service has a length."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    _, _, after = head.lower().partition(b"\r\ncontent-length: ")
    return len(body) >= int(after.partition(b"\r\n")[0])


class Clients:
    def __init__(self, port: int, request: bytes, file: Path) -> None:
        self.request = request
        self.answers = Answers()
        self._port = port
        self._file = file
        self._wanted = 0
        self._all: set[Client] = set()
        self._replacing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        # Nothing but the end of the input: whoever commanded is gone.
        while (line := (await commands.readline()).decode().strip()) not in ("", "end"):
            await self.become(int(line.removeprefix("clients ")))
            print(f"done {self.answers.others}", flush=True)
        await self.become(0)
        self.answers.write(self._file)

    async def become(self, wanted: int) -> None:
        self._wanted = wanted
        while len(self._all) > wanted:
            self._all.pop().leave()
        # None asks before all are there.
        connected: list[Client] = []
        while (missing := wanted - len(self._all) - len(connected)) > 0:
            made = await asyncio.gather(*(self._connect() for _ in range(min(missing, CONNECTING))))
            connected += [client for client in made if client is not None]
            await asyncio.sleep(PAUSE_SECONDS)
        self._begin(*connected)

    def _begin(self, *clients: Client) -> None:
        for client in clients:
            self._all.add(client)
            client.ask()

    async def _connect(self) -> Client | None:
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: Client(self), "127.0.0.1", self._port
            )
        except OSError:
            self.answers.add(now := time.monotonic(), now, 0)
            await asyncio.sleep(RECONNECT_SECONDS)
            return None
        return client

    def lost(self, client: Client, asked: float) -> None:
        """The service closed a connection on which it owed an answer."""
        self.answers.add(asked, time.monotonic(), 0)
        self._all.discard(client)
        self._replacing.add(task := asyncio.ensure_future(self._replace()))
        task.add_done_callback(self._replacing.discard)

    async def _replace(self) -> None:
        while len(self._all) < self._wanted:
            await asyncio.sleep(RECONNECT_SECONDS)
            if client := await self._connect():
                self._begin(client)
                return


def request_of(path: str, body: Path) -> bytes:
    """`body` as bodies.py writes it, with its headers in a file beside it."""
    content = body.read_bytes()
    headers = {"Host": "127.0.0.1", "Content-Length": len(content), **json.loads(Path(f"{body}.headers").read_text())}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + content


def main() -> None:
    port, path, body, file = sys.argv[1:]
    # Each client has a file open.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(Clients(int(port), request_of(path, Path(body)), Path(file)).run())


if __name__ == "__main__":
    main()
