"""`python -m service predict`: send inputs to a model, and print a table of its predictions."""

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from service.cli.inputs import requests
from service.engines.tensorflow import op_libraries
from service.lifecycle.repository import version_number
from service.serving_config import model_file
from service.tensors.files import InvalidInput, PredictRequest
from service.tensors.signature import DEFAULT_SIGNATURE

# Exit codes. argparse itself uses 2 for an invalid command line.
SUCCESS, SOME_FAILED, UNAVAILABLE = 0, 1, 3

TIMEOUT_SECONDS = 60
MAX_SHOWN_LABELS = 3
MAX_VALUE_CHARACTERS = 100

EPILOG = """\
examples:
  %(prog)s regression 10 0.5
  %(prog)s photos shirt.jpg ~/pictures --top-k 3
  %(prog)s clothing pictures.npy --version 1 --json
  %(prog)s models/activity recording.csv          (no service needed)

exit codes: 0 success, 1 some inputs failed, 2 invalid command line,
3 no service or no such model.
If the service requires an API key, set the variable API_KEY."""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        place = place_of(options.model)
        key = os.environ.get("API_KEY", "")
        client: Client = ModelFolder(*place[:2]) if place else RunningService(options.url, key)
        model, version = (place[1], options.version or place[2]) if place else (options.model, options.version)
        path = model_path(model, version)
        metadata = client.send(f"{path}/metadata")
        if metadata.status != 200:
            raise NoResponse(_error(metadata))
        signatures = metadata.body["metadata"]["signature_def"]["signature_def"]
        # A model's only signature need not be named.
        name = options.signature or (next(iter(signatures)) if len(signatures) == 1 else DEFAULT_SIGNATURE)
        if name not in signatures:
            raise NoResponse(f"{model} has no signature {name!r}; it has {', '.join(map(repr, signatures))}")
        predictor = Predictor(client, path, name, options.top_k)
        outcomes = list(_outcomes(options.input, predictor, _rank(signatures[name])))
    except NoResponse as error:
        print(f"error: {error}", file=sys.stderr)
        return UNAVAILABLE
    _print(outcomes, as_json=options.json)
    return SOME_FAILED if any(outcome.error for outcome in outcomes) else SUCCESS


@dataclass(frozen=True)
class Outcome:
    """The result of one request: body and table rows of the response, or an error."""

    name: str
    body: Any = None
    rows: list[list[str]] = field(default_factory=list)
    error: str = ""


@dataclass
class Predictor:
    """Sends requests for one model. `verb`: classify, until a response says that the model has no labels."""

    client: "Client"
    path: str
    signature: str
    top_k: int | None
    verb: str = "classify"

    def predict(self, request: PredictRequest) -> Outcome:
        verb = self.verb
        reply = self._send(request)
        # Another thread may have changed the verb meanwhile.
        if verb == "classify" and reply.status == 400 and "cannot classify" in _error(reply):
            self.verb = "predict"
            reply = self._send(request)
        if reply.status != 200:
            return Outcome(request.name, error=_error(reply))
        rows = rows_of(request.name, reply.body, reply.headers.get("Outlier-Score", ""))
        return Outcome(request.name, reply.body, rows)

    def _send(self, request: PredictRequest) -> "Reply":
        query = {"signature_name": self.signature} | ({"top_k": str(self.top_k)} if self.top_k else {})
        path = f"{self.path}:{self.verb}?{urlencode(query)}"
        if request.picture is not None:
            return self.client.send(path, request.picture, "image/*")
        body = {"signature_name": self.signature} | (request.body or {})
        return self.client.send(path, json.dumps(body).encode())


def _outcomes(texts: Sequence[str], predictor: Predictor, rank: int | None) -> Iterator[Outcome]:
    """In the order of the inputs."""
    inputs = list(requests(texts, rank, sys.stdin.buffer))
    progress = Progress(len(inputs))

    def predict(item: PredictRequest | InvalidInput) -> Outcome:
        outcome = Outcome(item.name, error=str(item)) if isinstance(item, InvalidInput) else predictor.predict(item)
        progress.step()
        return outcome

    try:
        with ThreadPoolExecutor(predictor.client.max_concurrency) as threads:
            yield from threads.map(predict, inputs)
    finally:
        progress.end()


def _rank(signature: Any) -> int | None:
    """Of the only input, with the batch dimension; None if unknown."""
    shapes = [tensor["tensor_shape"] for tensor in signature["inputs"].values()]
    return len(shapes[0]["dim"]) if len(shapes) == 1 and not shapes[0]["unknown_rank"] else None


def _print(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        for outcome in outcomes:
            body = {"error": outcome.error} if outcome.error else outcome.body
            print(json.dumps({"input": outcome.name} | body, ensure_ascii=False))
    elif rows := [row for outcome in outcomes for row in outcome.rows]:
        print(table(rows))
    if not as_json:
        for outcome in outcomes:
            if outcome.error:
                print(f"error: {outcome.name}: {outcome.error}", file=sys.stderr)


class NoResponse(Exception):
    """There is no service or no model; the message says where, and what to do."""


@dataclass(frozen=True)
class Reply:
    """A response. `body`: its JSON, also of an error."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


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
        headers = self._headers | {"Content-Type": content_type}
        request = Request(self._url + path, content, headers)  # noqa: S310  # the user's own address
        try:
            try:
                with urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
                    return Reply(response.status, _json_object(response.read()), dict(response.headers.items()))
            except HTTPError as error:
                return Reply(error.code, _json_object(error.read()), dict(error.headers.items()))
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
        from service import create_app
        from service.settings import InvalidSetting, Settings

        try:
            # The only setting that a graph may need.
            settings = Settings(models=models, model_name=model, op_libraries=os.environ.get(op_libraries.SETTING, ""))
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
        from service.api import routes
        from service.http import Request as ServiceRequest
        from service.inference.context import RequestContext

        method = "GET" if content is None else "POST"
        headers = {b"content-type": content_type.encode()}
        request = ServiceRequest(method, path.encode(), headers, RequestContext(headers), content or b"")
        request.match = routes.find(method, request.target)
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


def _error(reply: Reply) -> str:
    return f"{reply.body.get('error', reply.body)} ({reply.status})"


def rows_of(name: str, body: dict[str, Any], outlier_scores: str) -> list[list[str]]:
    """Table rows [input, prediction, ...]. `outlier_scores`: the response's header."""
    scores = outlier_scores.split(", ") if outlier_scores else []
    found = body.get("results", body.get("predictions"))
    if found is None:
        return [[name, _value(body["outputs"])]]
    rows = []
    for index, value in enumerate(found):
        row = [name if len(found) == 1 else f"{name}[{index}]"]
        if "results" in body:
            row += [
                f"{label} {score:.1%}" if score is not None else f"{label} –"
                for label, score in value[:MAX_SHOWN_LABELS]
            ]
            if index < len(scores):
                row.append(_outlier_note(scores[index]))
        else:
            row.append(_value(value))
        rows.append(row)
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with aligned columns."""
    columns = max(map(len, rows))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(columns)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def _value(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _outlier_note(score: str) -> str:
    # The header says Infinity if the score is not finite.
    return f"unlike anything it knows ({score})" if not float(score.replace("Infinity", "inf")) <= 1 else ""


class Progress:
    """A progress bar on a terminal, for more than a few inputs."""

    WIDTH = 30
    MIN_TOTAL = 5

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._is_shown = total >= self.MIN_TOTAL and sys.stderr.isatty()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            if self._is_shown:
                bar = "█" * (self.WIDTH * self._done // self._total)
                print(f"\r{bar:<{self.WIDTH}} {self._done}/{self._total}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print("\r" + " " * (self.WIDTH + 20) + "\r", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service predict",
        description="Predict for numbers, JSON, arrays, tables, pictures or folders of pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", help="its name in a running service, or the path of its folder, which needs no service"
    )
    parser.add_argument(
        "input",
        nargs="+",
        help="a number, numbers separated by commas (a row), JSON (a row or a whole request), - for JSON from standard "
        "input, a file (a picture, .npy, .csv, .json) or a folder of pictures",
    )
    parser.add_argument("--version", default="", help="(default: the one that the service chooses)")
    parser.add_argument("--signature", default="", help=f"(default: {DEFAULT_SIGNATURE}, or the only one)")
    parser.add_argument("--top-k", type=_count, metavar="K", help="labels of each row (default: 3, with --json all)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each input instead of a table")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="of the service (default: %(default)s)")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
