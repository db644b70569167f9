from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.measure import Bench, _figures
from benchmarks.processes import LeftOut, prepare
from benchmarks.scenarios import Scenario
from benchmarks.servers import Route, Server

LOAD = Load(requests=8000, seconds=4.0, p50=500.0, p99=2000.0, cpu_seconds=1.0)


def test_figures_are_per_request_per_picture_and_per_kilobyte() -> None:
    figures = _figures(LOAD, 2.0, Scenario("", (), pictures=32), body_bytes=125_000, free_cores=1.0, busy=3.4)
    assert (figures.requests_per_second, figures.pictures_per_second) == (2000.0, 64_000.0)
    assert (figures.p50_ms, figures.p99_ms) == (0.5, 2.0)
    assert (figures.cpu_us, figures.cpu_us_per_kb) == (250.0, 2.0)
    assert figures.others_share == pytest.approx(0.1)


def test_what_the_load_took_of_a_shared_core_is_not_held_against_the_second_worker() -> None:
    shared = _figures(LOAD, 2.0, Scenario("", (), workers=2), body_bytes=0, free_cores=2 - 0.25, busy=None)
    assert shared.requests_per_free_core == pytest.approx(2000 / 1.75)


def test_a_server_that_has_no_route_for_a_scenario_is_left_out_and_the_others_are_measured() -> None:
    servers = {"one": Server("One", (), {}), "other": Server("Other", (), {"json": Route("/", "v1_json")})}
    said: list[str] = []
    bench = Bench(servers, {}, (0, 1), Path(), said.append)
    result = bench.scenario(Scenario("", ("one",), sends="png"), ["one"], rounds=3, seconds=1)
    assert (result.rounds, result.left_out) == ({}, {"one": "takes no png"})
    assert said == ["  round 1 of 3: one", "  one is left out: takes no png"]


def test_a_server_whose_needs_cannot_be_made_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LeftOut, match="packages are not installed"):
        prepare(Server("One", (), {}, prepare=("-m", "nothing")), tmp_path)


def test_what_a_server_needs_is_made_once(tmp_path: Path) -> None:
    server = Server("One", (), {}, prepare=("-m", "benchmarks.cnn", "{folder}"))
    (tmp_path / "benchmarks.cnn").mkdir()
    assert prepare(server, tmp_path) == tmp_path / "benchmarks.cnn"
