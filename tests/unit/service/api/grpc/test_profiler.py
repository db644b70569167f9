from tests.unit.service.api.grpc import schema
from tests.unit.service.api.grpc.calls import call, error, respond
from tests.unit.service.conftest import MakeService
from tests.unit.service.fakes import FakeService

PROFILE, TERMINATE = "tensorflow.ProfilerService/Profile", "tensorflow.ProfilerService/Terminate"
INVALID_ARGUMENT, UNIMPLEMENTED = 3, 12


def test_the_profile_is_in_a_file_or_in_the_response(make_service: MakeService) -> None:
    service = make_service(grpc_profiler=True)
    request = schema.message("tensorflow.ProfileRequest")(opts={"duration_ms": 1})
    (file,) = call(service, PROFILE, request, "tensorflow.ProfileResponse").tool_data
    assert file.name == "xplane.pb"
    request.emit_xspace = True
    space = call(service, PROFILE, request, "tensorflow.ProfileResponse").xspace
    for profile in (space, schema.message("tensorflow.profiler.XSpace").FromString(file.data)):
        (plane,) = profile.planes
        (event,) = plane.lines[0].events
        assert (plane.name, plane.event_metadata[event.metadata_id].name) == ("/host:CPU", "profile")
    call(service, TERMINATE, schema.message("tensorflow.TerminateRequest")(), "tensorflow.TerminateResponse")


def test_a_profile_may_take_longer_than_predictions(make_service: MakeService) -> None:
    service = make_service(grpc_profiler=True, request_timeout_ms=1)
    request = schema.message("tensorflow.ProfileRequest")(duration_ms=50).SerializeToString()
    assert respond(service, PROFILE, request, {b"grpc-timeout": b"60S"}).status == 200


def test_a_profile_needs_the_setting_and_a_duration(service: FakeService, make_service: MakeService) -> None:
    request = schema.message("tensorflow.ProfileRequest")
    assert error(service, PROFILE, request(duration_ms=1))[0] == UNIMPLEMENTED
    assert error(make_service(grpc_profiler=True), PROFILE, request())[0] == INVALID_ARGUMENT
