from pathlib import Path
from typing import Any

import pytest

from service.api import sagemaker
from service.runtime.cgroup import Memory
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService, any_shape, error, signature

NUMBERS = signature({"x": any_shape("DT_FLOAT")})
TEXTS = signature({"x": any_shape("DT_STRING")}, {"y": any_shape("DT_STRING")})


@pytest.fixture
def service(make_service: MakeService) -> FakeService:
    service = make_service(sagemaker="multi_model", admin=True, workers=1)
    service.add(NUMBERS)
    service.add(TEXTS, model="texts")
    return service


@pytest.mark.parametrize(
    ("body", "content_type", "rows"),
    [
        (b'{"instances": [1.5]}', "application/json", [1.5]),
        (b'{"inputs": [1.5]}', "application/json; charset=utf-8", [1.5]),
        (b"[[1, 2], [3, 4]]", "application/json", [[1, 2], [3, 4]]),
        (b" [1, 2]", "", [[1, 2]]),
        (b'[{"x": 1}, {"x": 2}]', "application/json", [1, 2]),
        (b'{"x": 1}', "application/x-www-form-urlencoded", [1]),
        (b"[1, 2]\n\n[3, 4]\r\n", "application/jsonlines", [[1, 2], [3, 4]]),
        (b"[\n[1],\n[2]\n]", "application/jsons", [[1], [2]]),
        (b"1,2.5\n\n3, 4e1\r\n", "text/csv", [[1, 2.5], [3, 40]]),
        (b"\xef\xbb\xbf+1,.5\n", "text/csv; header=absent", [[1, 0.5]]),
        (b"1\n2\n", "text/csv", [1, 2]),
    ],
)
def test_bodies(service: FakeService, body: bytes, content_type: str, rows: list[Any]) -> None:
    response = service.post("/invocations", body, content_type)
    assert response.status_code == 200
    assert next(iter(response.get_json().values())) == rows


def test_strings_of_csv(service: FakeService) -> None:
    response = service.post("/models/texts/invoke", b'"a, b",7\n"say ""e""", f\n', "text/csv")
    assert response.get_json() == {"predictions": [["a, b", "7"], ['say "e"', "f"]]}


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status", "message"),
    [
        ("/invocations", b"1,\xff", "text/csv", 400, "the CSV is no UTF-8"),
        ("/invocations", b"[1, 2", "application/json", 400, "JSON Parse error"),
        ("/invocations", b"x", "text/xml", 415, "Unsupported Media Type: text/xml; expected"),
        ("/models", b"x", "", 400, "the body is no JSON"),
        ("/models", [], "", 400, "the body names no model"),
        ("/models", {"model_name": "m"}, "", 400, "the body names no model"),
        ("/models", {"model_name": "a/b", "url": "/x"}, "", 400, "'a/b' cannot be served: its name has a slash"),
        ("/models", {"model_name": ".b", "url": "/x"}, "", 400, "its name begins with a dot"),
    ],
)
def test_error(service: FakeService, path: str, body: object, content_type: str, status: int, message: str) -> None:
    response = service.post(path, body, content_type)
    assert response.status_code == status
    assert message in error(response)


def test_list_of_models_has_pages(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker, "PAGE_SIZE", 1)
    first = service.get("/models").get_json()
    assert [model["modelName"] for model in first["models"]] == ["model"]
    last = service.get(f"/models?next_page_token={first['nextPageToken']}").get_json()
    assert last == {"models": [{"modelName": "texts", "modelUrl": ""}]}


def test_model_for_which_no_memory_is_left(
    service: FakeService, make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version := tmp_path / "model" / "1").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(bytes(1000))
    monkeypatch.setattr(sagemaker, "limited_memory", lambda: Memory(limit=5000, used=4001))
    request = {"model_name": "new", "url": str(tmp_path / "model")}
    response = service.post("/models", request)
    assert response.status_code == 507
    assert error(response) == "the model takes 1000 bytes of memory at least, and 999 are left"
    # Loading needs SERVING_ADMIN.
    assert make_service(sagemaker="multi_model").post("/models", request).status_code == 403
