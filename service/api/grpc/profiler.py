"""TensorFlow's profiler, as far as it is known here: what requests took, not what operations of a graph did."""

from service.api.grpc import messages
from service.api.routes import Match, Method
from service.errors import InvalidRequest, Unimplemented
from service.http import Request, Response
from service.lifecycle.registry import Registry
from service.observability.profiler import Profiler

MAX_SECONDS = 3600
# Of a file that the client writes beside the address it called.
_FILE = "xplane.pb"


def methods(registry: Registry, profiler: Profiler | None) -> dict[str, Method]:
    """`profiler`: None where it is off."""

    def on() -> Profiler:
        if profiler is None:
            raise Unimplemented("the profiler is off; SERVING_GRPC_PROFILER=1 turns it on")
        return profiler

    def profile(_match: Match, request: Request) -> Response:
        values = messages.decode_request("tensorflow.ProfileRequest", request)
        duration_ms = values.get("opts", {}).get("duration_ms") or values.get("duration_ms", 0)
        if not 0 < duration_ms <= MAX_SECONDS * 1000:
            raise InvalidRequest(f"duration_ms is {duration_ms}; expected 1 to {MAX_SECONDS * 1000}")
        deadline = request.context.deadline

        def is_over() -> bool:
            return registry.draining or (deadline is not None and deadline.is_cancelled)

        space = on().take(duration_ms / 1000, values.get("session_id", ""), is_over)
        if values.get("emit_xspace"):
            return messages.encode_response("tensorflow.ProfileResponse", {"xspace": space})
        # TensorFlow writes the file itself, where the client says. Here the client does: it must not choose a path.
        file = {"name": _FILE, "data": messages.encode("tensorflow.profiler.XSpace", space)}
        return messages.encode_response("tensorflow.ProfileResponse", {"tool_data": [file]})

    def terminate(_match: Match, request: Request) -> Response:
        values = messages.decode_request("tensorflow.TerminateRequest", request)
        on().terminate(values.get("session_id", ""))
        return messages.encode_response("tensorflow.TerminateResponse", {})

    return {"profiler.profile": profile, "profiler.terminate": terminate}
