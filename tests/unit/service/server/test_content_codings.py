"""Content codings, from the connection's bytes to the model and back."""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import pytest

from service import create_app
from service.http import Response
from service.inference.pace import Pace
from service.inference.version import LoadedVersion
from service.server import response
from service.server.response import response_bytes
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import (
    FakeEngine,
    batcher,
    make_available,
    patient_settings,
    quick,
    request,
    signature,
    tensor,
)


def echo_bytes(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": inputs["x"]}


def exchange(
    tmp_path: Path, body: bytes, *, is_quick: bool = True, **headers: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what is answered to a :predict whose model gives back what it gets."""

    async def ask() -> bytes:
        app = create_app(patient_settings(tmp_path, max_body_bytes=10_000))
        app.watcher.scan()
        engine = FakeEngine({DEFAULT_SIGNATURE: signature({"x": tensor("DT_FLOAT", -1)})}, echo_bytes)
        pace = quick() if is_quick else Pace()
        loaded = LoadedVersion("model", 1, engine, ServingConfig(), batcher(engine), pace=pace)
        make_available(app.registry, loaded)
        dispatcher = app.dispatcher
        named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
        sent = request(b"/v1/models/model:predict", body, headers=named)
        answer = dispatcher.dispatch(sent)
        ended = answer if isinstance(answer, Response) else await answer
        dispatcher.close()
        return response_bytes(sent, response.encode_body(ended, sent.accept_encoding), keep_alive=True)

    head, _, content = asyncio.run(ask()).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), content


BOTH = pytest.mark.parametrize("is_quick", [True, False])
SHORT = b'{"instances":[0.25]}'
LONG = b'{"instances":[' + b"0.25," * 1_000 + b"0.25]}"


@BOTH
@pytest.mark.parametrize(
    ("coding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"identity", bytes)]
)
def test_a_packed_body_is_read_as_the_plain_one(
    tmp_path: Path, is_quick: bool, coding: bytes, pack: Callable[[bytes], bytes]
) -> None:
    status, headers, body = exchange(tmp_path, pack(SHORT), is_quick=is_quick, content_encoding=coding)
    assert (status, body) == (200, b'{"predictions":[0.25]}')
    assert "content-encoding" not in headers


@BOTH
@pytest.mark.parametrize(("coding", "unpack"), [(b"gzip", gzip.decompress), (b"deflate", zlib.decompress)])
@pytest.mark.parametrize("packed", [True, False], ids=["packed request", "plain request"])
def test_a_long_answer_is_packed_by_whichever_road_it_comes(
    tmp_path: Path, is_quick: bool, coding: bytes, unpack: Callable[[bytes], bytes], packed: bool
) -> None:
    named = {"content_encoding": b"gzip"} if packed else {}
    body = gzip.compress(LONG) if packed else LONG
    status, headers, answer = exchange(tmp_path, body, is_quick=is_quick, accept_encoding=coding, **named)
    assert status == 200
    assert (headers["vary"], headers["content-encoding"]) == ("accept-encoding", coding.decode())
    assert int(headers["content-length"]) == len(answer) < 1_000
    assert unpack(answer) == LONG.replace(b"instances", b"predictions")


@BOTH
@pytest.mark.parametrize(("body", "accepted"), [(LONG, b""), (LONG, b"identity"), (SHORT, b"gzip")])
def test_short_answers_and_those_that_nobody_wants_packed_stay_plain(
    tmp_path: Path, is_quick: bool, body: bytes, accepted: bytes
) -> None:
    _, headers, answer = exchange(tmp_path, body, is_quick=is_quick, accept_encoding=accepted)
    assert answer == body.replace(b"instances", b"predictions")
    assert "content-encoding" not in headers


@pytest.mark.parametrize(
    ("coding", "body", "status", "words"),
    [
        (b"br", b"body", 415, "'br' is not taken; expected one of gzip, deflate"),
        (b"gzip", b"body", 400, "the body is not that or is damaged"),
        (b"gzip", gzip.compress(SHORT) + b"!", 400, "1 bytes follow the end"),
        (b"gzip", gzip.compress(bytes(10_001)), 413, "(SERVING_MAX_BODY_BYTES)"),
    ],
)
def test_a_body_that_cannot_be_unpacked_says_why(
    tmp_path: Path, coding: bytes, body: bytes, status: int, words: str
) -> None:
    answered, headers, answer = exchange(tmp_path, body, content_encoding=coding)
    assert answered == status
    assert words in orjson.loads(answer)["error"]
    assert headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)
