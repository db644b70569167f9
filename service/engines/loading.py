"""Choose the engine of a version and load it."""

import hashlib
import logging
from pathlib import Path

from service.engines.base import Engine, LoadError, LoadOptions
from service.engines.outlier import ScoredEngine
from service.serving_config import ASSETS, TWIN_FILE, ServingConfig, graph_file, misplaced_models, saved_model_digest
from service.settings import EngineChoice
from service.tensors.signature import DEFAULT_SIGNATURE

__all__ = ["Engine", "LoadError", "load_engine"]

DEFAULT_OPTIONS = LoadOptions()

logger = logging.getLogger(__name__)


def load_engine(
    version_dir: Path, config: ServingConfig, choice: EngineChoice, options: LoadOptions = DEFAULT_OPTIONS
) -> Engine:
    """The chosen engine. "auto" takes the twin if a proved one is there, else the SavedModel.

    Raises:
        LoadError: also if TensorFlow is needed and missing.
    """
    if options.prefer_tflite and (model := version_dir / TWIN_FILE).is_file():
        return _load_tflite(model)
    if graph_file(version_dir) is None:
        below = "".join(f"; it holds {name}" for name in misplaced_models(version_dir))
        raise LoadError(f"not a SavedModel: it holds no saved_model.pb (nor saved_model.pbtxt){below}")
    reason = _why_no_twin(version_dir, config) if choice != "tensorflow" else "SERVING_ENGINE=tensorflow"
    if reason is None and options.tags != DEFAULT_OPTIONS.tags:
        reason = f"its twin was made from the graph with the tag {DEFAULT_OPTIONS.tags[0]!r}"
    if reason is None:
        return _load_twin(version_dir / ASSETS / TWIN_FILE, config)
    if choice == "litert":
        raise LoadError(f"SERVING_ENGINE=litert, but {reason}")
    if config.twin is not None and choice == "auto":
        logger.warning("%s: %s; TensorFlow runs the SavedModel instead", "/".join(version_dir.parts[-2:]), reason)
    engine = _load_saved_model(version_dir, reason, options)
    return engine if config.outlier_score is None else ScoredEngine(engine, engine.signatures, config.outlier_score)


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


def _load_tflite(model: Path) -> Engine:
    from service.engines.litert import LiteRTEngine, read_signatures

    return LiteRTEngine(model, read_signatures(model))


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
