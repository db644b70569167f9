from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from service.settings import (
    InvalidSetting,
    Rate,
    Settings,
    from_environment,
    parse_files,
    parse_origins,
    parse_rate,
    unknown_variables,
    variable,
)

ONE_OF_EACH = [
    ("SERVING_MODELS", "/srv/models", "models", Path("/srv/models")),
    ("SERVING_MODEL_NAME", "clothing", "model_name", "clothing"),
    ("SERVING_BASE_PATH", "/srv/models/clothing", "base_path", "/srv/models/clothing"),
    ("SERVING_MODEL_CONFIG_FILE", "/etc/models.config", "model_config_file", "/etc/models.config"),
    ("SERVING_MODEL_CONFIG_FILE_POLL_WAIT_SECONDS", "60", "model_config_file_poll_wait_seconds", 60),
    (
        "SERVING_ALLOW_VERSION_LABELS_FOR_UNAVAILABLE_MODELS",
        *("1", "allow_version_labels_for_unavailable_models", True),
    ),
    ("SERVING_MODELS_CONFIG", "/etc/models.toml", "models_config", "/etc/models.toml"),
    ("SERVING_ADMIN", "1", "admin", True),
    ("SERVING_API_KEYS_FILE", "/keys/api-keys.toml", "api_keys_file", "/keys/api-keys.toml"),
    ("SERVING_RATE_LIMIT", "100/second", "rate_limit", "100/second"),
    ("SERVING_CORS_ORIGINS", "https://app.example", "cors_origins", "https://app.example"),
    ("SERVING_HOST", "0.0.0.0", "host", "0.0.0.0"),
    ("SERVING_PORT", "80", "port", 80),
    ("SERVING_METRICS_PATH", "/my/metrics", "metrics_path", "/my/metrics"),
    ("SERVING_OPERATIONS_PORT", "8502", "operations_port", 8502),
    ("SERVING_ENGINE", "litert", "engine", "litert"),
    ("SERVING_OP_LIBRARIES", __file__, "op_libraries", __file__),
    ("SERVING_SAVED_MODEL_TAGS", "serve,gpu", "saved_model_tags", "serve,gpu"),
    ("SERVING_PREFER_TFLITE", "1", "prefer_tflite", True),
    ("SERVING_TENSORFLOW_INTRA_OP_PARALLELISM", "2", "tensorflow_intra_op_parallelism", 2),
    ("SERVING_TENSORFLOW_INTER_OP_PARALLELISM", "3", "tensorflow_inter_op_parallelism", 3),
    ("SERVING_WORKERS", "3", "workers", 3),
    ("SERVING_THREADS", "8", "threads", 8),
    ("SERVING_MAX_BATCH_SIZE", "8", "max_batch_size", 8),
    ("SERVING_INDEPENDENT_ROWS", "1", "independent_rows", True),
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
    ("SERVING_LOAD_RETRIES", "5", "load_retries", 5),
    ("SERVING_LOAD_RETRY_INTERVAL_MICROS", "60000000", "load_retry_interval_micros", 60_000_000),
    ("SERVING_LOADERS", "2", "loaders", 2),
    ("SERVING_WARM_UP", "0", "warm_up", False),
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


def test_defaults() -> None:
    settings = from_environment({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.models, settings.engine) == (
        "127.0.0.1",
        8501,
        Path("models"),
        "auto",
    )


@pytest.mark.parametrize(("name", "text", "field", "value"), ONE_OF_EACH)
def test_variables(name: str, text: str, field: str, value: Any) -> None:
    settings = from_environment({name: text})
    assert getattr(settings, field) == value
    assert type(getattr(settings, field)) is type(value)
    assert settings == replace(Settings(), **{field: value})


@pytest.mark.parametrize(("text", "field", "value"), [row[1:] for row in ONE_OF_EACH])
def test_flags(text: str, field: str, value: Any) -> None:
    assert getattr(from_environment({}, flags={field: text}), field) == value


def test_every_setting_is_tested() -> None:
    assert [row[0] for row in ONE_OF_EACH] == [variable(spec) for spec in fields(Settings)]


def test_a_flag_wins_over_a_variable() -> None:
    assert from_environment({"SERVING_PORT": "1"}, flags={"port": "2"}).port == 2


def test_an_empty_flag_counts_as_unset() -> None:
    assert from_environment({"SERVING_PORT": "1"}, flags={"port": ""}).port == 1


@pytest.mark.parametrize("name", [variable(spec) for spec in fields(Settings)])
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert from_environment({name: ""}) == Settings()


def test_tensorflow_servings_container_variables_work() -> None:
    settings = from_environment({"MODEL_NAME": "resnet", "MODEL_BASE_PATH": "/models"})
    assert (settings.model_name, settings.models) == ("resnet", Path("/models"))


def test_our_variable_wins_over_tensorflow_servings() -> None:
    environ = {"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": "/ours"}
    assert from_environment(environ).models == Path("/ours")


def test_other_variables_are_ignored() -> None:
    assert from_environment({"PORT": "1", "SERVING_UNKNOWN": "x"}) == Settings()


@pytest.mark.parametrize("name", [variable(spec) for spec in fields(Settings)])
@pytest.mark.parametrize(
    "address", ["tcp://10.96.12.7:8501", "udp://10.96.12.7:53", "sctp://10.96.12.7:9", "tcp://[fd00::1]:8501"]
)
def test_a_kubernetes_service_link_counts_as_unset(name: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert from_environment({name: address}) == Settings()
    (warning,) = caplog.messages
    assert warning.startswith(f"{name}={address!r} is ignored")


def test_a_service_link_falls_back_to_the_next_source() -> None:
    link = "tcp://10.96.12.7:8501"
    assert from_environment({"SERVING_MODELS": link, "MODEL_BASE_PATH": "/models"}).models == Path("/models")
    assert from_environment({"SERVING_PORT": link}, flags={"port": "80"}).port == 80


@pytest.mark.parametrize("text", ["tcp://10.96.12.7", "http://10.96.12.7:8501", "tcp://:8501", "10.96.12.7:8501"])
def test_other_addresses_are_rejected(text: str) -> None:
    with pytest.raises(InvalidSetting):
        from_environment({"SERVING_PORT": text})


def test_a_service_link_in_a_flag_is_rejected() -> None:
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
        ("SERVING_POLL_SECONDS", "1e300", "at most 86400"),
        ("SERVING_POLL_SECONDS", "nan", "a finite number"),
        ("SERVING_POLL_SECONDS", "inf", "a finite number"),
        ("SERVING_SHUTDOWN_SECONDS", "-1", "at least 0"),
        ("SERVING_LOG_FORMAT", "xml", "one of text, json"),
        ("SERVING_LOG_LEVEL", "INFO", "one of debug, info, warning, error"),
    ],
)
def test_an_invalid_value_is_rejected(name: str, text: str, expected: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({name: text})
    assert str(raised.value) == f"{name}={text!r}: expected {expected}"


def test_an_invalid_value_names_its_source() -> None:
    with pytest.raises(InvalidSetting, match=r"^--max-body-bytes='x': expected a whole number$"):
        from_environment({"SERVING_MAX_BODY_BYTES": "5"}, flags={"max_body_bytes": "x"})


def test_settings_made_in_python_are_checked() -> None:
    with pytest.raises(InvalidSetting, match=r"SERVING_PORT='0': expected at least 1"):
        Settings(port=0)


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("_b.so", "_a.so", "other.so", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("separator", [":", ",", ", ", ":,"])
def test_files_are_separated_by_colons_or_commas(folder: Path, separator: str) -> None:
    names = [folder / "other.so", folder / "_a.so"]
    assert parse_files(separator.join(map(str, names))) == tuple(names)


def test_no_files() -> None:
    assert parse_files("") == parse_files(" , ") == ()


def test_wildcards_match_each_file_once(folder: Path) -> None:
    assert parse_files(f"{folder}/_b.so:{folder}/_*.so") == (folder / "_b.so", folder / "_a.so")


def test_paths_are_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert parse_files("other.so") == (folder / "other.so",)


@pytest.mark.parametrize("name", ["none.so", "none*.so", ""])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f": there is no file {folder}/") as raised:
        parse_files(f"{folder}/_a.so:{folder}/{name}")
    assert str(raised.value).endswith(f"/{name}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("*", {"*"}),
        ("https://app.example,http://localhost:3000", {"https://app.example", "http://localhost:3000"}),
        (" HTTPS://App.Example \n null ", {"https://app.example", "null"}),
        ("https://app.example:443 http://app.example:80", {"https://app.example", "http://app.example"}),
        ("http://app.example:443", {"http://app.example:443"}),
        ("http://[::1]:3000", {"http://[::1]:3000"}),
        ("chrome-extension://abcdef", {"chrome-extension://abcdef"}),
    ],
)
def test_origins_are_parsed(text: str, expected: set[str]) -> None:
    assert parse_origins(text) == expected


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/", "https://app.example/a", "https://*.example", "https://", "**"]
)
def test_an_invalid_origin_is_rejected(origin: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({"SERVING_CORS_ORIGINS": f"https://app.example {origin}"})
    expected = "expected origins as https://app.example or http://localhost:3000, or *"
    assert str(raised.value) == f"SERVING_CORS_ORIGINS={origin!r}: {expected}"


@pytest.mark.parametrize(
    ("text", "requests", "seconds"),
    [
        ("100/second", 100, 1),
        ("5000 per hour", 5000, 3600),
        ("10 per 2 minutes", 10, 120),
        (" 7 / 3Minute ", 7, 180),
        ("1000000/day", 10**6, 86_400),
        ("1/month", 1, 2_592_000),
        ("1/year", 1, 31_104_000),
    ],
)
def test_rates_are_parsed(text: str, requests: int, seconds: int) -> None:
    assert parse_rate(text) == Rate(requests, seconds)


@pytest.mark.parametrize(
    "text",
    ["100", "many", "0/second", "-1/second", "1/week", "1/0 seconds", "1/second;5/minute", "1000001/day", "1" * 5000],
)
def test_an_invalid_rate_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text!r}: expected a rate as 100/second or 5000/hour, of at most 1000000"):
        parse_rate(text)


KNOWN = [variable(spec) for spec in fields(Settings)]


def unknown(**environ: str) -> list[str]:
    return list(unknown_variables(environ, KNOWN))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SERVING_PROT", "SERVING_PORT"),
        ("SERVING_WORKER", "SERVING_WORKERS"),
        ("SERVING_MODEL", "SERVING_MODELS"),
        ("SERVING_MAX_BATCHSIZE", "SERVING_MAX_BATCH_SIZE"),
        ("SERVING_APIKEYS_FILE", "SERVING_API_KEYS_FILE"),
        ("serving_port", "SERVING_PORT"),
    ],
)
def test_a_misspelt_variable_names_the_nearest_setting(name: str, nearest: str) -> None:
    assert unknown(**{name: "1"}) == [
        f"the variable {name!r} is ignored, since there is no such setting; did you mean {nearest}?"
    ]


def test_an_unknown_variable_far_from_any_setting() -> None:
    assert unknown(SERVING_ZZZ="1") == [
        "the variable 'SERVING_ZZZ' is ignored, since there is no such setting; docs/settings.md lists them"
    ]


def test_settings_and_other_variables_are_known() -> None:
    assert unknown(**dict.fromkeys(KNOWN, "1"), MODEL_NAME="x", PATH="/bin", OBSERVING_PORT="1") == []


@pytest.mark.parametrize("service", ["SERVING", "SERVING_BLUE", "SERVING_2"])
def test_variables_of_kubernetes_are_known(service: str) -> None:
    address = "tcp://10.0.0.1:8501"
    assert (
        unknown(
            **{
                f"{service}_SERVICE_HOST": "10.0.0.1",
                f"{service}_SERVICE_PORT": "8501",
                f"{service}_SERVICE_PORT_HTTP": "8501",
                f"{service}_PORT": address,
                f"{service}_PORT_8501_TCP": address,
                f"{service}_PORT_8501_TCP_PROTO": "tcp",
                f"{service}_PORT_8501_TCP_PORT": "8501",
                f"{service}_PORT_8501_TCP_ADDR": "10.0.0.1",
            }
        )
        == []
    )
