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
    return [shlex.split(line) for line in lines if line.startswith("  curl ")]


def test_whole_greeting(registry: Registry) -> None:
    add(registry, {"instances": [10.0]}, "regression")
    registry.set_status("clothing", 2, VersionStatus(State.END, error="no saved_model.pb"))
    registry.skipped = {"x": "it holds nothing"}
    assert greeting(registry, Settings()) == (
        "Fitting Room serves http://127.0.0.1:8501\n"
        "  regression version 1  AVAILABLE  engine fake\n"
        "  clothing   version 2  END        no saved_model.pb\n"
        "  'x' is not served: it holds nothing\n"
        "Try:\n"
        "  curl -s -H 'Content-Type: application/json' -d '{\"instances\": [10.0]}' "
        "http://127.0.0.1:8501/v1/models/regression:predict"
    )


def test_no_models_yet(registry: Registry) -> None:
    settings = Settings(models="somewhere")
    assert "no models yet: put a SavedModel into somewhere/<name>/1/" in greeting(registry, settings)
    registry.skipped = {"x": "it holds nothing"}
    assert "no models yet" not in greeting(registry, settings)


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("example.org", "example.org")],
)
def test_address_can_be_connected_to(registry: Registry, host: str, address: str) -> None:
    said = greeting(registry, Settings(host=host, port=80, grpc_port=81))
    assert said.startswith(f"Fitting Room serves http://{address}:80, and gRPC on {address}:81\n")


def test_command_has_a_key_if_needed_and_is_quoted_for_the_shell(registry: Registry) -> None:
    add(registry, {"instances": ["it's"]}, "my model; echo $HOME")
    (command,) = commands(registry, api_keys_file="keys.toml")
    assert command[2:4] == ["-H", "X-API-Key: $API_KEY"]
    assert command[7] == '{"instances": ["it\'s"]}'
    assert len(command) == 9


@pytest.mark.parametrize(("file", "kind"), [("a.jpg", "jpeg"), ("it's mine.png", "png")])
def test_picture_is_sent_with_its_type(registry: Registry, file: str, kind: str) -> None:
    add(registry, {"picture": file}, "clothing")
    (command,) = commands(registry, models=Path("my models"))
    picture = f"@my models/clothing/1/assets.extra/{file}"
    url = "http://127.0.0.1:8501/v1/models/clothing:classify"
    assert command[2:] == ["-H", f"Content-Type: image/{kind}", "--data-binary", picture, url]


def test_three_commands_at_most(registry: Registry) -> None:
    for model in ("a", "b", "c", "d"):
        add(registry, {"instances": [1.0]}, model)
    assert [command[-1].rpartition("/")[2] for command in commands(registry)] == ["a:predict", "b:predict", "c:predict"]


@pytest.mark.parametrize("example", [None, {"instances": [[0.5] * 100]}], ids=["none", "long"])
def test_no_command_without_a_short_example(registry: Registry, example: dict[str, Any] | None) -> None:
    add(registry, example)
    assert "Try:" not in greeting(registry, Settings())


def test_invalid_example_is_no_error(registry: Registry) -> None:
    add(registry, {"picture": 5})
    assert "model version 1  AVAILABLE" in greeting(registry, Settings())


def test_no_command_for_shadows_and_models_on_demand(registry: Registry) -> None:
    registry.set_policies(decode(b"[models.model.labels]\nnext = {version = 1, shadow = 1}", Path("models.toml")))
    add(registry, {"instances": [10.0]})
    registry.set_status("seldom", 1, VersionStatus(State.START))
    assert greeting(registry, Settings()).splitlines()[1:] == [
        "  model  version 1  AVAILABLE  engine fake",
        "  seldom version 1  START      is loaded at its first request",
    ]
