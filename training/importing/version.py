"""Makes a version of what is imported: graph, twin, proofs, samples, reference and card, published by one rename."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from service.engines.base import Engine, LoadError
from service.engines.litert import LiteRTEngine
from service.engines.tensorflow.engine import SavedModelEngine
from service.errors import ServingError
from service.serving_config import (
    ASSETS,
    TWIN_FILE,
    ImageSpec,
    Precision,
    RowProof,
    ServingConfig,
    Twin,
    write_serving_config,
)
from service.tensors.image import picture_spec, takes_pictures
from service.tensors.signature import Signature
from training.errors import RunError
from training.evaluation.reference import reference
from training.export import independence, model_card, twin
from training.export.publish import publish, staging
from training.export.version import CARD_FILE, METRICS_FILE, REFERENCE_FILE, describe_rows, sizes, write_json
from training.importing import results, samples
from training.importing.examples import (
    MIN_ROWS,
    OTHER_SIZE,
    Examples,
    first_rows,
    has_free_sizes,
    made_up,
    takes_any_rows,
)
from training.importing.source import Arrays, Source, primary, why_no_twin

# Of a twin's proof: rows, and seconds for which the SavedModel runs them.
MAX_ROWS, MAX_SECONDS = 1_000, 10.0
REPRESENTATIVE_ROWS = 200
# Sums of float32 in another order, of layers that nobody here has seen.
TOLERANCE = 1e-4
ACCURACY_LOSS = 0.01

# Reads the examples, once the signature and the way of a picture are known.
ReadExamples = Callable[[Signature, ImageSpec | None], Examples]
Tried = Mapping[str, Examples]


class NoProof(Exception):
    """A twin cannot be proved; the message says what is needed."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the owner says. `image`: fields of the ImageSpec that are not as the input's shape says."""

    name: str
    labels: tuple[str, ...] = ()
    image: Mapping[str, Any] = field(default_factory=dict)
    precision: Precision = "float32"
    signature: str | None = None
    wants_twin: bool = True


@dataclass(frozen=True, kw_only=True)
class Imported:
    """`signature`: the one that was tried with the examples, of which `row` is one. `lines`: what came of it, by title.
    `notes`: what the owner should know."""

    version_dir: Path
    signature: str
    row: Arrays | None
    config: ServingConfig
    metrics: dict[str, Any]
    lines: dict[str, str]
    notes: list[str]


def make_version(source: Source, wish: Wish, read_examples: ReadExamples | None, output: Path) -> Imported:
    """Writes `output`/`wish.name`/<next version>. Raises RunError."""
    with staging(output / wish.name) as folder:
        signatures = source.write(folder)
        (folder / ASSETS).mkdir(exist_ok=True)
        engine, refusal = _load(source, folder)
        if engine:  # which leaves out those with sparse tensors and the like
            signatures = {name: signatures[name] for name in engine.signatures}
        name = primary(signatures, wish.signature)
        signature = signatures[name]
        image = _image(signature, wish.image)
        given = read_examples(signature, image) if read_examples else None
        labels = wish.labels or (given.names if given else ())
        config = ServingConfig(signatures=signatures, labels=labels, image=image)
        scores = results.scores_output(signature, config)
        classes = (signature.outputs[scores].shape or ())[1:] if scores else ()
        if wish.precision != "float32" and classes in ((), (1,)):
            raise RunError(
                f"a twin in {wish.precision} is proved by how many classes it calls right, and the model has no output "
                "with a score for each class; leave the precision at float32"
            )
        tried = _inputs_to_try(engine, source, signatures, name, given) if engine else {}
        found = results.measure(engine, name, signature, scores, given, labels) if engine and given else None

        proof, no_twin = _make_twin(source, wish, folder, engine, tried, name, scores, refusal)
        rows, depend = _prove_rows(engine, folder, tried, signatures, proof)
        config = msgspec.structs.replace(
            config,
            signatures=signatures if source.is_saved_model else {},
            twin=proof,
            no_twin=no_twin,
            independent_rows=rows,
            **samples.write(folder / ASSETS, name, signature, tried.get(name), labels, image),
        )
        write_serving_config(folder, config)
        if given:
            probabilities = found.probabilities if found else None
            has_answers = given.answers is not None and len(given.answers) == given.count
            content = reference(
                given.inputs,
                probabilities,
                labels if probabilities is not None else (),
                truth=given.answers if has_answers else None,
            )
            write_json(folder / ASSETS / REFERENCE_FILE, content, indent=None)
        metrics: dict[str, Any] = {"model": wish.name, "version": 0, "source": source.text}
        metrics |= {"parameters": source.parameters} if source.parameters is not None else {}
        metrics |= (found.metrics if found else {}) | sizes(folder)
        notes = results.notes(source, signature, image, labels, given, found)
        lines = {
            "From": source.text,
            "Tried with": str(tried[name]) if name in tried else "nothing: no input could be made up; give examples",
            "Pictures": results.describe_image(image, source) if takes_pictures(signature, image) else "",
            "Result": found.text if found else "",
            "Twin": _describe_twin(proof, no_twin, tried.get(name)),
            "Rows": describe_rows(rows, depend),
        }
        lines = {title: text for title, text in lines.items() if text}

        def finish(version: int) -> None:
            metrics["version"] = version
            write_json(folder / ASSETS / METRICS_FILE, metrics, indent=2)
            (folder / ASSETS / CARD_FILE).write_text(
                model_card.imported(metrics, signatures, labels, lines, notes), "utf-8"
            )

        version_dir = publish(folder, finish)
    row = first_rows(tried[name].inputs, 1) if name in tried else None
    return Imported(
        version_dir=version_dir, signature=name, row=row, config=config, metrics=metrics, lines=lines, notes=notes
    )


def _image(signature: Signature, fields: Mapping[str, Any]) -> ImageSpec | None:
    """How a picture becomes the input, by its shape and by what the owner says. Raises RunError."""
    guessed = picture_spec(signature, None) if takes_pictures(signature, None) else None
    if not fields:
        return guessed
    try:
        return msgspec.convert((msgspec.to_builtins(guessed) if guessed else {}) | dict(fields), ImageSpec)
    except msgspec.ValidationError as error:
        raise RunError(f"image: {error}; the model's inputs are {', '.join(signature.inputs)}") from None


def _load(source: Source, folder: Path) -> tuple[Engine | None, str]:
    """The engine of what was written, or why TensorFlow here cannot run it: with operations that it lacks, say."""
    if not source.is_saved_model:
        return LiteRTEngine(folder / TWIN_FILE), ""
    try:
        return SavedModelEngine(folder), ""
    except LoadError as error:
        return None, str(error)


def _inputs_to_try(
    engine: Engine, source: Source, signatures: Mapping[str, Signature], name: str, given: Examples | None
) -> dict[str, Examples]:
    """Inputs for each signature for which there are any: as many as the engine runs in the time of a proof."""
    tried: dict[str, Examples] = {}
    # The first is the one that examples are for; others that take the same get the same.
    for each in sorted(signatures, key=lambda each: each != name):
        signature = signatures[each]
        same = next((other for other in tried if _takes_the_same(signatures[other], signature)), None)
        if same:
            tried[each] = tried[same]
            continue
        run = partial(engine.run, each)
        own = given if each == name else None
        few = made_up(signature, run, MIN_ROWS, source.max_integer, source.words, own)
        if few is None:
            continue
        count = _affordable(run, few.inputs)
        if own is None:
            few = made_up(signature, run, count, source.max_integer, source.words) or few
        tried[each] = few.part(count)
    return tried


def _takes_the_same(one: Signature, other: Signature) -> bool:
    return {name: (spec.dtype, spec.shape) for name, spec in one.inputs.items()} == {
        name: (spec.dtype, spec.shape) for name, spec in other.inputs.items()
    }


def _affordable(run: Callable[[Arrays], object], inputs: Arrays) -> int:
    row = first_rows(inputs, 1)
    try:
        run(row)
        begun = time.perf_counter()
        run(row)
    except ServingError as error:
        raise RunError(f"the model refuses its examples: {error}") from None
    seconds = (time.perf_counter() - begun) * len(twin.BATCH_SIZES)
    return int(min(MAX_ROWS, max(independence.ROWS, MAX_SECONDS / max(seconds, 1e-6))))


def _make_twin(
    source: Source,
    wish: Wish,
    folder: Path,
    engine: Engine | None,
    tried: Tried,
    name: str,
    scores: str | None,
    refusal: str,
) -> tuple[Twin | None, str | None]:
    """The twin's proof, or why there is no twin: TensorFlow serves the version then."""
    if not source.is_saved_model:
        return None, None
    if not wish.wants_twin:
        return None, "its owner wants none"
    if engine is None:
        return None, refusal
    missing = [each for each in engine.signatures if each not in tried]
    path = folder / ASSETS / TWIN_FILE
    try:
        representative = {each: first_rows(one.inputs, REPRESENTATIVE_ROWS) for each, one in tried.items()}
        path.write_bytes(source.convert(folder, list(engine.signatures), wish.precision, representative))
        converted = LiteRTEngine(path, engine.signatures)
        if missing:
            raise NoProof(f"there are no inputs to prove a twin with; give examples for the signature {missing[0]!r}")
        if _takes_unknown_words(source, engine, tried):
            raise NoProof("words that its tables know are needed to prove a twin; give examples")
        free = {each for each in tried if takes_any_rows(engine.signatures[each])}
        outcome = _prove(engine.run, converted.run, wish, tried, name, scores, free)
        _check_other_sizes(source, engine, converted, wish)
    except NoProof as error:
        path.unlink(missing_ok=True)
        return None, str(error)
    except Exception as error:  # the converter and the runtime raise many kinds
        path.unlink(missing_ok=True)
        return None, why_no_twin(error, folder)
    return twin.describe(folder, tried[name].count, wish.precision, outcome), None


def _takes_unknown_words(source: Source, engine: Engine, tried: Tried) -> bool:
    """Whether text was made up without any that the model knows."""
    is_text = any(spec.dtype == "DT_STRING" for each in engine.signatures.values() for spec in each.inputs.values())
    return is_text and not source.words and any(not one.count - one.made_up for one in tried.values())


def _prove(
    saved_model: twin.Run,
    converted: twin.Run,
    wish: Wish,
    tried: Tried,
    name: str,
    scores: str | None,
    free: Collection[str],
) -> dict[str, float]:
    """`free`: the signatures that take any number of rows. Raises TwinError."""
    if wish.precision == "float32":
        largest = max(
            twin.largest_difference(
                saved_model,
                converted,
                each,
                examples.inputs,
                sizes=twin.BATCH_SIZES if each in free else (1,),
                tolerance=TOLERANCE,
            )
            for each, examples in tried.items()
        )
        return {"largest_difference": largest, "tolerance": TOLERANCE}
    assert scores is not None  # noqa: S101
    examples = tried[name].given()
    answers = examples.answers
    if answers is None or len(answers) < twin.MIN_LABELLED:
        # What the SavedModel calls them is right, then.
        examples = tried[name]
        answers = saved_model(name, examples.inputs)[scores].argmax(axis=1)
    arguments = name, examples.inputs, answers, scores, None, wish.precision, ACCURACY_LOSS
    return twin.accuracies(saved_model, converted, *arguments)


def _check_other_sizes(source: Source, engine: Engine, converted: Engine, wish: Wish) -> None:
    """Tries made-up rows of another length, where that is free. Raises TwinError."""
    for name, signature in engine.signatures.items():
        if wish.precision != "float32" or not has_free_sizes(signature):
            continue
        run = partial(engine.run, name)
        other = made_up(signature, run, independence.ROWS, source.max_integer, source.words, sizes=(OTHER_SIZE,))
        if other is not None:
            sizes = (1, independence.ROWS) if takes_any_rows(signature) else (1,)
            twin.largest_difference(engine.run, converted.run, name, other.inputs, sizes=sizes, tolerance=TOLERANCE)


def _prove_rows(
    engine: Engine | None, folder: Path, tried: Tried, signatures: Mapping[str, Signature], proof: Twin | None
) -> tuple[RowProof | None, str | None]:
    """The proof for the signatures whose rows are independent, or why no signature's are."""
    if engine is None or not tried:
        return None, "there are no inputs to prove it with"
    engines = [engine]
    if proof:
        engines.append(LiteRTEngine(folder / ASSETS / TWIN_FILE, engine.signatures))
    proofs, reasons = [], []
    for name, examples in tried.items():
        if not takes_any_rows(signatures[name]):
            reasons.append(f"{name!r} takes a fixed number of rows")
            continue
        try:
            proofs.append(independence.prove(engines, {name: examples.inputs}))
        except (independence.RowsDepend, ServingError) as error:
            reasons.append(str(error))
    if not proofs:
        return None, reasons[0]
    together = RowProof(
        signatures=tuple(sorted(name for each in proofs for name in each.signatures)),
        rows_tried=min(each.rows_tried for each in proofs),
        largest_difference=max(each.largest_difference for each in proofs),
        tolerance=independence.TOLERANCE,
    )
    return together, None


def _describe_twin(proof: Twin | None, no_twin: str | None, tried: Examples | None) -> str:
    if proof is None:
        return f"none, TensorFlow serves it: {no_twin}" if no_twin else ""
    if proof.precision == "float32":
        return (
            f"proved equal on {tried}, largest difference {proof.largest_difference:.2g} (allowed {proof.tolerance:g})"
        )
    return (
        f"in {proof.precision}; of {proof.inputs_tried:,} inputs it calls {proof.accuracy:.4f} right, the SavedModel "
        f"{proof.saved_model_accuracy:.4f} (allowed is {proof.tolerance:g} less)"
    )
