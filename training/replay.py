"""Ask a version what the service was asked, as SERVING_CAPTURE_FILE kept it, and compare the answers.

Result: how many requests are answered alike (the same label first in every row; without labels all outputs close,
within 0.1 %), the largest difference, which labels became which, and the time of a row.
Cost: what the model takes for the captured rows, on its engine.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import orjson

from service.api.v1.decode import decode_example
from service.drift.card import read_card
from service.engines.base import LoadError
from service.engines.loading import load_engine
from service.inference.batching import row_count
from service.inference.context import RequestContext
from service.inference.folder import Folder
from service.inference.infer import Inference
from service.inference.shadow import all_close, check_types, first_labels
from service.inference.version import LoadedVersion
from service.lifecycle.repository import Repository
from service.lifecycle.warm_up import WarmUp
from service.metrics.definitions import Metrics
from service.observability.capture import Arrays, Captured, decode_line, decode_tensors
from service.serving_config import InvalidServingConfig, read_serving_config
from service.settings import EngineChoice
from service.tensors.dtypes import Array
from training.console import quiet
from training.data.captured import print_damaged, read_lines
from training.errors import ConfigError, RunError

NAME = "replay"
MAX_CHANGES = 20  # from one label to another, the most frequent


@dataclass(frozen=True, kw_only=True)
class Config:
    file: tuple[Path, ...] = field(
        metadata={"positional": True, "help": "what the service has captured; FILE.1 holds what is older"}
    )
    against: str = field(metadata={"metavar": "MODEL/VERSION", "help": "the version that is asked"})
    models: Path = field(default=Path("models"), metadata={"help": "folder of the models"})
    engine: str = field(
        default="auto",
        metadata={"help": "what runs the version, as for the service", "choices": get_args(EngineChoice)},
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object, with all that is counted"})

    def __post_init__(self) -> None:
        check_version("against", self.against)


def check_version(name: str, value: str) -> None:
    if not re.fullmatch(r"[^/]+/[0-9]+", value):
        raise ConfigError(f"{name} is {value!r}, expected MODEL/VERSION")


class Prediction(NamedTuple):
    """`labels`: the first of each row, if the version has labels."""

    outputs: Arrays
    labels: list[str] | None


@dataclass
class Tally:
    """Counts over all requests, as a table and as JSON."""

    model: str
    version: int
    engine: str
    requests: int = 0
    rows: int = 0
    agreeing: int = 0
    seconds: float = 0.0
    # Over all numbers that both gave, and the output it is in.
    largest_difference: float = 0.0
    largest_in: str = ""
    by_version: Counter[int] = field(default_factory=Counter)
    # Rows by the label then and the label now.
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    of_other_models: Counter[str] = field(default_factory=Counter)
    # Places in the files, with the error there.
    not_run: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, version: int, then: Prediction, now: Prediction, rows: int, seconds: float) -> None:
        """`version`: the one that made the prediction `then`."""
        self.requests += 1
        self.rows += rows
        self.seconds += seconds
        self.by_version[version] += 1
        if then.labels is not None and now.labels is not None:
            self.agreeing += then.labels == now.labels
            self.confusion.update(zip(then.labels, now.labels, strict=False))
        else:
            self.agreeing += all_close(then.outputs, now.outputs)
        for name in then.outputs.keys() & now.outputs.keys():
            difference = _difference(then.outputs[name], now.outputs[name])
            if difference > self.largest_difference or not self.largest_in:
                self.largest_difference, self.largest_in = difference, name

    def nothing_to_compare(self) -> str:
        """Why no request was compared."""
        if self.not_run:
            return f"none of the {len(self.not_run)} requests can be run; the first: {self.not_run[0]}"
        found = [f"{count} of {model}" for model, count in sorted(self.of_other_models.items())]
        if self.damaged:
            found.append(f"{len(self.damaged)} damaged {'line' if len(self.damaged) == 1 else 'lines'}")
        return f"no request of {self.model} was captured" + (f"; there are {', '.join(found)}" if found else "")

    def as_json(self) -> dict[str, Any]:
        confusion: dict[str, dict[str, int]] = {}
        for (then, now), rows in sorted(self.confusion.items()):
            confusion.setdefault(then, {})[now] = rows
        return {
            "model": self.model,
            "version": self.version,
            "engine": self.engine,
            "requests": self.requests,
            "requests_by_version": {str(version): count for version, count in sorted(self.by_version.items())},
            "rows": self.rows,
            "agreeing": self.agreeing,
            "agreement": self.agreeing / self.requests,
            "largest_difference": self.largest_difference,
            "largest_difference_in": self.largest_in,
            "microseconds_a_row": self.seconds / self.rows * 1e6 if self.rows else None,
            "confusion": confusion,
            "requests_of_other_models": dict(sorted(self.of_other_models.items())),
            "not_run": self.not_run,
            "damaged": self.damaged,
        }

    def as_text(self) -> str:
        then = ", ".join(f"{count:,} of version {version}" for version, count in sorted(self.by_version.items()))
        how = "the same label first in every row" if self.confusion else "all outputs close"
        facts = [
            ("asked now", f"{self.model}/{self.version}, by {self.engine}"),
            ("requests", f"{self.requests:,} ({then})"),
            ("rows", f"{self.rows:,}"),
            ("agreement", f"{self.agreeing / self.requests:.2%} of the requests: {how}"),
            ("largest difference", f"{self.largest_difference:.3g} in {self.largest_in}" if self.largest_in else "–"),
            ("time of a row", f"{self.seconds / self.rows * 1e6:,.0f} µs" if self.rows else "–"),
        ]
        if self.not_run:
            facts.append(("not run", f"{len(self.not_run):,}; the first: {self.not_run[0]}"))
        if self.of_other_models:
            facts.append(("of other models", ", ".join(sorted(self.of_other_models))))
        return "\n".join(chain(_table(("", ""), facts), self._labels(), self._changes()))

    def _labels(self) -> list[str]:
        if not self.confusion:
            return []
        then, now = Counter[str](), Counter[str]()
        for (before, after), rows in self.confusion.items():
            then[before] += rows
            now[after] += rows
        rows_of = [
            (label, f"{then[label]:,}", f"{now[label]:,}", f"{self.confusion[label, label]:,}")
            for label in sorted(then | now)
        ]
        return ["", *_table(("label", "rows then", "rows now", "in both"), rows_of)]

    def _changes(self) -> list[str]:
        changes = Counter({pair: rows for pair, rows in self.confusion.items() if pair[0] != pair[1]})
        if not changes:
            return []
        rows_of = [(then, now, f"{rows:,}") for (then, now), rows in changes.most_common(MAX_CHANGES)]
        more = sum(changes.values()) - sum(rows for _, rows in changes.most_common(MAX_CHANGES))
        table = _table(("then", "now", "rows"), rows_of)
        return ["", *table, *([f"\nand {more:,} rows of rarer changes"] if more else [])]


def _difference(then: Array, now: Array) -> float:
    """Infinite if only one of two values is a number; 0 for strings."""
    if then.shape != now.shape or not then.size or "O" in (then.dtype.kind, now.dtype.kind):
        return 0.0
    before, after = then.astype(np.float64), now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        differences = np.abs(before - after)
    differences[(before == after) | (np.isnan(before) & np.isnan(after))] = 0.0
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ("---",) * len(columns), *rows)]


def run(config: Config) -> None:
    with quiet():
        loaded = load(config.models, config.against, config.engine)
    inference = Inference(Metrics())
    tally = Tally(loaded.model, loaded.version, loaded.engine.name)
    for where, captured in read_lines(config.file, decode_line, tally.damaged):
        if captured.model == loaded.model:
            replay_request(inference, loaded, where, captured, tally)
        else:
            tally.of_other_models[captured.model] += 1
    print_damaged(tally.damaged)
    if not tally.requests:
        raise RunError(tally.nothing_to_compare())
    # orjson writes infinity as null; the json module writes invalid JSON.
    print(orjson.dumps(tally.as_json(), option=orjson.OPT_INDENT_2).decode() if config.json else tally.as_text())


def load(models: Path, name: str, engine_choice: str) -> LoadedVersion:
    """`name`: MODEL/VERSION."""
    model, _, number = name.partition("/")
    versions = Repository(models).versions()
    if (model, int(number)) not in versions:
        found = ", ".join(f"{model}/{version}" for model, version in versions) or "nothing"
        raise RunError(f"{models} has no {name}; it has {found}")
    path = versions[model, int(number)]
    try:
        serving_config = read_serving_config(path)
        engine = load_engine(path, serving_config, cast(EngineChoice, engine_choice))
    except (LoadError, InvalidServingConfig) as error:
        raise RunError(f"{name} cannot be loaded: {error}") from None
    # The first runs take much longer.
    WarmUp(engine, serving_config, path, name, (), 1, decode_example).run()
    return LoadedVersion(model, int(number), engine, serving_config, card=read_card(path), folder=Folder(path))


def replay_request(inference: Inference, loaded: LoadedVersion, where: str, captured: Captured, tally: Tally) -> None:
    try:
        inputs, then = decode_tensors(captured.inputs), decode_tensors(captured.outputs)
    except ValueError as error:
        tally.damaged.append(f"{where}: {error}")
        return
    call = RequestContext()
    try:
        check_types(loaded, captured.signature, inputs)
        now = inference.outputs(loaded, captured.signature, inputs, call).outputs
    except Exception as error:  # whatever it is: the next request may fare better
        tally.not_run.append(f"{where}: {error}")
        return
    prediction = Prediction(now, first_labels(loaded, now, captured.signature))
    rows = row_count(inputs) or 1
    tally.add(captured.version, Prediction(then, captured.labels), prediction, rows, call.run_seconds)
