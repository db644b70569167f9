import gzip
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from service.api.routes import GRPC_ROUTES
from service.server.grpc import MAX_OPEN_BYTES
from tests.unit.service.api.grpc import schema
from tests.unit.service.api.grpc.calls import call, error, respond
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService

CHECK, WATCH = "grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"
REFLECTION = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
NOT_FOUND, UNIMPLEMENTED = 5, 12
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def status(service: FakeService, method: str, name: str) -> int:
    made = schema.message("grpc.health.v1.HealthCheckRequest")(service=name)
    found: int = call(service, method, made, "grpc.health.v1.HealthCheckResponse").status
    return found


@pytest.mark.parametrize("name", ["", "tensorflow.serving.PredictionService", "PredictionService"])
def test_service_is_serving_until_it_drains(service: FakeService, name: str) -> None:
    assert status(service, CHECK, name) == SERVING
    service.registry.draining = True
    assert status(service, CHECK, name) == status(service, WATCH, name) == NOT_SERVING


def test_unknown_service_is_not_found(service: FakeService) -> None:
    made = schema.message("grpc.health.v1.HealthCheckRequest")(service="no")
    assert error(service, CHECK, made)[0] == NOT_FOUND
    assert status(service, WATCH, "no") == SERVICE_UNKNOWN


@pytest.mark.parametrize(
    ("message", "status", "words"), [(b"\n\x02no", 404, b"unknown service 'no'"), (bytes(MAX_OPEN_BYTES + 1), 413, b"")]
)
def test_compressed_request_is_unpacked(service: FakeService, message: bytes, status: int, words: bytes) -> None:
    response = respond(service, CHECK, gzip.compress(message), {b"content-encoding": b"gzip"})
    assert response.status == status
    assert words in response.body


def reflected(service: FakeService, **asked: str) -> Any:
    made = schema.message("grpc.reflection.v1.ServerReflectionRequest")(**asked)
    return call(service, REFLECTION, made, "grpc.reflection.v1.ServerReflectionResponse")


def test_reflection(service: FakeService, make_service: MakeService) -> None:
    made = schema.message("grpc.reflection.v1.ServerReflectionRequest")(list_services="")
    assert error(service, REFLECTION, made)[0] == UNIMPLEMENTED
    service = make_service(grpc_reflection=True)
    answer = reflected(service, file_containing_symbol="tensorflow.serving.PredictionService.Predict")
    contents = answer.file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(content) for content in contents]
    assert {name for file in files for name in file.dependency} <= {file.name for file in files}
    assert files[0].package == "tensorflow.serving"
    assert reflected(service, file_by_filename="no").error_response.error_code == NOT_FOUND
    listed = {each.name for each in reflected(service, list_services="").list_services_response.service}
    assert listed == {path.split("/")[1] for path in GRPC_ROUTES} - {"grpc.reflection.v1alpha.ServerReflection"}
