from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from service.engines.base import Engine, LoadError
from service.engines.litert import LiteRTEngine
from service.engines.loading import load_engine
from service.errors import InvalidRequest
from service.serving_config import ASSETS, TWIN_FILE, read_serving_config
from service.tensors.signature import Signature
from tests.unit.service.fakes import any_shape, signature

MODELS = Path(__file__).parents[4] / "models"
TWIN = MODELS / "regression" / "1" / ASSETS / TWIN_FILE


def load(model: str, version: int) -> Engine:
    folder = MODELS / model / str(version)
    return load_engine(folder, read_serving_config(folder), "litert")


@pytest.fixture
def engine() -> Engine:
    return load("regression", 1)


def answer(engine: Engine, *numbers: float) -> list[float]:
    outputs = engine.run("serving_default", {"x": np.array(numbers, np.float32)})
    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    return [float(number) for number in outputs["y"]]


def test_name_and_signatures(engine: Engine) -> None:
    assert (engine.name, engine.signatures) == ("litert", read_serving_config(MODELS / "regression" / "1").signatures)


def test_batch_sizes_may_change(engine: Engine) -> None:
    for size in (3, 1, 64, 2, 1):
        assert answer(engine, *range(size)) == pytest.approx([3 * x + 1 for x in range(size)], abs=0.01)


def test_release_keeps_the_last_used_interpreter(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Interpreter):  # type: ignore[misc]
        made: ClassVar[int] = 0

        def __init__(self, **options: Any) -> None:
            Counted.made += 1
            super().__init__(**options)

    monkeypatch.setattr("service.engines.litert.Interpreter", Counted)
    answer(engine, *range(8))
    answer(engine, 1.0)
    assert Counted.made == 1
    engine.release()
    answer(engine, 2.0)
    assert Counted.made == 1
    answer(engine, *range(8))
    assert Counted.made == 2


@pytest.mark.parametrize("version", [1, 2])
def test_no_rows_give_no_rows(version: int) -> None:
    """XNNPACK refuses the second's convolutions without rows."""
    outputs = load("clothing", version).run("serving_default", {"pixels": np.zeros((0, 28, 28), np.float32)})
    assert [(name, array.shape, array.dtype) for name, array in outputs.items()] == [
        ("probabilities", (0, 10), np.dtype(np.float32))
    ]


def test_an_error_names_no_source_files() -> None:
    with pytest.raises(InvalidRequest) as raised:
        load("clothing", 1).run("serving_default", {"pixels": np.zeros((3, 29, 29), np.float32)})
    assert str(raised.value) == (
        "the model refuses this input: num_input_elements != num_output_elements (2523 != 2352) (RESHAPE)"
    )


def test_outputs_survive_the_next_run(engine: Engine) -> None:
    first = engine.run("serving_default", {"x": np.array([10.0], np.float32)})["y"]
    answer(engine, 0.0)
    assert first.tolist() == pytest.approx([31.0], abs=0.01)


def test_threads_get_their_own_outputs(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: answer(engine, x, x + 1), range(200)))
    assert answers == [pytest.approx([3 * x + 1, 3 * x + 4], abs=0.1) for x in range(200)]


def test_a_failed_run_does_not_affect_the_next(engine: Engine) -> None:
    with pytest.raises(Exception, match=r".+"):
        engine.run("serving_default", {"x": np.array(["text"], object)})
    assert answer(engine, 10.0) == pytest.approx([31.0], abs=0.01)


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(1000)])
def test_an_invalid_twin_is_rejected(content: bytes, tmp_path: Path) -> None:
    (tmp_path / TWIN_FILE).write_bytes(content)
    with pytest.raises(LoadError, match="LiteRT cannot read model"):
        LiteRTEngine(tmp_path / TWIN_FILE, {})


FLOAT = any_shape("DT_FLOAT")


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("other", signature({"x": FLOAT}, {"y": FLOAT}), "the twin's signatures are not the SavedModel's: 'other' is"),
        *(
            ("serving_default", of, "the twin's signatures are not the SavedModel's: 'serving_default' is")
            for of in (signature({"z": FLOAT}, {"y": FLOAT}), signature({"x": FLOAT}, {"z": FLOAT}), signature({}))
        ),
        (
            "serving_default",
            signature({"x": any_shape("DT_INT8")}, {"y": FLOAT}),
            "the twin's 'x' of 'serving_default' is float32, the SavedModel's int8",
        ),
        (
            "serving_default",
            signature({"x": FLOAT}, {"y": any_shape("DT_DOUBLE")}),
            "the twin's 'y' of 'serving_default' is float32, the SavedModel's float64",
        ),
    ],
)
def test_a_twin_of_another_model_is_rejected(name: str, of: Signature, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        LiteRTEngine(TWIN, {name: of})
