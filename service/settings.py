"""Every setting of the service: an environment variable with the prefix SERVING_, and a flag of the same name."""

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

from service.engines import EngineChoice
from service.engines.tensorflow import op_libraries
from service.security import cors, rate_limit

# Variables that look like settings and are none: a typing error would else leave a default in force, unnoticed.

PREFIX = "SERVING_"

# What Kubernetes sets in every container of a namespace for each Service called `serving`, or `serving-...`.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES = re.compile(
    r"SERVING_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_KUBERNETES = re.compile(r"(?:tcp|udp|sctp)://")


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable with our prefix that is none of `known`, with the nearest of these."""
    names = list(known)
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(PREFIX) or name in names or _is_of_kubernetes(name, text):
            continue
        # Without the prefix, which makes all of them alike.
        nearest = get_close_matches(name.upper()[len(PREFIX) :], [each.removeprefix(PREFIX) for each in names], n=1)
        meant = f"is {PREFIX}{nearest[0]} meant?" if nearest else "docs/settings.md lists them"
        yield f"the variable {name!a} is passed over, for no setting is called so; {meant}"


def _is_of_kubernetes(name: str, text: str) -> bool:
    return bool(_OF_KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and _ADDRESS_OF_KUBERNETES.match(text)))


LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


# What Kubernetes sets for a Service: SERVING_PORT for one of the name `serving` (enableServiceLinks).
_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")

_SWITCH = {"1": True, "true": True, "0": False, "false": False}

logger = logging.getLogger(__name__)


class InvalidSetting(ValueError):
    """A setting that the service cannot start with; the message names it, its value and what was expected."""


def setting(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    most: float | None = None,
    aliases: tuple[str, ...] = (),
    check: Callable[[str], object] | None = None,
) -> Any:
    """`aliases` are environment variables that count where the setting's own one is not set. `check` raises ValueError,
    with the value and what was expected."""
    return field(
        default=default, metadata={"help": text, "least": least, "most": most, "aliases": aliases, "check": check}
    )


@dataclass(frozen=True, slots=True)
class Settings:
    models: Path = setting(
        Path("models"),
        "folder with the models: <models>/<model>/<version>/saved_model.pb",
        aliases=("MODEL_BASE_PATH",),
    )
    model_name: str = setting("", "serve only this model of the folder (empty: all)", aliases=("MODEL_NAME",))
    models_config: str = setting(
        "", "file with policies per model: versions, labels, batching (empty: models.toml in the models folder, if any)"
    )
    admin: bool = setting(False, "let clients load and unload models: 1 or 0")
    api_keys_file: str = setting("", "file with the API keys, one of which every client then needs (empty: none does)")
    rate_limit: str = setting(
        "",
        "most requests of a key, as 100/second; without keys, of all clients together (empty: no limit)",
        check=rate_limit.parse,
    )
    cors_origins: str = setting(
        "",
        "origins whose pages may read answers (CORS), separated by commas; *: any (empty: none)",
        check=cors.parse,
    )
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8501, "port to listen on", least=1, most=65535)
    operations_port: int = setting(
        0, "port of their own for health and metrics, without a key; 0: on the main port", least=0, most=65535
    )
    engine: EngineChoice = setting(
        "auto", "what runs the models; auto: the LiteRT twin where a proved one is there, else TensorFlow"
    )
    op_libraries: str = setting(
        "",
        "libraries with operations that graphs have and TensorFlow has not: files, separated by : or , (empty: none)",
        check=op_libraries.parse,
    )
    workers: int = setting(0, "worker processes; 0: one for each core that the service may use", least=0, most=512)
    threads: int = setting(
        32, "threads of a worker process, for what takes longer than a millisecond", least=1, most=1024
    )
    max_batch_size: int = setting(32, "most rows that are run together, of several requests or of one", least=1)
    batch_timeout_micros: int = setting(0, "how long an idle model waits for a fuller batch, in microseconds", least=0)
    max_queue_size: int = setting(
        1000, "most requests of a worker process that wait for a thread; more get 429", least=1
    )
    max_queue_ms: int = setting(
        100,
        "longest time in milliseconds that a request waits for a thread or the event loop; then it gets 429",
        least=1,
    )
    unhealthy_after: int = setting(
        3,
        "after how many deadlines in a row that pass while a version runs it gets no more requests (0: it always does)",
        least=0,
    )
    max_connections: int = setting(10_000, "most open connections of a worker process; more get 503", least=1)
    keep_alive_seconds: int = setting(
        75,
        "how long a connection is kept for its next request, in seconds; longer than the balancer before it keeps it",
        least=1,
        most=86_400,
    )
    request_timeout_ms: int = setting(
        30_000,
        "how long a request may take from its last byte to its answer, in milliseconds; then it gets 504 (0: no limit)",
        least=0,
    )
    max_body_bytes: int = setting(32 * 1024 * 1024, "longest request body, in bytes", least=1)
    max_buffered_bytes: int = setting(
        256 * 1024 * 1024,
        "most bytes that a worker process keeps of bodies and unread answers at a time; more bodies get 503",
        least=1,
    )
    max_image_pixels: int = setting(50_000_000, "largest picture, in pixels (width x height)", least=1)
    poll_seconds: float = setting(
        1.0, "how often the models folder is looked through for new and vanished versions", least=0.01, most=3600
    )
    drift_window: int = setting(
        1000, "rows of each version that are compared with its training data; 0: none", least=0, most=100_000
    )
    shutdown_seconds: int = setting(30, "how long requests in flight may take to finish after SIGTERM", least=0)
    log_format: LogFormat = setting("text", "form of the log lines")
    log_level: LogLevel = setting("info", "least level that is logged")
    log_sample: float = setting(
        1.0, "of how many requests a line is logged, as a share; of those that failed (5xx) always", least=0, most=1
    )
    capture_file: str = setting(
        "", "file to which a share of the requests is written, with their answers (empty: none)"
    )
    capture_share: float = setting(0.01, "of how many requests, as a share", least=0, most=1)
    capture_max_bytes: int = setting(
        100 * 1024 * 1024, "longest that the file may get, in bytes, with the older one beside it", least=1024
    )
    otel: bool = setting(
        False, "send OpenTelemetry spans of requests to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names: 1 or 0"
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, variable(spec), value := getattr(self, spec.name), str(value))
        if self.operations_port == self.port:
            raise InvalidSetting(f"SERVING_OPERATIONS_PORT='{self.port}': expected another port than SERVING_PORT")


def variable(spec: "Field[Any]") -> str:
    return f"SERVING_{spec.name.upper()}"


def from_environment(environ: Mapping[str, str] = os.environ, flags: Mapping[str, str] | None = None) -> Settings:
    """Settings from flags (by field name), else environment variables, else defaults. A variable with the address of a
    Service, as Kubernetes sets it, counts as unset; a warning says so.

    Raises:
        InvalidSetting: a value is not of the setting's kind or range.
    """
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        sources = [(f"--{spec.name.replace('_', '-')}", (flags or {}).get(spec.name))]
        sources += [(name, environ.get(name)) for name in (variable(spec), *spec.metadata["aliases"])]
        for source, text in sources:
            # An empty variable counts as unset: compose files write `SERVING_X: ${X:-}`.
            if text and not (source in environ and _is_service_link(source, text)):
                values[spec.name] = _parse(spec, source, text)
                break
    return Settings(**values)


def _is_service_link(name: str, text: str) -> bool:
    if not _SERVICE_LINK.fullmatch(text):
        return False
    logger.warning(
        "%s=%r is passed over: it is the address of a Service, which Kubernetes sets where one has a name that begins "
        "like this variable; `enableServiceLinks: false` in the pod's spec keeps it from doing so",
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


def _check(spec: "Field[Any]", source: str, value: Any, given: str) -> None:
    if value and (check := spec.metadata["check"]):
        try:
            check(value)
        except ValueError as error:
            raise InvalidSetting(f"{source}={error}") from None
    choices = get_args(spec.type)
    least, most = spec.metadata["least"], spec.metadata["most"]
    if choices and value not in choices:
        expected = "one of " + ", ".join(choices)
    elif isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif least is not None and value < least:
        expected = f"at least {least}"
    elif most is not None and value > most:
        expected = f"at most {most}"
    else:
        return
    raise InvalidSetting(f"{source}={given!r}: expected {expected}")
