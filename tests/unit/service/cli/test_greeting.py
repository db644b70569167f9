import shlex
from pathlib import Path
from typing import Any

import pytest

from service.cli.greeting import greeting
from service.inference.version import State, VersionStatus
from service.lifecycle.policies import decode
from service.lifecycle.registry import Registry
from service.serving_config import ServingConfig
from service.settings import Settings
from tests.unit.service.fakes import any_shape, loaded_version, make_available, signature

SIGNATURE = signature({"x": any_shape("DT_FLOAT")})


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.first_scan_done.set()
    return registry


def add(registry: Registry, example: dict[str, Any] | None, model: str = "model") -> None:
    make_available(registry, loaded_version(SIGNATURE, config=ServingConfig(example=example), model=model))


def commands(registry: Registry, **settings: Any) -> list[list[str]]:
    """The curl lines, as a shell splits them into words."""
    lines = greeting(registry, Settings(**settings)).splitlines()
    return [shlex.split(line, comments=False) for line in lines if line.startswith("  curl ")]


def test_the_whole_greeting(registry: Registry) -> None:
    add(registry, {"instances": [10.0]}, "regression")
    registry.set_status("clothing", 2, VersionStatus(State.END, error="no saved_model.pb"))
    assert greeting(registry, Settings()) == (
        "Fitting Room serves http://127.0.0.1:8501\n"
        "  regression version 1  AVAILABLE  engine fake\n"
        "  clothing   version 2  END        no saved_model.pb\n"
        "Try:\n"
        "  curl -s -H 'Content-Type: application/json' -d '{\"instances\": [10.0]}' "
        "http://127.0.0.1:8501/v1/models/regression:predict"
    )


def test_commands_send_a_key_if_needed(registry: Registry) -> None:
    add(registry, {"instances": [10.0]})
    ((_, _, _, header, *_),) = commands(registry, api_keys_file="keys.toml")
    assert header == "X-API-Key: $API_KEY"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_the_address_can_be_connected_to(registry: Registry, host: str, address: str) -> None:
    assert greeting(registry, Settings(host=host, port=80)).startswith(f"Fitting Room serves {address}\n")


def test_without_models_it_says_how_to_add_one(registry: Registry) -> None:
    assert "no models yet: put a SavedModel into somewhere/<name>/1/" in greeting(
        registry, Settings(models=Path("somewhere"))
    )


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("sample.png", "image/png"),
        ("a.jpg", "image/jpeg"),
        ("a.jpeg", "image/jpeg"),
        ("a.webp", "image/webp"),
        ("it's mine.png", "image/png"),
    ],
)
def test_a_picture_is_sent_with_its_type(registry: Registry, file: str, kind: str) -> None:
    add(registry, {"picture": file}, "clothing")
    (command,) = commands(registry, models=Path("my models"))
    assert command == [
        "curl",
        "-s",
        "-H",
        f"Content-Type: {kind}",
        "--data-binary",
        f"@my models/clothing/1/assets.extra/{file}",
        "http://127.0.0.1:8501/v1/models/clothing:classify",
    ]


def test_at_most_three_commands_are_shown(registry: Registry) -> None:
    for model in ("a", "b", "c", "d"):
        add(registry, {"instances": [1.0]}, model)
    assert [command[-1].rpartition("/")[2] for command in commands(registry)] == ["a:predict", "b:predict", "c:predict"]


def test_a_model_without_an_example_has_no_command(registry: Registry) -> None:
    add(registry, None)
    assert "Try:" not in greeting(registry, Settings())


def test_a_long_example_is_left_out(registry: Registry) -> None:
    add(registry, {"instances": [[0.5] * 100]})
    assert commands(registry) == []


def test_names_are_quoted_for_the_shell(registry: Registry) -> None:
    add(registry, {"instances": ["it's"]}, "my model; echo $HOME")
    (command,) = commands(registry)
    assert command[5:6] == ['{"instances": ["it\'s"]}']
    assert len(command) == 7


@pytest.mark.parametrize("example", [{"picture": 5}, {"picture": None}])
def test_an_invalid_example_is_left_out(registry: Registry, example: dict[str, Any]) -> None:
    add(registry, example)
    assert "model version 1  AVAILABLE" in greeting(registry, Settings())


def test_models_on_demand_and_shadows_have_no_command(registry: Registry) -> None:
    registry.set_policies(decode(b"[models.model.labels]\nnext = {version = 1, shadow = 1}", Path("models.toml")))
    add(registry, {"instances": [10.0]})
    registry.set_status("seldom", 1, VersionStatus(State.START))
    assert greeting(registry, Settings()).splitlines()[1:] == [
        "  model  version 1  AVAILABLE  engine fake",
        "  seldom version 1  START      is loaded at its first request",
    ]


def test_skipped_models_are_listed(tmp_path: Path) -> None:
    registry = Registry()
    registry.skipped = {"x": "it holds nothing"}
    text = greeting(registry, Settings(models=tmp_path))
    assert "  'x' is not served: it holds nothing" in text
    assert "no models yet" not in text
