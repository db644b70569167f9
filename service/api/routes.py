"""The table of routes: dispatch, admission, Flask's rules, metrics, spans and the OpenAPI document all follow it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

import msgspec

from service.errors import InvalidRequest
from service.http import GRPC, Request, Response, decoded_path, error_response
from service.lifecycle.repository import MAX_VERSION, version_number
from service.settings import Settings

# Protocols that are v1 at other paths, and on by setting.
CLOUDS = ("sagemaker", "vertex_ai")
# Paths are cached up to this length: what strangers ask for must not fill the memory.
MAX_CACHED_PATH_BYTES = 256

# A name ends where a verb begins.
_PARAMETERS = {"model": "[^/:]+", "version": "[^/]+", "label": "[^/]+", "file": ".+"}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Access(Enum):
    """Who may use a route."""

    PAGE = auto()  # Everybody: it holds nothing but the program.
    HEALTH = auto()  # Everybody, unless there is a port for operations; then there.
    METRICS = auto()  # The same; and then nobody at the main port.
    MODELS = auto()  # Where there are API keys, who has one.
    FEEDBACK = auto()  # Where there are API keys, who has one of the scope feedback or admin.
    ADMIN = auto()  # Where there are API keys, who has one of the scope admin.


@dataclass(frozen=True, slots=True)
class Route:
    """`path`: as OpenAPI writes it. `protocol` and `verb`: as metrics and spans name them. A prediction is decoded, run
    and encoded by its protocol. `is_stream`: a call of gRPC with any number of messages, each with a response."""

    method: str
    path: str
    protocol: str
    verb: str
    access: Access = Access.MODELS
    is_prediction: bool = False
    is_stream: bool = False
    # Whether its response may have to wait until a model is loaded or free.
    waits_for_models: bool = field(init=False)
    # Whether tools request it every few seconds.
    is_operations: bool = field(init=False)
    # Whether its body is one of v1, and whether not its path but the rest of the request names the model.
    speaks_v1: bool = field(init=False)
    is_addressed: bool = field(init=False)

    def __post_init__(self) -> None:
        # Once: every request reads them.
        waits = self.protocol != "profiler" and (self.method in ("POST", GRPC) or "/models/" in self.path)
        object.__setattr__(self, "waits_for_models", waits)
        object.__setattr__(self, "is_operations", self.access in (Access.HEALTH, Access.METRICS))
        is_of_cloud = self.protocol in CLOUDS
        object.__setattr__(self, "speaks_v1", self.protocol == "v1" or is_of_cloud)
        object.__setattr__(self, "is_addressed", self.is_prediction and (self.method == GRPC or is_of_cloud))

    @property
    def is_view(self) -> bool:
        """Whether it is a view of Flask. Health waits for no thread, so dispatch itself responds. Feedback may come as
        often as predictions, so a method responds, as to gRPC."""
        is_apart = self.access in (Access.HEALTH, Access.FEEDBACK)
        return not self.is_prediction and not is_apart and self.method != GRPC

    @property
    def endpoint(self) -> str:
        """The name of its view."""
        return f"{self.protocol}.{self.verb}"


class Match(msgspec.Struct, frozen=True):
    """A route and what a path names for it. `model`: empty where that is no model."""

    route: Route
    parameters: dict[str, str]
    model: str = ""


# Makes the response to a call of gRPC that is no prediction, or to feedback. Raises ServingError.
Method = Callable[[Match, Request], Response]

_V1 = ("/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}")
_V2 = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
_PLAYGROUND = "/playground/models/{model}/versions/{version}"
VERBS = ("predict", "classify", "regress")
_REFLECTION = "ServerReflection/ServerReflectionInfo"
_NO_SHARED_MEMORY = "there is no shared memory; send tensors in the request"
# Methods of Triton, and of TensorFlow's profiler, that clients may try, and why there are none.
_UNIMPLEMENTED = {
    **{
        f"{kind}SharedMemory{verb}": _NO_SHARED_MEMORY
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "traces are set by OpenTelemetry's variables (SERVING_OTEL)",
    "LogSettings": "the log is set at the start (SERVING_LOG_LEVEL)",
    "Monitor": "metrics are at /metrics",
}


def _routes() -> Iterator[Route]:
    for place in _V1:
        for verb in VERBS:
            yield Route("POST", f"{place}:{verb}", "v1", verb, is_prediction=True)
    # What a label names may be another version by then.
    for place in _V1[:2]:
        yield Route("POST", f"{place}:feedback", "v1", "feedback", Access.FEEDBACK)
    for place in _V2:
        yield Route("POST", f"{place}/infer", "v2", "infer", is_prediction=True)
    for verb in VERBS:
        yield Route("POST", f"{_PLAYGROUND}/{verb}", "playground", verb, is_prediction=True)

    yield Route("GET", "/v1/models", "v1", "models")
    for place in _V1:
        yield Route("GET", place, "v1", "status")
        yield Route("GET", f"{place}/metadata", "v1", "metadata")

    yield Route("GET", "/v2", "v2", "server")
    # Before the models: one that is called so has its metadata where the statistics of all are.
    yield Route("GET", "/v2/models/stats", "v2", "all_stats")
    for place in _V2:
        yield Route("GET", place, "v2", "metadata")
        for verb in ("ready", "config", "stats"):
            yield Route("GET", f"{place}/{verb}", "v2", verb)
    yield Route("POST", "/v2/repository/index", "v2", "index")
    yield Route("POST", "/v2/repository/models/{model}/load", "v2", "load", Access.ADMIN)
    yield Route("POST", "/v2/repository/models/{model}/unload", "v2", "unload", Access.ADMIN)

    yield Route("GET", "/v2/health/live", "operations", "live", Access.HEALTH)
    yield Route("GET", "/v2/health/ready", "operations", "ready", Access.HEALTH)
    yield Route("GET", "/metrics", "operations", "metrics", Access.METRICS)
    yield Route("GET", "/monitoring/prometheus/metrics", "operations", "metrics", Access.METRICS)

    yield Route("GET", "/", "pages", "playground", Access.PAGE)
    yield Route("GET", "/docs", "pages", "docs", Access.PAGE)
    yield Route("GET", "/openapi.json", "pages", "openapi", Access.PAGE)
    yield Route("GET", "/static/{file}", "pages", "static", Access.PAGE)

    yield Route("GET", "/playground/models", "playground", "models")
    yield Route("GET", _PLAYGROUND, "playground", "version")
    yield Route("GET", f"{_PLAYGROUND}/files/{{file}}", "playground", "file")
    yield Route("POST", f"{_PLAYGROUND}/seen", "playground", "seen")
    yield Route("POST", f"{_PLAYGROUND}/occlusion", "playground", "occlusion")


def _grpc_routes() -> Iterator[Route]:
    def service(name: str, protocol: str) -> Callable[..., Route]:
        return lambda method, verb, *rest, **more: Route(GRPC, f"/{name}/{method}", protocol, verb, *rest, **more)

    prediction = service("tensorflow.serving.PredictionService", "grpc_v1")
    yield prediction("Predict", "predict", is_prediction=True)
    yield prediction("Classify", "classify", is_prediction=True)
    yield prediction("Regress", "regress", is_prediction=True)
    yield prediction("MultiInference", "multi_inference")
    yield prediction("GetModelMetadata", "metadata")
    models = service("tensorflow.serving.ModelService", "grpc_v1")
    yield models("GetModelStatus", "status")
    yield models("HandleReloadConfigRequest", "reload_config", Access.ADMIN)

    inference = service("inference.GRPCInferenceService", "grpc_v2")
    yield inference("ModelInfer", "infer", is_prediction=True)
    yield inference("ModelStreamInfer", "stream_infer", is_prediction=True, is_stream=True)
    yield inference("ServerLive", "live", Access.HEALTH)
    yield inference("ServerReady", "ready", Access.HEALTH)
    yield inference("ModelReady", "model_ready")
    yield inference("ServerMetadata", "server")
    yield inference("ModelMetadata", "metadata")
    yield inference("ModelConfig", "config")
    yield inference("ModelStatistics", "stats")
    yield inference("RepositoryIndex", "index")
    yield inference("RepositoryModelLoad", "load", Access.ADMIN)
    yield inference("RepositoryModelUnload", "unload", Access.ADMIN)

    profiler = service("tensorflow.ProfilerService", "profiler")
    yield profiler("Profile", "profile", Access.ADMIN)
    yield profiler("Terminate", "terminate", Access.ADMIN)

    health = service("grpc.health.v1.Health", "grpc")
    yield health("Check", "check", Access.HEALTH)
    yield health("Watch", "watch", Access.HEALTH)
    for version in ("v1", "v1alpha"):
        yield Route(GRPC, f"/grpc.reflection.{version}.{_REFLECTION}", "grpc", "reflection", is_stream=True)


def _sagemaker_routes(*, has_models: bool) -> Iterator[Route]:
    """`has_models`: whether the platform loads models by request. Then the container is healthy without one."""
    yield Route("GET", "/ping", "operations", "live" if has_models else "ready", Access.HEALTH)
    yield Route("POST", "/invocations", "sagemaker", "predict", is_prediction=True)
    if has_models:
        yield Route("GET", "/models", "sagemaker", "models")
        yield Route("POST", "/models", "sagemaker", "load", Access.ADMIN)
        yield Route("GET", "/models/{model}", "sagemaker", "model")
        yield Route("DELETE", "/models/{model}", "sagemaker", "unload", Access.ADMIN)
        yield Route("POST", "/models/{model}/invoke", "sagemaker", "predict", is_prediction=True)


def _pattern(path: str) -> "re.Pattern[str]":
    parts = _PLACEHOLDER.split(path)
    for place in range(len(parts)):
        parts[place] = f"(?P<{parts[place]}>{_PARAMETERS[parts[place]]})" if place % 2 else re.escape(parts[place])
    return re.compile("".join(parts), re.DOTALL)


ROUTES = tuple(_routes())
# Of gRPC, by their paths.
GRPC_ROUTES = {route.path: route for route in _grpc_routes()}


class Table:
    """Routes, those of gRPC, and how to find the one of a request."""

    def __init__(self, routes: Sequence[Route] = ROUTES) -> None:
        """`routes`: the first that fits counts."""
        self.routes = tuple(routes)
        self._patterns = [(route, _pattern(route.path)) for route in routes]
        self._cached = lru_cache(1024)(self._find)

    def find(self, method: str, target: bytes) -> Match | None:
        """The route of a request; None where there is none."""
        # A HEAD gets the response of a GET; the connection leaves the body out.
        method = "GET" if method == "HEAD" else method
        path = target.partition(b"?")[0]
        return (self._cached if len(path) <= MAX_CACHED_PATH_BYTES else self._find)(method, path)

    def _find(self, method: str, escaped: bytes) -> Match | None:
        path = decoded_path(escaped).decode(errors="replace")
        if method == GRPC:
            called = GRPC_ROUTES.get(path)
            return None if called is None else Match(called, {})
        for route, pattern in self._patterns:
            if route.method == method and (match := pattern.fullmatch(path)):
                parameters = match.groupdict()
                return Match(route, parameters, parameters.get("model", ""))
        return None

    def no_route(self, request: Request) -> Response:
        """The response where `find` finds nothing: 404, 405, or what OPTIONS asks for. In v1 TensorFlow Serving's
        words."""
        method, path = request.method, decoded_path(request.target).decode(errors="replace")
        if method == GRPC:
            reason = _UNIMPLEMENTED.get(path.rpartition("/")[2], "docs/grpc.md lists the methods")
            return error_response(501, f"{path} is not implemented: {reason}")
        allowed = self._allowed(path)
        if allowed and method == "OPTIONS":
            return Response(200, b"", "text/plain", (("allow", ", ".join(allowed)),))
        if path.startswith("//"):
            return error_response(400, "Malformed request: the path begins with more than one slash")
        is_v1 = path.startswith("/v1/")
        if path in GRPC_ROUTES:
            # Of gRPC-Web, of other codecs, and over HTTP/1.1.
            message = f"{path} is a method of gRPC: it takes HTTP/2 and the content type application/grpc"
            return error_response(415, message)
        if allowed:
            message = f"{path} does not take {method}; it takes {', '.join(allowed)}"
            if is_v1:
                # Clients of TensorFlow Serving may look for these words, which it sends with 400.
                message = f"Malformed request: {method} {path}: {message}"
            return error_response(405, message, ("allow", ", ".join(allowed)))
        if is_v1:
            return error_response(400, f"Malformed request: {method} {path}")
        return error_response(404, f"no such route: {method} {path}")

    def _allowed(self, path: str) -> tuple[str, ...]:
        """The methods of a path; for `*` those of the server as a whole."""
        methods = {route.method for route, pattern in self._patterns if path == "*" or pattern.fullmatch(path)}
        if "GET" in methods:
            methods.add("HEAD")
        return tuple(sorted(methods | {"OPTIONS"})) if methods else ()


# Without those that are on by setting.
TABLE = Table()


def table_of(settings: Settings) -> Table:
    """With the routes that settings turn on."""
    more: list[Route] = []
    if settings.sagemaker != "off":
        more += _sagemaker_routes(has_models=settings.sagemaker == "multi_model")
    if settings.predict_path:
        more.append(Route("POST", settings.predict_path, "vertex_ai", "predict", is_prediction=True))
    # Before all others: whoever names a path for health wants to know whether models are ready.
    health = [Route("GET", path, "operations", "ready", Access.HEALTH) for path in [settings.health_path] if path]
    return Table((*health, *ROUTES, *more)) if health or more else TABLE


def parse_version(text: str | None) -> int | None:
    """The version that a path names; None where it names none. Raises InvalidRequest, in TensorFlow Serving's words."""
    if text is None:
        return None
    number = version_number(text)
    if number is None:
        raise InvalidRequest(
            f"Malformed request: Failed to convert version: {text[:40]} to numeric; expected a whole number of at most "
            f"{MAX_VERSION}"
        )
    return number
