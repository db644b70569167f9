"""TensorFlow Serving's ModelServerConfig: which models are served, from where, their versions and labels.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/config/model_server_config.proto
"""

import os
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import Any, Literal

import msgspec

from service.errors import ServingError
from service.lifecycle.policies import CapturePolicy, Latest, ModelPolicy, Policies, label_refused
from service.lifecycle.repository import model_name_fault
from service.runtime.config_file import ConfigFile, InvalidFile
from service.runtime.shared_values import Value, Values
from service.runtime.text_format import (
    DOUBLE,
    INT32,
    INT64,
    STRING,
    UINT32,
    Enum,
    InvalidText,
    Message,
    Repeated,
    Unread,
    map_of,
    read,
)
from service.settings import Settings

PLATFORM = "tensorflow"
# In a model's URL they would begin something else.
_NOT_IN_NAMES = "/"
_TYPES = {"MODEL_TYPE_UNSPECIFIED": 0, "TENSORFLOW": 1, "OTHER": 2}

_ANY = Unread("google.protobuf.Any")
_PACKAGE = "tensorflow.serving"
_VERSION_POLICY = Message(
    f"{_PACKAGE}.FileSystemStoragePathSourceConfig.ServableVersionPolicy",
    {
        "latest": Message("Latest", {"num_versions": UINT32}),
        "all": Message("All", {}),
        "specific": Message("Specific", {"versions": Repeated(INT64)}),
    },
    [("latest", "all", "specific")],
)
_SAMPLING_CONFIG = Message(
    f"{_PACKAGE}.SamplingConfig",
    {
        "sampling_rate": DOUBLE,
        "attributes": INT32,
        "per_task_sampling_configs": Repeated(
            Message("PerTaskSamplingConfig", {"dc": STRING, "task_index": INT32, "sampling_rate": DOUBLE})
        ),
    },
)
_LOGGING_CONFIG = Message(
    f"{_PACKAGE}.LoggingConfig",
    {
        "log_collector_config": Message("LogCollectorConfig", {"type": STRING, "filename_prefix": STRING}),
        "sampling_config": _SAMPLING_CONFIG,
        "custom_logging_config": _ANY,
    },
)
_MODEL_CONFIG = Message(
    f"{_PACKAGE}.ModelConfig",
    {
        "name": STRING,
        "base_path": STRING,
        "model_type": Enum("ModelType", _TYPES),
        "model_platform": STRING,
        "model_version_policy": _VERSION_POLICY,
        "version_labels": map_of(STRING, INT64),
        "logging_config": _LOGGING_CONFIG,
    },
)
MODEL_SERVER_CONFIG = Message(
    f"{_PACKAGE}.ModelServerConfig",
    {
        "model_config_list": Message(f"{_PACKAGE}.ModelConfigList", {"config": Repeated(_MODEL_CONFIG)}),
        "custom_model_config": _ANY,
    },
    [("model_config_list", "custom_model_config")],
)


class InvalidConfig(ValueError):
    """The config cannot be served; the message says what was expected, in TensorFlow Serving's words where it has any.
    `place`: the ModelConfig's."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A message of that name. `versions`: of its model_version_policy, by default the latest. `capture`: its
    logging_config. `place`: where it stands in a file."""

    name: str
    base_path: str
    model_platform: str = ""
    model_type: int = 0
    versions: Literal["all"] | Latest | list[int] = Latest(latest=1)
    labels: dict[str, int] = {}
    capture: CapturePolicy | None = None
    place: str = ""


def policies_of(configs: Iterable[ModelConfig]) -> Policies:
    """What a list of models asks for. Raises InvalidConfig."""
    models: dict[str, ModelPolicy] = {}
    for config in configs:
        if config.name in models:
            raise InvalidConfig(config.place, f"Illegal to list model {config.name} multiple times in config list")
        models[config.name] = _policy_of(config)
    return Policies(models=models, only_listed=True)


def model_config(config: Mapping[str, Any], place: str = "") -> ModelConfig:
    """A ModelConfig's fields by name; a map is a list of entries with `key` and `value`."""
    return ModelConfig(
        name=config.get("name", ""),
        base_path=config.get("base_path", ""),
        model_platform=config.get("model_platform", ""),
        model_type=config.get("model_type", 0),
        versions=_versions(config.get("model_version_policy", {})),
        labels={entry.get("key", ""): entry.get("value", 0) for entry in config.get("version_labels", [])},
        capture=_capture(config["logging_config"]) if "logging_config" in config else None,
        place=place,
    )


def decode(written: bytes, path: "os.PathLike[str]") -> Policies:
    """A file in text format. Raises InvalidFile, which names file, line and field and says what was expected."""
    try:
        message = read(written, MODEL_SERVER_CONFIG)
    except InvalidText as error:
        raise InvalidFile(f"{path}: Error parsing text-format {MODEL_SERVER_CONFIG.name}: {error}") from None
    if "custom_model_config" in message:
        raise InvalidFile(f"{path}:{message['custom_model_config'].line}: custom_model_config is not supported")
    configs = message.get("model_config_list", {}).get("config", [])
    try:
        return policies_of([model_config(config, f"{path}:{config.line}") for config in configs])
    except InvalidConfig as error:
        raise InvalidFile(str(error)) from None


def config_file(
    settings: Settings, values: Values | None = None, check: Callable[[Policies], None] = lambda _policies: None
) -> ConfigFile[Policies]:
    """The file that a setting names. `values`: shared by the worker processes. `check`: raises ServingError for a
    changed content that cannot be in force yet."""

    def accept(policies: Policies) -> None:
        try:
            check(policies)
        except ServingError as error:
            raise InvalidFile(f"{settings.model_config_file}: {error}") from None

    return ConfigFile(
        Path(settings.model_config_file),
        decode,
        Policies(),
        must_exist=True,
        kept=Value(values, b"model config file") if values else None,
        accept=accept,
        pause_seconds=settings.model_config_file_poll_wait_seconds or inf,
    )


def check_first_labels(policies: Policies, *, allow_unavailable: bool) -> None:
    """Before anything is loaded a label may name a version only where that is allowed. Raises FailedPrecondition."""
    for model, policy in policies.models.items():
        for label, version in policy.label_versions.items():
            if not allow_unavailable:
                raise label_refused(model, label, version)


def _policy_of(config: ModelConfig) -> ModelPolicy:
    name, place = config.name, config.place
    if not name or _NOT_IN_NAMES in name or model_name_fault(name):
        raise InvalidConfig(place, f"name is {name!r}; expected a name without slash, colon and leading dot")
    if not Path(config.base_path).is_absolute():
        is_uri = "://" in config.base_path
        raise InvalidConfig(
            place,
            f"Expected model {name} to have an absolute path or URI; got base_path()={config.base_path}"
            + (" (URIs are not supported: mount it, and give the path)" if is_uri else ""),
        )
    if config.model_type and config.model_platform:
        raise InvalidConfig(
            place,
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
            f"model name is {name}",
        )
    if not config.model_type and not config.model_platform:
        raise InvalidConfig(
            place,
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f'ModelServerConfig::model_platform, model name is {name}; expected model_platform: "{PLATFORM}"',
        )
    if config.model_type not in (0, _TYPES["TENSORFLOW"]):
        raise InvalidConfig(place, f"ModelServerConfig::model_type choice {config.model_type} not supported.")
    if config.model_platform not in ("", PLATFORM):
        raise InvalidConfig(
            place, f'Model {name} requests unsupported platform {config.model_platform}; expected "{PLATFORM}"'
        )
    policy = {
        "base_path": config.base_path,
        "versions": config.versions,
        "labels": config.labels,
        # There no label answers requests without a version.
        "default_label": "",
        "capture": config.capture,
    }
    try:
        return msgspec.convert(msgspec.to_builtins(policy), ModelPolicy)
    except msgspec.ValidationError as error:
        raise InvalidConfig(place, f"model {name}: {error}") from None


def _versions(policy: Mapping[str, Any]) -> Literal["all"] | Latest | list[int]:
    if "specific" in policy:
        return list(policy["specific"].get("versions", []))
    if "all" in policy:
        return "all"
    # 0 counts as 1.
    return Latest(latest=policy.get("latest", {}).get("num_versions", 0) or 1)


def _capture(config: Mapping[str, Any]) -> CapturePolicy | None:
    """None if no request is to be written."""
    share = config.get("sampling_config", {}).get("sampling_rate", 0.0)
    file = config.get("log_collector_config", {}).get("filename_prefix", "")
    return CapturePolicy(share=share, file=file) if share else None
