"""`python -m service key`: makes an API key."""

import argparse
from collections.abc import Sequence
from datetime import date
from typing import get_args

from service.security.api_keys import NAME_PATTERN, Scope, new_key


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service key",
        description="Make an API key. Prints it, this once, and what to add to the file that SERVING_API_KEYS_FILE "
        "names, by which the key is recognized.",
    )
    parser.add_argument("--name", required=True, help="whose it is, as logs have it: letters, digits, - and _")
    parser.add_argument(
        "--scope", required=True, choices=get_args(Scope), help="admin: may load and unload models, too"
    )
    parser.add_argument("--expires", type=_day, metavar="YYYY-MM-DD", help="the first day, in UTC, that it is refused")
    given = parser.parse_args(arguments)
    if not NAME_PATTERN.fullmatch(given.name):
        parser.error(f"--name={given.name!r}: expected at most 64 letters, digits, - and _")
    key, digest = new_key()
    print(f"For {given.name}, and kept nowhere else:\n\n{key}\n\nFor the file:\n")
    print(f'[keys.{given.name}]\nsha256 = "{digest}"\nscope = "{given.scope}"')
    if given.expires:
        print(f"expires = {given.expires}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a day as YYYY-MM-DD") from None
