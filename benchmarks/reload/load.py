"""The load, a process of its own: `python -m benchmarks.reload.load PORT RATE CONNECTIONS FILE`.

A fixed rate over connections that are kept alive. Takes commands on its input, a line each: `ask ROUTE`, `drop ROUTE`
and `end`; says `done` once one is carried out: what is dropped is not being asked any more. Every answer is written to
FILE, a line of JSON each, at the end.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path

from benchmarks.reload.checks import Answer

PATIENCE_SECONDS = 10
# 3x + N is read back as N: float32 holds these x to a few millionths.
LARGEST_X = 50
MOST_OFF = 0.01


class Connection:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body. Raises OSError or EOFError; the next one then has a new connection."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if length is None:
                raise EOFError(f"an answer without a length: {head[:200]!r}")
            return int(head[9:12]), await reader.readexactly(int(length[1]))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    def __init__(self, port: int, rate: float, connections: int) -> None:
        self.answers: list[Answer] = []
        self._port, self._rate, self._connections = port, rate, connections
        self._routes: list[str] = []
        self._asked: Counter[str] = Counter()
        self._is_ended = False
        # Which route is asked next: any connection, and so any worker process, gets all of them.
        self._choice = random.Random(1)  # noqa: S311  # nothing secret

    async def run(self) -> None:
        began = time.monotonic()
        await asyncio.gather(*(self._drive(index, began) for index in range(self._connections)))

    async def command(self, line: str) -> None:
        verb, _, route = line.strip().partition(" ")
        if verb == "ask":
            self._routes.append(route)
        elif verb == "drop":
            self._routes.remove(route)
            while self._asked[route]:
                await asyncio.sleep(0.001)
        else:
            self._is_ended = True

    async def _drive(self, index: int, began: float) -> None:
        connection = Connection(self._port)
        free = began
        for turn in count():
            due = began + (turn * self._connections + index) / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._is_ended:
                connection.close()
                return
            if self._routes:
                # One that had to wait for its connection's last answer has waited for the service.
                answer = await self._ask(connection, self._choice.choice(self._routes), due if free > due else None)
                self.answers.append(answer)
                free = answer.ended

    async def _ask(self, connection: Connection, route: str, due: float | None) -> Answer:
        x = self._choice.randrange(LARGEST_X)
        self._asked[route] += 1
        began = time.monotonic() if due is None else due
        status, version, problem = 0, None, ""
        try:
            body = json.dumps({"instances": [float(x)]}).encode()
            async with asyncio.timeout(PATIENCE_SECONDS):
                status, content = await connection.post(f"{route}:predict", body)
            if status == 200:
                version = version_of(content, x)
            else:
                problem = content[:300].decode(errors="replace")
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            problem = f"{type(error).__name__} {error}"
        finally:
            self._asked[route] -= 1
        return Answer(route, began, time.monotonic(), status, version, problem)


def version_of(content: bytes, x: float) -> int | None:
    """Which one answers so; None: none does."""
    with suppress(ValueError, KeyError, IndexError, TypeError):
        offset = float(json.loads(content)["predictions"][0]) - 3.0 * x
        if abs(offset - round(offset)) < MOST_OFF:
            return round(offset)
    return None


async def main(port: int, rate: float, connections: int, file: Path) -> None:
    load = Load(port, rate, connections)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def listen() -> None:
        # Nothing but the end of its input: whoever commanded is gone.
        while line := (await commands.readline()).decode() or "end":
            await load.command(line)
            if line.strip() == "end":
                return
            print("done", flush=True)

    await asyncio.gather(load.run(), listen())
    file.write_text("".join(f"{json.dumps(asdict(answer))}\n" for answer in load.answers))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
