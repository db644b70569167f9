"""`python -m training NAME`: trains a model (dataset → fit → evaluate → export) or runs a command."""

import signal

if __name__ == "__main__":
    # What follows takes a second to import; Ctrl-C then ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import dataclasses
import io
import os
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args, get_origin

from training import estimate, exercises, folder, reference, relabel, replay, report
from training.config import HELP
from training.errors import ConfigError, RunError
from training.importing import command as importing
from training.models import activity, clothing, photos, regression

# A model or command is a module with NAME, Config, run(config) and a docstring, which is its help.
MODELS: tuple[ModuleType, ...] = (regression, clothing, activity, photos)
COMMANDS: tuple[ModuleType, ...] = (folder, importing, exercises, report, replay, relabel, estimate, reference)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    modules = MODELS + COMMANDS
    results = "\n\n".join(f"{module.NAME}\n{textwrap.indent(_help(module), '  ')}" for module in modules)
    top = Parser(
        prog="python -m training",
        description="Train a model and export it as the next version under OUTPUT/MODEL/, or run a command.",
        epilog=f"{results}\n\nEach one's flags and defaults: python -m training NAME --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = top.add_subparsers(title="models and commands", metavar="NAME", required=True)
    for module in modules:
        command = names.add_parser(
            module.NAME,
            help=_help(module).splitlines()[0],
            description=_help(module),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(module=module, parser=command)
        for field in dataclasses.fields(module.Config):
            _add_flag(command, field)
    return top


def _add_flag(command: Parser, field: "dataclasses.Field[Any]") -> None:
    kind = field.type
    is_several = get_origin(kind) is tuple
    if is_several:
        kind = get_args(kind)[0]
    assert isinstance(kind, type), f"{field.name} is {kind}, of which no flag can be made"  # noqa: S101
    required = field.default is dataclasses.MISSING
    options: dict[str, Any] = {} if required else {"default": field.default}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif "choices" in field.metadata:
        options["choices"] = field.metadata["choices"]
    else:
        metavar = "FOLDER" if issubclass(kind, Path) else kind.__name__.upper()
        options |= {"type": _path if kind is Path else kind, "metavar": field.metadata.get("metavar", metavar)}
    if is_several:
        options["nargs"] = "+"
    if field.metadata.get("bare"):
        options |= {"nargs": "?", "const": field.default}
    if field.metadata.get("positional"):
        added = command.add_argument(field.name, **options | {"metavar": field.name.upper()})
    else:
        flag = field.name.rstrip("_").replace("_", "-")  # `from_`: Python does not take every word as a name
        added = command.add_argument(f"--{flag}", dest=field.name, required=required, **options)
    # Set afterwards, because BooleanOptionalAction would say the default a second time.
    added.help = field.metadata.get("help") or HELP[field.name]
    if not required and field.default != "":
        added.help += f" (default: {field.metadata.get('default', '%(default)s')})"


def _path(text: str) -> Path:
    if not text:  # of a shell's variable that is not set; as a path it would be the current folder
        raise argparse.ArgumentTypeError("expected a path, it is empty")
    return Path(text)


def _help(module: ModuleType) -> str:
    return (module.__doc__ or "").strip()


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 1 if the run fails; exits with 2 if the arguments are invalid."""
    given = vars(parser().parse_args(arguments))
    module, command = given.pop("module"), given.pop("parser")
    try:
        config = module.Config(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    except ConfigError as error:
        command.error(str(error))
    # TensorFlow and Keras read both when module.run imports them.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    os.environ["KERAS_BACKEND"] = "tensorflow"  # no other can write a SavedModel
    output: Path | None = given.get("output")  # a command that only reads has none
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)  # fail now, not after minutes of training
        module.run(config)
    except KeyboardInterrupt as error:
        return _failed("; ".join(["interrupted, nothing was exported", *map(str, error.args)]), 130)
    except RunError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is missing; training needs pip install --no-deps -r requirements/train.txt")
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(f"{error.filename or output or module.NAME}: {error.strerror or error}")
    return 0


def _failed(message: str, status: int = 1) -> int:
    print(f"python -m training: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Each line at once, also into a pipe; and no name of a file that ends a run.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.exit(main())
