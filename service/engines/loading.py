"""Choose the engine of a version and load it."""

import hashlib
import logging
from pathlib import Path

from service.engines.base import Engine, LoadError, LoadOptions
from service.engines.outlier import ScoredEngine
from service.serving_config import (
    ASSETS,
    OTHER_FORMATS,
    TWIN_FILE,
    ServingConfig,
    graph_file,
    import_command,
    misplaced_models,
    saved_model_digest,
)
from service.settings import EngineChoice
from service.tensors.signature import DEFAULT_SIGNATURE

__all__ = ["Engine", "LoadError", "load_engine"]

DEFAULT_OPTIONS = LoadOptions()

logger = logging.getLogger(__name__)


def load_engine(
    version_dir: Path, config: ServingConfig, choice: EngineChoice, options: LoadOptions = DEFAULT_OPTIONS
) -> Engine:
    """The chosen engine. "auto" takes the twin if a proved one is there, else the SavedModel. A LiteRT model without a
    SavedModel is run as it is.

    Raises:
        LoadError: also if TensorFlow is needed and missing.
    """
    model, has_graph = version_dir / TWIN_FILE, graph_file(version_dir) is not None
    if model.is_file() and (options.prefer_tflite or not has_graph):
        if choice == "tensorflow" and not options.prefer_tflite:
            raise LoadError(f"SERVING_ENGINE=tensorflow, but it has no SavedModel, only {TWIN_FILE}")
        return _load_tflite(model, config)
    if not has_graph:
        raise LoadError(_why_no_model(version_dir))
    reason = _why_no_twin(version_dir, config) if choice != "tensorflow" else "SERVING_ENGINE=tensorflow"
    if reason is None and options.tags != DEFAULT_OPTIONS.tags:
        reason = f"its twin was made from the graph with the tag {DEFAULT_OPTIONS.tags[0]!r}"
    if reason is None:
        return _load_twin(version_dir / ASSETS / TWIN_FILE, config)
    if choice == "litert":
        raise LoadError(f"SERVING_ENGINE=litert, but {reason}")
    if config.twin is not None and choice == "auto":
        logger.warning("%s: %s; TensorFlow runs the SavedModel instead", "/".join(version_dir.parts[-2:]), reason)
    return _scored(_load_saved_model(version_dir, reason, options), config)


def _scored(engine: Engine, config: ServingConfig) -> Engine:
    return engine if config.outlier_score is None else ScoredEngine(engine, engine.signatures, config.outlier_score)


def _why_no_model(version_dir: Path) -> str:
    """What a version's folder holds instead of a model, and what to do about it."""
    reason = f"it holds no saved_model.pb (nor saved_model.pbtxt) and no {TWIN_FILE}"
    held = list(misplaced_models(version_dir))
    formats = {OTHER_FORMATS.get(Path(name).suffix.lower()) for name in held}
    if formats == {"Keras"}:
        model = version_dir.parent.name
        return f"{reason}; it holds {held[0]}: {import_command(f'{model}/{version_dir.name}/{held[0]}', model)}"
    if formats == {"LiteRT"}:
        return f"{reason}; it holds {' and '.join(held)}: name the one to serve {TWIN_FILE}"
    return reason + "".join(f"; it holds {name}" for name in held)


def _why_no_twin(version_dir: Path, config: ServingConfig) -> str | None:
    """Why the twin cannot be served; None if it can."""
    twin = version_dir / ASSETS / TWIN_FILE
    if config.twin is None:
        return "it has no proved twin" + (f" ({config.no_twin})" if config.no_twin else "")
    if not config.signatures:
        return f"{ASSETS}/serving.json names no signatures for its twin"
    if not twin.is_file():
        return f"its twin {ASSETS}/{TWIN_FILE} is missing"
    if hashlib.sha256(twin.read_bytes()).hexdigest() != config.twin.sha256:
        return f"its twin {ASSETS}/{TWIN_FILE} is damaged (its SHA-256 is not the one in serving.json)"
    if saved_model_digest(version_dir) != config.twin.saved_model_sha256:
        return "its twin was made from another SavedModel (the digest in serving.json differs)"
    return None


def _load_twin(twin: Path, config: ServingConfig) -> Engine:
    from service.engines.litert import LiteRTEngine

    if config.outlier_score is None:
        return LiteRTEngine(twin, config.signatures)
    # ScoredEngine never runs the default signature, and a twin with one signature is faster.
    run = {name: signature for name, signature in config.signatures.items() if name != DEFAULT_SIGNATURE}
    return ScoredEngine(LiteRTEngine(twin, run), config.signatures, config.outlier_score)


def _load_tflite(model: Path, config: ServingConfig) -> Engine:
    from service.engines.litert import LiteRTEngine

    return _scored(LiteRTEngine(model), config)


def _load_saved_model(version_dir: Path, reason: str, options: LoadOptions) -> Engine:
    from service.engines.tensorflow.c_api import TENSORFLOW_INSTALL, load_op_library
    from service.engines.tensorflow.engine import SavedModelEngine

    try:
        for path in options.op_libraries:
            load_op_library(path)
        return SavedModelEngine(version_dir, options)
    except ModuleNotFoundError as error:
        # TensorFlow is installed, but lacks one of its own dependencies.
        if error.name != "tensorflow":
            raise
        raise LoadError(f"{reason}, and TensorFlow is not installed; install it with {TENSORFLOW_INSTALL}") from None
