"""What is sent comes back from a model that gives what it gets, whatever the values, their type and their form."""

import base64
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from service import create_app
from service.tensors.dtypes import DATATYPES, DTYPES, Array
from tests.unit.service.fakes import FakeService, any_shape, patient_settings, signature

V1, V2 = "/v1/models/{}:predict", "/v2/models/{}/infer"
NUMBERS = [name for name in DTYPES if name != "DT_STRING"]
# Each test is run once for each type.
FEW = settings(max_examples=settings().max_examples // 5)
# Rows have values, and a shape that JSON can say: lists within an empty list have no length.
SHAPES = numpy_st.array_shapes(min_dims=1, max_dims=4, max_side=4)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> FakeService:
    """Its models give what they get, each one type. Those named `two_...` have two inputs."""
    service = FakeService(create_app(patient_settings(tmp_path_factory.mktemp("models"))))
    service.app.watcher.scan()
    for name in DTYPES:
        one, other = any_shape(name), any_shape("DT_INT64")
        service.add(signature({"x": one}, {"y": one}), lambda inputs: {"y": inputs["x"]}, model=name)
        service.add(signature({"x": one, "n": other}, {"x": one, "n": other}), dict, model=f"two_{name}")
    return service


def arrays(dtype: str, shapes: Any = SHAPES, *, finite: bool = True) -> st.SearchStrategy[Array]:
    is_float = DTYPES[dtype].kind == "f"
    elements = {"allow_nan": not finite, "allow_infinity": not finite} if is_float else {}
    return numpy_st.arrays(DTYPES[dtype], shapes, elements=elements)


def answered(service: FakeService, path: str, body: object, **headers: str) -> Any:
    response = service.post(path, body, headers=headers)
    assert response.status_code == 200, response.text
    return response.data


def same(json: Any, array: Array) -> bool:
    return bool(np.array_equal(np.array(json, array.dtype), array)) and np.shape(json) == array.shape


@pytest.mark.parametrize("dtype", NUMBERS)
@FEW
@given(data=st.data())
def test_rows_and_columns_of_v1_come_back(service: FakeService, dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    path, values = V1.format(dtype), array.tolist()
    named_rows = [{"x": value} for value in values]
    for body in ({"instances": values}, {"instances": named_rows}):
        assert same(orjson.loads(answered(service, path, body))["predictions"], array)
    for body in ({"inputs": values}, {"inputs": {"x": values}}):
        assert same(orjson.loads(answered(service, path, body))["outputs"], array)


@pytest.mark.parametrize("dtype", NUMBERS)
@FEW
@given(data=st.data())
def test_rows_and_columns_of_two_inputs_come_back(service: FakeService, dtype: str, data: st.DataObject) -> None:
    x = data.draw(arrays(dtype))
    n = data.draw(arrays("DT_INT64", len(x)))
    path, both = V1.format(f"two_{dtype}"), {"x": x, "n": n}
    rows = [{"x": one, "n": other} for one, other in zip(x.tolist(), n.tolist(), strict=True)]
    predictions = orjson.loads(answered(service, path, {"instances": rows}))["predictions"]
    assert all(same([row[name] for row in predictions], array) for name, array in both.items())
    columns = {"inputs": {name: array.tolist() for name, array in both.items()}}
    outputs = orjson.loads(answered(service, path, columns))["outputs"]
    assert all(same(outputs[name], array) for name, array in both.items())


@given(st.lists(st.lists(st.binary(max_size=20), min_size=2, max_size=2), min_size=1, max_size=4))
def test_strings_and_bytes_of_v1_come_back(service: FakeService, rows: list[list[bytes]]) -> None:
    def written(value: bytes, *, as_text: bool) -> Any:
        try:
            return value.decode() if as_text else {"b64": base64.b64encode(value).decode()}
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}

    def read(value: Any) -> bytes:
        return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()

    for as_text in (True, False):
        body = {"instances": [[written(value, as_text=as_text) for value in row] for row in rows]}
        predictions = orjson.loads(answered(service, V1.format("DT_STRING"), body))["predictions"]
        assert [[read(value) for value in row] for row in predictions] == rows


def v2_input(array: Array, dtype: str, **rest: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(array.shape), "datatype": DATATYPES[dtype], **rest}


@pytest.mark.parametrize("dtype", NUMBERS)
@FEW
@given(data=st.data())
def test_tensors_of_v2_come_back_as_json(service: FakeService, dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, numpy_st.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)))
    for values in (array.tolist(), array.ravel().tolist()):
        body = {"inputs": [v2_input(array, dtype, data=values)]}
        (output,) = orjson.loads(answered(service, V2.format(dtype), body))["outputs"]
        assert (output["shape"], output["datatype"]) == (list(array.shape), DATATYPES[dtype])
        assert np.array_equal(np.array(output["data"], array.dtype), array.ravel())


@pytest.mark.parametrize("dtype", NUMBERS)
@FEW
@given(data=st.data())
def test_tensors_of_v2_come_back_bit_by_bit_as_binary_data(
    service: FakeService, dtype: str, data: st.DataObject
) -> None:
    array = data.draw(arrays(dtype, numpy_st.array_shapes(min_dims=1, max_dims=4, min_side=0), finite=False))
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    parameters = {"binary_data_size": len(content)}
    head = orjson.dumps(
        {"inputs": [v2_input(array, dtype, parameters=parameters)], "parameters": {"binary_data_output": True}}
    )
    length = "Inference-Header-Content-Length"
    response = service.post(V2.format(dtype), head + content, headers={length: str(len(head))})
    assert response.status_code == 200, response.text
    (output,) = orjson.loads(response.data[: int(response.headers[length])])["outputs"]
    assert output["shape"] == list(array.shape)
    assert response.data[int(response.headers[length]) :] == content


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_strings_of_v2_come_back_as_binary_data(service: FakeService, values: list[bytes]) -> None:
    content = b"".join(len(value).to_bytes(4, "little") + value for value in values)
    given_input = {"name": "x", "shape": [len(values)], "datatype": "BYTES"}
    asked = {"inputs": [given_input | {"parameters": {"binary_data_size": len(content)}}]}
    head = orjson.dumps(asked | {"parameters": {"binary_data_output": True}})
    length = "Inference-Header-Content-Length"
    response = service.post(V2.format("DT_STRING"), head + content, headers={length: str(len(head))})
    assert response.status_code == 200, response.text
    assert response.data[int(response.headers[length]) :] == content


@pytest.mark.parametrize("dtype", ["DT_HALF", "DT_FLOAT", "DT_DOUBLE"])
@FEW
@given(data=st.data())
def test_every_answer_is_json_also_where_it_is_no_number(service: FakeService, dtype: str, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype, st.integers(1, 20), finite=False))
    content = array.tobytes()
    head = orjson.dumps({"inputs": [v2_input(array, dtype, parameters={"binary_data_size": len(content)})]})
    body = answered(service, V2.format(dtype), head + content, **{"Inference-Header-Content-Length": str(len(head))})
    (output,) = orjson.loads(body)["outputs"]
    for value, expected in zip(output["data"], array.tolist(), strict=True):
        assert array.dtype.type(value) == expected if math.isfinite(expected) else value is None
