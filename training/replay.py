"""Ask a version what the service was asked, as SERVING_CAPTURE_FILE kept it, and compare the answers.

Result: how many requests are answered alike (the same label first in every row; without labels all outputs close,
within 0.1 %), the largest difference, which labels became which, and the time of a row.
Cost: what the model takes for the captured rows, on its engine.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

import orjson

from service.api.v1.decode import decode_example
from service.engines.base import LoadError
from service.engines.loading import load_engine
from service.inference.batching import row_count
from service.inference.context import RequestContext
from service.inference.infer import Inference
from service.inference.shadow import check_types, first_labels
from service.inference.version import LoadedVersion
from service.lifecycle.repository import Repository
from service.lifecycle.warm_up import WarmUp
from service.metrics.definitions import Metrics
from service.observability.capture import Captured, decode_line, decode_tensors
from service.serving_config import InvalidServingConfig, read_serving_config
from service.settings import EngineChoice
from training.errors import ConfigError, RunError
from training.replay_tally import Answers, Tally

NAME = "replay"
MOST_SHOWN = 5


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
        if not re.fullmatch(r"[^/]+/[0-9]+", self.against):
            raise ConfigError(f"against is {self.against!r}, expected MODEL/VERSION")


def run(config: Config) -> None:
    loaded = load(config)
    inference = Inference(Metrics())
    tally = Tally(loaded.model, loaded.version, loaded.engine.name)
    for where, captured in lines(config.file, tally):
        if captured.model == loaded.model:
            ask(inference, loaded, where, captured, tally)
        else:
            tally.of_other_models[captured.model] += 1
    for each in tally.damaged[:MOST_SHOWN]:
        print(f"damaged, and left out: {each}", file=sys.stderr)
    if len(tally.damaged) > MOST_SHOWN:
        print(f"and {len(tally.damaged) - MOST_SHOWN} lines more", file=sys.stderr)
    if not tally.requests:
        raise RunError(tally.why_nothing())
    # Not by the json module, which writes infinity as what is no JSON.
    print(orjson.dumps(tally.as_json(), option=orjson.OPT_INDENT_2).decode() if config.json else tally.as_text())


def load(config: Config) -> LoadedVersion:
    model, _, number = config.against.partition("/")
    versions = Repository(config.models).versions()
    if (model, int(number)) not in versions:
        known = ", ".join(f"{name}/{version}" for name, version in versions) or "nothing"
        raise RunError(f"{config.models} has no {config.against}; it has {known}")
    folder = versions[model, int(number)]
    try:
        serving_config = read_serving_config(folder)
        engine = load_engine(folder, serving_config, cast(EngineChoice, config.engine))
    except (LoadError, InvalidServingConfig) as error:
        raise RunError(f"{config.against} cannot be loaded: {error}") from None
    # A model's first runs take much longer than those that follow.
    WarmUp(engine, serving_config, folder, config.against, (), 1, decode_example).run()
    return LoadedVersion(model, int(number), engine, serving_config)


def lines(files: Iterable[Path], tally: Tally) -> Iterator[tuple[str, Captured]]:
    """Each with the place where it stands."""
    for file in files:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                where = f"{file}, line {number}"
                try:
                    yield where, decode_line(line)
                except ValueError as error:
                    tally.damaged.append(f"{where}: {error}")


def ask(inference: Inference, loaded: LoadedVersion, where: str, captured: Captured, tally: Tally) -> None:
    try:
        inputs, then = decode_tensors(captured.inputs), decode_tensors(captured.outputs)
    except ValueError as error:
        tally.damaged.append(f"{where}: {error}")
        return
    call = RequestContext()
    try:
        check_types(loaded, captured.signature, inputs)
        now = inference.outputs(loaded, captured.signature, inputs, call).outputs
    # Whatever it is, the next request may fare better.
    except Exception as error:
        tally.not_run.append(f"{where}: {error}")
        return
    answers = Answers(now, first_labels(loaded, now, captured.signature))
    rows = row_count(inputs) or 1
    tally.add(captured.version, Answers(then, captured.labels), answers, rows, call.run_seconds)
