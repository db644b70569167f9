"""What an imported version brings to try it with: an example for the warm-up, and samples for its page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.serving_config import ImageSpec, Sample
from service.tensors.dtypes import Array
from service.tensors.image import takes_pictures
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from training.data import samples
from training.importing.examples import Examples

EXAMPLE_FILE = "example.json"  # of which curl can send what is too long for a command
NOISE_FILE = "example.png"  # where no picture was given
ROWS = 8
MAX_VALUES = 64  # of a row that is shown on the page
MAX_EXAMPLE_VALUES = 100_000


def write(
    assets: Path,
    name: str,
    signature: Signature,
    examples: Examples | None,
    labels: tuple[str, ...],
    image: ImageSpec | None,
) -> dict[str, Any]:
    """Writes pictures into `assets.extra`; gives `example` and `samples` as serving.json has them."""
    if examples is None or name != DEFAULT_SIGNATURE:
        return {}
    given = examples.given()
    instances = [_instance(examples.inputs, row) for row in range(min(ROWS, examples.count))]
    values = sum(array[0].size for array in examples.inputs.values())
    example: dict[str, Any] = {}
    if values <= MAX_EXAMPLE_VALUES and _survives(instances[0]):
        example = {"example": {"instances": instances[:1]}}
        (assets / EXAMPLE_FILE).write_text(json.dumps(example["example"]) + "\n", "utf-8")
    if takes_pictures(signature, image):
        if given.count and (found := _pictures(assets, given, labels)):
            return {"example": {"picture": found[0].file}, "samples": found}
        if not given.count:
            Image.fromarray(_pixels(examples)[0]).save(assets / NOISE_FILE)
            return {"example": {"picture": NOISE_FILE}}
    if values > MAX_VALUES or not given.count:
        return example
    shown = [
        Sample(instance=instance, expected=_expected(given, row, labels))
        for row, instance in enumerate(instances[: given.count])
    ]
    return example | {"samples": tuple(shown)}


def _pictures(assets: Path, given: Examples, labels: tuple[str, ...]) -> tuple[Sample, ...]:
    """Of the files, else of arrays that hold pixels."""
    answers = given.answers
    names = labels
    if answers is None or not labels or answers.dtype.kind not in "iu" or answers.max() >= len(labels):
        answers, names = None, ()
    if given.files:
        if answers is None:
            return _unlabelled(samples.photos(assets, given.files, np.zeros(len(given.files), int), ("",)))
        return samples.photos(assets, given.files, answers, names)
    (pixels,) = given.inputs.values()
    if pixels.min() < 0 or pixels.max() > 255 or (pixels.dtype.kind == "f" and pixels.max() <= 1):
        return ()
    images = _pixels(given)
    if answers is None:
        return _unlabelled(samples.pictures(assets, images, np.zeros(len(images), int), ("",)))
    return samples.pictures(assets, images, answers, names)


def _pixels(examples: Examples) -> Array:
    """Of the only input, as pictures have them: [n, height, width] or with three channels."""
    (values,) = examples.inputs.values()
    pixels: Array = np.rint(values.clip(0, 255)).astype(np.uint8)
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[-1] == 1 else pixels


def _unlabelled(found: tuple[Sample, ...]) -> tuple[Sample, ...]:
    return tuple(Sample(file=each.file) for each in found)


def _instance(inputs: dict[str, Array], row: int) -> Any:
    """A row as an entry of `instances`."""
    values = {name: _json(array[row]) for name, array in inputs.items()}
    return values if len(values) > 1 else next(iter(values.values()))


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        return [_json(each) for each in value]
    value = np.asarray(value)
    # With the digits that its type has, not those of float64.
    return (value.astype(str).astype(float) if value.dtype.kind == "f" else value).tolist()


def _text(value: bytes) -> Any:
    import base64

    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _survives(instance: Any) -> bool:
    """Whether JSON can hold it: no NaN, no infinity."""
    try:
        json.dumps(instance, allow_nan=False)
    except ValueError:
        return False
    return True


def _expected(given: Examples, row: int, labels: tuple[str, ...]) -> str | float | None:
    if given.answers is None:
        return None
    answer = given.answers[row].item()
    return labels[answer] if labels and isinstance(answer, int) and answer < len(labels) else float(answer)
