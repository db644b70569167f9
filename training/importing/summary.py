"""What an import prints at its end: results, the cost by each engine, and the command that asks the model."""

import json
import shlex
from urllib.parse import quote

from service.serving_config import ASSETS
from service.settings import EngineChoice
from training.importing.measure import Cost, cost
from training.importing.samples import EXAMPLE_FILE
from training.importing.version import Imported

MAX_BODY_CHARACTERS = 200  # a longer one fills the screen
ADDRESS = "http://127.0.0.1:8501"
NONE = "–"


def text(imported: Imported) -> str:
    printed = [f"{title:12}{line}" for title, line in {"Version": str(imported.version_dir), **imported.lines}.items()]
    printed += [f"{'Note':12}{note}" for note in imported.notes]
    return "\n".join(["", *printed, "", table(imported), "", *_next(imported)])


def table(imported: Imported) -> str:
    """A column for each engine that can run the version."""
    metrics, proof = imported.metrics, imported.config.twin
    engines: list[tuple[str, EngineChoice]] = []
    sizes: list[int] = []
    accuracies: list[float | None] = []
    differences: list[float | None] = []
    # A LiteRT model has no SavedModel whose signatures are written down.
    engines.append(("TensorFlow", "tensorflow") if imported.config.signatures else ("LiteRT", "litert"))
    sizes.append(metrics["saved_model_bytes"])
    accuracies.append(metrics.get("accuracy"))
    differences.append(None)
    if proof is not None:
        engines.append(("twin", "litert"))
        sizes.append(metrics["twin_bytes"])
        # A twin in float32 gives the same, row by row.
        accuracies.append(metrics.get("accuracy") if proof.precision == "float32" else proof.accuracy)
        differences.append(proof.largest_difference)
    costs = [_cost(imported, engine) for _, engine in engines]
    rows: dict[str, list[str]] = {
        "accuracy": [_number(each, ".4f") for each in accuracies],
        "largest difference": [_number(each, ".2g") for each in differences],
        "files, MB": [_number(each / 1e6, ".3g") for each in sizes],
        "µs a row": [_number(each.micros if each else None, ",.0f") for each in costs],
        "memory, MB": [_number(each.memory / 1e6 if each and each.memory else None, ",.0f") for each in costs],
    }
    lines = [["", *(name for name, _ in engines)]]
    lines += [[name, *cells] for name, cells in rows.items() if any(cell != NONE for cell in cells)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [f"{line[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _cost(imported: Imported, engine: EngineChoice) -> Cost | None:
    if imported.row is None:
        return None
    return cost(imported.version_dir, engine, imported.signature, dict(imported.row))


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _next(imported: Imported) -> list[str]:
    """The commands that serve the version and ask it."""
    folder = imported.version_dir
    models = shlex.quote(str(folder.parents[1]))
    engine = "" if imported.config.twin or not imported.config.signatures else "  # where TensorFlow is installed"
    lines = [f"{'Next':12}python -m service --models {models}{engine}"]
    example = imported.config.example
    if example is None:
        return lines
    url = f"{ADDRESS}/v1/models/{quote(folder.parent.name)}"
    verb = "classify" if imported.config.labels else "predict"
    if "picture" in example:
        picture = shlex.quote(str(folder / ASSETS / example["picture"]))
        kind = "png" if picture.rstrip("'").endswith(".png") else "jpeg"
        return [*lines, f"{'':12}curl -s -H 'Content-Type: image/{kind}' --data-binary @{picture} {url}:{verb}"]
    body = json.dumps(example, ensure_ascii=False)
    file = folder / ASSETS / EXAMPLE_FILE
    data = f"@{shlex.quote(str(file))}" if len(body) > MAX_BODY_CHARACTERS and file.is_file() else shlex.quote(body)
    return [*lines, f"{'':12}curl -s -d {data} {url}:{verb}"]
