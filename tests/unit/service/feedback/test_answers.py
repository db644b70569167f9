from collections.abc import Callable

import pytest

from service.feedback.answers import Answer, Answers
from service.runtime.shared_memory import SharedMemory
from tests.unit.service.forked import Forked

VERSION, OTHER = 7, 8


def answers_of(rows: int = 100, memory: SharedMemory | None = None, slot: int = 0, seconds: float = 1.0) -> Answers:
    return Answers(rows, memory or SharedMemory(), slot, clock=lambda: seconds)


def labels(answers: Answers, request_id: str) -> list[list[int]]:
    return [list(answer.labels) for answer in answers.find([request_id])[request_id]]


def test_request_of_one_row() -> None:
    answers = answers_of()
    answers.remember("a", VERSION, [3], [0.75])
    assert answers.find(["a", "b"]) == {"a": [Answer(VERSION, 1, [3], [0.75])]}


@pytest.mark.parametrize("before", [0, 2, 4, 5])
def test_request_of_several_rows_is_found_wherever_the_ring_ends(before: int) -> None:
    answers = answers_of(6)
    for number in range(before):
        answers.remember(f"before {number}", VERSION, [0], [0.5])
    answers.remember("a", VERSION, [3, 1, 2], [0.75, 0.5, 0.25])
    assert answers.find(["a"]) == {"a": [Answer(VERSION, 1, [3, 1, 2], [0.75, 0.5, 0.25])]}


def test_overwritten_answer_is_forgotten_also_where_some_of_its_rows_are_left() -> None:
    answers = answers_of(4)
    answers.remember("a", VERSION, [1, 2, 3], [0.5, 0.5, 0.5])
    answers.remember("b", VERSION, [1, 2], [0.5, 0.5])
    assert (labels(answers, "a"), labels(answers, "b")) == ([], [[1, 2]])


def test_request_with_more_rows_than_fit_is_not_remembered() -> None:
    answers = answers_of(2)
    answers.remember("a", VERSION, [1], [0.5])
    answers.remember("b", VERSION, [1, 2, 3], [0.5, 0.5, 0.5])
    assert (labels(answers, "a"), labels(answers, "b")) == ([[1]], [])


def test_id_that_two_versions_have_answered() -> None:
    answers = answers_of()
    answers.remember("a", VERSION, [1], [0.5])
    answers.remember("a", OTHER, [2], [0.5])
    assert {answer.version: answer.labels for answer in answers.find(["a"])["a"]} == {VERSION: [1], OTHER: [2]}


def test_last_answer_of_an_id_counts() -> None:
    answers = answers_of()
    for label in (1, 2, 3):
        answers.remember("a", VERSION, [label], [0.5])
    assert labels(answers, "a") == [[3]]


def test_last_answer_comes_first_whichever_worker_gave_it() -> None:
    memory = SharedMemory()
    late, early = answers_of(memory=memory, slot=0, seconds=20.0), answers_of(memory=memory, slot=1, seconds=10.0)
    late.remember("a", VERSION, [1], [0.5])
    early.remember("a", VERSION, [2], [0.5])
    assert labels(early, "a") == [[1], [2]]


def test_answer_of_a_worker_that_died_is_found_and_its_successor_goes_on() -> None:
    memory = SharedMemory()

    def work(_: Callable[[], None]) -> None:
        answers_of(3, memory, slot=1).remember("a", VERSION, [1], [0.5])

    assert Forked(work).join() == 0
    successor = answers_of(3, memory, slot=1)
    successor.remember("b", VERSION, [2], [0.5])
    assert labels(answers_of(3, memory), "a") == [[1]]
    successor.remember("c", VERSION, [2, 2], [0.5, 0.5])
    assert labels(successor, "a") == []


def test_workers_share_the_rows() -> None:
    assert Answers(100, SharedMemory(), workers=4).size == 25


def test_answers_that_no_memory_is_left_for_are_unknown() -> None:
    answers = answers_of(1_000_000, SharedMemory(16 * 2**20))
    answers.remember("a", VERSION, [1], [0.5])
    assert labels(answers, "a") == []
