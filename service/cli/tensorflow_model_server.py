"""`tensorflow_model_server`: the flags of TensorFlow Serving's command, as settings.

https://github.com/tensorflow/serving/blob/master/tensorflow_serving/model_servers/main.cc
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias, cast

from service.cli import model_server_files
from service.engines.tensorflow import op_libraries
from service.lifecycle.model_server_config import PLATFORM, InvalidConfig, ModelConfig, policies_of
from service.runtime import build
from service.runtime.config_file import InvalidFile
from service.settings import ANY_ORIGIN, InvalidSetting, Settings, from_environment

COMMAND = "tensorflow_model_server"

Value: TypeAlias = bool | int | float | str
# Those that are given, by name.
Values: TypeAlias = Mapping[str, Value]
# The settings of a flag that is given: their names and texts.
Translate: TypeAlias = Callable[[Value], Mapping[str, str]]

_INT32, _INT64 = 2**31, 2**63
# Where no flag says otherwise, as it is there: all addresses; who may call may reload and take profiles; messages of
# any size; requests wait.
THEIRS = {
    "SERVING_HOST": "0.0.0.0",  # noqa: S104
    "SERVING_ADMIN": "1",
    "SERVING_GRPC_PROFILER": "1",
    "SERVING_MAX_BODY_BYTES": str(_INT32 - 1),
    "SERVING_MAX_QUEUE_MS": "30000",
}
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,30}")
_MAX_AGE = "grpc.max_connection_age_ms"
_MAX_MESSAGE = "grpc.max_receive_message_length"
_DAY = 86_400


class UsageError(ValueError):
    """The command cannot start with these flags; the message names the flag and says what was expected."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of TensorFlow Serving. `default`: there; its type is the flag's. `settings`: what it sets here, none for a
    flag without effect. `note`: how it differs from there; why it has no effect, if it has none. `translate`: how its
    value becomes that of the setting, if it is not taken as it is, or together with other flags (None)."""

    name: str
    default: Value
    settings: tuple[str, ...] = ()
    note: str = ""
    translate: Translate | None = None
    is_64_bit: bool = False

    def parse(self, text: str) -> Value:
        """Raises UsageError."""
        if isinstance(self.default, str):
            return text
        found: Value | None = None
        if isinstance(self.default, bool):
            found = {"true": True, "false": False}.get(text)
            expected = "true or false"
        elif isinstance(self.default, int):
            limit = _INT64 if self.is_64_bit else _INT32
            found = int(text) if _INTEGER.fullmatch(text) and -limit <= int(text) < limit else None
            expected = f"a whole number from {-limit} to {limit - 1}"
        else:
            found = _float(text)
            expected = "a number"
        if found is None:
            raise UsageError(f"Couldn't interpret value {text} for flag {self.name}; expected {expected}")
        return found


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _done(
    name: str,
    default: Value,
    setting: str,
    note: str = "",
    *,
    minimum: int | None = None,
    maximum: int = _INT64,
    translate: Translate | None = None,
    is_64_bit: bool = False,
) -> Flag:
    """A flag that sets one setting. `minimum`, `maximum`: what is beyond counts as they do."""

    def text(value: Value) -> dict[str, str]:
        if isinstance(value, bool):
            value = int(value)
        elif minimum is not None:
            value = min(max(cast(int, value), minimum), maximum)
        return {setting: str(value)}

    return Flag(name, default, (setting,), note, translate or text, is_64_bit)


def _joint(name: str, default: Value, settings: tuple[str, ...], note: str = "", *, is_64_bit: bool = False) -> Flag:
    """A flag that `settings_of` translates, together with others or by its file."""
    return Flag(name, default, settings, note, None, is_64_bit)


def _ignored(name: str, default: Value, why: str) -> Flag:
    return Flag(name, default, (), why)


def _split(channel_arguments: Value) -> list[tuple[str, str]]:
    """Names and values of `a=1,b=2`."""
    parts = (argument.partition("=") for argument in str(channel_arguments).split(",") if argument)
    return [(name, text) for name, _, text in parts]


def _channel_arguments(value: Value) -> dict[str, str]:
    settings = {}
    for name, text in _split(value):
        if name not in (_MAX_AGE, _MAX_MESSAGE):
            continue
        if not _INTEGER.fullmatch(text):
            raise UsageError(f"grpc_channel_arguments: {name} is {text!r}; expected a whole number")
        number = int(text)
        if name == _MAX_AGE:
            # The largest int32 stands for no limit.
            is_limit = 0 < number <= 1000 * _DAY
            settings["grpc_max_connection_age_seconds"] = str(max(number // 1000, 1)) if is_limit else "0"
        else:
            settings["max_body_bytes"] = str(number if number > 0 else _INT32 - 1)
    return settings


_NO_ACCELERATOR = "models run on CPUs"
_POOLS = "interpreters are kept as they are needed"
FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        _joint("port", 8500, ("grpc_port", "port"), "takes HTTP as well where `rest_api_port` is 0"),
        _done("grpc_socket_path", "", "unix_socket", "takes HTTP as well"),
        _joint("rest_api_port", 0, ("port",), "takes gRPC as well"),
        _done("rest_api_num_threads", 0, "threads", "for gRPC, too; quick predictions need no thread"),
        _done("rest_api_timeout_in_ms", 30_000, "request_timeout_ms", "for gRPC, too", minimum=1),
        _done(
            "rest_api_enable_cors_support",
            False,
            "cors_origins",
            "any origin",
            translate=lambda value: {"cors_origins": ANY_ORIGIN} if value else {},
        ),
        _done(
            "enable_batching",
            False,
            "independent_rows",
            "without it, models whose rows are proved independent are batched all the same",
        ),
        _done("allow_version_labels_for_unavailable_models", False, "allow_version_labels_for_unavailable_models"),
        _joint("batching_parameters_file", "", ("max_batch_size", "batch_timeout_micros", "max_queue_size")),
        _ignored(
            "enable_per_model_batching_parameters", False, "what a model needs of its own is `batching` in models.toml"
        ),
        _done("model_config_file", "", "model_config_file"),
        _done("model_config_file_poll_wait_seconds", 0, "model_config_file_poll_wait_seconds", minimum=0, maximum=_DAY),
        _joint("model_name", "default", ("model_name",)),
        _joint("model_base_path", "", ("base_path",), "a path, or the URL of an object store"),
        _done("num_load_threads", 0, "loaders", "0: 1 to 4, by cores", minimum=0),
        _ignored("num_unload_threads", 0, "unloading takes no thread"),
        _done("max_num_load_retries", 5, "load_retries", "without the flag, for as long as it takes", minimum=0),
        _done(
            "load_retry_interval_micros",
            60_000_000,
            "load_retry_interval_micros",
            "without the flag, 1, 2, 4 ... 300 seconds",
            minimum=1,
            is_64_bit=True,
        ),
        _done("file_system_poll_wait_seconds", 1, "poll_seconds", "below 0 counts as 0", minimum=0, maximum=_DAY),
        _ignored("flush_filesystem_caches", True, "the kernel frees its caches itself"),
        _joint(
            "tensorflow_session_parallelism",
            0,
            ("tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism"),
            is_64_bit=True,
        ),
        _ignored("tensorflow_session_config_file", "", "of a session, only threads and tags can be set"),
        _done("tensorflow_intra_op_parallelism", 0, "tensorflow_intra_op_parallelism", minimum=0, is_64_bit=True),
        _done("tensorflow_inter_op_parallelism", 0, "tensorflow_inter_op_parallelism", minimum=0, is_64_bit=True),
        _ignored("use_alts_credentials", False, "there is no ALTS; `true` stops the start"),
        _joint("ssl_config_file", "", ("tls_key", "tls_cert", "tls_client_ca"), "for REST, too"),
        _ignored("platform_config_file", "", "there is one platform, which needs no configuration"),
        _ignored("per_process_gpu_memory_fraction", 0.0, _NO_ACCELERATOR),
        _done("saved_model_tags", "serve", "saved_model_tags"),
        _done(
            "grpc_channel_arguments",
            "",
            "grpc_max_connection_age_seconds",
            f"`{_MAX_AGE}`, and `{_MAX_MESSAGE}` as `SERVING_MAX_BODY_BYTES`; others have no effect",
            translate=_channel_arguments,
        ),
        _ignored("grpc_max_threads", 0, "an event loop reads gRPC; `rest_api_num_threads` is for both"),
        _done("enable_model_warmup", True, "warm_up"),
        _ignored("num_request_iterations_for_warmup", 0, "the warm-up finds out how many runs it needs"),
        _ignored("version", False, "prints the version and ends"),
        _joint(
            "monitoring_config_file",
            "",
            ("metrics_path", "tensorflow_metrics"),
            "there are metrics without it, too, but not under TensorFlow Serving's names",
        ),
        _ignored("remove_unused_fields_from_bundle_metagraph", True, "nothing is kept of it but the signatures"),
        _done(
            "prefer_tflite_model",
            False,
            "prefer_tflite",
            "a `model.tflite` without a SavedModel is served without it, too",
        ),
        _ignored("num_tflite_pools", 0, _POOLS),
        _ignored("num_tflite_interpreters_per_pool", 1, _POOLS),
        _ignored("enable_signature_method_name_check", False, "signatures are taken by their inputs and outputs"),
        _ignored("xla_cpu_compilation_enabled", False, "graphs are not compiled anew"),
        _ignored("xla_gpu_compilation_enabled", False, _NO_ACCELERATOR),
        _done("enable_profiler", True, "grpc_profiler", "shows stages of requests, not operations of graphs"),
        _ignored("thread_pool_factory_config_file", "", "there is one kind of thread pool"),
        _ignored("mixed_precision", "", "a model runs in the precision that it was exported in"),
        _ignored("skip_initialize_tpu", False, _NO_ACCELERATOR),
        _ignored("enable_grpc_healthcheck_service", False, "the health service is always there"),
        _done("enable_serialization_as_tensor_content", False, "grpc_tensor_content"),
    )
}


def is_meant(arguments: Sequence[str]) -> bool:
    """Whether these are flags of TensorFlow Serving: its names have underscores, ours have dashes."""
    return any(argument.startswith("--") and "_" in argument.partition("=")[0] for argument in arguments)


def with_defaults_of_image(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The flags that TensorFlow Serving's image puts before those of its user."""
    name = environ.get("MODEL_NAME") or "model"
    base_path = f"{environ.get('MODEL_BASE_PATH') or '/models'}/{name}"
    return ["--port=8500", "--rest_api_port=8501", f"--model_name={name}", f"--model_base_path={base_path}", *arguments]


def parse(arguments: Sequence[str]) -> dict[str, Value]:
    """The flags that are given; the last of a name counts. `--flag=value`, `--flag value`, and `--flag` for true.

    Raises UsageError.
    """
    values: dict[str, Value] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.removeprefix("--").partition("=")
        flag = FLAGS.get(name) if argument.startswith("--") else None
        if flag is None:
            nearest = get_close_matches(name, FLAGS, n=1)
            hint = f"did you mean --{nearest[0]}?" if nearest else "--help lists the flags"
            raise UsageError(f"unknown argument: {argument}; {hint}")
        if not equals and isinstance(flag.default, bool):
            text = "true"
        elif not equals:
            if not rest:
                raise UsageError(f"--{name} has no value; expected --{name}=VALUE")
            text = rest.pop(0)
        values[name] = flag.parse(text)
    return values


def settings_of(values: Values, environ: Mapping[str, str] = os.environ) -> tuple[Settings, list[str]]:
    """Settings, and the warnings to log. A flag counts more than a SERVING_ variable, which counts more than a default
    of TensorFlow Serving; but the ports are those of the flags.

    Raises:
        UsageError: flags that exclude each other, or a file or value that is invalid.
    """
    _check_combinations(values)
    ignored = [name for name in values if not FLAGS[name].settings and name != "version"]
    warnings = [f"--{name} has no effect: {FLAGS[name].note}" for name in ignored]
    warnings += [
        f"--grpc_channel_arguments: {name} has no effect: it is of a gRPC library that is not used"
        for name, _ in _split(values.get("grpc_channel_arguments", ""))
        if name not in (_MAX_AGE, _MAX_MESSAGE)
    ]
    try:
        texts = _ports(values) | _models(values) | _parallelism(values)
        sources = {setting: f"--{FLAGS[name].name}" for name in values for setting in FLAGS[name].settings}
        for name, value in values.items():
            if (translate := FLAGS[name].translate) is not None:
                texts |= translate(value)
        if file := values.get("batching_parameters_file"):
            parameters, of_file = model_server_files.batching(str(file))
            texts |= parameters
            warnings += of_file
        if file := values.get("monitoring_config_file"):
            texts |= model_server_files.monitoring(str(file))
        if file := values.get("ssl_config_file"):
            texts |= model_server_files.tls(str(file))
        # Operations that are built into TensorFlow Serving.
        built_in = {op_libraries.SETTING: op_libraries.of_tensorflow_text()}
        return from_environment({**THEIRS, **built_in, **environ}, texts, sources), warnings
    except (InvalidFile, InvalidSetting, InvalidConfig) as error:
        raise UsageError(str(error)) from None


def versions() -> str:
    """What --version prints."""
    library = build.engine_version("tensorflow") or "not installed"
    return f"TensorFlow ModelServer: {build.VERSION} ({build.NAME})\nTensorFlow Library: {library}"


def usage() -> str:
    """Every flag with its default and what it does here."""
    lines = [f"usage: {COMMAND} --model_base_path=/FOLDER | --model_config_file=FILE", "Flags:"]
    for flag in FLAGS.values():
        default = str(flag.default).lower() if isinstance(flag.default, bool) else repr(flag.default)
        effect = "" if flag.settings or flag.name == "version" else "no effect: "
        lines.append(f"\t--{flag.name} (default: {default})\t{effect}{flag.note}".rstrip())
    return "\n".join(lines)


def _check_combinations(values: Values) -> None:
    """Raises UsageError, in TensorFlow Serving's words."""
    port, socket = values.get("port", FLAGS["port"].default), values.get("grpc_socket_path")
    if not port and not socket:
        raise UsageError("At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.")
    if values.get("use_alts_credentials"):
        if values.get("ssl_config_file"):
            raise UsageError(
                "Either use_alts_credentials must be false or ssl_config_file must be empty. There is no ALTS here."
            )
        raise UsageError("use_alts_credentials: there is no ALTS here; expected ssl_config_file")
    if not values.get("model_base_path") and not values.get("model_config_file"):
        raise UsageError("Both server_options.model_base_path and server_options.model_config_file are empty!")
    if values.get("batching_parameters_file") and not values.get("enable_batching"):
        raise UsageError(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if all(
        cast(int, values.get(f"tensorflow_{kind}_parallelism", 0)) > 0 for kind in ("intra_op", "inter_op", "session")
    ):
        raise UsageError(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )


def _ports(values: Values) -> dict[str, str]:
    """Every port takes gRPC and HTTP, so one of the two flags is enough."""
    grpc_port = values.get("port", FLAGS["port"].default)
    http_port = values.get("rest_api_port", FLAGS["rest_api_port"].default)
    if not grpc_port and not http_port:
        raise UsageError("a Unix socket alone is not served; expected --port or --rest_api_port beside it")
    has_both = bool(grpc_port and http_port and grpc_port != http_port)
    return {"port": str(http_port or grpc_port), "grpc_port": str(grpc_port if has_both else 0)}


def _models(values: Values) -> dict[str, str]:
    """Raises InvalidConfig."""
    if values.get("model_config_file"):
        return {}
    name, base_path = str(values.get("model_name", FLAGS["model_name"].default)), str(values["model_base_path"])
    # A URL is checked with the settings.
    path = "/" if "://" in base_path else base_path
    policies_of([ModelConfig(name=name, base_path=path, model_platform=PLATFORM)])
    return {"model_name": name, "base_path": base_path}


def _parallelism(values: Values) -> dict[str, str]:
    """The flag for both counts where neither has one of its own."""
    of_each = FLAGS["tensorflow_session_parallelism"].settings
    if any(values.get(name) for name in of_each):
        return {}
    return {name: str(max(cast(int, values.get("tensorflow_session_parallelism", 0)), 0)) for name in of_each}
