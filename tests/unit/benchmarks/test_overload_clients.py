import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.overload.answers import Answers
from benchmarks.overload.clients import Clients, is_whole, request_of

ANSWER = b"HTTP/1.1 %d X\r\ncontent-type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("answer", "whole"),
    [(ANSWER % 200, True), ((ANSWER % 200)[:-1], False), (b"HTTP/1.1 200 OK\r\nContent-Le", False)],
)
def test_an_answer_is_whole_with_its_body(answer: bytes, whole: bool) -> None:
    assert is_whole(answer) is whole


def test_a_request_has_its_bodys_headers_and_length(tmp_path: Path) -> None:
    (tmp_path / "png-1").write_bytes(b"pixels")
    (tmp_path / "png-1.headers").write_text('{"Content-Type": "image/png"}')
    assert request_of("/v1/models/a:predict", tmp_path / "png-1") == (
        b"POST /v1/models/a:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 6\r\nContent-Type: image/png\r\n\r\n"
        b"pixels"
    )


def asked(script: Callable[[Clients], "asyncio.Future[None]"], given: list[bytes], folder: Path) -> Answers:
    """What clients note that do as the script says, of a service that gives these answers and then none; an empty one
    closes the connection."""

    connections = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        # Clients that leave before they have read all reset their connection.
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while await reader.readexactly(3):
                if given:
                    writer.write(given[0][:5])
                    await writer.drain()
                    writer.write(given[0][5:])
                    if not given.pop(0):
                        break
        writer.close()

    async def scenario() -> Answers:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            clients = Clients(server.sockets[0].getsockname()[1], b"ask", folder / "answers")
            await script(clients)
            while given:
                await asyncio.sleep(0.001)
            await clients.become(0)
            await asyncio.gather(*filter(None, connections))
            return clients.answers

    return asyncio.run(asyncio.wait_for(scenario(), 10))


def test_each_client_asks_again_as_soon_as_it_is_answered_also_where_it_is_refused(tmp_path: Path) -> None:
    found = asked(lambda clients: asyncio.ensure_future(clients.become(2)), [ANSWER % 200, ANSWER % 429] * 3, tmp_path)
    assert sorted(found.statuses)[:5] == [200, 200, 200, 429, 429]
    assert found.others in (2, 3)


def test_a_connection_that_is_lost_is_noted_and_replaced(tmp_path: Path) -> None:
    found = asked(lambda clients: asyncio.ensure_future(clients.become(1)), [ANSWER % 200, b"", ANSWER % 200], tmp_path)
    assert list(found.statuses)[:2] == [200, 0]
