from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from service.settings import InvalidSetting, Settings, from_environment, variable

ONE_OF_EACH = [
    ("SERVING_MODELS", "/srv/models", "models", Path("/srv/models")),
    ("SERVING_MODEL_NAME", "clothing", "model_name", "clothing"),
    ("SERVING_MODELS_CONFIG", "/etc/models.toml", "models_config", "/etc/models.toml"),
    ("SERVING_ADMIN", "1", "admin", True),
    ("SERVING_API_KEYS_FILE", "/keys/api-keys.toml", "api_keys_file", "/keys/api-keys.toml"),
    ("SERVING_RATE_LIMIT", "100/second", "rate_limit", "100/second"),
    ("SERVING_CORS_ORIGINS", "https://app.example", "cors_origins", "https://app.example"),
    ("SERVING_HOST", "0.0.0.0", "host", "0.0.0.0"),
    ("SERVING_PORT", "80", "port", 80),
    ("SERVING_OPERATIONS_PORT", "8502", "operations_port", 8502),
    ("SERVING_ENGINE", "litert", "engine", "litert"),
    ("SERVING_OP_LIBRARIES", __file__, "op_libraries", __file__),
    ("SERVING_WORKERS", "3", "workers", 3),
    ("SERVING_THREADS", "8", "threads", 8),
    ("SERVING_MAX_BATCH_SIZE", "8", "max_batch_size", 8),
    ("SERVING_BATCH_TIMEOUT_MICROS", "500", "batch_timeout_micros", 500),
    ("SERVING_MAX_QUEUE_SIZE", "10", "max_queue_size", 10),
    ("SERVING_MAX_QUEUE_MS", "20", "max_queue_ms", 20),
    ("SERVING_UNHEALTHY_AFTER", "0", "unhealthy_after", 0),
    ("SERVING_MAX_CONNECTIONS", "100", "max_connections", 100),
    ("SERVING_KEEP_ALIVE_SECONDS", "600", "keep_alive_seconds", 600),
    ("SERVING_REQUEST_TIMEOUT_MS", "250", "request_timeout_ms", 250),
    ("SERVING_MAX_BODY_BYTES", "1000", "max_body_bytes", 1000),
    ("SERVING_MAX_BUFFERED_BYTES", "1000", "max_buffered_bytes", 1000),
    ("SERVING_MAX_IMAGE_PIXELS", "1000", "max_image_pixels", 1000),
    ("SERVING_POLL_SECONDS", "0.5", "poll_seconds", 0.5),
    ("SERVING_DRIFT_WINDOW", "0", "drift_window", 0),
    ("SERVING_SHUTDOWN_SECONDS", "0", "shutdown_seconds", 0),
    ("SERVING_LOG_FORMAT", "json", "log_format", "json"),
    ("SERVING_LOG_LEVEL", "debug", "log_level", "debug"),
    ("SERVING_LOG_SAMPLE", "0.5", "log_sample", 0.5),
    ("SERVING_CAPTURE_FILE", "requests.jsonl", "capture_file", "requests.jsonl"),
    ("SERVING_CAPTURE_SHARE", "0.5", "capture_share", 0.5),
    ("SERVING_CAPTURE_MAX_BYTES", "5000", "capture_max_bytes", 5000),
    ("SERVING_OTEL", "1", "otel", True),
]


def test_the_defaults_are_those_of_tensorflow_serving_and_of_a_machine_at_home() -> None:
    settings = from_environment({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.models, settings.engine) == (
        "127.0.0.1",
        8501,
        Path("models"),
        "auto",
    )


@pytest.mark.parametrize(("name", "text", "field", "value"), ONE_OF_EACH)
def test_each_variable_sets_its_setting(name: str, text: str, field: str, value: Any) -> None:
    settings = from_environment({name: text})
    assert getattr(settings, field) == value
    assert type(getattr(settings, field)) is type(value)
    assert settings == replace(Settings(), **{field: value})


@pytest.mark.parametrize(("text", "field", "value"), [row[1:] for row in ONE_OF_EACH])
def test_each_flag_sets_its_setting(text: str, field: str, value: Any) -> None:
    assert getattr(from_environment({}, flags={field: text}), field) == value


def test_the_tables_above_leave_no_setting_out() -> None:
    assert [row[0] for row in ONE_OF_EACH] == [variable(spec) for spec in fields(Settings)]


def test_a_flag_counts_more_than_a_variable() -> None:
    assert from_environment({"SERVING_PORT": "1"}, flags={"port": "2"}).port == 2


def test_an_empty_flag_leaves_the_word_to_the_variable() -> None:
    assert from_environment({"SERVING_PORT": "1"}, flags={"port": ""}).port == 1


@pytest.mark.parametrize("name", [variable(spec) for spec in fields(Settings)])
def test_an_empty_variable_counts_as_unset_as_compose_files_write_it(name: str) -> None:
    assert from_environment({name: ""}) == Settings()


def test_tensorflow_servings_container_variables_work() -> None:
    settings = from_environment({"MODEL_NAME": "resnet", "MODEL_BASE_PATH": "/models"})
    assert (settings.model_name, settings.models) == ("resnet", Path("/models"))


def test_the_settings_own_variable_counts_more_than_tensorflow_servings() -> None:
    environ = {"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": "/ours"}
    assert from_environment(environ).models == Path("/ours")


def test_variables_of_others_are_left_alone() -> None:
    assert from_environment({"PORT": "1", "SERVING_UNKNOWN": "x"}) == Settings()


@pytest.mark.parametrize("name", [variable(spec) for spec in fields(Settings)])
@pytest.mark.parametrize(
    "address", ["tcp://10.96.12.7:8501", "udp://10.96.12.7:53", "sctp://10.96.12.7:9", "tcp://[fd00::1]:8501"]
)
def test_the_address_of_a_kubernetes_service_counts_as_unset(
    name: str, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert from_environment({name: address}) == Settings()
    (warning,) = caplog.messages
    assert warning.startswith(f"{name}={address!r} is passed over")


def test_the_address_of_a_kubernetes_service_leaves_the_word_to_the_next_source() -> None:
    link = "tcp://10.96.12.7:8501"
    assert from_environment({"SERVING_MODELS": link, "MODEL_BASE_PATH": "/models"}).models == Path("/models")
    assert from_environment({"SERVING_PORT": link}, flags={"port": "80"}).port == 80


@pytest.mark.parametrize("text", ["tcp://10.96.12.7", "http://10.96.12.7:8501", "tcp://:8501", "10.96.12.7:8501"])
def test_what_is_no_address_of_a_kubernetes_service_stops_the_start(text: str) -> None:
    with pytest.raises(InvalidSetting):
        from_environment({"SERVING_PORT": text})


def test_a_flag_with_the_address_of_a_kubernetes_service_stops_the_start() -> None:
    with pytest.raises(InvalidSetting):
        from_environment({}, flags={"port": "tcp://10.96.12.7:8501"})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SERVING_PORT", "http", "a whole number"),
        ("SERVING_PORT", "80.5", "a whole number"),
        ("SERVING_PORT", "9" * 5000, "a whole number"),
        ("SERVING_PORT", "0", "at least 1"),
        ("SERVING_PORT", "65536", "at most 65535"),
        ("SERVING_RATE_LIMIT", "many", "a rate as 100/second or 5000/hour, of at most 1000000 requests"),
        ("SERVING_OPERATIONS_PORT", "65536", "at most 65535"),
        ("SERVING_OPERATIONS_PORT", "8501", "another port than SERVING_PORT"),
        ("SERVING_ENGINE", "onnx", "one of auto, tensorflow, litert"),
        ("SERVING_WORKERS", "-1", "at least 0"),
        ("SERVING_WORKERS", "513", "at most 512"),
        ("SERVING_THREADS", "0", "at least 1"),
        ("SERVING_THREADS", "1025", "at most 1024"),
        ("SERVING_KEEP_ALIVE_SECONDS", "0", "at least 1"),
        ("SERVING_MAX_BODY_BYTES", "0", "at least 1"),
        ("SERVING_MAX_BODY_BYTES", "32MB", "a whole number"),
        ("SERVING_MAX_IMAGE_PIXELS", "0", "at least 1"),
        ("SERVING_DRIFT_WINDOW", "-1", "at least 0"),
        ("SERVING_DRIFT_WINDOW", "100001", "at most 100000"),
        ("SERVING_POLL_SECONDS", "often", "a number"),
        ("SERVING_POLL_SECONDS", "0.001", "at least 0.01"),
        ("SERVING_POLL_SECONDS", "1e300", "at most 3600"),
        ("SERVING_POLL_SECONDS", "nan", "a finite number"),
        ("SERVING_POLL_SECONDS", "inf", "a finite number"),
        ("SERVING_SHUTDOWN_SECONDS", "-1", "at least 0"),
        ("SERVING_LOG_FORMAT", "xml", "one of text, json"),
        ("SERVING_LOG_LEVEL", "INFO", "one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_stops_the_start_naming_variable_value_and_what_was_expected(
    name: str, text: str, expected: str
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({name: text})
    assert str(raised.value) == f"{name}={text!r}: expected {expected}"


def test_a_bad_value_is_named_by_where_it_came_from() -> None:
    with pytest.raises(InvalidSetting, match=r"^--max-body-bytes='x': expected a whole number$"):
        from_environment({"SERVING_MAX_BODY_BYTES": "5"}, flags={"max_body_bytes": "x"})


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(InvalidSetting, match=r"SERVING_PORT='0': expected at least 1"):
        Settings(port=0)


def test_settings_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]
