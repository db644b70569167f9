import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from service.engines.base import Engine, LoadError
from service.engines.loading import load_engine
from service.engines.tensorflow.c_api import tensorflow
from service.serving_config import ASSETS, TWIN_FILE, ServingConfig, Twin, saved_model_digest
from tests.unit.service import scored
from tests.unit.service.fakes import FakeEngine, any_shape, echo, signature

SIGNATURES = {"serving_default": signature({"x": any_shape("DT_FLOAT")})}
INSTALL = "TensorFlow is not installed; install it with make serve TENSORFLOW=1 (or: pip install tensorflow-cpu)"


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules in the place of the engines', which need the real runtimes."""
    litert: Any = ModuleType("service.engines.litert")
    litert.LiteRTEngine = lambda twin, signatures: FakeEngine(signatures, echo, name=f"litert of {twin.name}")
    saved_model: Any = ModuleType("service.engines.tensorflow.engine")
    saved_model.SavedModelEngine = lambda version_dir, options: FakeEngine(SIGNATURES, echo, name="tensorflow")
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, "service.engines.litert", litert)
    monkeypatch.setitem(sys.modules, "service.engines.tensorflow.engine", saved_model)


@pytest.fixture
def real_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the real module of the engine, before it has looked for TensorFlow."""
    monkeypatch.delitem(sys.modules, "service.engines.tensorflow.engine")
    tensorflow.cache_clear()
    yield
    tensorflow.cache_clear()


@pytest.fixture
def without_tensorflow(real_engine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's import system takes this for a missing module.
    monkeypatch.setitem(sys.modules, "tensorflow", None)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "model" / "1"
    (folder / ASSETS).mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / ASSETS / TWIN_FILE).write_bytes(b"twin")
    return folder


def proved(version: Path) -> ServingConfig:
    twin = Twin(
        sha256=hashlib.sha256(b"twin").hexdigest(),
        saved_model_sha256=saved_model_digest(version),
        inputs_tried=1000,
        largest_difference=0.0,
        tolerance=1e-5,
    )
    return ServingConfig(signatures=SIGNATURES, twin=twin)


def load_error(version: Path, config: ServingConfig, choice: Any) -> str:
    with pytest.raises(LoadError) as raised:
        load_engine(version, config, choice)
    return str(raised.value)


@pytest.mark.parametrize("choice", ["auto", "litert"])
def test_a_proved_twin_is_served(version: Path, choice: Any) -> None:
    engine: Engine = load_engine(version, proved(version), choice)
    assert engine.name == "litert of model.tflite"
    assert engine.signatures == SIGNATURES


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_twin_of_lower_precision_is_served(version: Path, precision: Any) -> None:
    config = proved(version)
    assert config.twin is not None
    twin = msgspec.structs.replace(config.twin, precision=precision, accuracy=0.91, saved_model_accuracy=0.92)
    engine = load_engine(version, msgspec.structs.replace(config, twin=twin), "auto")
    assert engine.name == "litert of model.tflite"


@pytest.fixture
def with_score(version: Path, monkeypatch: pytest.MonkeyPatch) -> ServingConfig:
    """Of the version, which gives an outlier score; the engines give what their signatures say."""
    litert, saved_model = (sys.modules[f"service.engines.{name}"] for name in ("litert", "tensorflow.engine"))
    monkeypatch.setattr(litert, "LiteRTEngine", lambda _, held: FakeEngine(held, scored.with_score, "litert"))
    tensorflow = FakeEngine(scored.SIGNATURES, scored.with_score, "tensorflow")
    monkeypatch.setattr(saved_model, "SavedModelEngine", lambda *_: tensorflow)
    return msgspec.structs.replace(proved(version), signatures=dict(scored.SIGNATURES), outlier_score=scored.SCORE)


@pytest.mark.parametrize("choice", ["litert", "tensorflow"])
def test_an_outlier_score_replaces_the_default_signature(version: Path, with_score: ServingConfig, choice: Any) -> None:
    engine = load_engine(version, with_score, choice)
    assert (engine.name, engine.signatures) == (choice, scored.SIGNATURES)
    assert list(engine.run("serving_default", scored.pixels(0))) == ["probabilities"]


def test_a_twin_with_outlier_score_needs_no_default_signature(
    version: Path, with_score: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[set[str]] = []
    litert = sys.modules["service.engines.litert"]

    def load(_: Path, signatures: Any) -> FakeEngine:
        requested.append(set(signatures))
        return FakeEngine(signatures, echo)

    monkeypatch.setattr(litert, "LiteRTEngine", load)
    load_engine(version, with_score, "litert")
    load_engine(version, msgspec.structs.replace(with_score, outlier_score=None), "litert")
    assert requested == [{"scored"}, {"scored", "serving_default"}]


@pytest.mark.parametrize("choice", ["auto", "litert", "tensorflow"])
def test_an_unknown_outlier_signature_is_rejected(version: Path, with_score: ServingConfig, choice: Any) -> None:
    misnamed = msgspec.structs.replace(scored.SCORE, signature="scord")
    message = load_error(version, msgspec.structs.replace(with_score, outlier_score=misnamed), choice)
    assert message.endswith("it takes the signature 'scord'; there is 'scored', 'serving_default'")


def test_engine_tensorflow_runs_the_saved_model(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_engine(version, proved(version), "tensorflow").name == "tensorflow"
    assert caplog.records == []


def test_without_a_twin_tensorflow_runs_the_saved_model(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_engine(version, ServingConfig(), "auto").name == "tensorflow"
    assert caplog.records == []


def broken(kind: str, version: Path) -> ServingConfig:
    """Breaks the twin of the version; returns the config."""
    config = proved(version)
    match kind:
        case "no proof":
            return ServingConfig(signatures=SIGNATURES)
        case "reason given":
            return ServingConfig(no_twin="differs by 0.1")
        case "no signatures":
            return msgspec.structs.replace(config, signatures={})
        case "missing":
            (version / ASSETS / TWIN_FILE).unlink()
        case "damaged":
            (version / ASSETS / TWIN_FILE).write_bytes(b"twim")
        case "retrained":
            (version / "saved_model.pb").write_bytes(b"other graph")
    return config


REASONS = {
    "no proof": "it has no proved twin",
    "reason given": "it has no proved twin (differs by 0.1)",
    "no signatures": "assets.extra/serving.json names no signatures for its twin",
    "missing": "its twin assets.extra/model.tflite is missing",
    "damaged": "its twin assets.extra/model.tflite is damaged (its SHA-256 is not the one in serving.json)",
    "retrained": "its twin was made from another SavedModel (the digest in serving.json differs)",
}


@pytest.mark.parametrize("kind", REASONS)
def test_an_unproved_twin_is_never_served(version: Path, kind: str) -> None:
    assert load_engine(version, broken(kind, version), "auto").name == "tensorflow"


@pytest.mark.parametrize("kind", ["no signatures", "missing", "damaged", "retrained"])
def test_an_invalid_proof_is_logged(version: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    load_engine(version, broken(kind, version), "auto")
    (record,) = caplog.records
    assert (record.levelno, record.message) == (
        logging.WARNING,
        f"model/1: {REASONS[kind]}; TensorFlow runs the SavedModel instead",
    )


@pytest.mark.parametrize("kind", REASONS)
def test_engine_litert_needs_a_proved_twin(version: Path, kind: str) -> None:
    assert load_error(version, broken(kind, version), "litert") == f"SERVING_ENGINE=litert, but {REASONS[kind]}"


@pytest.mark.usefixtures("without_tensorflow")
@pytest.mark.parametrize("kind", REASONS)
def test_missing_tensorflow_says_why_it_is_needed(version: Path, kind: str) -> None:
    assert load_error(version, broken(kind, version), "auto").startswith(f"{REASONS[kind]}, and {INSTALL}")


@pytest.mark.usefixtures("without_tensorflow")
def test_engine_tensorflow_needs_tensorflow(version: Path) -> None:
    assert load_error(version, proved(version), "tensorflow").startswith(f"SERVING_ENGINE=tensorflow, and {INSTALL}")


@pytest.mark.usefixtures("without_tensorflow")
def test_a_proved_twin_needs_no_tensorflow(version: Path) -> None:
    assert load_engine(version, proved(version), "auto").name.startswith("litert")


@pytest.mark.usefixtures("real_engine")
def test_an_incomplete_tensorflow_raises_its_own_error(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "tensorflow":
                raise ModuleNotFoundError("No module named 'h5py'", name="h5py")

    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="h5py"):
        load_engine(version, ServingConfig(), "auto")


@pytest.mark.parametrize("choice", ["auto", "tensorflow", "litert"])
def test_a_folder_without_a_saved_model_is_rejected(version: Path, choice: Any) -> None:
    config = proved(version)
    (version / "saved_model.pb").unlink()
    assert load_error(version, config, choice) == "not a SavedModel: it holds no saved_model.pb (nor saved_model.pbtxt)"


def test_a_graph_in_text_form_is_a_saved_model(version: Path) -> None:
    (version / "saved_model.pb").rename(version / "saved_model.pbtxt")
    config = proved(version)
    assert load_engine(version, config, "litert").name == "litert of model.tflite"
    (version / "saved_model.pbtxt").write_bytes(b"other graph")
    assert load_error(version, config, "litert") == f"SERVING_ENGINE=litert, but {REASONS['retrained']}"


@pytest.mark.parametrize("held", ["model.keras", "export/saved_model.pb"])
def test_misplaced_models_are_named(version: Path, held: str) -> None:
    config = proved(version)
    (version / held).parent.mkdir(exist_ok=True)
    (version / "saved_model.pb").rename(version / held)
    assert load_error(version, config, "auto").endswith(f"(nor saved_model.pbtxt); it holds {held}")
