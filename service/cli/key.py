"""`python -m service key`: make an API key. Unlike `predict`, this needs no NumPy."""

import argparse
from collections.abc import Sequence
from datetime import date
from typing import get_args

from service.security.api_keys import NAME_PATTERN, Scope, new_key


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service key",
        description="Make an API key. Prints the key, which is stored nowhere, and the lines to add to the file that "
        "SERVING_API_KEYS_FILE names.",
    )
    parser.add_argument("--name", required=True, help="the name in logs: letters, digits, - and _")
    parser.add_argument(
        "--scope",
        required=True,
        choices=get_args(Scope),
        help="feedback may predict and say which labels are right; admin may also load and unload models",
    )
    parser.add_argument(
        "--expires", type=_day, metavar="YYYY-MM-DD", help="the first day, in UTC, on which it is rejected"
    )
    options = parser.parse_args(arguments)
    if not NAME_PATTERN.fullmatch(options.name):
        parser.error(f"--name={options.name!r}: expected at most 64 letters, digits, - and _")
    key, digest = new_key()
    print(f"For {options.name}, and kept nowhere else:\n\n{key}\n\nFor the file:\n")
    print(f'[keys.{options.name}]\nsha256 = "{digest}"\nscope = "{options.scope}"')
    if options.expires:
        print(f"expires = {options.expires}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a day as YYYY-MM-DD") from None
