import pytest

from benchmarks.reload.checks import Allowed, Answer, Phase, fault, figures

STABLE, NUMBERED = "/v1/models/m/labels/stable", "/v1/models/m/versions/1"


@pytest.fixture
def allowed() -> Allowed:
    """The label names 1; from second 10 on it moves, from 20 on it names 2."""
    allowed = Allowed()
    allowed.change(STABLE, {1}, 0.0)
    allowed.change(STABLE, {1, 2}, 10.0)
    allowed.change(STABLE, {2}, 20.0)
    allowed.change(NUMBERED, {1}, 0.0)
    return allowed


def answer(version: int | None, began: float, ended: float, route: str = STABLE) -> Answer:
    return Answer(route, began, ended, 200, version)


@pytest.mark.parametrize(
    ("began", "ended", "versions"),
    [(1, 2, {1}), (9, 11, {1, 2}), (12, 13, {1, 2}), (19, 21, {1, 2}), (20, 21, {2}), (9, 25, {1, 2})],
)
def test_what_is_allowed_at_any_moment_of_a_request_may_answer_it(
    allowed: Allowed, began: float, ended: float, versions: set[int]
) -> None:
    assert allowed.during(STABLE, began, ended) == versions


def test_a_version_that_comes_too_early_or_too_late_is_a_fault(allowed: Allowed) -> None:
    assert fault(answer(1, 5, 6), allowed) == ""
    assert fault(answer(2, 15, 16), allowed) == ""
    assert fault(answer(2, 5, 6), allowed) == f"{STABLE}: answered by version 2, expected 1"
    assert fault(answer(1, 20.5, 21), allowed) == f"{STABLE}: answered by version 1, expected 2"


def test_a_version_asked_for_by_its_number_is_the_only_one_that_may_answer(allowed: Allowed) -> None:
    assert fault(answer(1, 15, 16, NUMBERED), allowed) == ""
    assert fault(answer(2, 15, 16, NUMBERED), allowed) == f"{NUMBERED}: answered by version 2, expected 1"


def test_a_value_that_no_version_gives_is_a_fault(allowed: Allowed) -> None:
    assert fault(answer(None, 1, 2), allowed) == f"{STABLE}: answered by version None, expected 1"


def test_what_is_not_answered_with_200_is_a_fault_with_its_reason(allowed: Allowed) -> None:
    assert fault(Answer(STABLE, 1, 2, 404, problem="gone"), allowed) == f"{STABLE}: 404: gone"
    assert fault(Answer(STABLE, 1, 2, 0, problem="reset"), allowed) == f"{STABLE}: no answer: reset"


def test_figures_are_of_the_phases_in_which_was_asked(allowed: Allowed) -> None:
    quiet, reloading = Phase(False, 0, 5), Phase(True, 5, 10)
    answers = [answer(1, 0.01 * turn, 0.01 * turn + 0.002) for turn in range(500)]
    answers += [answer(2, 6, 6.004)] * 3 + [answer(1, 6, 6.004)] * 197 + [Answer(STABLE, 6, 7, 503)]
    without = figures(answers, [quiet, reloading], allowed, is_reloading=False)
    assert (without.answers, without.failed, without.misrouted) == (500, 0, 0)
    assert without.p50_ms == pytest.approx(2.0)
    with_reloads = figures(answers, [quiet, reloading], allowed, is_reloading=True)
    assert (with_reloads.answers, with_reloads.failed, with_reloads.misrouted) == (201, 1, 3)
    assert with_reloads.p99_ms == pytest.approx(4.0)


def test_too_few_answers_make_no_figures(allowed: Allowed) -> None:
    with pytest.raises(RuntimeError, match="only 1 answers: too few"):
        figures([answer(1, 1, 2)], [Phase(True, 0, 5)], allowed, is_reloading=True)
