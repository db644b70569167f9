"""Every setting of the service: an environment variable with the prefix SERVING_, and a flag of the same name.

Imports nothing of the service, so that every module can import the settings.
"""

import glob
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

PREFIX = "SERVING_"

# "auto": the LiteRT twin if a proved one is there, else TensorFlow.
EngineChoice = Literal["auto", "tensorflow", "litert"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
SageMaker = Literal["off", "on", "multi_model"]

ANY_ORIGIN = "*"
MIN_POLL_SECONDS = 0.01
# A rate limit keeps eight bytes for each request that it lets in.
MAX_RATE_REQUESTS = 1_000_000

_SWITCH = {"1": True, "true": True, "0": False, "false": False}
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|null", re.ASCII)
_PATH = re.compile(r"(?:/[\w.~:-]+)+", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_RATE = re.compile(
    r"\s*([0-9]{1,9})\s*(?:/|per)\s*([0-9]{1,9})?\s*(second|minute|hour|day|month|year)s?\s*", re.IGNORECASE
)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 30 * 86_400, "year": 360 * 86_400}
# Kubernetes sets these in every container of a namespace for each Service called `serving` or `serving-...`.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES = re.compile(
    r"SERVING_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
# The value of SERVING_PORT among them.
_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")

logger = logging.getLogger(__name__)


class InvalidSetting(ValueError):
    """The service cannot start with this setting; the message names it, its value and what was expected."""


def parse_files(text: str) -> tuple[Path, ...]:
    """Absolute paths of files, separated by `:` or `,`; a `*` in a name is a wildcard.

    Raises:
        ValueError: one of them does not exist.
    """
    paths: list[Path] = []
    for name in filter(None, (part.strip() for part in re.split("[:,]", text))):
        found = sorted(glob.glob(name)) or [name]  # noqa: PTH207  # a Path knows no absolute patterns
        if missing := [path for path in found if not Path(path).is_file()]:
            raise ValueError(f"{text!r}: there is no file {missing[0]}")
        paths += [Path(path).absolute() for path in found]
    return tuple(dict.fromkeys(paths))


def parse_origins(text: str) -> frozenset[str]:
    """Origins as browsers write them, separated by commas or blanks; `*` is any.

    Raises:
        ValueError: names the origin and what was expected.
    """
    return frozenset(_parse_origin(part) for part in re.split(r"[\s,]+", text) if part)


def _parse_origin(text: str) -> str:
    origin = text.lower()
    if origin == ANY_ORIGIN:
        return origin
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{text!r}: expected origins as https://app.example or http://localhost:3000, or *")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], ""))


def check_poll_seconds(seconds: float) -> None:
    """Raises ValueError."""
    if seconds and not seconds >= MIN_POLL_SECONDS and math.isfinite(seconds):
        raise ValueError(f"'{seconds:g}': expected at least {MIN_POLL_SECONDS}")


def parse_path(text: str) -> str:
    """The path of a URL. Raises ValueError."""
    if not _PATH.fullmatch(text):
        raise ValueError(f"{text!r}: expected a path as /monitoring/metrics")
    return text


class Rate(NamedTuple):
    requests: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.requests} requests in {self.seconds} s"


def parse_rate(text: str) -> Rate:
    """ "100/second", "5000 per hour", "10 per 2 minutes". Raises ValueError."""
    if found := _RATE.fullmatch(text):
        requests, multiple, unit = found.groups()
        rate = Rate(int(requests), int(multiple or 1) * _SECONDS[unit.lower()])
        if 1 <= rate.requests <= MAX_RATE_REQUESTS and rate.seconds:
            return rate
    raise ValueError(f"{text!r}: expected a rate as 100/second or 5000/hour, of at most {MAX_RATE_REQUESTS} requests")


def setting(
    default: Any,
    text: str,
    *,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    aliases: tuple[str, ...] = (),
    check: Callable[[Any], object] | None = None,
) -> Any:
    """`aliases`: environment variables to read if the setting's own is not set. `check` raises ValueError, whose
    message begins with the value."""
    return field(default=default, metadata={"help": text, "min": min, "max": max, "aliases": aliases, "check": check})


@dataclass(frozen=True, slots=True)
class Settings:
    models: str = setting(
        "models",
        "folder with the models: <models>/<model>/<version>/saved_model.pb; or an object store, as s3://bucket/prefix, "
        "gs://, az://, hf://organisation/model, https://host/model.tar.gz",
        aliases=("MODEL_BASE_PATH",),
    )
    model_name: str = setting("", "serve only this model of the folder (empty: all)", aliases=("MODEL_NAME",))
    base_path: str = setting(
        "",
        "folder or object store with the versions of one model, of which the latest is served, in place of a models "
        "folder; the model is called SERVING_MODEL_NAME, else like the folder (empty: none)",
    )
    store_folder: str = setting(
        "",
        "folder that the models of an object store are fetched into (empty: one in the user's cache, which is kept)",
    )
    store_max_bytes: int = setting(
        50 * 1024**3, "maximum size of that folder, and of an archive unpacked, in bytes; 0: what the disk has", min=0
    )
    model_config_file: str = setting(
        "", "ModelServerConfig of TensorFlow Serving, in place of a models folder and models.toml (empty: none)"
    )
    model_config_file_poll_wait_seconds: int = setting(
        0, "how often that file is read again, in seconds; 0: it is read once", min=0, max=86_400
    )
    allow_version_labels_for_unavailable_models: bool = setting(
        False, "let new labels of that file name versions that are not loaded yet: 1 or 0"
    )
    models_config: str = setting(
        "", "file with policies per model: versions, labels, batching (empty: models.toml in the models folder, if any)"
    )
    admin: bool = setting(False, "let clients load and unload models: 1 or 0")
    api_keys_file: str = setting("", "file with API keys; every client then needs one (empty: no keys)")
    rate_limit: str = setting(
        "",
        "maximum rate of requests of each key, as 100/second; without keys, of all clients together (empty: no limit)",
        check=parse_rate,
    )
    cors_origins: str = setting(
        "",
        "origins whose pages may read responses (CORS), separated by commas; *: any (empty: none)",
        check=parse_origins,
    )
    sagemaker: SageMaker = setting(
        "off", "respond to Amazon SageMaker, as `serve` sets it; multi_model: which also loads and unloads models"
    )
    predict_path: str = setting(
        "",
        "another path for predictions, by the default model, as Vertex AI names it (empty: none)",
        aliases=("AIP_PREDICT_ROUTE",),
        check=parse_path,
    )
    health_path: str = setting(
        "",
        "another path for readiness, as Vertex AI names it (empty: none)",
        aliases=("AIP_HEALTH_ROUTE",),
        check=parse_path,
    )
    default_model: str = setting(
        "",
        "the model of SageMaker's and Vertex AI's requests that name none (empty: the first by name)",
        aliases=("SAGEMAKER_TFS_DEFAULT_MODEL_NAME",),
    )
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8501, "port to listen on", min=1, max=65535)
    metrics_path: str = setting(
        "",
        "another path for the page of metrics, beside /metrics and /monitoring/prometheus/metrics (empty: none)",
        check=parse_path,
    )
    tensorflow_metrics: bool = setting(
        False, "show metrics under TensorFlow Serving's names as well, for its dashboards: 1 or 0"
    )
    operations_port: int = setting(
        0, "port of their own for health and metrics, without a key; 0: on the main port", min=0, max=65535
    )
    grpc_port: int = setting(
        0, "port of their own for gRPC requests, which the main port takes as well; 0: none", min=0, max=65535
    )
    unix_socket: str = setting("", "path of a Unix socket to listen on as well, for HTTP and gRPC (empty: none)")
    tls_cert: str = setting(
        "", "file with the certificate (PEM), and those of its issuers; with it every port takes TLS"
    )
    tls_key: str = setting("", "file with the certificate's private key (PEM)")
    tls_client_ca: str = setting(
        "", "file with certificates (PEM); clients then need a certificate that one of them has issued (empty: none)"
    )
    grpc_max_connection_age_seconds: int = setting(
        600,
        "after how long a gRPC client is asked to connect anew, which spreads clients over the workers; 0: never",
        min=0,
        max=86_400,
    )
    grpc_reflection: bool = setting(False, "let gRPC clients ask for the services and their messages: 1 or 0")
    grpc_profiler: bool = setting(False, "let gRPC clients take profiles, as TensorFlow's profiler does: 1 or 0")
    grpc_tensor_content: bool = setting(
        False, "write tensors of Predict's responses as tensor_content, not as typed values: 1 or 0"
    )
    engine: EngineChoice = setting(
        "auto", "what runs the models; auto: the LiteRT twin if a proved one is there, else TensorFlow"
    )
    op_libraries: str = setting(
        "",
        "libraries with operations that TensorFlow does not have: files, separated by : or , (empty: none)",
        check=parse_files,
    )
    saved_model_tags: str = setting("serve", "tags of the graph in a SavedModel to load, separated by commas")
    prefer_tflite: bool = setting(
        False, "run a version's model.tflite, as TensorFlow Serving does, where it brings one outside of assets.extra"
    )
    tensorflow_intra_op_parallelism: int = setting(
        0, "threads of TensorFlow within an operation; 0: one for each core that the service may use", min=0, max=127
    )
    tensorflow_inter_op_parallelism: int = setting(
        0, "threads of TensorFlow across operations; 0: one for each core that the service may use", min=0, max=127
    )
    workers: int = setting(0, "worker processes; 0: one for each core that the service may use", min=0, max=512)
    threads: int = setting(
        32, "threads of a worker process, for requests that take longer than a millisecond", min=1, max=1024
    )
    max_batch_size: int = setting(32, "maximum rows of a batch", min=1)
    independent_rows: bool = setting(
        False, "take the rows of every model for independent, so that they may be batched, without a proof: 1 or 0"
    )
    batch_timeout_micros: int = setting(0, "how long an idle model waits for a fuller batch, in microseconds", min=0)
    max_queue_size: int = setting(
        1000, "maximum requests of a worker process that wait for a thread; more get 429", min=1
    )
    max_queue_ms: int = setting(
        100,
        "maximum time in milliseconds that a request waits for a thread or the event loop; then it gets 429",
        min=1,
    )
    unhealthy_after: int = setting(
        3,
        "number of runs of a version in a row that pass their deadline before it gets no more requests (0: no limit)",
        min=0,
    )
    max_connections: int = setting(10_000, "maximum open connections of a worker process; more get 503", min=1)
    keep_alive_seconds: int = setting(
        75,
        "how long an idle connection is kept, in seconds; set it higher than in the load balancer",
        min=1,
        max=86_400,
    )
    request_timeout_ms: int = setting(
        30_000,
        "maximum time from a request's last byte to its response, in milliseconds; then it gets 504 (0: no limit)",
        min=0,
    )
    max_body_bytes: int = setting(32 * 1024 * 1024, "maximum size of a request body, in bytes", min=1)
    max_buffered_bytes: int = setting(
        256 * 1024 * 1024,
        "maximum bytes of request bodies and unread responses in a worker process; more requests get 503",
        min=1,
    )
    max_image_pixels: int = setting(50_000_000, "maximum size of a picture, in pixels (width x height)", min=1)
    max_decoding_bytes: int = setting(
        256 * 1024 * 1024,
        "maximum bytes that pictures hold while a worker process decodes them; more pictures wait",
        min=1,
    )
    poll_seconds: float = setting(
        1.0,
        "how often the disk is polled for new and removed versions, in seconds; 0: once, at the start",
        max=86_400,
        check=check_poll_seconds,
    )
    load_retries: int = setting(
        -1, "how often a version that cannot be loaded is tried again; -1: for as long as it takes", min=-1
    )
    load_retry_interval_micros: int = setting(
        0, "pause between two tries, in microseconds; 0: 1, 2, 4 ... 300 seconds", min=0
    )
    loaders: int = setting(0, "threads of a worker process that load versions; 0: 1 to 4, by cores", min=0, max=64)
    warm_up: bool = setting(True, "run a version's recorded requests and example before it serves: 1 or 0")
    drift_window: int = setting(
        1000, "last rows of each version that are compared with its training data; 0: none", min=0, max=100_000
    )
    drift_snapshots: str = setting(
        "", "folder into which a JSON file of each version's window is written every day (empty: none)"
    )
    feedback_requests: int = setting(
        100_000,
        "last rows of requests to versions with labels that feedback can be given for; 0: none is taken",
        min=0,
        max=10_000_000,
    )
    shutdown_seconds: int = setting(30, "how long requests in flight may take after SIGTERM, in seconds", min=0)
    log_format: LogFormat = setting("text", "format of log lines")
    log_level: LogLevel = setting("info", "minimum level of log lines")
    log_sample: float = setting(1.0, "share of requests that get a log line; failed ones (5xx) always do", min=0, max=1)
    capture_file: str = setting("", "file to which a share of requests and their responses is written (empty: none)")
    capture_share: float = setting(0.01, "share of requests to capture", min=0, max=1)
    capture_max_bytes: int = setting(
        100 * 1024 * 1024, "maximum size of the capture file with its predecessor, in bytes", min=1024
    )
    otel: bool = setting(
        False, "send OpenTelemetry spans of requests to the collector at OTEL_EXPORTER_OTLP_ENDPOINT: 1 or 0"
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, variable(spec), value := getattr(self, spec.name), str(value))
        if self.base_path and self.model_config_file:
            raise InvalidSetting(
                f"SERVING_BASE_PATH={self.base_path!r}: expected it or SERVING_MODEL_CONFIG_FILE, not both"
            )
        for name, port in (("GRPC", self.grpc_port), ("OPERATIONS", self.operations_port)):
            if port == self.port:
                raise InvalidSetting(f"SERVING_{name}_PORT='{port}': expected another port than SERVING_PORT")
        if self.grpc_port and self.grpc_port == self.operations_port:
            message = "expected another port than SERVING_GRPC_PORT"
            raise InvalidSetting(f"SERVING_OPERATIONS_PORT='{self.operations_port}': {message}")


def variable(spec: "Field[Any]") -> str:
    return f"{PREFIX}{spec.name.upper()}"


def from_environment(
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from flags (by field name), else environment variables, else defaults. A variable that holds the address
    of a Kubernetes Service counts as unset, with a warning. `names`: by field name, of flags that are called otherwise.

    Raises:
        InvalidSetting: a value has the wrong type or is out of range.
    """
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        name = (names or {}).get(spec.name, f"--{spec.name.replace('_', '-')}")
        sources = [(name, (flags or {}).get(spec.name))]
        sources += [(name, environ.get(name)) for name in (variable(spec), *spec.metadata["aliases"])]
        for source, text in sources:
            # An empty variable counts as unset: compose files write `SERVING_X: ${X:-}`.
            if text and not (source in environ and _is_service_link(source, text)):
                values[spec.name] = _parse(spec, source, text)
                break
    return Settings(**values)


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable with our prefix that is not in `known`: a misspelt setting would go unnoticed."""
    names = list(known)
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(PREFIX) or name in names or _is_of_kubernetes(name, text):
            continue
        # Compare without the prefix, which would make all of them similar.
        nearest = get_close_matches(name.upper()[len(PREFIX) :], [each.removeprefix(PREFIX) for each in names], n=1)
        hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "docs/settings.md lists them"
        yield f"the variable {name!a} is ignored, since there is no such setting; {hint}"


def _is_of_kubernetes(name: str, text: str) -> bool:
    return bool(_OF_KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_LINK.fullmatch(text)))


def _is_service_link(name: str, text: str) -> bool:
    if not _SERVICE_LINK.fullmatch(text):
        return False
    logger.warning(
        "%s=%r is ignored: it is the address of a Service, which Kubernetes sets if the Service's name begins like "
        "this variable; `enableServiceLinks: false` in the pod's spec turns that off",
        *(name, text),
    )
    return True


def _parse(spec: "Field[Any]", source: str, text: str) -> Any:
    kind: type[Any] = type(cast(object, spec.default))
    try:
        value = _SWITCH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        noun = {int: "a whole number", float: "a number", bool: "1 or 0"}[kind]
        raise InvalidSetting(f"{source}={text!r}: expected {noun}") from None
    _check(spec, source, value, text)
    return value


def _check(spec: "Field[Any]", source: str, value: Any, text: str) -> None:
    if value and (check := spec.metadata["check"]):
        try:
            check(value)
        except ValueError as error:
            raise InvalidSetting(f"{source}={error}") from None
    choices = get_args(spec.type)
    minimum, maximum = spec.metadata["min"], spec.metadata["max"]
    if choices and value not in choices:
        expected = "one of " + ", ".join(choices)
    elif isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif minimum is not None and value < minimum:
        expected = f"at least {minimum}"
    elif maximum is not None and value > maximum:
        expected = f"at most {maximum}"
    else:
        return
    raise InvalidSetting(f"{source}={text!r}: expected {expected}")
