from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from service.feedback.lines import FeedbackLine, decode_line
from service.serving_config import ServingConfig
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import Arrays, FakeService, error, signature, tensor

OF = signature({"x": tensor("DT_FLOAT", -1, 2)}, {"scores": tensor("DT_FLOAT", -1, 2)})
LABELS = ServingConfig(labels=("cat", "dog"))
CAT, DOG = [0.75, 0.25], [0.25, 0.75]
GIVE = "/v1/models/model:feedback"


def scores(inputs: Arrays) -> Any:
    return {"scores": inputs["x"]}


def add(service: FakeService, model: str = "model", version: int = 1, config: ServingConfig = LABELS) -> None:
    service.add(OF, scores, config, model=model, version=version)


@pytest.fixture
def service(make_service: MakeService) -> FakeService:
    service = make_service()
    add(service)
    return service


def predict(service: FakeService, request_id: str, *rows: list[float], model: str = "model") -> None:
    path, headers = f"/v1/models/{model}:predict", {"X-Request-ID": request_id}
    response = service.post(path, {"instances": list(rows)}, headers=headers)
    assert (response.status_code, response.headers["x-request-id"]) == (200, request_id)


def of(request_id: str, label: object) -> dict[str, object]:
    return {"request_id": request_id, "label": label}


def taken(accepted: int, duplicates: int = 0, unknown: list[str] | None = None) -> dict[str, object]:
    return {"accepted": accepted, "duplicates": duplicates, "unknown": unknown or []}


def counted(service: FakeService, name: str = "serving_feedback_total") -> Mapping[str, float]:
    """By the labels of its series."""
    lines = [line.rpartition(" ") for line in service.get("/metrics").text.splitlines() if line.startswith(name + "{")]
    return {series.removeprefix(name): float(value) for series, _, value in lines}


def refused(response: TestResponse, status: int) -> str:
    assert response.status_code == status
    return error(response)


def test_right_and_wrong_answers_are_counted(service: FakeService) -> None:
    predict(service, "a", CAT)
    predict(service, "b", DOG)
    assert service.post(GIVE, of("a", "cat")).json == taken(1)
    assert service.post(GIVE, of("b", "cat")).json == taken(1)
    assert counted(service) == {
        '{model="model",outcome="right",version="1"}': 1,
        '{model="model",outcome="wrong",version="1"}': 1,
    }
    assert counted(service, "serving_confusions_total") == {
        '{answered="cat",expected="cat",model="model",version="1"}': 1,
        '{answered="dog",expected="cat",model="model",version="1"}': 1,
    }


def test_accuracy_shows_once_there_are_enough_rows(service: FakeService) -> None:
    for number in range(30):
        assert counted(service, "serving_observed_accuracy") == {}
        predict(service, str(number), CAT)
        service.post(GIVE, of(str(number), "dog" if number < 12 else "cat"))
    series = '{model="model",version="1"}'
    assert counted(service, "serving_observed_accuracy") == {series: 0.6}
    assert counted(service, "serving_observed_rows") == {series: 30}
    assert counted(service, "serving_observed_calibration_error") == {series: pytest.approx(0.15)}


def test_same_feedback_counts_once_and_another_label_instead(service: FakeService) -> None:
    predict(service, "a", CAT)
    service.post(GIVE, of("a", "cat"))
    assert service.post(GIVE, of("a", "cat")).json == taken(0, duplicates=1)
    assert sum(counted(service).values()) == 1
    assert service.post(GIVE, of("a", "dog")).json == taken(1)
    assert counted(service, "serving_observed_rows") == {'{model="model",version="1"}': 1}


def test_rows_of_a_request(service: FakeService) -> None:
    predict(service, "a", CAT, DOG, DOG)
    assert service.post(GIVE, of("a", ["cat", None, "cat"])).json == taken(1)
    assert sorted(counted(service).values()) == [1, 1]
    assert service.post(GIVE, of("a", ["cat", "dog", "cat"])).json == taken(1)
    assert sorted(counted(service).values()) == [1, 2]


def test_list_names_the_unknown_ones(service: FakeService) -> None:
    predict(service, "a", CAT)
    predict(service, "b", CAT)
    given = [of("a", "cat"), of("x", "cat"), of("b", "cat"), of("a", "cat"), of("x", "dog")]
    assert service.post(GIVE, given).json == taken(2, duplicates=1, unknown=["x"])


def test_canary_and_stable_version_are_told_apart(service: FakeService) -> None:
    predict(service, "a", CAT)
    add(service, version=2)
    predict(service, "b", CAT)
    assert service.post(GIVE, [of("a", "cat"), of("b", "dog")]).json == taken(2)
    assert counted(service) == {
        '{model="model",outcome="right",version="1"}': 1,
        '{model="model",outcome="wrong",version="2"}': 1,
    }


def test_request_of_another_version_or_model_is_404(service: FakeService) -> None:
    add(service, version=2)
    add(service, model="other")
    predict(service, "of-2", CAT)
    predict(service, "of-other", CAT, model="other")
    message = refused(service.post("/v1/models/model/versions/1:feedback", of("of-2", "cat")), 404)
    assert message == "request 'of-2' was not answered by model version 1 but by model version 2"
    message = refused(service.post(GIVE, of("of-other", "cat")), 404)
    assert message == "request 'of-other' was not answered by model but by other version 1"
    service.registry.remove("other", 1)
    message = refused(service.post(GIVE, of("of-other", "cat")), 404)
    assert message.endswith("but by a version that is no longer loaded")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (of("x", "cat"), 404, "request 'x' is unknown; it was looked for in the answers to the last 100000 rows"),
        ([of("x", "cat"), of("y", "cat")], 404, "none of the 2 requests is known as one that model version 1 answered"),
        (of("a", "cow"), 400, "unknown label 'cow'; model version 1 has 'cat', 'dog'"),
        ([of("a", "cat"), of("a", "cow")], 400, "[1]: unknown label 'cow'; "),
        (of("a", ["cat", "dog"]), 400, "'label' is a list of 2; expected a label, for the request had 1"),
        (
            of("b", "cat"),
            400,
            "'label' is a label; expected a list of 2 labels, one for each row, for the request had 2",
        ),
        (of("a", None), 400, "'label' is a JSON null; expected a label, or a list with one per row"),
        (of("a", [None]), 400, "'label' has no label; expected one at least"),
        (of("a", [1]), 400, "'label'[0] is a JSON number; expected a label or null"),
        (of("", "cat"), 400, "'request_id' is empty; expected the response's X-Request-ID"),
        ({**of("a", "cat"), "row": 1}, 400, "unknown key 'row'; expected {"),
        ({"label": "cat"}, 400, "'request_id' is missing; expected {"),
        ([of("a", "cat"), 3], 400, "[1]: a JSON number; expected {"),
        ([], 400, "the body is a list of 0 objects; expected 1 to 10000"),
        ("a", 400, "the body is a JSON string; expected {"),
        (b"", 400, "JSON Parse error: The document is empty; expected {"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_counted(
    service: FakeService, body: object, status: int, message: str
) -> None:
    predict(service, "a", CAT)
    predict(service, "b", CAT, DOG)
    assert refused(service.post(GIVE, body), status).startswith(message)
    assert counted(service) == {}


def test_version_without_labels_is_400(service: FakeService) -> None:
    add(service, model="plain", config=ServingConfig())
    predict(service, "a", CAT, model="plain")
    assert "plain version 1 has no labels" in refused(service.post("/v1/models/plain:feedback", of("a", "cat")), 400)


def test_unknown_model_and_version_are_404(service: FakeService) -> None:
    refused(service.post("/v1/models/none:feedback", of("a", "cat")), 404)
    refused(service.post("/v1/models/model/versions/9:feedback", of("a", "cat")), 404)


def test_requests_of_the_page_are_not_remembered(service: FakeService) -> None:
    path = "/playground/models/model/versions/1/predict"
    service.post(path, {"instances": [CAT]}, headers={"X-Request-ID": "a"})
    refused(service.post(GIVE, of("a", "cat")), 404)


def test_setting_0_takes_none(make_service: MakeService) -> None:
    service = make_service(feedback_requests=0)
    add(service)
    predict(service, "a", CAT)
    assert "SERVING_FEEDBACK_REQUESTS is 0" in refused(service.post(GIVE, of("a", "cat")), 400)


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    return tmp_path / "captured.jsonl"


@pytest.fixture
def capturing(make_service: MakeService, captured: Path) -> FakeService:
    """It captures every request, and remembers two rows."""
    service = make_service(capture_file=str(captured), capture_share=1.0, feedback_requests=2)
    add(service)
    return service


def lines(captured: Path) -> list[FeedbackLine]:
    path = captured.with_name("captured.feedback.jsonl")
    return list(map(decode_line, path.read_bytes().splitlines())) if path.exists() else []


def test_captured_request_is_found_once_it_is_forgotten(capturing: FakeService) -> None:
    predict(capturing, "a", CAT, DOG)
    predict(capturing, "b", CAT, DOG)
    capturing.app.records.captures.close(10)
    assert capturing.post(GIVE, of("a", ["cat", "cat"])).json == taken(1)
    assert capturing.post(GIVE, of("a", ["cat", "cat"])).json == taken(0, duplicates=1)
    assert sorted(counted(capturing).values()) == [1, 1]
    assert refused(capturing.post(GIVE, of("x", "cat")), 404).endswith("and the captured requests")


def test_captured_request_of_another_model_is_404(capturing: FakeService) -> None:
    add(capturing, model="other")
    predict(capturing, "a", CAT, model="other")
    predict(capturing, "b", CAT, DOG)
    capturing.app.records.captures.close(10)
    assert refused(capturing.post(GIVE, of("a", "cat")), 404).endswith("but by other version 1")


def test_accepted_feedback_is_written_down(capturing: FakeService, captured: Path) -> None:
    predict(capturing, "a", CAT, DOG)
    capturing.post(GIVE, of("a", [None, "cat"]))
    capturing.post(GIVE, of("a", [None, "cat"]))
    (line,) = lines(captured)
    assert (line.request_id, line.model, line.version) == ("a", "model", 1)
    assert (line.labels, line.answered) == ([None, "cat"], ["cat", "dog"])


def test_feedback_that_cannot_be_written_counts(capturing: FakeService, captured: Path) -> None:
    captured.with_name("captured.feedback.jsonl").mkdir()
    predict(capturing, "a", CAT)
    assert capturing.post(GIVE, of("a", "cat")).json == taken(1)
    assert capturing.sample("serving_capture_dropped_total") == "1.0"
