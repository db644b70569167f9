"""The command, with a stand-in for the service that it asks."""

import json
from typing import Any

import pytest

from service.cli import predict
from service.cli.predict import Reply


class Service:
    """Has these signatures, of one number each, and answers with the name of the one that it was asked for."""

    at_once = 1

    def __init__(self, *signatures: str) -> None:
        shape = {"dim": [{"size": "-1"}], "unknown_rank": False}
        self._signatures = {name: {"inputs": {"x": {"tensor_shape": shape}}} for name in signatures}

    def ask(self, path: str, content: bytes | None = None, _content_type: str = "") -> Reply:
        if content is None:
            assert path.endswith("/metadata")
            return Reply(200, {"metadata": {"signature_def": {"signature_def": self._signatures}}}, {})
        return Reply(200, {"results": [[[json.loads(content)["signature_name"], 1.0]]]}, {})


def asked(monkeypatch: pytest.MonkeyPatch, service: Service, *arguments: str) -> int:
    monkeypatch.setattr(predict, "RunningService", lambda *_: service)
    return predict.main(["model", "10", "--json", *arguments])


@pytest.mark.parametrize(
    ("signatures", "flags", "expected"),
    [
        (["serving_default", "other"], [], "serving_default"),
        (["predict_object"], [], "predict_object"),
        (["serving_default", "other"], ["--signature", "other"], "other"),
    ],
)
def test_the_default_signature_or_the_only_one_is_asked_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, signatures: list[str], flags: list[str], expected: str
) -> None:
    assert asked(monkeypatch, Service(*signatures), *flags) == predict.ALL_ANSWERED
    assert json.loads(capsys.readouterr().out)["results"] == [[[expected, 1.0]]]


def test_of_several_signatures_without_a_default_one_the_names_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(monkeypatch, Service("one", "two")) == predict.NOBODY_ANSWERS
    assert capsys.readouterr().err == "error: model has no signature 'serving_default'; it has 'one', 'two'\n"
