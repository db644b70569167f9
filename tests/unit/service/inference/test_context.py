"""Where the time of a request goes. The clock is the test's: every look at it is a second later."""

from itertools import count

import pytest
from prometheus_client import CollectorRegistry

from service.inference.context import RequestContext
from service.inference.deadline import Deadline
from service.metrics.definitions import Metrics


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(1000.0)
    monkeypatch.setattr("service.inference.context.perf_counter", lambda: next(seconds))


def decoded() -> RequestContext:
    context = RequestContext()  # 0
    context.begin()  # 1: it waited for a thread
    context.decoded()  # 2
    return context


def ended(context: RequestContext) -> RequestContext:
    context.end(Metrics(CollectorRegistry()), 200)
    return context


def stages(context: RequestContext) -> tuple[float, float, float, float]:
    return context.queue_seconds, context.decode_seconds, context.run_seconds, context.encode_seconds


def test_what_is_not_spent_on_decoding_running_and_encoding_was_waited() -> None:
    context = decoded()
    context.ran(began=context.decoded_at + 0.25, seconds=0.5, batch_size=3)
    context.inferred()  # 3
    ended(context)  # 4
    assert stages(context) == (1 + 0.5, 1, 0.5, 1)
    assert sum(stages(context)) == context.ended - context.arrived


def test_who_has_begun_it_first_counts() -> None:
    context = decoded()
    context.begin()
    assert context.began == context.arrived + 1


def test_a_run_that_fails_was_no_waiting() -> None:
    context = decoded()
    context.ran(began=context.decoded_at, seconds=0.75, batch_size=1)
    assert stages(ended(context)) == (1 + 0.25, 1, 0.75, 0)


def test_a_run_that_goes_on_at_the_deadline_was_no_waiting_either() -> None:
    context = decoded()
    context.deadline = Deadline.unlimited()
    context.deadline.begin_run(context.decoded_at + 0.25, batch_size=3)
    context.record_expired(Metrics(CollectorRegistry()))  # 3
    ended(context)  # 4: what the run takes after it was given up counts no more
    assert stages(context) == (1 + 0.25 + 1, 1, 0.75, 0)
    assert (context.run_began, context.batch_size) == (context.decoded_at + 0.25, 3)


def test_a_part_that_goes_on_at_the_deadline_is_added_to_those_before_it() -> None:
    context = decoded()
    context.ran(began=context.decoded_at, seconds=0.25, batch_size=3)
    context.deadline = Deadline.unlimited()
    context.deadline.begin_run(context.decoded_at + 0.5, batch_size=3)
    context.record_expired(Metrics(CollectorRegistry()))  # 3
    assert (context.run_began, context.run_seconds) == (context.decoded_at, 0.25 + 0.5)


def test_a_run_that_ended_before_the_deadline_took_as_long_as_it_did() -> None:
    context = decoded()
    context.deadline = Deadline.unlimited()
    context.deadline.begin_run(context.decoded_at + 0.25, batch_size=3)
    context.ran(began=context.decoded_at + 0.25, seconds=0.5, batch_size=2)
    context.deadline.run_began = 0.0
    context.record_expired(Metrics(CollectorRegistry()))
    assert stages(ended(context)) == (1 + 0.5, 1, 0.5, 0)
    assert context.batch_size == 2


def test_what_is_never_decoded_has_no_stages() -> None:
    assert stages(ended(RequestContext())) == (0, 0, 0, 0)


def test_its_duration_begins_with_its_arrival() -> None:
    page = CollectorRegistry()
    context = RequestContext()
    context.begin()
    context.protocol, context.verb = "v1", "predict"
    context.end(Metrics(page), 200)
    labels = {"model": "", "version": "", "protocol": "v1", "verb": "predict"}
    assert page.get_sample_value("serving_request_duration_seconds_sum", labels) == 2
