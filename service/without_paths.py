"""Messages that clients read, without the folders of this machine."""

import re
from pathlib import Path

_NAME = r"[^\s/'\"`:;,()\[\]<>]"
_ABSOLUTE = re.compile(rf"(?<![\w./:-])/(?:{_NAME}+/)+({_NAME}*)")


def without_paths(message: str, folder: Path) -> str:
    """What lies in the folder keeps its place within it; of any other absolute path the last part stays."""
    words = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return _ABSOLUTE.sub(r"\1", words)
