import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.cli import predict
from service.cli.client import Reply, RunningService


class Service:
    """Has these signatures of one number, and predicts the name of the requested one."""

    max_concurrency = 1
    max_rows = 100

    def __init__(self, *signatures: str) -> None:
        shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
        self._signatures = {name: {"inputs": {"x": {"tensor_shape": shape}}} for name in signatures}

    def send(self, path: str, content: bytes | None = None, _content_type: str = "") -> Reply:
        if content is None:
            assert path.endswith("/metadata")
            return Reply(200, {"metadata": {"signature_def": {"signature_def": self._signatures}}}, {})
        body = json.loads(content)
        if len(body["instances"]) > self.max_rows:
            return Reply(413, {"error": "too large"}, {})
        return Reply(200, {"results": [[[body["signature_name"], 1.0]] for _ in body["instances"]]}, {})


def run(monkeypatch: pytest.MonkeyPatch, service: Service, *arguments: str) -> int:
    monkeypatch.setattr(predict, "RunningService", lambda *_: service)
    return predict.main(["model", "--json", *(arguments or ["10"])])


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
    assert run(monkeypatch, Service(*signatures), "10", *flags) == predict.SUCCESS
    assert json.loads(capsys.readouterr().out)["results"] == [[[expected, 1.0]]]


def test_signatures_without_a_default_are_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, Service("one", "two")) == predict.UNAVAILABLE
    assert "model has no signature 'serving_default'; it has 'one', 'two'" in capsys.readouterr().err


def test_row_that_begins_with_a_minus_is_no_flag(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, Service("serving_default"), "-3,4", "-.5", "-1e5,0") == predict.SUCCESS
    names = [json.loads(line)["input"] for line in capsys.readouterr().out.splitlines()]
    assert names == ["-3,4", "-.5", "-1e5,0"]


def test_request_that_is_too_large_is_halved(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    service = Service("serving_default")
    service.max_rows = 2
    assert run(monkeypatch, service, '{"instances": [1, 2, 3, 4, 5]}') == predict.SUCCESS
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["first_row"], len(answer["results"])) for answer in answers] == [(0, 2), (2, 1), (3, 2)]


def test_row_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    service = Service("serving_default")
    service.max_rows = 0
    assert run(monkeypatch, service, '{"instances": [1, 2]}') == predict.SOME_FAILED
    assert capsys.readouterr().out.count("too large (413)") == 2


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8501", "http://127.0.0.1:8501"),
        ("localhost:8501", "http://localhost:8501"),
        ("https://models.example/x", "https://models.example/x"),
    ],
)
def test_url_needs_no_scheme(monkeypatch: pytest.MonkeyPatch, text: str, url: str) -> None:
    services = {url: Service("serving_default")}
    monkeypatch.setattr(predict, "RunningService", lambda url, _key: services[url])
    assert predict.main(["model", "10", "--url", text]) == predict.SUCCESS


@pytest.mark.parametrize(
    "arguments", [["m", "1", "--url", ""], ["m", "1", "--url", "ftp://x"], ["m", "1", "--url", "x:99999"], ["", "1"]]
)
def test_invalid_command_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        predict.main(arguments)
    assert raised.value.code == 2


def test_another_server_is_no_service(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    service = Service("serving_default")
    monkeypatch.setattr(service, "send", lambda *_: Reply(200, {"error": "<html>"}, {}))
    assert run(monkeypatch, service) == predict.UNAVAILABLE
    assert "no service for models" in capsys.readouterr().err


def test_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: Iterator[Reply] = iter([Reply(429, {}, {"Retry-After": "3"}), Reply(200, {}, {})])
    waited: list[float] = []
    monkeypatch.setattr(RunningService, "_send", lambda *_: next(replies))
    monkeypatch.setattr("time.sleep", waited.append)
    assert RunningService("http://localhost").send("/").status == 200
    assert [3 <= seconds <= 6 for seconds in waited] == [True]
