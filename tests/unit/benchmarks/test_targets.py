from dataclasses import fields

import pytest

from benchmarks.__main__ import _parser
from benchmarks.measure import Figures, body_name
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import all_servers
from benchmarks.targets import TARGETS, Figure, Target, verdict

ONE, OTHER = Figure("s", "ours", "cpu_us"), Figure("s", "theirs", "cpu_us")


def judged(target: Target, ours: float | None, theirs: float | None = None) -> tuple[float | None, str]:
    medians = {"ours": ours, "theirs": theirs}
    result = verdict(target, lambda _scenario, server, _name: medians[server])
    return result.value, result.word


@pytest.mark.parametrize(
    ("ours", "word"),
    [(10.0, "reached"), (30.0, "reached, short of the aim"), (45.0, "reached, short of the aim"), (46.0, "missed")],
)
def test_a_ratio_is_judged_by_aim_and_limit(ours: float, word: str) -> None:
    assert judged(Target("", ONE, 0.45, to=OTHER, aim=0.2), ours, 100.0) == (ours / 100, word)


def test_at_least_means_at_least() -> None:
    target = Target("", ONE, 3, to=OTHER, at_least=True)
    assert judged(target, 300.0, 100.0) == (3.0, "reached")
    assert judged(target, 299.0, 100.0) == (2.99, "missed")


def test_a_figure_can_stand_alone_or_less_another() -> None:
    assert judged(Target("", ONE, 90), 91.0) == (91.0, "missed")
    assert judged(Target("", ONE, 45, less=OTHER), 120.0, 80.0) == (40.0, "reached")
    assert judged(Target("", ONE, 1, less=OTHER, per=100), 120.0, 80.0) == (0.4, "reached")


@pytest.mark.parametrize(("ours", "theirs"), [(None, 1.0), (1.0, None), (None, None)])
def test_what_was_not_measured_is_neither_reached_nor_missed(ours: float | None, theirs: float | None) -> None:
    assert judged(Target("", ONE, 1, to=OTHER), ours, theirs) == (None, "not measured")
    assert judged(Target("", ONE, 1, less=OTHER), ours, theirs) == (None, "not measured")


def test_every_target_names_a_figure_that_its_scenario_measures() -> None:
    names = {one.name for one in fields(Figures)}
    for target in TARGETS:
        for figure in target.figures:
            assert figure.server in SCENARIOS[figure.scenario].servers, target.text
            assert figure.name in names, target.text
            assert (figure.name in ("start_seconds", "pss_mb")) == SCENARIOS[figure.scenario].start, target.text


def test_every_server_of_a_scenario_can_take_what_it_sends() -> None:
    servers = all_servers()
    for scenario in SCENARIOS.values():
        for name in scenario.servers:
            assert body_name(scenario, servers[name]).endswith(f"-{scenario.pictures}")


def test_the_help_names_every_scenario_and_server() -> None:
    text = _parser(all_servers()).format_help()
    assert all(f"  {name} " in text for name in [*SCENARIOS, *all_servers()])


def test_a_number_of_rounds_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser(all_servers()).parse_args(["--rounds", "0"])
    assert "'0': expected a whole number, at least 1" in capsys.readouterr().err
