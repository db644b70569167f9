"""`python -m training MODEL`: dataset → fit → evaluate → export."""

import argparse
import dataclasses
import os
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from training import activity, clothing, regression
from training.config import HELP
from training.errors import ConfigError, RunError

# A new model is a new file with NAME, Config, run(config) and a docstring, and its name here.
MODELS: tuple[ModuleType, ...] = (regression, clothing, activity)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    results = "\n\n".join(f"{model.NAME}\n{textwrap.indent(_text(model), '  ')}" for model in MODELS)
    top = Parser(
        prog="python -m training",
        description="Train a model and export it as the next version under OUTPUT/MODEL/.",
        epilog=f"{results}\n\nEach model's flags and defaults: python -m training MODEL --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="models", metavar="MODEL", required=True)
    for model in MODELS:
        command = commands.add_parser(
            model.NAME,
            help=_text(model).splitlines()[0],
            description=_text(model),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(model=model)
        for field in dataclasses.fields(model.Config):
            kind = type(field.default)
            command.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kind,
                default=field.default,
                metavar="FOLDER" if issubclass(kind, Path) else kind.__name__.upper(),
                help=f"{HELP[field.name]} (default: %(default)s)",
            )
    return top


def _text(model: ModuleType) -> str:
    return (model.__doc__ or "").strip()


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 where the training could not be done; exits with 2 where the arguments make no sense."""
    commands = parser()
    given = vars(commands.parse_args(arguments))
    model = given.pop("model")
    try:
        config = model.Config(**given)
    except ConfigError as error:
        commands.error(str(error))
    # Both are read when TensorFlow and Keras are imported, which model.run does. Errors, no start-up greetings:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # no other can write a SavedModel
    try:
        config.output.mkdir(parents=True, exist_ok=True)  # rather now than after minutes of training
        model.run(config)
    except KeyboardInterrupt:
        return _failed("interrupted, nothing was exported", 130)
    except RunError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is missing; training needs pip install --no-deps -r requirements/train.txt")
    except OSError as error:
        return _failed(f"{error.filename or config.output}: {error.strerror or error}")
    return 0


def _failed(message: str, status: int = 1) -> int:
    print(f"python -m training: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
