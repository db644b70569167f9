"""`python -m service predict`: send inputs to a model, and print a table of its predictions."""

import argparse
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from urllib.parse import urlencode, urlsplit

from service.cli.client import Client, ModelFolder, NoResponse, Reply, RunningService, model_path, place_of
from service.cli.inputs import Item, ModelInput, source
from service.cli.output import Evaluation, Progress, Table, rows_of
from service.tensors.files import InvalidInput, PredictRequest
from service.tensors.signature import DEFAULT_SIGNATURE

# Exit codes. argparse itself uses 2 for an invalid command line.
SUCCESS, SOME_FAILED, UNAVAILABLE = 0, 1, 3

EPILOG = """\
inputs:
  10               a number
  -3,4             numbers separated by commas: a row
  '[[1, 2]]'       JSON: a row, or a whole request; - reads it from standard input
  'a nice shirt'   text, for a model of texts
  shirt.jpg        a picture
  rows.csv         a row a line; for a model of recordings a step a line
  rows.npy         an array: a row, or many; large ones are sent in parts
  rows.npz         an array for each of the model's inputs, by name
  pictures/        all pictures in a folder and its subfolders; where these are named
                   like the model's labels, it also says how many are right

examples:
  %(prog)s regression 10 -0.5
  %(prog)s photos shirt.jpg ~/pictures --top-k 3
  %(prog)s clothing pictures.npy --version 1 --json
  %(prog)s photos test/ --url 192.168.1.5:8501    (test/hat/1.jpg, test/shoes/2.jpg, ...)
  %(prog)s models/activity recording.csv          (no service needed)

exit codes: 0 success, 1 some inputs failed, 2 invalid command line,
3 no service or no such model.
If the service requires an API key, set the variable API_KEY."""


def main(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of the output has gone (`| head`). End as commands do, and without a word when Python closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
        raise


def _run(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    try:
        place = place_of(options.model)
        key = os.environ.get("API_KEY", "")
        client: Client = ModelFolder(*place[:2]) if place else RunningService(options.url, key)
        model, version = (place[1], options.version or place[2]) if place else (options.model, options.version)
        path = model_path(model, version)
        signatures = _signatures(client.send(f"{path}/metadata"))
        # A model's only signature need not be named.
        name = options.signature or (next(iter(signatures)) if len(signatures) == 1 else DEFAULT_SIGNATURE)
        if name not in signatures:
            raise NoResponse(f"{model} has no signature {name!r}; it has {', '.join(map(repr, signatures))}")
        sources = [source(text, _inputs(signatures[name]), sys.stdin.buffer) for text in options.input]
        printer = Printer(options.top_k, Progress(sum(each.rows for each in sources)), as_json=options.json)
        try:
            for outcome in _outcomes(
                chain.from_iterable(each.items for each in sources), Predictor(client, path, name)
            ):
                printer.add(outcome)
        finally:
            printer.finish()
    except NoResponse as error:
        print(f"error: {error}", file=sys.stderr)
        return UNAVAILABLE
    return SOME_FAILED if printer.has_errors else SUCCESS


@dataclass(frozen=True)
class Outcome:
    """The response to an item, or to a part of it, or an error."""

    item: Item
    body: dict[str, Any] | None = None
    outlier_scores: str = ""
    error: str = ""


@dataclass
class Predictor:
    """Sends requests for one model. `verb`: classify, until a response says that the model has no labels."""

    client: Client
    path: str
    signature: str
    verb: str = "classify"

    def predict(self, item: Item) -> list[Outcome]:
        """Of several parts if the item is too large for the service."""
        if isinstance(item.request, InvalidInput):
            return [Outcome(item, error=str(item.request))]
        verb = self.verb
        reply = self._send(item.request)
        # Another thread may have changed the verb meanwhile.
        if verb == "classify" and reply.status == 400 and "cannot classify" in reply.error:
            self.verb = "predict"
            reply = self._send(item.request)
        if reply.status == 413 and (halves := _halves(item, item.request)):
            return [outcome for half in halves for outcome in self.predict(half)]
        if reply.status != 200:
            return [Outcome(item, error=reply.error)]
        return [Outcome(item, reply.body, reply.headers.get("Outlier-Score", ""))]

    def _send(self, request: PredictRequest) -> Reply:
        path = f"{self.path}:{self.verb}?{urlencode({'signature_name': self.signature})}"
        if request.picture is not None:
            return self.client.send(path, request.picture, "image/*")
        body = {"signature_name": self.signature} | (request.body or {})
        return self.client.send(path, json.dumps(body).encode())


def _halves(item: Item, request: PredictRequest) -> list[Item]:
    """Empty if the request cannot be divided."""
    body = request.body or {}
    instances = body.get("instances")
    if not isinstance(instances, list) or len(instances) < 2:
        return []
    middle, first = len(instances) // 2, item.first_row or 0
    parts = ((first, instances[:middle], 0), (first + middle, instances[middle:], item.rows))
    # The progress counts the item once.
    return [
        replace(item, request=replace(request, body=body | {"instances": rows}), rows=count, first_row=place)
        for place, rows, count in parts
    ]


def _outcomes(items: Iterator[Item], predictor: Predictor) -> Iterator[Outcome]:
    """In the order of the items, of which only as many are read as are on their way."""
    waiting: deque[Future[list[Outcome]]] = deque()
    with ThreadPoolExecutor(predictor.client.max_concurrency) as threads:
        for item in items:
            waiting.append(threads.submit(predictor.predict, item))
            if len(waiting) > predictor.client.max_concurrency:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


class Printer:
    """Prints outcomes as they come: JSON, or a table, errors and how many predictions are right."""

    def __init__(self, top_k: int | None, progress: Progress, *, as_json: bool) -> None:
        self.has_errors = False
        self._top_k = top_k
        self._as_json = as_json
        self._progress = progress
        self._table = Table()
        self._evaluation = Evaluation()

    def add(self, outcome: Outcome) -> None:
        item, body = outcome.item, outcome.body
        name = item.request.name
        expected = self._evaluation.add(item.folders, body)
        self.has_errors |= body is None
        if self._as_json:
            about: dict[str, Any] = {"input": name}
            about |= {} if item.first_row is None else {"first_row": item.first_row}
            about |= {} if expected is None else {"expected": expected}
            self._progress.clear()
            print(
                json.dumps(
                    about | self._shortened({"error": outcome.error} if body is None else body), ensure_ascii=False
                ),
                flush=True,
            )
        elif body is None:
            self._print_table()
            print(f"error: {name}: {outcome.error}", file=sys.stderr)
        elif self._table.add(rows_of(name, body, outcome.outlier_scores, item.first_row, self._top_k)):
            self._print_table()
        self._progress.step(item.rows)

    def finish(self) -> None:
        self._print_table()
        # What reads JSON expects nothing else.
        stream = sys.stderr if self._as_json else sys.stdout
        for line in self._evaluation.lines():
            print(line, file=stream)

    def _print_table(self) -> None:
        self._progress.clear()
        self._table.print()

    def _shortened(self, body: dict[str, Any]) -> dict[str, Any]:
        results = body.get("results")
        return body | {"results": [labels[: self._top_k] for labels in results]} if results else body


def _signatures(metadata: Reply) -> dict[str, Any]:
    if metadata.status != 200:
        raise NoResponse(metadata.error)
    try:
        found: dict[str, Any] = metadata.body["metadata"]["signature_def"]["signature_def"]
    except (KeyError, TypeError):
        raise NoResponse("what answers there is no service for models; --url names its address") from None
    return found


def _inputs(signature: Mapping[str, Any]) -> dict[str, ModelInput]:
    return {
        name: ModelInput(
            None if tensor["tensor_shape"].get("unknown_rank") else len(tensor["tensor_shape"].get("dim", [])),
            tensor.get("dtype") == "DT_STRING",
        )
        for name, tensor in signature["inputs"].items()
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m service predict",
        usage="%(prog)s [options] MODEL INPUT...",
        description="Predict for numbers, text, JSON, arrays, tables, pictures or folders of pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="its name in a running service, or the path of its folder, which needs no service",
    )
    parser.add_argument("input", metavar="INPUT", nargs="+", help="what to predict for; see below")
    parser.add_argument("--version", default="", help="(default: the one that the service chooses)")
    parser.add_argument("--signature", default="", help=f"(default: {DEFAULT_SIGNATURE}, or the only one)")
    parser.add_argument("--top-k", type=_count, metavar="K", help="labels of each row (default: 3, with --json all)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each input instead of a table")
    parser.add_argument(
        "--url", type=_url, default="http://127.0.0.1:8501", help="of the service (default: %(default)s)"
    )
    # argparse takes `-3,4` for a flag, but never what begins with a blank.
    options = parser.parse_args([f" {text}" if re.match(r"-(\.?\d|inf|nan)", text) else text for text in arguments])
    options.input = [text[1:] if text.startswith(" -") else text for text in options.input]
    if not options.model:
        parser.error("MODEL is empty; expected a model's name or folder")
    return options


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HOST:PORT, or a URL such as http://127.0.0.1:8501")
    return url
