import hashlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from service.engines.base import Engine, LoadError, LoadOptions
from service.engines.loading import load_engine
from service.serving_config import ASSETS, TWIN_FILE, ServingConfig, Twin, saved_model_digest
from tests.unit.service import scored
from tests.unit.service.fakes import FakeEngine, any_shape, echo, signature

SIGNATURES = {"serving_default": signature({"x": any_shape("DT_FLOAT")})}
TWIN, MODEL = "twin with serving_default", "model.tflite with its own signatures"
INSTALL = "TensorFlow is not installed; install it with make serve TENSORFLOW=1 (or: pip install tensorflow-cpu)"


@pytest.fixture(autouse=True)
def litert(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In the place of the engine's module, which needs its runtime."""
    module: Any = ModuleType("service.engines.litert")

    def load(model: Path, signatures: Any = None) -> Engine:
        name = f"{model.name} with its own signatures" if signatures is None else f"twin with {', '.join(signatures)}"
        return FakeEngine(signatures or SIGNATURES, echo, name)

    module.LiteRTEngine = load
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture(autouse=True)
def saved_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("service.engines.tensorflow.engine")
    module.SavedModelEngine = lambda version_dir, options: FakeEngine(SIGNATURES, echo, "tensorflow")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def lacking(package: str) -> Any:
    def load(version_dir: Path, options: LoadOptions) -> Engine:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    return load


@pytest.fixture
def without_tensorflow(saved_model: Any) -> None:
    saved_model.SavedModelEngine = lacking("tensorflow")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "model/1"
    (folder / ASSETS).mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / ASSETS / TWIN_FILE).write_bytes(b"twin")
    return folder


@pytest.fixture
def alone(version: Path) -> Path:
    """A LiteRT model without a SavedModel."""
    (version / "saved_model.pb").unlink()
    (version / ASSETS / TWIN_FILE).rename(version / TWIN_FILE)
    return version


def proved(version: Path, **parts: Any) -> ServingConfig:
    twin = Twin(
        sha256=hashlib.sha256(b"twin").hexdigest(),
        saved_model_sha256=saved_model_digest(version),
        inputs_tried=1000,
        largest_difference=0.0,
        tolerance=1e-5,
    )
    return ServingConfig(**{"signatures": SIGNATURES, "twin": twin, **parts})


def loaded(version: Path, config: ServingConfig, choice: Any, options: LoadOptions | None = None) -> str:
    """The name of the engine, or why there is none."""
    try:
        return load_engine(version, config, choice, options or LoadOptions()).name
    except LoadError as error:
        return str(error)


@pytest.mark.usefixtures("without_tensorflow")
@pytest.mark.parametrize("choice", ["auto", "litert"])
def test_proved_twin_is_served_without_tensorflow(version: Path, choice: Any) -> None:
    assert loaded(version, proved(version), choice) == TWIN


def test_chosen_tensorflow_runs_the_saved_model(version: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(version, proved(version), "tensorflow") == "tensorflow"
    assert caplog.records == []


def scored_engine(signatures: Any = scored.SIGNATURES) -> Engine:
    return FakeEngine(signatures, scored.with_score)


@pytest.mark.parametrize(("choice", "ran"), [("litert", {"scored"}), ("tensorflow", set(scored.SIGNATURES))])
def test_outlier_score(version: Path, litert: Any, saved_model: Any, choice: Any, ran: set[str]) -> None:
    """Which the twin need not have."""
    needed: list[set[str]] = []

    def load(_place: Path, signatures: Any) -> Engine:
        needed.append(set(signatures))
        return scored_engine(signatures)

    litert.LiteRTEngine = load
    saved_model.SavedModelEngine = lambda version_dir, options: load(version_dir, scored.SIGNATURES)
    config = proved(version, signatures=scored.SIGNATURES, outlier_score=scored.SCORE)
    engine = load_engine(version, config, choice)
    assert (engine.signatures, needed) == (scored.SIGNATURES, [ran])
    assert list(engine.run("serving_default", scored.pixels(0))) == ["probabilities"]


REASONS = {
    "no proof": "it has no proved twin",
    "reason given": "it has no proved twin (differs by 0.1)",
    "no signatures": "assets.extra/serving.json names no signatures for its twin",
    "missing": "its twin assets.extra/model.tflite is missing",
    "damaged": "its twin assets.extra/model.tflite is damaged (its SHA-256 is not the one in serving.json)",
    "retrained": "its twin was made from another SavedModel (the digest in serving.json differs)",
}
each_reason = pytest.mark.parametrize("kind", REASONS)


def broken(kind: str, version: Path) -> ServingConfig:
    """Breaks the twin of the version; returns the config."""
    config = proved(version, signatures={} if kind == "no signatures" else SIGNATURES)
    match kind:
        case "no proof":
            return ServingConfig(signatures=SIGNATURES)
        case "reason given":
            return ServingConfig(no_twin="differs by 0.1")
        case "missing":
            (version / ASSETS / TWIN_FILE).unlink()
        case "damaged":
            (version / ASSETS / TWIN_FILE).write_bytes(b"twim")
        case "retrained":
            (version / "saved_model.pb").write_bytes(b"other graph")
    return config


@each_reason
def test_tensorflow_runs_without_a_proved_twin(version: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(version, broken(kind, version), "auto") == "tensorflow"
    # Without a proof there is nothing to warn of.
    warned = f"model/1: {REASONS[kind]}; TensorFlow runs the SavedModel instead"
    expected = [] if kind in ("no proof", "reason given") else [(logging.WARNING, warned)]
    assert [(record.levelno, record.message) for record in caplog.records] == expected


@each_reason
def test_engine_litert_needs_a_proved_twin(version: Path, kind: str) -> None:
    assert loaded(version, broken(kind, version), "litert") == f"SERVING_ENGINE=litert, but {REASONS[kind]}"


def test_twin_is_not_of_a_graph_with_other_tags(version: Path) -> None:
    reason = "SERVING_ENGINE=litert, but its twin was made from the graph with the tag 'serve'"
    assert loaded(version, proved(version), "litert", LoadOptions(tags=("serve", "gpu"))) == reason


@pytest.mark.usefixtures("without_tensorflow")
@pytest.mark.parametrize(
    ("choice", "kind", "reason"),
    [("tensorflow", "", "SERVING_ENGINE=tensorflow"), ("auto", "no proof", REASONS["no proof"])],
)
def test_missing_tensorflow_says_why_it_is_needed(version: Path, choice: Any, kind: str, reason: str) -> None:
    assert loaded(version, broken(kind, version), choice) == f"{reason}, and {INSTALL}"


def test_incomplete_tensorflow_raises_its_own_error(version: Path, saved_model: Any) -> None:
    saved_model.SavedModelEngine = lacking("h5py")
    with pytest.raises(ModuleNotFoundError, match="h5py"):
        load_engine(version, ServingConfig(), "auto")


NO_MODEL = "it holds no saved_model.pb (nor saved_model.pbtxt) and no model.tflite"


@pytest.mark.parametrize("choice", ["auto", "tensorflow", "litert"])
def test_folder_without_a_model_is_rejected(version: Path, choice: Any) -> None:
    config = proved(version)
    (version / "saved_model.pb").unlink()
    assert loaded(version, config, choice) == NO_MODEL


def test_graph_in_text_form_is_a_saved_model(version: Path) -> None:
    (version / "saved_model.pb").rename(version / "saved_model.pbtxt")
    config = proved(version)
    assert loaded(version, config, "litert") == TWIN
    (version / "saved_model.pbtxt").write_bytes(b"other graph")
    assert loaded(version, config, "litert") == f"SERVING_ENGINE=litert, but {REASONS['retrained']}"


@pytest.mark.parametrize(
    ("held", "advice"),
    [
        (
            ["a.keras"],
            "it holds a.keras: python -m training import models/model/1/a.keras --name model makes a version",
        ),
        (["a.tflite", "b.tflite"], "it holds a.tflite and b.tflite: name the one to serve model.tflite"),
        (["export/saved_model.pb", "a.onnx"], "it holds a.onnx; it holds export/saved_model.pb"),
    ],
)
def test_other_models_in_the_folder_are_named(version: Path, held: list[str], advice: str) -> None:
    (version / "saved_model.pb").unlink()
    for name in held:
        (version / name).parent.mkdir(exist_ok=True)
        (version / name).touch()
    assert loaded(version, ServingConfig(), "auto").startswith(f"{NO_MODEL}; {advice}")


NO_SAVED_MODEL = "SERVING_ENGINE=tensorflow, but it has no SavedModel, only model.tflite"


@pytest.mark.usefixtures("without_tensorflow")
@pytest.mark.parametrize(("choice", "result"), [("auto", MODEL), ("litert", MODEL), ("tensorflow", NO_SAVED_MODEL)])
def test_litert_model_alone(alone: Path, choice: Any, result: str) -> None:
    assert loaded(alone, ServingConfig(signatures=SIGNATURES), choice) == result


def test_litert_model_alone_may_give_the_outlier_score(alone: Path, litert: Any) -> None:
    litert.LiteRTEngine = lambda model: scored_engine()
    engine = load_engine(alone, ServingConfig(outlier_score=scored.SCORE), "auto")
    assert list(engine.run("serving_default", scored.pixels(0))) == ["probabilities"]


@pytest.mark.parametrize(("prefers", "name"), [(False, "tensorflow"), (True, MODEL)])
def test_beside_a_saved_model_the_setting_decides(version: Path, prefers: bool, name: str) -> None:
    (version / TWIN_FILE).write_bytes(b"model")
    assert loaded(version, ServingConfig(), "auto", LoadOptions(prefer_tflite=prefers)) == name
