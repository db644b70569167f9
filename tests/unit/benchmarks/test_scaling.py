import socket
from dataclasses import asdict

import pytest

from benchmarks.scaling import APART, HEADING, ONE, TWO, Burst, _has_answer, ratio, section


def bursts(*rates: float) -> list[Burst]:
    return [Burst(rate, cpu_us=100.0) for rate in rates]


@pytest.mark.parametrize(("rate", "word"), [(18_000.0, "reached."), (17_900.0, "**missed**.")])
def test_the_section_says_what_the_second_worker_adds_and_whether_that_is_enough(rate: float, word: str) -> None:
    found = {ONE: bursts(10_000.0), TWO: bursts(rate), APART: bursts(20_000.0)}
    written = {title: [asdict(burst) for burst in each] for title, each in found.items()}
    text = section({"machine": "a machine", "made": "2026-11-23", "bursts": written})
    assert text.startswith(f"{HEADING}\n\na machine; 2026-11-23. Written by `python -m benchmarks.scaling`:")
    assert f"Wanted are 1.8 times one worker's requests/s: {word}" in text
    assert "| one worker | 10,000 | 100 | 1.00 |" in text
    assert "| two services with one worker each | 20,000 | 100 | 2.00 |" in text


def test_a_round_is_compared_with_itself() -> None:
    # The machine is twice as fast in the second.
    found = {ONE: bursts(1.0, 2.0, 1.0), TWO: bursts(1.5, 3.0, 1.6)}
    assert ratio(found, TWO, ONE) == 1.5


def test_an_answer_is_seen_without_being_read() -> None:
    client, service = socket.socketpair()
    with client, service:
        assert not _has_answer(client)
        service.sendall(b"HTTP/1.1 200 OK")
        assert _has_answer(client)
        assert client.recv(100) == b"HTTP/1.1 200 OK"
