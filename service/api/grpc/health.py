"""gRPC's health checking, and its reflection: clients such as grpcurl learn services and messages by it."""

from collections.abc import Mapping
from typing import Any

from service.api.grpc import messages
from service.api.grpc.messages import descriptors
from service.api.routes import Match, Method
from service.errors import NotFound, Unimplemented
from service.http import Request, Response
from service.lifecycle.registry import Registry

# Those of TensorFlow Serving's health service.
_TENSORFLOW_SERVING = ("PredictionService", "ModelService")
_NOT_FOUND = 5


def methods(registry: Registry, has_reflection: bool) -> dict[str, Method]:
    def status(service: str) -> str:
        if service and service not in _TENSORFLOW_SERVING and service not in descriptors().services:
            return "SERVICE_UNKNOWN"
        return "SERVING" if registry.ready else "NOT_SERVING"

    def check(_match: Match, request: Request) -> Response:
        service = _service(request)
        found = status(service)
        if found == "SERVICE_UNKNOWN":
            raise NotFound(f"unknown service {service!r}")
        return messages.encode_response("grpc.health.v1.HealthCheckResponse", {"status": found})

    def watch(_match: Match, request: Request) -> Response:
        return messages.encode_response("grpc.health.v1.HealthCheckResponse", {"status": status(_service(request))})

    def reflection(_match: Match, request: Request) -> Response:
        if not has_reflection:
            raise Unimplemented("reflection is off; SERVING_GRPC_REFLECTION=1 turns it on")
        asked = messages.decode_request("grpc.reflection.v1.ServerReflectionRequest", request)
        answer = {"valid_host": asked.get("host", ""), "original_request": asked} | _reflected(asked)
        return messages.encode_response("grpc.reflection.v1.ServerReflectionResponse", answer)

    return {"grpc.check": check, "grpc.watch": watch, "grpc.reflection": reflection}


def _service(request: Request) -> str:
    service: str = messages.decode_request("grpc.health.v1.HealthCheckRequest", request).get("service", "")
    return service


def _reflected(asked: Mapping[str, Any]) -> dict[str, Any]:
    known = descriptors()
    if "list_services" in asked:
        return {"list_services_response": {"service": [{"name": service} for service in known.services]}}
    if "file_by_filename" in asked:
        name = asked["file_by_filename"]
    elif "file_containing_symbol" in asked:
        name = known.file_of.get(asked["file_containing_symbol"], asked["file_containing_symbol"])
    else:
        return _error("there are no extensions; expected list_services, file_by_filename or file_containing_symbol")
    if name not in known.files:
        return _error(f"not found: {name!r}")
    return {"file_descriptor_response": {"file_descriptor_proto": [known.files[each] for each in known.needed(name)]}}


def _error(message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": _NOT_FOUND, "error_message": message}}
