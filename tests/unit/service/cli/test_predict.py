import io
import json
from typing import Any

import pytest

from service.cli import predict
from service.cli.predict import Progress, Reply, rows_of, table


class Service:
    """Has these signatures of one number, and predicts the name of the requested one."""

    max_concurrency = 1

    def __init__(self, *signatures: str) -> None:
        shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
        self._signatures = {name: {"inputs": {"x": {"tensor_shape": shape}}} for name in signatures}

    def send(self, path: str, content: bytes | None = None, _content_type: str = "") -> Reply:
        if content is None:
            assert path.endswith("/metadata")
            return Reply(200, {"metadata": {"signature_def": {"signature_def": self._signatures}}}, {})
        return Reply(200, {"results": [[[json.loads(content)["signature_name"], 1.0]]]}, {})


def run(monkeypatch: pytest.MonkeyPatch, service: Service, *arguments: str) -> int:
    monkeypatch.setattr(predict, "RunningService", lambda *_: service)
    return predict.main(["model", "10", "--json", *arguments])


@pytest.mark.parametrize(
    ("signatures", "flags", "expected"),
    [
        (["serving_default", "other"], [], "serving_default"),
        (["predict_object"], [], "predict_object"),
        (["serving_default", "other"], ["--signature", "other"], "other"),
    ],
    ids=["default", "only", "chosen"],
)
def test_signature(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, signatures: list[str], flags: list[str], expected: str
) -> None:
    assert run(monkeypatch, Service(*signatures), *flags) == predict.SUCCESS
    assert json.loads(capsys.readouterr().out)["results"] == [[[expected, 1.0]]]


def test_signatures_without_a_default_are_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, Service("one", "two")) == predict.UNAVAILABLE
    assert "model has no signature 'serving_default'; it has 'one', 'two'" in capsys.readouterr().err


def test_rows_of_a_classification() -> None:
    results = {"results": [[["hat", 0.7512], ["bag", 0.2], ["shoe", 0.04], ["sock", 0.01]], [["bag", None]]]}
    assert rows_of("a.png", results, "0.42, Infinity") == [
        ["a.png[0]", "hat 75.1%", "bag 20.0%", "shoe 4.0%", ""],
        ["a.png[1]", "bag –", "unlike anything it knows (Infinity)"],
    ]


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        ({"predictions": [30.999998092651367]}, [["10", "31"]]),
        ({"predictions": [1, 2]}, [["10[0]", "1"], ["10[1]", "2"]]),
        ({"outputs": {"y": [1.0]}}, [["10", "{'y': [1.0]}"]]),
        ({"predictions": ["x" * 200]}, [["10", "x" * 97 + "..."]]),
    ],
    ids=["one", "two", "columns", "long"],
)
def test_rows_of_predictions(answer: dict[str, object], rows: list[list[str]]) -> None:
    assert rows_of("10", answer, "") == rows


def test_columns_are_aligned() -> None:
    assert table([["a.png", "hat"], ["longer.png", "bag", "unlike"]]) == "a.png       hat\nlonger.png  bag  unlike"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("total", "stream", "is_shown"),
    [(10, Terminal(), True), (2, Terminal(), False), (10, io.StringIO(), False)],
    ids=["terminal", "few", "file"],
)
def test_progress(monkeypatch: pytest.MonkeyPatch, total: int, stream: io.StringIO, is_shown: bool) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    progress = Progress(total)
    progress.step()
    progress.end()
    assert (f"1/{total}" in stream.getvalue()) == is_shown
