"""Requests that were right, damaged in whatever way: each gets a response, or an error with a sentence."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import create_app
from service.api.v1.decode import pictures_of
from service.api.v2.decode import HEAD_LENGTH, decode
from service.api.v2.encode import encode
from service.errors import InvalidRequest
from service.serving_config import ServingConfig
from service.settings import Settings
from service.tensors.dtypes import DATATYPES, DTYPES
from tests.unit.service.fakes import FakeService, any_shape, error, loaded_version, request, signature, tensor
from tests.unit.service.mutations import ODD_NUMBERS, mutated

# A place in a tensor's shape, or a number of bytes, that lies.
SIZES = st.integers(0, 5) | st.sampled_from([*ODD_NUMBERS, -1, 2**62, 2**63 - 1, 2**63, 2**64])
PAIRS, TEXT, PICTURE = tensor("DT_FLOAT", -1, 2), tensor("DT_STRING", -1), tensor("DT_UINT8", -1, 4, 4, 3)
LABELS = ServingConfig(labels=("cat", "dog"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    service = FakeService(create_app(Settings(models=str(tmp_path_factory.mktemp("models")))))
    service.app.watcher.scan()
    service.add(signature({"x": PAIRS}, {"y": PAIRS}), config=LABELS, model="floats")
    service.add(signature({"x": TEXT}, {"y": TEXT}), model="texts")
    service.add(signature({"x": PICTURE}, {"y": any_shape("DT_UINT8")}), model="pictures")
    for name in DTYPES:
        service.add(signature({"x": any_shape(name)}), model=name)
    return service


def check(service: FakeService, path: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    response = service.post(path, body, headers=headers)
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
    """A type, a JSON head that may lie about what comes behind it, and that."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    content = draw(st.binary(max_size=64))
    given_input: dict[str, Any] = {"name": "x", "datatype": DATATYPES[dtype]}
    given_input["shape"] = draw(st.lists(SIZES, max_size=5))
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
    return dtype, json.dumps(head).encode(), content


@given(v2_requests(), st.sampled_from([None, 0, 1]) | SIZES, st.booleans())
def test_v2_sizes(sent: tuple[str, bytes, bytes], length: int | None, is_right: bool) -> None:
    dtype, head, content = sent
    of = signature({"x": any_shape(dtype)})
    if is_right:
        length = len(head)
    # Any other error is a failure.
    with suppress(InvalidRequest):
        wanted, inputs = decode(head + content, None if length is None else str(length).encode(), of)
        if "x" in inputs:
            encode(loaded_version(of), "serving_default", wanted, {"y": inputs["x"]})


@given(v2_requests(), st.booleans(), st.data())
def test_v2(service: FakeService, sent: tuple[str, bytes, bytes], is_labelled: bool, data: st.DataObject) -> None:
    dtype, head, content = sent
    body = data.draw(mutated(st.just(head + content)))
    path = f"/v2/models/{'floats' if is_labelled else dtype}/infer"
    check(service, path, body, {HEAD_LENGTH: str(min(len(head), len(body)))})


OPTIONS = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=40)


@given(st.binary(max_size=200), st.sampled_from(["", "multipart/form-data", "multipart/form-data; boundary="]), OPTIONS)
def test_content_type(body: bytes, begin: str, options: str) -> None:
    with suppress(InvalidRequest):
        pictures_of(request(body=body, headers={b"content-type": (begin + options).encode("latin-1")}))
