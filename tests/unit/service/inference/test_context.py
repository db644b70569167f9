"""Where the time of a request goes. The clock is the test's: every look at it is a second later."""

from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from service.inference.context import Call
from service.inference.deadline import Deadline
from service.metrics.definitions import Metrics


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(1000.0)
    monkeypatch.setattr("service.inference.context.perf_counter", lambda: next(seconds))


def decoded() -> Call:
    call = Call()  # 0
    call.begin()  # 1: it waited for a thread
    call.decoded()  # 2
    return call


def ended(call: Call) -> Call:
    call.end(Metrics(CollectorRegistry()), 200)
    return call


def stages(call: Call) -> tuple[float, float, float, float]:
    return call.queue_seconds, call.decode_seconds, call.run_seconds, call.encode_seconds


def test_what_is_not_spent_on_decoding_running_and_encoding_was_waited() -> None:
    call = decoded()
    call.ran(began=call.decoded_at + 0.25, seconds=0.5, batch_size=3)
    call.inferred()  # 3
    ended(call)  # 4
    assert stages(call) == (1 + 0.5, 1, 0.5, 1)
    assert sum(stages(call)) == call.ended - call.arrived


def test_who_has_begun_it_first_counts() -> None:
    call = decoded()
    call.begin()
    assert call.began == call.arrived + 1


def test_a_run_that_fails_was_no_waiting() -> None:
    call = decoded()
    call.ran(began=call.decoded_at, seconds=0.75, batch_size=1)
    assert stages(ended(call)) == (1 + 0.25, 1, 0.75, 0)


def test_a_run_that_goes_on_at_the_deadline_was_no_waiting_either() -> None:
    call = decoded()
    call.deadline = Deadline.unlimited()
    call.deadline.runs(call.decoded_at + 0.25, batch_size=3)
    call.exceeded_deadline(Metrics(CollectorRegistry()))  # 3
    ended(call)  # 4: what the run takes after it was given up counts no more
    assert stages(call) == (1 + 0.25 + 1, 1, 0.75, 0)
    assert (call.run_began, call.batch_size) == (call.decoded_at + 0.25, 3)


def test_a_part_that_goes_on_at_the_deadline_is_added_to_those_before_it() -> None:
    call = decoded()
    call.ran(began=call.decoded_at, seconds=0.25, batch_size=3)
    call.deadline = Deadline.unlimited()
    call.deadline.runs(call.decoded_at + 0.5, batch_size=3)
    call.exceeded_deadline(Metrics(CollectorRegistry()))  # 3
    assert (call.run_began, call.run_seconds) == (call.decoded_at, 0.25 + 0.5)


def test_a_run_that_ended_before_the_deadline_took_as_long_as_it_did() -> None:
    call = decoded()
    call.deadline = Deadline.unlimited()
    call.deadline.runs(call.decoded_at + 0.25, batch_size=3)
    call.ran(began=call.decoded_at + 0.25, seconds=0.5, batch_size=2)
    call.deadline.run_began = 0.0
    call.exceeded_deadline(Metrics(CollectorRegistry()))
    assert stages(ended(call)) == (1 + 0.5, 1, 0.5, 0)
    assert call.batch_size == 2


def test_what_is_never_decoded_has_no_stages() -> None:
    assert stages(ended(Call())) == (0, 0, 0, 0)


def test_its_duration_begins_with_its_arrival() -> None:
    page = CollectorRegistry()
    call = Call()
    call.begin()
    call.protocol, call.verb = "v1", "predict"
    call.end(Metrics(page), 200)
    labels = {"model": "", "version": "", "protocol": "v1", "verb": "predict"}
    assert page.get_sample_value("serving_request_duration_seconds_sum", labels) == 2
