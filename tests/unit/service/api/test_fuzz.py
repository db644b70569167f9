"""Requests that were right, damaged in whatever way: each gets a response, or an error with a sentence."""

import json
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import create_app
from service.api.v2.decode import HEAD_LENGTH
from service.serving_config import ServingConfig
from service.settings import Settings
from service.tensors.dtypes import DATATYPES, DTYPES
from tests.unit.service.fakes import FakeService, any_shape, error, signature, tensor
from tests.unit.service.mutations import ODD_NUMBERS, mutated

# A place in a tensor's shape, or a number of bytes, that lies.
SIZES = st.integers(0, 5) | st.sampled_from([*ODD_NUMBERS, -1, 2**62, 2**63 - 1, 2**63, 2**64])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    settings = Settings(models=str(tmp_path_factory.mktemp("models")), max_body_bytes=100_000)
    service = FakeService(create_app(settings))
    service.app.watcher.scan()
    pairs = tensor("DT_FLOAT", -1, 2)
    service.add(signature({"x": pairs}, {"y": pairs}), config=ServingConfig(labels=("cat", "dog")), model="floats")
    text = tensor("DT_STRING", -1)
    service.add(signature({"x": text}, {"y": text}), model="texts")
    picture = tensor("DT_UINT8", -1, 4, 4, 3)
    service.add(signature({"x": picture}, {"y": any_shape("DT_UINT8")}), model="pictures")
    for name in DTYPES:
        service.add(signature({"x": any_shape(name)}), model=name)
    return service


def check(
    service: FakeService, path: str, body: bytes, headers: dict[str, str] | None = None, content_type: str = ""
) -> None:
    response = service.post(path, body, content_type or "application/json", headers)
    assert response.status_code in (200, 400, 413, 415), response.text
    assert response.status_code == 200 or error(response)


V1_BODIES = [
    ("floats", {"instances": [[1.0, 2.0], [3, 4e5]]}),
    ("floats", {"inputs": {"x": [[1.0, 2.0]]}, "signature_name": "serving_default"}),
    ("floats", {"examples": [{"x": [0.5, -1e-3]}], "context": {"x": 1}}),
    ("texts", {"instances": ["one", {"b64": "dHdv"}, "drei ü"]}),
    ("pictures", {"instances": np.zeros((1, 4, 4, 3), int).tolist()}),
]


@given(
    st.sampled_from(V1_BODIES).flatmap(lambda one: st.tuples(st.just(one[0]), mutated(st.just(orjson.dumps(one[1]))))),
    st.sampled_from(["predict", "classify", "regress"]),
)
def test_v1(service: FakeService, sent: tuple[str, bytes], verb: str) -> None:
    model, body = sent
    check(service, f"/v1/models/{model}:{verb}", body)


@st.composite
def v2_requests(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """A model, a JSON head that may lie about what comes behind it, and that."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    content = draw(st.binary(max_size=64))
    given_input: dict[str, Any] = {
        "name": "x",
        "shape": draw(st.lists(SIZES, max_size=5)),
        "datatype": DATATYPES[dtype],
    }
    kind = draw(st.sampled_from(["binary", "json", "both", "neither"]))
    if kind in ("binary", "both"):
        given_input["parameters"] = {"binary_data_size": draw(st.just(len(content)) | SIZES)}
    if kind in ("json", "both"):
        given_input["data"] = draw(st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(), max_size=4))
    head: dict[str, Any] = {"inputs": [given_input] * draw(st.sampled_from([1, 1, 1, 0, 2]))}
    if draw(st.booleans()):
        head["parameters"] = {"binary_data_output": draw(st.booleans())}
    if draw(st.booleans()):
        head["outputs"] = [{"name": "y", "parameters": {"classification": draw(SIZES)}}]
    return draw(st.sampled_from([dtype, dtype, "floats"])), json.dumps(head).encode(), content


@given(v2_requests(), st.sampled_from([None, 0, 1]) | SIZES, st.booleans())
def test_v2_sizes(service: FakeService, sent: tuple[str, bytes, bytes], length: int | None, is_right: bool) -> None:
    model, head, content = sent
    if is_right:
        length = len(head)
    headers = {} if length is None else {HEAD_LENGTH: str(length)}
    check(service, f"/v2/models/{model}/infer", head + content, headers)


@given(v2_requests(), st.data())
def test_v2(service: FakeService, sent: tuple[str, bytes, bytes], data: st.DataObject) -> None:
    model, head, content = sent
    body = data.draw(mutated(st.just(head + content)))
    check(service, f"/v2/models/{model}/infer", body, {HEAD_LENGTH: str(min(len(head), len(body)))})


@given(
    mutated(st.sampled_from([zlib.compress(b'{"instances": [[1, 2]]}'), zlib.compress(b" " * 200_000)])),
    st.sampled_from(["deflate", "gzip", "deflate, deflate", "identity", "br"]),
)
def test_content_encoding(service: FakeService, body: bytes, coding: str) -> None:
    check(service, "/v1/models/floats:predict", body, {"Content-Encoding": coding})


@given(st.binary(max_size=200), st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40))
def test_content_type(service: FakeService, body: bytes, content_type: str) -> None:
    check(service, "/v1/models/pictures:predict", body, content_type=content_type)
