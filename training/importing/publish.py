"""`publish`: a model of one's own as a version that is ready to serve, and what came of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Everything else is imported by the call: `import training` needs no TensorFlow, and takes no time.

PRECISIONS = ("float32", "float16", "int8", "dynamic")
FITS = ("stretch", "contain", "cover")
COLOURS = {"grey": "L", "gray": "L", "rgb": "RGB"}
IMAGE_EXPECTED = (
    "expected of stretch, contain or cover, HEIGHTxWIDTH, grey or RGB, black or white, separated by commas: contain,"
    "28x28,grey,black"
)


def publish(
    model: Any,
    output: str | Path = "models",
    *,
    name: str,
    labels: Sequence[str] = (),
    examples: Any = None,
    answers: Any = None,
    scale: float = 1,
    softmax: bool = False,
    image: str = "",
    precision: str = "float32",
    signature: str = "",
    twin: bool = True,
    code: str | Path | None = None,
) -> Path:
    """Writes a model as the next version under OUTPUT/NAME/, and prints what came of it. Gives the version's folder.

    `model`: a keras.Model, a tf_keras.Model, or the path of a .keras, .h5 or .tflite file or of a SavedModel.
    `examples`: what model.predict takes (an array, or a list or dict of them), or the path of a file or a folder with
    pictures. `answers`: what is right for them: class numbers, one-hot rows, labels or numbers. `scale`, `softmax`:
    what the exported graph does beside the model, to its input and its output. The others are the command's flags.

    Raises:
        RunError: in training.errors; the message says in a sentence what is wrong.
    """
    from training import console
    from training.config import check_output
    from training.errors import ConfigError
    from training.folder import check_name

    check_name(name)
    check_output(Path(output))
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    fields = parse_image(image)
    labels = tuple(map(str, labels))
    with console.silent():
        from training.importing import examples as reader
        from training.importing import source, summary
        from training.importing.version import Wish, make_version

        if isinstance(model, str | Path):
            read = source.read(Path(model), Path(code) if code else None, signature or None, scale, softmax)
        else:
            read = source.KerasSource(model, "a Keras model, published from Python", scale, softmax)

        if isinstance(examples, list | tuple) and isinstance(read, source.KerasSource) and len(read.inputs) > 1:
            examples = dict(zip(read.inputs, examples, strict=False))  # which are too few says the reader

        def read_examples(signature: Any, image: Any) -> reader.Examples:
            return reader.read(examples, answers, signature, image, labels, scale)

        wish = Wish(
            name=name,
            labels=labels,
            image=fields,
            precision=precision,  # type: ignore[arg-type]
            signature=signature or None,
            wants_twin=twin,
        )
        imported = make_version(read, wish, None if examples is None else read_examples, Path(output))
        text = summary.text(imported)
    print(text)
    return imported.version_dir


def parse_image(text: str) -> dict[str, Any]:
    """The fields of an ImageSpec that are named. Raises ConfigError."""
    from training.errors import ConfigError

    fields: dict[str, Any] = {}
    for word in text.lower().split(",") if text else ():
        height, _, width = word.partition("x")
        if word in FITS:
            fields["fit"] = word
        elif word in COLOURS:
            fields["mode"] = COLOURS[word]
        elif word in ("black", "white"):
            fields["ground"] = word
        elif height.isdigit() and width.isdigit():
            fields |= {"height": int(height), "width": int(width)}
        else:
            raise ConfigError(f"image has {word!r}, {IMAGE_EXPECTED}")
    return fields
