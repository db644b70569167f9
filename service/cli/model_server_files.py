"""TensorFlow Serving's text files for batching, monitoring and TLS, as settings.

https://github.com/tensorflow/serving/tree/master/tensorflow_serving/config, and BatchingParameters in
servables/tensorflow/session_bundle_config.proto there
"""

import os
from pathlib import Path

from service.runtime.config_file import InvalidFile
from service.runtime.text_format import BOOL, INT64, STRING, InvalidText, Kind, Message, Read, Repeated, read

_PACKAGE = "tensorflow.serving"
# They are always there.
_METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")
# The largest that gRPC has, which stands for no limit.
_MAX_QUEUE = 2**31 - 1


def _wrapped(kind: Kind) -> Message:
    return Message("wrapper", {"value": kind})


_BATCHING_PARAMETERS = Message(
    f"{_PACKAGE}.BatchingParameters",
    {
        "max_batch_size": _wrapped(INT64),
        "batch_timeout_micros": _wrapped(INT64),
        "max_enqueued_batches": _wrapped(INT64),
        "num_batch_threads": _wrapped(INT64),
        "thread_pool_name": _wrapped(STRING),
        "enable_large_batch_splitting": _wrapped(BOOL),
        "max_execution_batch_size": _wrapped(INT64),
        "allowed_batch_sizes": Repeated(INT64),
        "pad_variable_length_inputs": BOOL,
    },
)
_MONITORING_CONFIG = Message(
    f"{_PACKAGE}.MonitoringConfig",
    {"prometheus_config": Message("PrometheusConfig", {"enable": BOOL, "path": STRING})},
)
_SSL_CONFIG = Message(
    f"{_PACKAGE}.SSLConfig",
    {"server_key": STRING, "server_cert": STRING, "custom_ca": STRING, "client_verify": BOOL},
)
# Parameters of batching that change nothing here, and why.
_NO_EFFECT = {
    "num_batch_threads": "the threads of requests run the batches",
    "thread_pool_name": "there is no such pool",
    "enable_large_batch_splitting": "a request with more rows than a batch is always run in parts",
    "allowed_batch_sizes": "a batch is run as large as it is, without padding",
    "pad_variable_length_inputs": "requests of different shapes are never joined, so nothing is padded",
}


def batching(path: str) -> tuple[dict[str, str], list[str]]:
    """Settings of a file with BatchingParameters, and a warning for each parameter without effect.

    Raises InvalidFile.
    """
    message = _read(path, _BATCHING_PARAMETERS)
    numbers = {name: value.get("value", 0) for name, value in message.items() if isinstance(value, Read)}
    settings = {}
    # What is joined may be larger there than what is run at once.
    size = numbers.get("max_execution_batch_size") or numbers.get("max_batch_size")
    if size is not None:
        settings["max_batch_size"] = str(size)
    if "batch_timeout_micros" in numbers:
        settings["batch_timeout_micros"] = str(numbers["batch_timeout_micros"])
    if "max_enqueued_batches" in numbers:
        # Here requests are counted, of which a batch takes as many as it has rows.
        settings["max_queue_size"] = str(min(numbers["max_enqueued_batches"] * (size or 1), _MAX_QUEUE))
    return settings, [
        f"{path}: {name} has no effect: {reason}" for name, reason in _NO_EFFECT.items() if name in message
    ]


def monitoring(path: str) -> dict[str, str]:
    """Settings of a file with a MonitoringConfig. Raises InvalidFile."""
    config = _read(path, _MONITORING_CONFIG).get("prometheus_config", {})
    settings = {"tensorflow_metrics": "1"} if config.get("enable") else {}
    metrics_path = config.get("path", "")
    return settings | ({"metrics_path": metrics_path} if metrics_path and metrics_path not in _METRICS_PATHS else {})


def tls(path: str) -> dict[str, str]:
    """Settings of a file with an SSLConfig, which holds the texts of key and certificates. Raises InvalidFile."""
    message = _read(path, _SSL_CONFIG)
    for name in ("server_key", "server_cert"):
        if not message.get(name):
            raise InvalidFile(f"{path}: {name} is missing; expected its PEM text")
    settings = {"tls_key": _in_memory(message["server_key"]), "tls_cert": _in_memory(message["server_cert"])}
    if message.get("client_verify"):
        if not message.get("custom_ca"):
            raise InvalidFile(
                f"{path}: client_verify is set; expected custom_ca, the certificates of the issuers (PEM)"
            )
        settings["tls_client_ca"] = _in_memory(message["custom_ca"])
    return settings


def _read(path: str, message: Message) -> Read:
    try:
        return read(Path(path).read_bytes(), message)
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror}") from None
    except InvalidText as error:
        raise InvalidFile(f"{path}: Error parsing text-format {message.name}: {error}") from None


def _in_memory(text: str) -> str:
    """The path of a file that lies on no disk, and that worker processes inherit."""
    if not hasattr(os, "memfd_create"):
        raise InvalidFile("an SSLConfig is read on Linux only; SERVING_TLS_CERT and SERVING_TLS_KEY name files")
    descriptor = os.memfd_create("tls")
    os.write(descriptor, text.encode())
    return f"/proc/self/fd/{descriptor}"
