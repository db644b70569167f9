from math import inf
from time import perf_counter

import pytest

from service.errors import InvalidRequest
from service.inference.deadline import Deadline, DeadlineExceeded, Deadlines, Stage

SETTING = Deadlines(30_000)
NO_SETTING = Deadlines(0)


def test_without_a_wish_the_setting_counts_from_the_requests_arrival() -> None:
    deadline = SETTING.default(arrived=100.0)
    assert deadline.at == 130.0
    assert deadline.message == (
        "the request took longer than 30000 ms (SERVING_REQUEST_TIMEOUT_MS); it was waiting for a free thread"
    )


def test_a_client_may_shorten_its_deadline() -> None:
    deadline = SETTING.from_header(b"250", arrived=100.0)
    assert deadline.at == 100.25
    deadline.stage = Stage.RUN
    assert deadline.message == (
        "the request took longer than 250 ms (X-Request-Timeout-Ms); it was being run by its model"
    )


@pytest.mark.parametrize("wish", [b"30000", b"30001", b"9" * 1000])
def test_a_client_may_not_lengthen_it(wish: bytes) -> None:
    assert SETTING.from_header(wish, arrived=100.0).at == 130.0


def test_without_a_limit_a_request_takes_as_long_as_it_takes_unless_its_client_wishes() -> None:
    assert NO_SETTING.default(arrived=100.0).at == inf
    assert NO_SETTING.from_header(b"9" * 1000, arrived=100.0).at == inf
    assert NO_SETTING.from_header(b"60000", arrived=100.0).at == 160.0


@pytest.mark.parametrize("wish", [b"", b"0", b"-1", b"1.5", b"1e3", b"10s", b"5,5", b" 5", "٣".encode(), b"\xff" * 100])
def test_what_is_no_whole_number_of_milliseconds_is_refused(wish: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^X-Request-Timeout-Ms is .*; expected a whole number of milliseconds"):
        SETTING.from_header(wish, arrived=100.0)


def test_a_deadline_passes() -> None:
    assert Deadline(perf_counter() - 1, "1 ms").has_expired()
    assert not Deadline(perf_counter() + 60, "1 ms").has_expired()
    assert not Deadline.unlimited().has_expired()


def test_only_the_first_who_claims_it_answers() -> None:
    deadline = Deadline.unlimited()
    assert [deadline.claim() for _ in range(3)] == [True, False, False]


def test_who_waits_is_woken_when_it_is_over_and_at_once_if_it_is() -> None:
    deadline, woken = Deadline.unlimited(), []
    deadline.on_cancel(lambda: woken.append("waiting"))
    deadline.check()
    assert woken == []
    deadline.cancel()
    assert woken == ["waiting"]
    deadline.on_cancel(lambda: woken.append("late"))
    assert woken == ["waiting", "late"]
    with pytest.raises(DeadlineExceeded):
        deadline.check()
