from math import inf
from time import perf_counter

import pytest

from service.errors import InvalidRequest
from service.inference.deadline import DEADLINE_HEADER, GRPC_TIMEOUT, Deadline, DeadlineExceeded, Deadlines, Stage

LIMITED, UNLIMITED = Deadlines(30_000), Deadlines(0)


def test_default_deadline_is_the_setting() -> None:
    deadline = LIMITED.default(arrived=100.0)
    assert deadline.at == 130.0
    assert deadline.message == (
        "the request took longer than 30000 ms (SERVING_REQUEST_TIMEOUT_MS); it was waiting for a free thread"
    )
    assert UNLIMITED.default(arrived=100.0).at == inf


def allowed(deadlines: Deadlines, headers: dict[bytes, bytes]) -> Deadline:
    found = deadlines.from_headers(headers, arrived=100.0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("deadlines", "header", "at"),
    [
        *((LIMITED, b"250", 100.25), (LIMITED, b"30001", 130.0), (LIMITED, b"9" * 1000, 130.0)),
        *((UNLIMITED, b"60000", 160.0), (UNLIMITED, b"9" * 1000, inf)),
    ],
)
def test_client_may_shorten_its_deadline(deadlines: Deadlines, header: bytes, at: float) -> None:
    assert allowed(deadlines, {DEADLINE_HEADER: header}).at == at


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 30), (b"1M", 30), (b"2S", 2), (b"250m", 0.25), (b"500000u", 0.5), (b"99999999n", 0.099999999), (b"0m", 0)],
)
def test_grpc_names_its_deadline_in_a_unit(text: bytes, seconds: float) -> None:
    assert allowed(LIMITED, {GRPC_TIMEOUT: text}).at == pytest.approx(100 + seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"m", b"-1m", b"1.5S", b"123456789m", b"1s"])
def test_invalid_timeout_of_grpc_is_400(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="grpc-timeout is "):
        LIMITED.from_headers({GRPC_TIMEOUT: text}, arrived=100.0)


@pytest.mark.parametrize("header", [b"", b"0", b"-1", b"1.5", b"1e3", b"10s", b" 5", "٣".encode(), b"\xff" * 100])
def test_invalid_header_is_400(header: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^X-Request-Timeout-Ms is .*; expected a whole number of milliseconds"):
        LIMITED.from_headers({DEADLINE_HEADER: header}, arrived=100.0)


def test_message_of_a_clients_deadline() -> None:
    assert LIMITED.from_headers({}, arrived=100.0) is None
    deadline = allowed(LIMITED, {DEADLINE_HEADER: b"250"})
    deadline.stage = Stage.RUN
    message = "the request took longer than 250 ms (X-Request-Timeout-Ms); it was being run by its model"
    assert deadline.message == message


def test_expired() -> None:
    deadlines = [Deadline(perf_counter() - 1, "1 ms"), Deadline(perf_counter() + 60, "1 ms"), Deadline.unlimited()]
    assert [deadline.has_expired() for deadline in deadlines] == [True, False, False]


def test_only_the_first_claim_counts() -> None:
    deadline = Deadline.unlimited()
    assert [deadline.claim() for _ in range(3)] == [True, False, False]


def test_cancel_calls_back_and_at_once_if_it_was_before() -> None:
    deadline, calls = Deadline.unlimited(), []
    deadline.on_cancel(lambda: calls.append("waiting"))
    deadline.check()
    assert calls == []
    deadline.cancel()
    deadline.on_cancel(lambda: calls.append("late"))
    assert calls == ["waiting", "late"]
    with pytest.raises(DeadlineExceeded):
        deadline.check()
