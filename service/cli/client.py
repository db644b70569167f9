"""Whom the command asks: a running service, or the service itself in this process."""

import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from service.engines.tensorflow import op_libraries
from service.lifecycle.repository import version_number
from service.serving_config import model_file

TIMEOUT_SECONDS = 60


class NoResponse(Exception):
    """There is no service or no model; the message says where, and what to do."""


@dataclass(frozen=True)
class Reply:
    """A response. `body`: its JSON, also of an error."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def error(self) -> str:
        return f"{self.body.get('error', self.body)} ({self.status})"


class Client(Protocol):
    # Requests that may be sent at the same time.
    max_concurrency: int

    def send(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        """A GET without content, a POST with it. Raises NoResponse."""


class RunningService:
    max_concurrency = 8

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def send(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        """Again for as long as the service is busy."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            reply = self._send(path, content, content_type)
            text = reply.headers.get("Retry-After", "")
            # Those that were rejected together should not come together.
            seconds = (int(text) if text.isdecimal() and int(text) else 1) * random.uniform(1, 2)  # noqa: S311
            if reply.status != 429 or time.monotonic() + seconds > deadline:
                return reply
            time.sleep(seconds)

    def _send(self, path: str, content: bytes | None, content_type: str) -> Reply:
        headers = self._headers | {"Content-Type": content_type}
        request = Request(self._url + path, content, headers)  # noqa: S310  # the user's own address
        try:
            try:
                with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                    return Reply(response.status, _json_object(response.read()), _headers(response.headers))
            except HTTPError as error:
                return Reply(error.code, _json_object(error.read()), _headers(error.headers))
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            raise NoResponse(
                f"{self._url} does not answer ({reason}); is the service running? `make serve` starts it"
            ) from None


class ModelFolder:
    """The service itself, in this process and without a port."""

    max_concurrency = 1

    def __init__(self, models: Path, model: str) -> None:
        """Raises NoResponse if none of the model's versions can be loaded."""
        if not (models / model).is_dir():
            raise NoResponse(f"{models / model}: no such folder")
        # A running service needs none of these imports.
        from service.app import create_app
        from service.settings import InvalidSetting, Settings

        try:
            # The only setting that a graph may need.
            libraries = os.environ.get(op_libraries.SETTING, "")
            settings = Settings(models=str(models), model_name=model, op_libraries=libraries)
        except InvalidSetting as error:
            raise NoResponse(str(error)) from None
        self._app = create_app(settings)
        self._app.watcher.scan()
        registry = self._app.registry
        if not registry.defaults():
            statuses = registry.statuses().get(model, {})
            reasons = [f"version {number}: {status.error}" for number, status in statuses.items()]
            reason = "; ".join(reasons) or "no model there, as <number>/saved_model.pb (or model.tflite)"
            raise NoResponse(f"{models / model}: {reason}")

    def send(self, path: str, content: bytes | None = None, content_type: str = "application/json") -> Reply:
        from service.api.routes import TABLE
        from service.http import Request as ServiceRequest
        from service.inference.context import RequestContext

        method = "GET" if content is None else "POST"
        headers = {b"content-type": content_type.encode()}
        request = ServiceRequest(method, path.encode(), headers, RequestContext(headers), content or b"")
        request.match = TABLE.find(method, request.target)
        response = self._app.dispatcher.respond(request)
        return Reply(
            response.status, _json_object(response.body), {name.title(): value for name, value in response.headers}
        )


def place_of(model: str) -> tuple[Path, str, str] | None:
    """Models folder, model and version ("" for none) if `model` is a path, of a model or a version; None if it is a
    name."""
    if "/" not in model and model_file(Path(model)) is None:
        return None
    folder = Path(model).resolve()
    if version_number(folder.name) is not None:
        return folder.parent.parent, folder.parent.name, folder.name
    return folder.parent, folder.name, ""


def model_path(model: str, version: str) -> str:
    return f"/v1/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"error": text[:200].decode(errors="replace")}


def _headers(headers: Message) -> dict[str, str]:
    """With capitals, whatever a proxy has made of them."""
    return {name.title(): value for name, value in headers.items()}
