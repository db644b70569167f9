"""LiteRT models alone: each answer is TensorFlow's for the SavedModel that it was converted from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from service.engines.base import LoadError
from service.engines.litert import LiteRTEngine
from service.errors import InvalidRequest
from service.tensors.dtypes import Array
from tests.integration.saved_models import Function, save, spec
from tests.integration.server import running

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.random((3, 3, 3, 4), np.float32)
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """`inputs`: of requests that are sent one after the other."""

    function: Function
    specs: list[tf.TensorSpec]
    inputs: list[Inputs]


def floats(*shape: int) -> Array:
    return RANDOM.random(shape, np.float32)


def of_type(dtype: tf.DType, *values: Any) -> Case:
    """Two rows in, four out."""
    function: Function = lambda x: {"y": tf.concat([x, x], 0)}  # noqa: E731
    return Case(function, [spec("x", dtype, [None, 2])], [{"x": np.array([values, values], dtype.as_numpy_dtype)}])


def through_floats(dtype: tf.DType) -> Case:
    function: Function = lambda x: {"y": tf.cast(tf.cast(x, tf.float32) * 2.0, dtype)}  # noqa: E731
    # Engines take bfloat16 as float32.
    values = np.array([[1.5, -2.25]], np.float32 if dtype == tf.bfloat16 else dtype.as_numpy_dtype)
    return Case(function, [spec("x", dtype, [None, 2])], [{"x": values}])


CASES = {
    "int16": of_type(tf.int16, -32768, 32767),
    "int64": of_type(tf.int64, -(2**63), 2**63 - 1),
    "uint8": of_type(tf.uint8, 0, 255),
    "bool": Case(
        lambda x: {"y": tf.logical_not(x)}, [spec("x", tf.bool, [None, 2])], [{"x": np.array([[True, False]])}]
    ),
    "strings": Case(
        lambda x: {"y": tf.reshape(x, [-1, 1])},
        [spec("x", tf.string, [None, 2])],
        [{"x": np.array([[b"a\0\xff", b""], [b"longer", b"b"]], object)}],
    ),
    "float16": through_floats(tf.float16),
    "bfloat16": through_floats(tf.bfloat16),
    "float64": through_floats(tf.float64),
    "scalars": Case(
        lambda a, b: {"y": a * b + 1.0},
        [spec("a", shape=[]), spec("b", shape=[])],
        [{"a": np.float32(2), "b": np.float32(3)}],
    ),
    "any rank": Case(lambda x: {"y": x * 2.0}, [spec("x", shape=None)], [{"x": floats(3)}, {"x": floats(2, 1, 3)}]),
    "several inputs and outputs": Case(
        lambda b, a: {"sum": a + tf.cast(b, tf.float32), "both": tf.concat([a, tf.cast(b, tf.float32)], 1)},
        [spec("b", tf.int32, [None, 3]), spec("a", shape=[None, 3])],
        [{"a": floats(n, 3), "b": np.arange(n * 3, dtype=np.int32).reshape(n, 3)} for n in (1, 4, 1)],
    ),
    # Of the sizes that it was converted with, 1, it cannot run.
    "free sizes": Case(
        lambda x: {"y": tf.nn.relu(tf.nn.conv2d(x, KERNEL, 1, "VALID")), "shape": tf.shape(x)},
        [spec("x", shape=[None, None, None, 3])],
        [{"x": floats(*shape, 3)} for shape in ((1, 5, 5), (2, 8, 3), (1, 5, 5))],
    ),
    "shapes by values": Case(
        lambda x: {"places": tf.where(x > 0.5), "found": tf.boolean_mask(x, x > 0.5)},
        [spec("x")],
        [{"x": np.array(values, np.float32)} for values in ([1, 0, 1], [0, 0], [1], [0])],
    ),
    # Of several rows together it gives one mean.
    "one row": Case(
        lambda x: {"mean": tf.reshape(tf.reduce_mean(x), [1])},
        [spec("x", shape=[1, 4, 4])],
        [{"x": floats(1, 4, 4)}],
    ),
    "fixed size": Case(lambda x: {"y": x * 2.0}, [spec("x", shape=[8, 3])], [{"x": floats(8, 3)}]),
    "one row of any size": Case(
        lambda x: {"found": tf.boolean_mask(x, x > 0.5)[tf.newaxis]},
        [spec("x", shape=[1, 4])],
        [{"x": np.array([[0, 1, 1, 1]], np.float32)}],
    ),
}


def convert(saved_model: Path, change: Callable[[Any], object] = lambda _: None, signatures: Any = None) -> Path:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=signatures)
    change(converter)
    (model := saved_model / "model.tflite").write_bytes(converter.convert())
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signature for each case, many with one name for inputs of other shapes and types; and its twin."""
    folder = tmp_path_factory.mktemp("cases")
    signatures = {name: (case.function, case.specs) for name, case in CASES.items()}
    save(folder, CASES["int16"].function, *CASES["int16"].specs, **signatures)
    convert(folder, signatures=["serving_default", *CASES])
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def engine(folder: Path) -> LiteRTEngine:
    return LiteRTEngine(folder / "model.tflite")


def by_tensorflow(loaded: Any, signature: str, inputs: Inputs) -> dict[str, Array]:
    function = loaded.signatures[signature]
    specs = function.structured_input_signature[1]
    outputs = function(**{name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def assert_equal(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert outputs.keys() == expected.keys()
    for name, array in outputs.items():
        assert (array.shape, array.dtype) == (expected[name].shape, expected[name].dtype)
        if array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16:
            np.testing.assert_allclose(array.astype(float), expected[name].astype(float), rtol=1e-5)
        else:
            assert array.tolist() == expected[name].tolist()


@pytest.mark.parametrize("name", CASES)
def test_answers_are_tensorflows(name: str, engine: LiteRTEngine, loaded: Any) -> None:
    for inputs in CASES[name].inputs:
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        assert_equal(engine.run(name, arrays), by_tensorflow(loaded, name, inputs))


def test_each_row_of_a_model_for_one_is_run_by_itself(engine: LiteRTEngine, loaded: Any) -> None:
    assert engine.signatures["one row"].inputs["x"].shape == (-1, 4, 4)
    rows = floats(3, 4, 4)
    expected = [by_tensorflow(loaded, "one row", {"x": row[np.newaxis]})["mean"] for row in rows]
    assert_equal(engine.run("one row", {"x": rows}), {"mean": np.concatenate(expected)})


def test_rows_whose_outputs_cannot_be_joined_are_refused(engine: LiteRTEngine) -> None:
    rows = np.array([[0, 1, 1, 1], [0, 0, 0, 1]], np.float32)
    with pytest.raises(InvalidRequest, match=r"'found' of several, of the shape \[1, 1\] and \[1, 3\], cannot be"):
        engine.run("one row of any size", {"x": rows})


def test_request_does_not_meet_the_variables_of_another(tmp_path: Path) -> None:
    total = tf.Variable(0.0)
    save(tmp_path, lambda x: {"total": total.assign_add(tf.reduce_sum(x))}, spec("x"), holds=total)
    engine = LiteRTEngine(convert(tmp_path, lambda made: setattr(made, "experimental_enable_resource_variables", True)))
    for values, sum_of_them in (([1, 2], 3), ([4], 4), ([4], 4)):
        assert engine.run("serving_default", {"x": np.array(values, np.float32)})["total"] == sum_of_them


def custom(converter: Any) -> None:
    converter.allow_custom_ops = True


def flex(converter: Any) -> None:
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]


@pytest.mark.parametrize(
    ("change", "operation"),
    [(custom, "the custom operation 'MatrixDeterminant'"), (flex, "TensorFlow's operation 'MatrixDeterminant'")],
)
def test_operation_that_litert_lacks_is_named(change: Callable[[Any], object], operation: str, tmp_path: Path) -> None:
    save(tmp_path, lambda x: {"y": tf.linalg.det(x)}, spec("x", shape=[2, 2]))
    with pytest.raises(LoadError, match=f"has {operation}, which LiteRT does not have"):
        LiteRTEngine(convert(tmp_path, change))


PIXELS = RANDOM.integers(0, 256, (3, 8, 8, 3), np.uint8)


def quantize(converter: Any) -> None:
    """As MobileNet's models are: integers in and out."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[np.newaxis] / np.float32(255)] for row in PIXELS)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save(
        folder,
        lambda x: {"scores": tf.nn.softmax(tf.reduce_mean(tf.nn.conv2d(x, KERNEL - 0.5, 1, "SAME"), [1, 2]) * 9)},
        spec("x", shape=[None, 8, 8, 3]),
    )
    convert(folder, quantize)
    return folder


def test_quantized_tensors_are_served_as_integers(classifier: Path) -> None:
    engine = LiteRTEngine(classifier / "model.tflite")
    spec = engine.signatures["serving_default"].outputs["scores"]
    assert spec.quantization is not None
    assert (spec.dtype, spec.quantization.scale) == ("DT_UINT8", 1 / 256)
    scores = engine.run("serving_default", {"x": PIXELS})["scores"]
    assert scores.dtype == np.uint8
    loaded = tf.saved_model.load(str(classifier))
    expected = by_tensorflow(loaded, "serving_default", {"x": PIXELS / np.float32(255)})["scores"]
    np.testing.assert_allclose((scores.astype(float) - spec.quantization.zero_point) / 256, expected, atol=0.02)


def test_files_alone_are_served_by_every_protocol(folder: Path, classifier: Path, tmp_path: Path) -> None:
    rows = {"signatures": ["serving_default"], "rows_tried": 100, "largest_difference": 0.0, "tolerance": 1e-5}
    for model, source in {"classifier": classifier, "cases": folder}.items():
        (tmp_path / "models" / model / "1" / "assets.extra").mkdir(parents=True)
        (tmp_path / "models" / model / "1" / "model.tflite").write_bytes((source / "model.tflite").read_bytes())
    config = {"labels": ["a", "b", "c", "d"], "independent_rows": rows}
    (tmp_path / "models/classifier/1/assets.extra/serving.json").write_text(json.dumps(config))
    expected = LiteRTEngine(classifier / "model.tflite").run("serving_default", {"x": PIXELS[:1]})["scores"][0]
    with running(tmp_path / "models", tmp_path / "log") as server:
        picture = tf.io.encode_png(PIXELS[0]).numpy()
        best, *_ = server.request("/v1/models/classifier:classify", picture, "image/png").json()["results"][0]
        assert best == ["abcd"[expected.argmax()], expected.max()]
        predicted = server.request("/v1/models/classifier:predict", {"instances": PIXELS[:1].tolist()}).json()
        assert predicted == {"predictions": [expected.tolist()]}
        known = server.request("/v1/models/cases/metadata").json()["metadata"]["signature_def"]["signature_def"]
        assert known.keys() == {"serving_default", *CASES}
        body = {"signature_name": "scalars", "inputs": {"a": 2, "b": 3}}
        assert server.request("/v1/models/cases:predict", body).json() == {"outputs": 7}
        found = {name: server.request(f"/v2/models/{name}/config").json() for name in ("classifier", "cases")}
        assert (found["cases"]["backend"], found["cases"]["max_batch_size"]) == ("litert", 0)
        assert found["classifier"]["max_batch_size"] > 1
        assert server.request("/playground/models/cases/versions/1").status == 200
