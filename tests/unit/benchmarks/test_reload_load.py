import asyncio
import contextlib

import pytest

from benchmarks.reload.checks import Answer
from benchmarks.reload.load import Connection, Load, version_of


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b'{"predictions": [31.0]}', 1),
        (b'{"predictions": [33.000002]}', 3),
        (b'{"predictions": [33.5]}', None),
        (b'{"predictions": []}', None),
        (b'{"predictions": ["31"', None),
        (b'{"error": "no"}', None),
    ],
)
def test_the_value_tells_which_version_answered(content: bytes, version: int | None) -> None:
    assert version_of(content, 10) == version


def served(answers: list[bytes], routes: list[str]) -> list[Answer]:
    """What a load of these routes has got when the service has given these answers, one a connection's turn."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"}")
                content = answers.pop(0)
                if not answers:
                    await loads[0].command("end")
                writer.write(content)
                if not content:
                    break
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        load = Load(server.sockets[0].getsockname()[1], rate=10_000, connections=1)
        loads.append(load)
        for route in routes:
            await load.command(f"ask {route}")
        await load.run()
        server.close()

    loads: list[Load] = []
    asyncio.run(run())
    return loads[0].answers


def test_each_answer_is_kept_with_status_and_reason_and_a_lost_connection_is_opened_anew() -> None:
    good = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"predictions": [1]}\n'
    bad = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"
    answers = served([good, bad, b"", good], ["/m"])
    assert [one.status for one in answers] == [200, 404, 0, 200]
    assert answers[1].problem == "gone"
    assert "IncompleteReadError" in answers[2].problem
    assert all(one.route == "/m" and one.began <= one.ended for one in answers)


def test_a_route_that_is_dropped_is_not_asked_any_more() -> None:
    async def dropped() -> list[str]:
        load = Load(0, 1, 1)
        await load.command("ask /one\n")
        await load.command("ask /two\n")
        await load.command("drop /one\n")
        return load._routes

    assert asyncio.run(dropped()) == ["/two"]


def test_an_answer_without_a_length_is_a_fault() -> None:
    async def asked() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        await Connection(server.sockets[0].getsockname()[1]).post("/", b"")

    with pytest.raises(EOFError, match="an answer without a length"):
        asyncio.run(asked())
