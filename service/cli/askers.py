"""Who answers: a service that runs, or a model's folder, read here and now."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from service.engines.tensorflow import op_libraries
from service.lifecycle.names import version_number
from service.serving_config import graph_file

TIMEOUT_SECONDS = 60


class NoAnswer(Exception):
    """Nobody answers there; the message says where, and what to do."""


@dataclass(frozen=True)
class Reply:
    """`body`: the answer's JSON, an error's too."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


class Asker(Protocol):
    # How many may be asked at a time.
    at_once: int

    def ask(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        """A GET without content, a POST with it. Raises NoAnswer."""


class RunningService:
    at_once = 8

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        headers = self._headers | {"Content-Type": content_type}
        request = Request(self._url + path, content, headers)  # noqa: S310  # the user's own address
        try:
            try:
                with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                    return Reply(response.status, _json(response.read()), dict(response.headers.items()))
            except HTTPError as error:
                return Reply(error.code, _json(error.read()), dict(error.headers.items()))
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise NoAnswer(
                f"{self._url} does not answer ({reason}); is the service running? `make serve` starts it"
            ) from None


class ModelFolder:
    """The service itself, without its port: what it answers is what it would answer there."""

    at_once = 1

    def __init__(self, models: Path, model: str) -> None:
        """Raises NoAnswer where none of the model's versions can be loaded."""
        if not (models / model).is_dir():
            raise NoAnswer(f"{models / model}: no such folder")
        # Only where it is wanted: to ask a running service takes no engines.
        from service import create_app
        from service.settings import InvalidSetting, Settings

        try:
            # Of the settings the one that a graph may need.
            settings = Settings(models=models, model_name=model, op_libraries=os.environ.get(op_libraries.SETTING, ""))
        except InvalidSetting as error:
            raise NoAnswer(str(error)) from None
        self._app = create_app(settings)
        self._app.extensions["watcher"].scan()
        registry = self._app.extensions["registry"]
        if not registry.defaults():
            statuses = registry.statuses().get(model, {})
            reasons = [f"version {number}: {status.error}" for number, status in statuses.items()]
            reason = "; ".join(reasons) or "no SavedModel there, as <number>/saved_model.pb"
            raise NoAnswer(f"{models / model}: {reason}")

    def ask(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        from service.server.interface import HttpRequest
        from service.server.wsgi import run_wsgi

        method = "GET" if content is None else "POST"
        headers = {b"content-type": content_type.encode()}
        answer = run_wsgi(self._app, HttpRequest(method, path.encode(), headers, content or b""), ("127.0.0.1", 0))
        return Reply(answer.status, _json(answer.body), {name.title(): value for name, value in answer.headers})


def place_of(model: str) -> tuple[Path, str, str] | None:
    """Models folder, model and version ("" for none) where `model` is a path, of a model or of one of its versions;
    None where it is a name."""
    if "/" not in model and graph_file(Path(model)) is None:
        return None
    folder = Path(model).resolve()
    if version_number(folder.name) is not None:
        return folder.parent.parent, folder.parent.name, folder.name
    return folder.parent, folder.name, ""


def model_path(model: str, version: str) -> str:
    return f"/v1/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": text[:200].decode(errors="replace")}
