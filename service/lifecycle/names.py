"""What may be called what: the one rule for the names of models and the numbers of versions.

Folders, paths of requests, `models.toml` and the command line go by it alike, so that whatever is served can be named.
"""

import unicodedata

# Of int64, as TensorFlow Serving's versions.
MAX_VERSION = 2**63 - 1
# Joiners within words of Persian and of many languages of India, and within emoji.
_JOINERS = "\u200c\u200d"


def version_number(text: str) -> int | None:
    """The number that these digits write, zeros in front or not; None where it is none, or none of int64."""
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(MAX_VERSION)):
        return None
    number = int(digits)
    return number if number <= MAX_VERSION else None


def model_misfit(name: str) -> str | None:
    """What keeps a folder of this name from being a model; None where nothing does.

    A path ends a model's name at a slash or a colon. What cannot be printed hides in lines of the log, and bytes that
    are no text cannot be written into them at all. A dot in front is that of an export under way.
    """
    if name.startswith("."):
        return "its name begins with a dot"
    if ":" in name:
        return "its name has a colon, where a path would end it"
    if not all(map(_is_visible, name)):
        return "its name has a character that cannot be printed"
    return None


def _is_visible(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
