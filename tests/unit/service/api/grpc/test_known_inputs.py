from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.grpc import known_inputs, v1, v2
from service.api.grpc.known_inputs import KnownInputs
from service.api.routes import TABLE, Match
from service.http import GRPC
from tests.unit.service.api.grpc.calls import INFERENCE, PREDICTION, respond
from tests.unit.service.api.grpc.test_v1 import predict
from tests.unit.service.api.grpc.test_v2 import raw
from tests.unit.service.fakes import FakeService, signature, tensor

X = np.array([1.5, -2], np.float32)
FLOATS, INTEGERS = (signature({"x": tensor(dtype, -1)}) for dtype in ("DT_FLOAT", "DT_INT32"))


def v2_request() -> Any:
    made = raw(X)
    made.id = ""
    return made


@pytest.mark.parametrize(
    ("protocol", "method", "request_"),
    [(v1, f"{PREDICTION}/Predict", predict(X)), (v2, f"{INFERENCE}/ModelInfer", v2_request())],
    ids=["v1", "v2"],
)
@given(data=st.data())
def test_request_that_is_almost_known_gets_what_a_new_one_gets(
    models: FakeService, protocol: Any, method: str, request_: Any, data: st.DataObject
) -> None:
    body: bytes = request_.SerializeToString()
    start, count = data.draw(st.integers(0, len(body))), data.draw(st.integers(0, 3))
    changed = body[:start] + data.draw(st.binary(max_size=3)) + body[start + count :]
    answers = []
    for is_known in (True, False):
        protocol._known = KnownInputs()
        if is_known:
            assert respond(models, method, body).status == 200
            assert protocol._known.find(body) is not None
        response = respond(models, method, changed)
        answers.append((response.status, response.body))
    assert answers[0] == answers[1]


@pytest.fixture
def match() -> Match:
    match = TABLE.find(GRPC, f"/{INFERENCE}/ModelInfer".encode())
    assert match is not None
    return match


def test_values_are_those_of_the_request(match: Match) -> None:
    known = KnownInputs()
    body, again = b"head" + X.tobytes(), b"head" + (-X).tobytes()
    known.keep(match, bytes(bytearray(body)), "x", np.frombuffer(body, np.float32, offset=4))
    assert known.find(body) is None  # the array was another's
    known.keep(match, body, "x", np.frombuffer(body, np.float32, offset=4))
    found = known.find(again)
    assert found is not None
    inputs = found.decode(again, FLOATS)
    assert inputs is not None
    np.testing.assert_array_equal(inputs["x"], -X)
    assert found.decode(again, INTEGERS) is None
    assert [known.find(b"HEAD" + X.tobytes()), known.find(again + b"\0")] == [None, None]


def test_few_and_short_heads_are_kept(match: Match, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_inputs, "MAX_HEADS", 2)
    monkeypatch.setattr(known_inputs, "MAX_CACHED_BYTES", 4)
    known = KnownInputs()
    bodies = [head + X.tobytes() for head in (b"1", b"22", b"333", b"55555")]
    for body in bodies:
        known.keep(match, body, "x", np.frombuffer(body, np.float32, offset=len(body) - X.nbytes))
    assert [known.find(body) is not None for body in bodies] == [False, False, True, False]
