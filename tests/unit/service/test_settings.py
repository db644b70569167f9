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

VARIABLES = [variable(spec) for spec in fields(Settings)]
SERVICE_LINK = "tcp://10.96.12.7:8501"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models", "/srv/models", "/srv/models"),
        ("host", "0.0.0.0", "0.0.0.0"),
        ("port", "80", 80),
        ("poll_seconds", "2", 2.0),
        ("admin", "1", True),
        ("otel", "TRUE", True),
        ("otel", "false", False),
        ("engine", "litert", "litert"),
    ],
)
def test_variables_and_flags_are_parsed_by_type(name: str, text: str, value: Any) -> None:
    settings = from_environment({f"SERVING_{name.upper()}": text})
    assert settings == from_environment({}, flags={name: text}) == replace(Settings(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({}, {}, {"host": "127.0.0.1", "port": 8501, "models": "models", "engine": "auto"}),
        ({"SERVING_PORT": "1"}, {"port": "2"}, {"port": 2}),
        ({"SERVING_PORT": "1"}, {"port": ""}, {"port": 1}),
        ({"MODEL_NAME": "m", "MODEL_BASE_PATH": "/theirs"}, {}, {"model_name": "m", "models": "/theirs"}),
        ({"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": "/ours"}, {}, {"models": "/ours"}),
        ({"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": SERVICE_LINK}, {}, {"models": "/theirs"}),
        ({"SERVING_PORT": SERVICE_LINK}, {"port": "80"}, {"port": 80}),
        ({"PORT": "1", "SERVING_UNKNOWN": "x"}, {}, {}),
        (dict.fromkeys(VARIABLES, ""), {}, {}),
        (dict.fromkeys(VARIABLES, SERVICE_LINK), {}, {}),
    ],
    ids=[
        "defaults",
        "a flag wins",
        "an empty flag counts as unset",
        "variables of TensorFlow Serving's container",
        "our variable wins over theirs",
        "a service link leaves theirs",
        "a service link leaves the flag",
        "other variables",
        "empty variables count as unset",
        "service links count as unset",
    ],
)
def test_sources(environ: dict[str, str], flags: dict[str, str], expected: dict[str, Any]) -> None:
    assert from_environment(environ, flags) == replace(Settings(), **expected)


@pytest.mark.parametrize("address", [SERVICE_LINK, "udp://10.96.12.7:53", "sctp://10.96.12.7:9", "tcp://[fd00::1]:80"])
def test_service_link_is_logged(address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert from_environment({"SERVING_PORT": address}) == Settings()
    (warning,) = caplog.messages
    assert warning.startswith(f"SERVING_PORT={address!r} is ignored")


@pytest.mark.parametrize("text", ["tcp://10.96.12.7", "http://10.96.12.7:8501", "tcp://:8501", "10.96.12.7:8501"])
def test_other_addresses_are_rejected(text: str) -> None:
    with pytest.raises(InvalidSetting):
        from_environment({"SERVING_PORT": text})


def test_service_link_in_a_flag_is_rejected() -> None:
    with pytest.raises(InvalidSetting):
        from_environment({}, flags={"port": SERVICE_LINK})


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("port", 1, 65_535),
        ("operations_port", 0, 65_535),
        ("workers", 0, 512),
        ("threads", 1, 1024),
        ("unhealthy_after", 0, None),
        ("keep_alive_seconds", 1, 86_400),
        ("max_body_bytes", 1, None),
        ("max_image_pixels", 1, None),
        ("max_decoding_bytes", 1, None),
        ("drift_window", 0, 100_000),
        ("shutdown_seconds", 0, None),
    ],
)
def test_limits(name: str, least: float, most: float | None) -> None:
    Settings(**{name: least})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=f"^SERVING_{name.upper()}='.+': expected at least {least}$"):
        Settings(**{name: least - 1})  # type: ignore[arg-type]
    if most is not None:
        Settings(**{name: most})  # type: ignore[arg-type]
        with pytest.raises(InvalidSetting, match=f"expected at most {most}$"):
            Settings(**{name: most + 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SERVING_PORT", "http", "a whole number"),
        ("SERVING_PORT", "80.5", "a whole number"),
        ("SERVING_PORT", "9" * 5000, "a whole number"),
        ("SERVING_PORT", "0", "at least 1"),
        ("SERVING_RATE_LIMIT", "many", "a rate as 100/second or 5000/hour, of at most 1000000 requests"),
        ("SERVING_OPERATIONS_PORT", "8501", "another port than SERVING_PORT"),
        ("SERVING_ENGINE", "onnx", "one of auto, tensorflow, litert"),
        ("SERVING_POLL_SECONDS", "often", "a number"),
        ("SERVING_POLL_SECONDS", "0.001", "at least 0.01"),
        ("SERVING_POLL_SECONDS", "1e300", "at most 86400"),
        ("SERVING_POLL_SECONDS", "nan", "a finite number"),
        ("SERVING_POLL_SECONDS", "inf", "a finite number"),
        ("SERVING_OTEL", "yes", "1 or 0"),
        ("SERVING_LOG_LEVEL", "INFO", "one of debug, info, warning, error"),
    ],
)
def test_invalid_value_is_rejected(name: str, text: str, expected: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({name: text})
    assert str(raised.value) == f"{name}={text!r}: expected {expected}"


def test_invalid_value_names_its_source() -> None:
    with pytest.raises(InvalidSetting, match=r"^--max-body-bytes='x': expected a whole number$"):
        from_environment({"SERVING_MAX_BODY_BYTES": "5"}, flags={"max_body_bytes": "x"})


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_b.so", "_a.so", "other.so", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (" , ", []),
        ("other.so:_a.so", ["other.so", "_a.so"]),
        ("other.so, _a.so", ["other.so", "_a.so"]),
        ("other.so:,_a.so", ["other.so", "_a.so"]),
        ("_b.so:_*.so", ["_b.so", "_a.so"]),
    ],
)
def test_files_are_absolute_and_named_once(folder: Path, text: str, names: list[str]) -> None:
    assert parse_files(text) == tuple(folder / name for name in names)


@pytest.mark.parametrize("name", ["none.so", "none*.so", ""])
def test_missing_file_is_named(folder: Path, name: str) -> None:
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
def test_invalid_origin_is_rejected(origin: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({"SERVING_CORS_ORIGINS": f"https://app.example {origin}"})
    assert str(raised.value).startswith(f"SERVING_CORS_ORIGINS={origin!r}: expected origins as https://app.example")


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
    "text", ["100", "0/second", "-1/second", "1/week", "1/0 seconds", "1/second;5/minute", "1000001/day", "1" * 5000]
)
def test_invalid_rate_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text!r}: expected a rate as 100/second or 5000/hour"):
        parse_rate(text)


def unknown(**environ: str) -> list[str]:
    return list(unknown_variables(environ, VARIABLES))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SERVING_PROT", "did you mean SERVING_PORT?"),
        ("SERVING_MODEL", "did you mean SERVING_MODELS?"),
        ("SERVING_MAX_BATCHSIZE", "did you mean SERVING_MAX_BATCH_SIZE?"),
        ("serving_port", "did you mean SERVING_PORT?"),
        ("SERVING_ZZZ", "docs/settings.md lists them"),
    ],
)
def test_unknown_variable_is_named_with_the_nearest_setting(name: str, hint: str) -> None:
    assert unknown(**{name: "1"}) == [f"the variable {name!r} is ignored, since there is no such setting; {hint}"]


def test_settings_and_other_variables_are_known() -> None:
    assert unknown(**dict.fromkeys(VARIABLES, "1"), MODEL_NAME="x", PATH="/bin", OBSERVING_PORT="1") == []


@pytest.mark.parametrize("service", ["SERVING", "SERVING_BLUE", "SERVING_2"])
def test_variables_of_kubernetes_are_known(service: str) -> None:
    parts = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8501_TCP"]
    parts += ["PORT_8501_TCP_PROTO", "PORT_8501_TCP_PORT", "PORT_8501_TCP_ADDR"]
    assert unknown(**{f"{service}_{part}": "x" for part in parts}, **{f"{service}_PORT": SERVICE_LINK}) == []
