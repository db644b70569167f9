"""The dashboards against Grafana's own types: its image cannot be pulled everywhere, its SDK can be had.

The SDK's `from_json` drops keys that it does not know and takes any value for those that it does, so both are
looked for here: what a round trip loses, and what does not fit the types that the SDK declares.
"""

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

MISSING = "the package grafana-foundation-sdk is not installed"
plugins: Any = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason=MISSING)
JSONEncoder: Any = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=MISSING).JSONEncoder
Dashboard: Any = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=MISSING).Dashboard

DASHBOARDS = sorted((Path(__file__).parents[2] / "monitoring/grafana/dashboards").glob("*.json"))


def problems(text: str) -> list[str]:
    plugins.register_default_plugins()
    written = json.loads(text)
    parsed = Dashboard.from_json(written)
    again = json.loads(JSONEncoder().encode(parsed))
    return [*lost(written, again), *misfits(parsed, Dashboard), *unknown_types(parsed)]


def lost(written: Any, again: Any, path: str = "") -> Iterator[str]:
    if isinstance(written, dict) and isinstance(again, dict):
        yield from (f"{path}.{key}: Grafana knows no such key" for key in written.keys() - again.keys())
        for key in written.keys() & again.keys():
            yield from lost(written[key], again[key], f"{path}.{key}")
    elif isinstance(written, list) and isinstance(again, list) and len(written) == len(again):
        for index, pair in enumerate(zip(written, again, strict=True)):
            yield from lost(*pair, f"{path}[{index}]")
    elif written != again:
        yield f"{path}: {written!r} is read as {again!r}"


def misfits(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        yield from min((list(misfits(value, argument, path)) for argument in arguments), key=len)
    elif not fits(value, origin, arguments):
        yield f"{path}: {value!r} is no {kind}"
    elif arguments and origin in (list, dict):
        for key, item in enumerate(value) if origin is list else value.items():
            yield from misfits(item, arguments[-1], f"{path}.{key}")
    else:
        for name, hint in get_type_hints(type(value)).items():
            yield from misfits(getattr(value, name), hint, f"{path}.{name}")


def fits(value: Any, kind: Any, arguments: tuple[Any, ...]) -> bool:
    """Without a look at what it holds."""
    if kind in (Any, object):
        return True
    if kind is Literal:
        return value in arguments
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def unknown_types(dashboard: Any) -> Iterator[str]:
    """The SDK leaves the options of a panel type that it does not know as they are."""
    for panel in dashboard.panels or []:
        if panel.type_val != "row" and isinstance(panel.options, dict):
            yield f"{panel.title}: unknown panel type {panel.type_val!r}"


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboard_is_valid(file: Path) -> None:
    assert problems(file.read_text()) == []
    assert json.loads(file.read_text())["schemaVersion"] == Dashboard().schema_version


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"fillOpacity": 10', '"fillOpacty": 10'),
        ('"graphMode": "area"', '"graphMode": "arena"'),
        ('"type": "stat"', '"type": "statt"'),
        ('"match": "null+nan"', '"match": "none"'),
        ('"decimals": 0', '"decimals": "0"'),
        ('"min": 0', '"min": true'),
        ('"h": 4', '"height": 4'),
    ],
)
def test_problems_are_found(right: str, wrong: str) -> None:
    good = (DASHBOARDS[0].parent / "serving.json").read_text()
    assert right in good
    assert problems(good.replace(right, wrong, 1))
