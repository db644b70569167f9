import re
from dataclasses import fields, replace
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
LINK = "tcp://10.96.12.7:8501"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("models", "/srv/models", "/srv/models"),
        ("port", "80", 80),
        ("poll_seconds", "2", 2.0),
        ("admin", "1", True),
        ("otel", "TRUE", True),
        ("otel", "false", False),
    ],
)
def test_variables_and_flags_are_parsed_by_type(name: str, text: str, value: Any) -> None:
    settings = from_environment({f"SERVING_{name.upper()}": text})
    assert settings == from_environment({}, flags={name: text}) == replace(Settings(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({"PORT": "1"}, {}, {"host": "127.0.0.1", "port": 8501, "models": "models", "engine": "auto"}),
        ({"SERVING_PORT": "1"}, {"port": "2"}, {"port": 2}),
        ({"SERVING_PORT": "1"}, {"port": ""}, {"port": 1}),
        ({"MODEL_NAME": "m", "MODEL_BASE_PATH": "/theirs"}, {}, {"model_name": "m", "models": "/theirs"}),
        ({"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": "/ours"}, {}, {"models": "/ours"}),
        ({"MODEL_BASE_PATH": "/theirs", "SERVING_MODELS": LINK}, {}, {"models": "/theirs"}),
        ({"SERVING_PORT": LINK}, {"port": "80"}, {"port": 80}),
        (dict.fromkeys(VARIABLES, ""), {}, {}),
        (dict.fromkeys(VARIABLES, LINK), {}, {}),
    ],
)
def test_sources(environ: dict[str, str], flags: dict[str, str], expected: dict[str, Any]) -> None:
    assert from_environment(environ, flags) == replace(Settings(), **expected)


@pytest.mark.parametrize("address", [LINK, "udp://10.96.12.7:53", "sctp://10.96.12.7:9", "tcp://[fd00::1]:80"])
def test_service_link_is_logged(address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert from_environment({"SERVING_PORT": address}) == Settings()
    (warning,) = caplog.messages
    assert warning.startswith(f"SERVING_PORT={address!r} is ignored")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("port", 1, 65_535), ("workers", 0, 512), ("max_body_bytes", 1, None), ("drift_window", 0, 100_000)],
)
def test_limits(name: str, least: float, most: float | None) -> None:
    for limit, beyond, words in ((least, -1, "least"), (most, 1, "most")):
        if limit is not None:
            Settings(**{name: limit})  # type: ignore[arg-type]
            with pytest.raises(InvalidSetting, match=f"^SERVING_{name.upper()}='.+': expected at {words} {limit}$"):
                Settings(**{name: limit + beyond})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("PORT", "http", "a whole number"),
        ("PORT", "tcp://10.96.12.7", "a whole number"),
        ("PORT", "http://10.96.12.7:8501", "a whole number"),
        ("PORT", "9" * 5000, "a whole number"),
        ("RATE_LIMIT", "many", "a rate as 100/second or 5000/hour, of at most 1000000 requests"),
        ("OPERATIONS_PORT", "8501", "another port than SERVING_PORT"),
        ("ENGINE", "onnx", "one of auto, tensorflow, litert"),
        ("POLL_SECONDS", "often", "a number"),
        ("POLL_SECONDS", "0.001", "at least 0.01"),
        ("POLL_SECONDS", "nan", "a finite number"),
        ("OTEL", "yes", "1 or 0"),
    ],
)
def test_invalid_value_is_rejected(name: str, text: str, expected: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        from_environment({f"SERVING_{name}": text})
    assert str(raised.value) == f"SERVING_{name}={text!r}: expected {expected}"


@pytest.mark.parametrize("text", ["x", LINK])
def test_invalid_value_names_its_source(text: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^--max-body-bytes='{text}': expected a whole number$"):
        from_environment({"SERVING_MAX_BODY_BYTES": "5"}, flags={"max_body_bytes": text})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_b.so", "_a.so", "other.so", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (" , ", []),
        ("other.so, _a.so", ["other.so", "_a.so"]),
        ("other.so:,_a.so", ["other.so", "_a.so"]),
        ("_b.so:_*.so", ["_b.so", "_a.so"]),
    ],
)
def test_files_are_absolute_and_named_once(folder: Path, text: str, names: list[str]) -> None:
    assert parse_files(text) == tuple(folder / name for name in names)


@pytest.mark.parametrize("name", ["none.so", "none*.so", ""])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf": there is no file {folder}/{re.escape(name)}$"):
        parse_files(f"{folder}/_a.so:{folder}/{name}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("*", {"*"}),
        ("https://app.example,http://localhost:3000", {"https://app.example", "http://localhost:3000"}),
        (" HTTPS://App.Example \n null ", {"https://app.example", "null"}),
        ("https://app.example:443 http://app.example:80", {"https://app.example", "http://app.example"}),
        ("http://app.example:443 http://[::1]:3000", {"http://app.example:443", "http://[::1]:3000"}),
        ("chrome-extension://abcdef", {"chrome-extension://abcdef"}),
    ],
)
def test_origins_are_parsed(text: str, expected: set[str]) -> None:
    assert parse_origins(text) == expected


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://*.example", "https://", "**"])
def test_invalid_origin_is_rejected(origin: str) -> None:
    message = f"^SERVING_CORS_ORIGINS={re.escape(repr(origin))}: expected origins as https://app.example"
    with pytest.raises(InvalidSetting, match=message):
        from_environment({"SERVING_CORS_ORIGINS": f"https://app.example {origin}"})


@pytest.mark.parametrize(
    ("text", "requests", "seconds"),
    [
        ("5000 per hour", 5000, 3600),
        ("10 per 2 minutes", 10, 120),
        (" 7 / 3Second ", 7, 3),
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SERVING_MAX_BATCHSIZE", "did you mean SERVING_MAX_BATCH_SIZE?"),
        ("serving_port", "did you mean SERVING_PORT?"),
        ("SERVING_ZZZ", "docs/settings.md lists them"),
    ],
)
def test_unknown_variable_is_named_with_the_nearest_setting(name: str, hint: str) -> None:
    (message,) = unknown_variables({name: "1"}, VARIABLES)
    assert message == f"the variable {name!r} is ignored, since there is no such setting; {hint}"


def test_settings_and_variables_of_others_are_known() -> None:
    environ = dict.fromkeys([*VARIABLES, "MODEL_NAME", "PATH", "OBSERVING_PORT"], "1")
    # Kubernetes sets these for services of such names.
    for service in ("SERVING", "SERVING_BLUE", "SERVING_2"):
        for part in ("HOST", "PORT", "PORT_HTTP"):
            environ[f"{service}_SERVICE_{part}"] = "x"
        for part in ("", "_PROTO", "_PORT", "_ADDR"):
            environ[f"{service}_PORT_8501_TCP{part}"] = "x"
        environ[f"{service}_PORT"] = LINK
    assert list(unknown_variables(environ, VARIABLES)) == []
