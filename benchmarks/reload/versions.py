"""What happens to the models folder. Version N of every model here answers 3x + N: an answer tells who gave it."""

import hashlib
import json
import shutil
import struct
from pathlib import Path

SOURCE = Path("models/regression/1")
GRAPH = Path("saved_model.pb")
TWIN = Path("assets.extra/model.tflite")
CONFIG = Path("assets.extra/serving.json")
METRICS = Path("assets.extra/metrics.json")


def make(number: int, version: Path) -> Path:
    """The shipped regression with `number` as its bias. Only the twin is changed: the run serves by LiteRT alone."""
    shutil.copytree(SOURCE, version)
    bias = struct.pack("<f", json.loads((version / METRICS).read_text())["bias"])
    twin = (version / TWIN).read_bytes()
    if twin.count(bias) != 1:
        raise RuntimeError(
            f"{SOURCE / TWIN}: the bias of {METRICS.name} was expected once in it, not {twin.count(bias)} x"
        )
    twin = twin.replace(bias, struct.pack("<f", number))
    (version / TWIN).write_bytes(twin)
    config = json.loads((version / CONFIG).read_text())
    config["twin"]["sha256"] = hashlib.sha256(twin).hexdigest()
    (version / CONFIG).write_text(json.dumps(config))
    return version


def publish(source: Path, version: Path) -> None:
    """As an export does: copied beside, then one rename."""
    beside = version.parent / f".{version.name}"
    shutil.copytree(source, beside)
    beside.rename(version)


def publish_half(source: Path, version: Path) -> None:
    """As a copy that is under way: into its final place, all but the twin, and half of that."""
    shutil.copytree(source, version, ignore=shutil.ignore_patterns(TWIN.name))
    _cut(source / TWIN, version / TWIN)


def complete(source: Path, version: Path) -> None:
    shutil.copy(source / TWIN, version / TWIN)


def publish_broken(source: Path, version: Path, file: Path) -> None:
    """Whole but for one file, of which the end is missing."""
    beside = version.parent / f".{version.name}"
    shutil.copytree(source, beside)
    _cut(source / file, beside / file)
    beside.rename(version)


def labels(model: str, stable: int, canary: int, share: float) -> str:
    """As models.toml says it."""
    return f"[models.{model}.labels]\nstable = {stable}\ncanary = {{version = {canary}, share = {share}}}\n"


def write_policies(models: Path, text: str) -> None:
    (draft := models / ".models.toml").write_text(text)
    draft.rename(models / "models.toml")


def link(target: Path, place: Path) -> None:
    """Leads there from one moment to the next."""
    (draft := place.with_name(f".{place.name}")).symlink_to(target)
    draft.rename(place)


def _cut(source: Path, copy: Path) -> None:
    content = source.read_bytes()
    copy.write_bytes(content[: len(content) // 2])
