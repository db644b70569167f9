from pathlib import Path

import pytest

from benchmarks.overload.answers import Answers, figures, percentile, recovery_seconds, slices


def answers(*each: tuple[float, float, int]) -> Answers:
    """`each`: when it came, after how many seconds, its status."""
    made = Answers()
    for came, seconds, status in each:
        made.add(came - seconds, came, status)
    return made


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    written = answers((1.0, 0.5, 200), (2.0, 0.25, 429))
    written.write(tmp_path / "answers")
    read = Answers.read(tmp_path / "answers")
    assert list(read.between(0, 10)) == list(written.between(0, 10)) == [(1.0, 0.5, 200), (2.0, 0.25, 429)]


@pytest.mark.parametrize(("percent", "found"), [(50, 2.0), (51, 3.0), (99, 4.0), (1, 1.0)])
def test_a_percentile_is_one_of_the_values(percent: int, found: float) -> None:
    assert percentile([4.0, 2.0, 1.0, 3.0], percent) == found


def test_figures_count_what_came_in_time_and_the_latencies_of_the_accepted_alone() -> None:
    of = answers(
        (0.9, 0.1, 200), *[(1.5, 0.01, 200)] * 9, (1.5, 0.03, 200), (1.5, 5.0, 429), (2.5, 0, 0), (3.0, 1, 200)
    )
    found = figures(of, 7, 1.0, 3.0, cpu_seconds=0.001)
    assert (found.clients, found.accepted, found.refused, found.others) == (7, 5.0, 0.5, {"0": 1})
    assert (found.p50_ms, found.p99_ms, found.refused_p99_ms) == pytest.approx((10, 30, 5000))
    assert found.cpu_us == pytest.approx(100)


def test_where_nobody_was_accepted_there_are_no_figures() -> None:
    with pytest.raises(RuntimeError, match="of 7 clients not one was answered with 200 in 2 s"):
        figures(answers((1.5, 0.1, 429)), 7, 1.0, 3.0, 0.0)


def test_a_slice_is_disturbed_by_whatever_is_not_accepted() -> None:
    of = answers((10.01, 0.2, 200), (10.02, 0.3, 200), (10.11, 0.1, 200), (10.12, 0.9, 429))
    found = slices(of, 10.0, 10.3)
    assert [began for began, _, _ in found] == pytest.approx([10.0, 10.1, 10.2])
    assert [p99 for _, p99, _ in found] == pytest.approx([0.3, 0.1, 0.0])
    assert [is_disturbed for _, _, is_disturbed in found] == [False, True, False]


@pytest.mark.parametrize(
    ("each", "seconds"),
    [
        ([(10.05, 0.1, 200)], 0.0),
        ([(10.05, 0.1, 200), (10.35, 0.3, 200), (10.75, 0.1, 200)], 0.4),
        ([(10.05, 0.1, 429)], 0.1),
        ([(10.95, 0.1, 429)], None),
    ],
    ids=["at once", "once it is as quick", "once none is refused", "not until the end"],
)
def test_all_is_as_before_after_the_last_slice_that_is_not(
    each: list[tuple[float, float, int]], seconds: float | None
) -> None:
    found = recovery_seconds(answers(*each), 0.2, 10.0, 11.0)
    assert found == (None if seconds is None else pytest.approx(seconds))
