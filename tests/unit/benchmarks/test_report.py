import json
from dataclasses import replace

import pytest

from benchmarks import report
from benchmarks.__main__ import TEMPLATE
from benchmarks.measure import Figures, Result
from benchmarks.servers import Server, all_servers

SERVERS = all_servers()


def figures(cpu: float, rate: float = 1000.0) -> Figures:
    return Figures(requests_per_second=rate, pictures_per_second=rate, p50_ms=1.0, p99_ms=3.0, cpu_us=cpu)


@pytest.fixture
def run() -> report.Run:
    one_picture = Result(
        {
            "fitting_room": [figures(140, 6000), figures(100, 7000), figures(120, 5000)],
            "gunicorn_hello": [figures(400), figures(390), figures(900)],
        },
        {"bentoml_tensorflow": "does not start: no such module"},
        body_bytes=4715,
    )
    start = Result({"fitting_room": [Figures(start_seconds=0.5, pss_mb=100.0)]}, {})
    return report.Run(
        machine="a machine",
        made="2026-11-22",
        rounds=3,
        seconds=4,
        cores=(0, 1),
        results={"start": start, "one_picture": one_picture},
        servers=SERVERS,
    )


def test_a_table_shows_medians_and_the_range_of_cpu(run: report.Run) -> None:
    assert "| Fitting Room | 6,000 | 1.00 | 3.00 | 120 | 100 to 140 |" in report.figures_table(run, "one_picture")


def test_ours_is_divided_by_each_yardstick(run: report.Run) -> None:
    lines = report.ratios_table(run, "one_picture").splitlines()
    assert lines[2:] == ["| Fitting Room ÷ (a) bare WSGI hello on gunicorn gthread | 6.00 | 1.00 | 1.00 | 0.300 |"]


def test_a_server_alone_has_no_ratios(run: report.Run) -> None:
    assert report.ratios_table(run, "start") == ""


def test_what_a_loop_in_process_waits_for_is_not_compared_with_a_queue() -> None:
    result = Result({"fitting_room": [figures(150)], "in_process": [figures(100)]}, {})
    run = report.Run("", "", 1, 1, (0, 1), {"png": result}, SERVERS)
    assert report.ratios_table(run, "png").splitlines()[-1].endswith("| 1.00 | – | – | 1.50 |")


def test_each_target_stands_under_its_table_with_its_verdict(run: report.Run) -> None:
    text = report.section(run, "one_picture")
    assert "| CPU a request ÷ (a) | 0.300 | at most 0.45, aim at 0.3 | reached |" in text
    assert "| CPU a request ÷ BentoML | – | at most 0.125, aim at 0.1 | not measured |" in text
    assert "| PSS of one worker, MB | 100 | at most 90 | **missed** |" in report.section(run, "start")


def test_a_part_of_the_whole_has_no_word_on_targets_that_it_was_not_to_measure(run: report.Run) -> None:
    assert "MLServer" not in report.section(run, "one_picture")


def test_a_server_that_could_not_be_measured_is_named_with_the_reason(run: report.Run) -> None:
    assert "Left out: BentoML: does not start: no such module." in report.section(run, "one_picture")


def test_the_caption_says_how_load_and_server_were_held_apart(run: report.Run) -> None:
    assert report.caption(run, "one_picture") == (
        "4.7 KB a request, 16 kept-alive connections. Server and wrk share cores 0 and 1, as the scheduler has it."
    )
    held = replace(run, results={"one_connection": run.results["one_picture"]})
    assert report.caption(held, "one_connection").endswith("The server is held to core 0, wrk to core 1.")


def test_the_page_has_no_place_left_to_fill(run: report.Run) -> None:
    page = report.document(TEMPLATE.read_text(), run)
    assert "{" not in page
    assert "a machine" in page
    assert "2 of 4 targets are reached; 1 could not be measured." in page


def test_every_round_is_in_the_json(run: report.Run) -> None:
    results = json.loads(json.dumps(report.as_json(run)))
    assert [one["cpu_us"] for one in results["scenarios"]["one_picture"]["rounds"]["fitting_room"]] == [140, 100, 120]
    assert results["targets"][0] == {
        "scenario": "one_picture",
        "target": "CPU a request ÷ (a)",
        "wanted": "at most 0.45, aim at 0.3",
        "measured": 0.3,
        "verdict": "reached",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.03567, "0.0357"), (0.5, "0.500"), (12.34, "12.3"), (99.96, "100"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits_that_mean_something(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_a_title_names_the_yardsticks_letter() -> None:
    assert report.ratio(3, 0) is None
    yardsticks = {server.yardstick for server in SERVERS.values()}
    assert yardsticks == {"", "a", "b", "c", "d", "in process", "batching off", "2 models"}
    assert isinstance(SERVERS["fitting_room"], Server)
