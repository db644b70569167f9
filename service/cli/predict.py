"""Asks a model about all that is given, and prints a table."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from service.cli.askers import Asker, ModelFolder, NoAnswer, Reply, RunningService, model_path, place_of
from service.cli.inputs import Asked, InvalidInput, requests
from service.cli.table import Progress, rows_of, table
from service.tensors.signature import DEFAULT_SIGNATURE

# Exit codes; argparse's own for a bad command line is 2.
ALL_ANSWERED, SOME_FAILED, NOBODY_ANSWERS = 0, 1, 3

EPILOG = """\
examples:
  %(prog)s regression 10 0.5
  %(prog)s photos shirt.jpg ~/pictures --top-k 3
  %(prog)s clothing pictures.npy --version 1 --json
  %(prog)s models/activity recording.csv          (no service needed)

exit codes: 0 all were answered, 1 some were not, 2 the command line is wrong,
3 nobody answers or there is no such model.
A service that wants an API key gets the one in the variable API_KEY."""


@dataclass(frozen=True)
class Outcome:
    """What came of one request: its rows for the table and its answer, or an error."""

    name: str
    answer: Any = None
    rows: list[list[str]] = field(default_factory=list)
    error: str = ""


@dataclass
class Model:
    """`verb`: classify, until the first answer says that it has no labels."""

    asker: Asker
    path: str
    signature: str
    top_k: int | None
    verb: str = "classify"

    def ask(self, asked: Asked) -> Outcome:
        verb = self.verb
        reply = self._ask(asked)
        # Another thread may have heard of it meanwhile.
        if verb == "classify" and reply.status == 400 and "cannot classify" in _error(reply):
            self.verb = "predict"
            reply = self._ask(asked)
        if reply.status != 200:
            return Outcome(asked.name, error=_error(reply))
        return Outcome(asked.name, reply.body, rows_of(asked.name, reply.body, reply.headers.get("Outlier-Score", "")))

    def _ask(self, asked: Asked) -> Reply:
        query = {"signature_name": self.signature} | ({"top_k": str(self.top_k)} if self.top_k else {})
        path = f"{self.path}:{self.verb}?{urlencode(query)}"
        if asked.picture is not None:
            return self.asker.ask(path, asked.picture, "image/*")
        body = {"signature_name": self.signature} | (asked.body or {})
        return self.asker.ask(path, json.dumps(body).encode())


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    try:
        place = place_of(given.model)
        asker: Asker = ModelFolder(*place[:2]) if place else RunningService(given.url, os.environ.get("API_KEY", ""))
        model, version = (place[1], given.version or place[2]) if place else (given.model, given.version)
        path = model_path(model, version)
        metadata = asker.ask(f"{path}/metadata")
        if metadata.status != 200:
            raise NoAnswer(_error(metadata))
        signatures = metadata.body["metadata"]["signature_def"]["signature_def"]
        # A model's only signature need not be named.
        name = given.signature or (next(iter(signatures)) if len(signatures) == 1 else DEFAULT_SIGNATURE)
        if name not in signatures:
            raise NoAnswer(f"{model} has no signature {name!r}; it has {', '.join(map(repr, signatures))}")
        asked = Model(asker, path, name, given.top_k)
        outcomes = list(_outcomes(given.input, asked, _rank(signatures[name])))
    except NoAnswer as error:
        print(f"error: {error}", file=sys.stderr)
        return NOBODY_ANSWERS
    _print(outcomes, as_json=given.json)
    return SOME_FAILED if any(outcome.error for outcome in outcomes) else ALL_ANSWERED


def _outcomes(texts: Sequence[str], model: Model, rank: int | None) -> Iterator[Outcome]:
    """In the order of the inputs."""
    wanted = list(requests(texts, rank, sys.stdin.buffer))
    progress = Progress(len(wanted))

    def ask(asked: Asked | InvalidInput) -> Outcome:
        outcome = Outcome(asked.name, error=str(asked)) if isinstance(asked, InvalidInput) else model.ask(asked)
        progress.step()
        return outcome

    try:
        with ThreadPoolExecutor(model.asker.at_once) as threads:
            yield from threads.map(ask, wanted)
    finally:
        progress.end()


def _error(reply: Reply) -> str:
    return f"{reply.body.get('error', reply.body)} ({reply.status})"


def _rank(signature: Any) -> int | None:
    shapes = [tensor["tensor_shape"] for tensor in signature["inputs"].values()]
    return len(shapes[0]["dim"]) if len(shapes) == 1 and not shapes[0]["unknown_rank"] else None


def _print(outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        for outcome in outcomes:
            told = {"error": outcome.error} if outcome.error else outcome.answer
            print(json.dumps({"input": outcome.name} | told, ensure_ascii=False))
    elif rows := [row for outcome in outcomes for row in outcome.rows]:
        print(table(rows))
    if not as_json:
        for outcome in outcomes:
            if outcome.error:
                print(f"error: {outcome.name}: {outcome.error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service predict",
        description="Ask a model about numbers, JSON, arrays, tables, pictures or folders of pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="its name in a running service; or the path of its folder, read without one")
    parser.add_argument(
        "input",
        nargs="+",
        help="a number, several with commas between (a row), JSON (a row, or a whole request), - for JSON from "
        "standard input, or a file: a picture, .npy, .csv, .json; or a folder of pictures",
    )
    parser.add_argument("--version", default="", help="instead of the one that answers who names none")
    parser.add_argument("--signature", default="", help=f"(default: {DEFAULT_SIGNATURE}, or the only one)")
    parser.add_argument("--top-k", type=_count, metavar="K", help="labels a row (default: 3, in --json all)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each input, instead of a table")
    parser.add_argument("--url", default="http://127.0.0.1:8501", help="of the service (default: %(default)s)")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
