"""Writes a version: the SavedModel, and beside it in assets.extra the twin and all that is known about them."""

import json
import mimetypes
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from service.engines.base import Engine
from service.engines.litert import LiteRTEngine
from service.engines.tensorflow.engine import SavedModelEngine
from service.serving_config import (
    ASSETS,
    TWIN_FILE,
    ImageSpec,
    OutlierScore,
    RowProof,
    Sample,
    ServingConfig,
    Twin,
    write_serving_config,
)
from service.tensors.signature import Signature
from training.console import quiet
from training.export import independence, saved_model, twin
from training.export.publish import publish, staging
from training.export.saved_model import SCORED_SIGNATURE, Graph

CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"
REFERENCE_FILE = "reference.json"


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a model hands to `export`.

    `metrics` becomes metrics.json, with the version and the sizes in bytes; `reference` becomes reference.json.
    `card` makes the model card from the metrics and the line on the twin. `pictures` writes PNGs into the folder that
    it is given, `samples` inputs to try the version with; `samples_from` says whether these are of the test split.
    """

    name: str
    graph: Graph
    twin: twin.Plan
    metrics: dict[str, Any]
    reference: dict[str, Any]
    card: Callable[[dict[str, Any], str], str]
    pictures: Callable[[Path], None]
    example: dict[str, Any]
    labels: tuple[str, ...] = ()
    image: ImageSpec | None = None
    samples: Callable[[Path], tuple[Sample, ...]] = lambda _assets: ()
    samples_from: Literal["test", "examples"] | None = None


@dataclass(frozen=True)
class Exported:
    version_dir: Path
    twin: str
    rows: str
    metrics: dict[str, Any]

    def print_summary(self, request: str, **results: str) -> None:
        """Prints the results, and what to do next; `request` is a command that asks the served model."""
        print(f"\n{'Exported':12}{self.version_dir}")
        for name, result in {**results, "Twin": self.twin, "Rows": self.rows}.items():
            print(f"{name:12}{result}")
        print(f"{'Next':12}{shlex.join(['python', '-m', 'service', '--models', str(self.version_dir.parents[1])])}")
        print(f"{'':12}{request}")


def curl(version_dir: Path, verb: str, body: Path | str) -> str:
    """The command that posts a picture or JSON to the model, as a shell takes it, whatever the model's name."""
    if isinstance(body, Path):
        data = ["--data-binary", f"@{body}", "-H", f"Content-Type: {mimetypes.guess_type(body.name)[0]}"]
    else:
        data = ["-d", body]
    model = quote(version_dir.parent.name, safe="")
    return shlex.join(["curl", *data, f"http://127.0.0.1:8501/v1/models/{model}:{verb}"])


def export(package: Package, output: Path, *, convert: Callable[..., bytes] = twin.convert) -> Exported:
    """Writes `output`/`package.name`/<next version>."""
    outlier_score = None
    if package.graph.outlier_output:
        output_name = package.graph.outlier_output
        outlier_score = OutlierScore(signature=SCORED_SIGNATURE, output=output_name, threshold=1.0)
    with staging(output / package.name) as folder:
        saved_model.write(package.graph, folder)
        assets = folder / ASSETS
        assets.mkdir()
        with quiet():
            proof, no_twin = make_twin(package, folder, convert)
            signatures = saved_model.read_signatures(folder)
            rows, depend = prove_rows(package, folder, signatures, has_twin=proof is not None)
        write_serving_config(
            folder,
            ServingConfig(
                signatures=signatures,
                labels=package.labels,
                image=package.image,
                example=package.example,
                samples=package.samples(assets),
                samples_from=package.samples_from,
                twin=proof,
                no_twin=no_twin,
                outlier_score=outlier_score,
                independent_rows=rows,
            ),
        )
        write_json(assets / REFERENCE_FILE, package.reference, indent=None)
        package.pictures(assets)
        outcome = describe_twin(proof, no_twin)
        metrics = {"model": package.name, "version": 0, **package.metrics, **sizes(folder)}

        def finish(version: int) -> None:
            metrics["version"] = version
            write_json(assets / METRICS_FILE, metrics, indent=2)
            (assets / CARD_FILE).write_text(package.card(metrics, outcome), "utf-8")

        return Exported(publish(folder, finish), outcome, describe_rows(rows, depend), metrics)


def make_twin(package: Package, folder: Path, convert: Callable[..., bytes]) -> tuple[Twin | None, str | None]:
    """The twin's proof, or why there is no twin: the version is served without one."""
    path = folder / ASSETS / TWIN_FILE
    graph, plan = package.graph, package.twin
    try:
        representative = plan.representative
        rows = None if representative is None else {graph.input_name: representative.astype(np.float32)}
        by_signature = {graph.whole_signature: rows} if rows else None
        path.write_bytes(convert(folder, [graph.whole_signature], plan.precision, by_signature))
        outputs = graph.labels_output, graph.outlier_output
        proof = twin.prove(folder, graph.input_name, graph.whole_signature, plan, *outputs)
    except Exception as error:  # the converter and the runtime raise many kinds
        path.unlink(missing_ok=True)
        reason = " ".join(str(error).replace(str(folder), "the SavedModel").split())
        return None, f"{type(error).__name__}: {reason[:500]}"
    return proof, None


def describe_twin(proof: Twin | None, no_twin: str | None) -> str:
    if proof is None:
        return f"none shipped ({no_twin})"
    if proof.precision == "float32":
        return (
            f"proved equal on {proof.inputs_tried:,} real inputs, "
            f"largest difference {proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
        )
    return (
        f"in {proof.precision}; of {proof.inputs_tried:,} labelled inputs it calls {proof.accuracy:.4f} right, "
        f"the SavedModel {proof.saved_model_accuracy:.4f} (allowed is {proof.tolerance:g} less)"
    )


def prove_rows(
    package: Package, folder: Path, signatures: dict[str, Signature], *, has_twin: bool
) -> tuple[RowProof | None, str | None]:
    """The proof that rows are independent, or why there is none: such a version is never batched."""
    whole = package.graph.whole_signature
    engines: list[Engine] = [SavedModelEngine(folder)]
    if has_twin:
        engines.append(LiteRTEngine(folder / ASSETS / TWIN_FILE, {whole: signatures[whole]}))
    rows = {package.graph.input_name: independence.pick_rows(package.twin.inputs).astype(np.float32)}
    try:
        return independence.prove(engines, dict.fromkeys(signatures, rows)), None
    except independence.RowsDepend as error:
        return None, str(error)


def describe_rows(proof: RowProof | None, depend: str | None) -> str:
    if proof is None:
        return f"never batched ({depend})"
    return (
        f"independent: {proof.rows_tried} of them alone, together and in another order differ by "
        f"{proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
    )


def sizes(folder: Path) -> dict[str, int | None]:
    """In bytes: of the SavedModel without assets.extra, and of the twin."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = folder / ASSETS / TWIN_FILE
    return {
        "saved_model_bytes": sum(file.stat().st_size for file in files if folder / ASSETS not in file.parents),
        "twin_bytes": path.stat().st_size if path.exists() else None,
    }


def write_json(path: Path, content: dict[str, Any], *, indent: int | None) -> None:
    """ValueError for NaN and infinity, which JSON does not have."""
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
