"""The message in the terminal once the models are loaded: models, and curl commands to try."""

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.errors import NotFound
from service.inference.version import LoadedVersion, State, VersionStatus
from service.lifecycle.registry import Registry
from service.lifecycle.repository import not_served
from service.serving_config import ASSETS
from service.settings import Settings

# A longer body fills the screen, and nobody pastes it.
MAX_BODY_CHARACTERS = 300


def greeting(registry: Registry, settings: Settings) -> str:
    # The address to connect to, not the one to listen on.
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    address = f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"
    grpc = f", and gRPC on {host}:{settings.grpc_port}" if settings.grpc_port else ""
    lines = [f"Fitting Room serves {address}{grpc}"]
    width = max(map(len, registry.statuses()), default=0)
    for model, versions in registry.statuses().items():
        for version, status in versions.items():
            lines.append(f"  {model:<{width}} version {version}  {status.state:<9}  {_detail(status)}".rstrip())
    lines += [f"  {not_served(place, reason)}" for place, reason in sorted(registry.skipped.items())]
    if not registry.statuses() and not registry.skipped:
        if settings.model_config_file:
            lines.append(f"  no models yet: {settings.model_config_file} lists none")
        elif settings.models == settings.store_folder:
            lines.append("  no models yet: what comes into the object store is served")
        else:
            lines.append(f"  no models yet: put a SavedModel into {settings.models}/<name>/1/ and it is served")
    examples = [command for loaded in _default_versions(registry) if (command := _curl(loaded, settings, address))]
    if examples:
        lines += ["Try:", *(f"  {command}" for command in examples[:3])]
    return "\n".join(lines)


def _detail(status: VersionStatus) -> str:
    if status.state is State.AVAILABLE:
        return f"engine {status.engine}"
    return "is loaded at its first request" if status.state is State.START else status.error


def _default_versions(registry: Registry) -> Iterator[LoadedVersion]:
    """The version of each model that gets requests without a version."""
    for model, versions in registry.statuses().items():
        if any(status.state is State.AVAILABLE for status in versions.values()):
            # Only a shadow may be loaded.
            with suppress(NotFound):
                yield registry.get(model)


def _curl(loaded: LoadedVersion, settings: Settings, address: str) -> str | None:
    example: dict[str, Any] | None = loaded.config.example
    if not example:
        return None
    url = f"{address}/v1/models/{quote(loaded.model)}"
    curl = 'curl -s -H "X-API-Key: $API_KEY"' if settings.api_keys_file else "curl -s"
    if isinstance(example.get("picture"), str):
        picture = _folder(loaded, settings) / ASSETS / example["picture"]
        kind = "jpeg" if picture.suffix in (".jpg", ".jpeg") else picture.suffix[1:]
        return f"{curl} -H 'Content-Type: image/{kind}' --data-binary @{shlex.quote(str(picture))} {url}:classify"
    body = shlex.quote(json.dumps(example))
    if len(body) > MAX_BODY_CHARACTERS:
        return None
    return f"{curl} -H 'Content-Type: application/json' -d {body} {url}:predict"


def _folder(loaded: LoadedVersion, settings: Settings) -> Path:
    """Of the version, by the shortest path where it lies in the models folder."""
    folder = Path(settings.models) / loaded.model / str(loaded.version)
    return folder if loaded.folder is None or folder.is_dir() else loaded.folder.path
