"""What clouds' platforms say at the start, as settings: by `serve` Amazon SageMaker, by its variables Vertex AI."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from service.lifecycle.repository import find_base_paths
from service.serving_config import model_file
from service.settings import PREFIX, InvalidSetting, Settings, from_environment

# The argument with which SageMaker starts every container for inference.
SERVE = "serve"

MULTI_MODEL = "SAGEMAKER_MULTI_MODEL"
BASE_DIR = "SAGEMAKER_BASE_DIR"
BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"
STORAGE_URI = "AIP_STORAGE_URI"
HTTP_PORT = "AIP_HTTP_PORT"
# A version that lies where its model should is version 1 of a model of this name.
MODEL_NAME = "model"

# By SageMaker's variables, those of its TensorFlow container among them.
_OF_SAGEMAKER = {
    "SAGEMAKER_MODEL_SERVER_WORKERS": "workers",
    "SAGEMAKER_TFS_INSTANCE_COUNT": "workers",
    "SAGEMAKER_TFS_ENABLE_BATCHING": "independent_rows",
    "SAGEMAKER_TFS_MAX_BATCH_SIZE": "max_batch_size",
    "SAGEMAKER_TFS_BATCH_TIMEOUT_MICROS": "batch_timeout_micros",
    "SAGEMAKER_TFS_INTRA_OP_PARALLELISM": "tensorflow_intra_op_parallelism",
    "SAGEMAKER_TFS_INTER_OP_PARALLELISM": "tensorflow_inter_op_parallelism",
}
# Python's numbers.
_LOG_LEVELS = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "error"}


def settings(flags: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Settings:
    """From flags (by field name), the variables of Vertex AI if there are any, and those of the service.

    Raises:
        InvalidSetting: a value is wrong, or there is no model where Vertex AI says.
    """
    texts: dict[str, str] = {}
    if port := environ.get(HTTP_PORT):
        texts["port"] = port
        if not environ.get("SERVING_HOST"):
            texts["host"] = "0.0.0.0"  # noqa: S104
    if uri := environ.get(STORAGE_URI):
        texts["models"] = uri if "://" in uri else str(_models_in(Path(uri), f"{STORAGE_URI}={uri!r}"))
    return _settings(flags, texts, {"port": HTTP_PORT, "models": STORAGE_URI}, environ)


def sagemaker_settings(flags: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Of a container that SageMaker has started. A variable of the service counts more than one of SageMaker; but the
    port is SageMaker's, and the only one.

    Raises:
        InvalidSetting: a value is wrong, or there is no model.
    """
    multi_model = environ.get(MULTI_MODEL) or "false"
    if multi_model.lower() not in ("true", "false"):
        raise InvalidSetting(f"{MULTI_MODEL}={multi_model!r}: expected true or false")
    has_models = multi_model.lower() == "true"
    texts = {
        "port": environ.get(BIND_TO_PORT) or "8080",
        "grpc_port": "0",
        "sagemaker": "multi_model" if has_models else "on",
    }
    names = {"port": BIND_TO_PORT}
    for name, setting in _OF_SAGEMAKER.items():
        if (text := environ.get(name)) and not environ.get(PREFIX + setting.upper()):
            texts[setting], names[setting] = text, name
    level = _LOG_LEVELS.get(environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL", ""))
    if level and not environ.get("SERVING_LOG_LEVEL"):
        texts["log_level"] = level
    theirs = {"SERVING_HOST": "0.0.0.0"}  # noqa: S104
    if has_models:
        # Nobody but SageMaker reaches the container; and a client waits while a model is loaded, after two polls.
        theirs |= {"SERVING_ADMIN": "1", "SERVING_POLL_SECONDS": "0.25"}
    found = _settings(flags, texts, names, {**theirs, **environ})
    if environ.get("SERVING_MODELS") or "models" in flags or found.base_path or found.model_config_file:
        return found
    folder = Path(environ.get(BASE_DIR) or "/opt/ml") / "model"
    return replace(found, models=str(_linked({}) if has_models else _models_in(folder, str(folder))))


def _settings(
    flags: Mapping[str, str], texts: Mapping[str, str], names: Mapping[str, str], environ: Mapping[str, str]
) -> Settings:
    """`texts`: of a platform, and `names`: of its variables, which flags outrank."""
    return from_environment(
        environ, {**texts, **flags}, {name: of for name, of in names.items() if name in texts.keys() - flags.keys()}
    )


def _models_in(folder: Path, source: str) -> Path:
    """A models folder with what lies in this one, in any of the layouts that the platforms take. Raises
    InvalidSetting."""
    try:
        found = find_base_paths(folder)
    except ValueError as error:
        raise InvalidSetting(f"{source}: {error}") from None
    if not found and model_file(folder):
        return _linked({f"{MODEL_NAME}/1": folder})
    if not found:
        raise InvalidSetting(
            f"{source}: there is no SavedModel; expected <version>/saved_model.pb, <model>/<version>/saved_model.pb or "
            "export/Servo/<version>/saved_model.pb in it"
        )
    return _linked(found)


def _linked(folders: Mapping[str, Path]) -> Path:
    """A models folder of links to these folders. Raises InvalidSetting where it cannot be written."""
    try:
        models = Path(tempfile.mkdtemp(prefix="models-"))
    except OSError as error:
        raise InvalidSetting(f"there is no temporary folder to write to (TMPDIR can name one): {error}") from None
    for name, folder in folders.items():
        link = models / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder.absolute())
    return models
