"""What is imported: a Keras model, a SavedModel or a LiteRT model, read, and written as a version's graph."""

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from service.engines.base import LoadError
from service.engines.litert import LiteRTEngine
from service.serving_config import ASSETS, TWIN_FILE, Precision, graph_file
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from training.data import Array
from training.errors import RunError
from training.export import saved_model, twin
from training.importing import keras_file
from training.importing.recurrent import convertible, recurrent_layers

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
WARM_UP_FILE = "tf_serving_warmup_requests"

Arrays = Mapping[str, Array]

# Names that Keras makes up, which depend on what was built before.
_MADE_UP_NAME = re.compile(r"(keras_tensor|input|input_layer|args)(_\d+)*")
_MISSING_OPS = re.compile(r"(?:Flex|Custom|TF Select|Select) ops: ([\w, ]+)")


class Source(Protocol):
    """`text`: what it is, for people. `parameters`: None where they are not counted. `is_saved_model`: whether its
    version has a SavedModel. `max_integer`: what integers may be at most, where the model says so. `words`: some that
    it knows. `rescales`: whether the graph scales its pixels itself; None where that is not known."""

    text: str
    parameters: int | None
    is_saved_model: bool
    max_integer: int | None
    words: Sequence[str]
    rescales: bool | None

    def write(self, folder: Path) -> dict[str, Signature]:
        """Writes the graph into a version's folder."""

    def convert(self, folder: Path, names: Sequence[str], precision: Precision, rows: Mapping[str, Arrays]) -> bytes:
        """The twin of what `write` has written. Raises whatever the converter does."""


def read(path: Path, code: Path | None, signature: str | None, scale: float, softmax: bool) -> Source:
    """Raises RunError where it is no model, or none that can be read."""
    if not path.exists():
        raise RunError(f"{path}: no such file or folder; expected a .keras, .h5 or .tflite file, or a SavedModel")
    suffix = path.suffix.lower()
    if path.is_file() and suffix in KERAS_SUFFIXES:
        model, written_by = keras_file.read(path, code)
        return KerasSource(model, f"{path.name} ({written_by})", scale, softmax)
    if path.is_file() and suffix == ".tflite":
        if scale != 1 or softmax:
            raise RunError(f"{path}: scale and softmax change the graph, and a LiteRT model's cannot be changed")
        return TfliteSource(path)
    if path.is_dir() and graph_file(path) is not None:
        return SavedModelSource(path, signature, scale, softmax)
    found = "a folder without saved_model.pb" if path.is_dir() else "another kind of file"
    below = [child.name for child in sorted(path.iterdir()) if graph_file(child)] if path.is_dir() else []
    there = f"; there is one in {path / below[0]}" if below else ""
    raise RunError(f"{path} is {found}; expected a .keras, .h5 or .tflite file, or a SavedModel{there}")


class KerasSource:
    """A model of Keras 3, or of Keras 2 as the package tf_keras has it."""

    is_saved_model = True

    def __init__(self, model: Any, text: str, scale: float = 1, softmax: bool = False) -> None:
        """Raises RunError where the model has no inputs yet."""
        library = _library_of(model)
        self._structure, self._specs = _keras_inputs(model)
        self.inputs = tuple(self._specs)  # in the order in which Keras takes them
        self.text = text
        self._model = model
        self._scale = scale
        self._softmax = softmax
        self._layers = list(model._flatten_layers())
        sizes = [layer.input_dim for layer in self._layers if isinstance(layer, library.layers.Embedding)]
        self.max_integer: int | None = min(sizes) - 1 if sizes else None
        self.words: Sequence[str] = [word for layer in self._layers for word in _words(layer)]
        scaling = (library.layers.Rescaling, library.layers.Normalization)
        self.rescales: bool | None = scale != 1 or any(isinstance(layer, scaling) for layer in self._layers)
        self.parameters: int | None = int(model.count_params())

    def write(self, folder: Path) -> dict[str, Signature]:
        try:
            with self._in_float32():
                self._save(folder)
        except (RunError, OSError):
            raise
        except Exception as error:  # whatever the model's own code does
            text = keras_file.first_sentence(error)
            raise RunError(f"TensorFlow cannot export the model: {type(error).__name__}: {text}") from None
        return saved_model.read_signatures(folder)

    def convert(self, folder: Path, names: Sequence[str], precision: Precision, rows: Mapping[str, Arrays]) -> bytes:
        recurrent = recurrent_layers(self._layers)
        if not recurrent:
            return twin.convert(folder, names, precision, rows)
        shapes = [spec.shape[1:] for spec in self._specs.values() if spec.shape.rank > 1]
        is_free = any(None in shape for shape in shapes)
        steps = None if is_free else max((shape[0] for shape in shapes), default=None)
        with TemporaryDirectory() as other, self._in_float32(), convertible(recurrent, steps):
            self._save(Path(other))
            return twin.convert(Path(other), names, precision, rows)

    def _save(self, folder: Path) -> None:
        import tensorflow as tf

        module = tf.Module()
        weights = self._model.weights
        if _is_keras_2(self._model):  # in which vocabularies are weights, too
            module.variables_of_graph = [weight for weight in weights if isinstance(weight, tf.Variable)]
        else:
            module.variables_of_graph = [weight.value for weight in weights]
        module.tables = [layer.lookup_table for layer in self._layers if hasattr(layer, "lookup_table")]
        function = tf.function(self._answer, input_signature=list(self._specs.values()), autograph=False)
        tf.saved_model.save(module, str(folder), signatures={DEFAULT_SIGNATURE: function})

    def _answer(self, *tensors: Any) -> dict[str, Any]:
        import keras
        import tensorflow as tf

        scaled = [tensor * self._scale if tensor.dtype.is_floating else tensor for tensor in tensors]
        arguments = keras.tree.pack_sequence_as(self._structure, scaled if self._scale != 1 else list(tensors))
        outputs = _named(self._model(*arguments, training=False), _output_names(self._model))
        if self._softmax:
            outputs = _with_softmax(outputs)
        return {
            name: tf.cast(tensor, tf.float32) if tensor.dtype in (tf.float16, tf.bfloat16) else tensor
            for name, tensor in outputs.items()
        }

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        """Computes in float32 what was fitted in a mixed precision."""
        mixed = [layer for layer in self._layers if layer.dtype_policy.name.startswith("mixed_")]
        policies = [layer.dtype_policy for layer in mixed]
        for layer in mixed:
            _set_policy(layer, "float32")
        try:
            yield
        finally:
            for layer, policy in zip(mixed, policies, strict=True):
                _set_policy(layer, policy)


class SavedModelSource:
    parameters: int | None = None
    is_saved_model = True
    max_integer: int | None = None
    words: Sequence[str] = ()

    def __init__(self, path: Path, signature: str | None, scale: float, softmax: bool) -> None:
        self.text = f"{path.name} (SavedModel)"
        self._path = path
        self._signature = signature
        self._scale = scale
        self._softmax = softmax
        self.rescales: bool | None = True if scale != 1 else None

    def write(self, folder: Path) -> dict[str, Signature]:
        if self._scale != 1 or self._softmax:
            self._rewrite(folder)
        else:
            for child in self._path.iterdir():
                if child.is_dir() and child.name in ("variables", "assets"):
                    shutil.copytree(child, folder / child.name)
                elif child.is_file() and child.suffix in (".pb", ".pbtxt"):
                    shutil.copy(child, folder)
        (folder / ASSETS).mkdir()
        if (requests := self._path / ASSETS / WARM_UP_FILE).is_file():
            shutil.copy(requests, folder / ASSETS)
        try:
            return saved_model.read_signatures(folder)
        except Exception as error:
            raise RunError(f"{self._path}: its saved_model.pb cannot be read: {error}") from None

    def convert(self, folder: Path, names: Sequence[str], precision: Precision, rows: Mapping[str, Arrays]) -> bytes:
        return twin.convert(folder, names, precision, rows)

    def _rewrite(self, folder: Path) -> None:
        """With the scale and the softmax in its graph; the other signatures are left out."""
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(str(self._path), tags=["serve"])
        except Exception as error:  # TensorFlow raises many kinds
            raise RunError(f"{self._path}: TensorFlow cannot load it: {' '.join(str(error).split())[:300]}") from None
        name = primary(loaded.signatures, self._signature)
        function = loaded.signatures[name]
        declared = function.structured_input_signature[1]
        specs = {key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in declared.items()}

        def answer(*tensors: Any) -> dict[str, Any]:
            given = dict(zip(specs, tensors, strict=True))
            scaled = {key: each * self._scale if each.dtype.is_floating else each for key, each in given.items()}
            outputs = function(**scaled)
            return _with_softmax(outputs) if self._softmax else dict(outputs)

        module = tf.Module()
        module.loaded = loaded
        wrapped = tf.function(answer, input_signature=list(specs.values()), autograph=False)
        tf.saved_model.save(module, str(folder), signatures={name: wrapped})


class TfliteSource:
    parameters: int | None = None
    is_saved_model = False
    max_integer: int | None = None
    words: Sequence[str] = ()
    rescales: bool | None = None

    def __init__(self, path: Path) -> None:
        self.text = f"{path.name} (LiteRT)"
        self._path = path

    def write(self, folder: Path) -> dict[str, Signature]:
        shutil.copy(self._path, folder / TWIN_FILE)
        try:
            return dict(LiteRTEngine(folder / TWIN_FILE).signatures)
        except LoadError as error:
            raise RunError(f"{self._path}: {error}") from None

    def convert(self, *_arguments: Any, **_more: Any) -> bytes:
        raise TypeError("it is LiteRT's already")


def primary(signatures: Mapping[str, Any], wanted: str | None) -> str:
    """The signature that examples, labels and pictures are for. Raises RunError."""
    if not signatures:
        raise RunError("the SavedModel has no signature; export it with one (model.export, or signatures=... )")
    if wanted is not None and wanted not in signatures:
        raise RunError(f"signature is {wanted!r}; the model has {', '.join(map(repr, signatures))}")
    if wanted is None and DEFAULT_SIGNATURE not in signatures and len(signatures) > 1:
        raise RunError(f"the model has no {DEFAULT_SIGNATURE!r}; say --signature, one of {', '.join(signatures)}")
    return wanted or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures)))


def why_no_twin(error: Exception, folder: Path) -> str:
    """One sentence of what the converter, the runtime or the proof said."""
    text = str(error)
    missing = sorted({op.strip() for found in _MISSING_OPS.findall(text) for op in found.split(",")} - {""})
    if missing:
        return f"LiteRT does not have TensorFlow's {', '.join(missing)}"
    if "TensorList" in text:
        return (
            "LiteRT's converter does not take the loop of a recurrent layer in a SavedModel; import the .keras file, "
            "or publish the model from Python"
        )
    if isinstance(error, twin.TwinError):
        return f"the conversion does not give the same: {text}"
    first = " ".join(text.replace(str(folder), "the SavedModel").split())
    return f"LiteRT cannot convert or run it: {first[:300]}"


def _library_of(model: Any) -> Any:
    """Keras, or tf_keras, if that made the model. Raises RunError where neither did."""
    import keras

    for library in (keras, sys.modules.get("tf_keras")):
        if library and isinstance(model, library.Model):
            return library
    kind = type(model)
    raise RunError(
        f"model is a {kind.__module__}.{kind.__qualname__}, expected a keras.Model, a tf_keras.Model or a path; save "
        "any other as a SavedModel and give its path"
    )


def _is_keras_2(model: Any) -> bool:
    return hasattr(model, "save_spec")


def _set_policy(layer: Any, policy: Any) -> None:
    if hasattr(layer, "_set_dtype_policy"):  # Keras 2
        layer._set_dtype_policy(policy)
    else:
        layer.dtype_policy = policy


def _arguments(model: Any) -> list[Any] | None:
    """Of a call, as Keras nests them; None where there was none yet."""
    from keras.src.export.export_utils import get_input_signature

    if _is_keras_2(model):
        found = model.save_spec()
        return list(found[0]) if found else None
    try:
        return list(get_input_signature(model))
    except ValueError:
        return None


def _looked_up(model: Any) -> set[str]:
    """Names of the inputs whose numbers are those of an embedding's rows, which Keras 2 declares as float32."""
    embeddings = [layer for layer in model._flatten_layers() if hasattr(layer, "embeddings_initializer")]
    found = [tensor for layer in embeddings for node in layer._inbound_nodes for tensor in node.keras_inputs]
    return {tensor.name for tensor in model.inputs or () if any(tensor is each for each in found)}


def _keras_inputs(model: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call, as Keras nests them, and each tensor's spec by its name in requests."""
    import keras
    import tensorflow as tf

    structure = _arguments(model)
    if structure is None:
        raise RunError("the model was never called, so its inputs are not known; call it once, then publish")
    # Of a Sequential, Keras 2 makes the input's name of its first layer's.
    of_layer = f"{model.layers[0].name}_input" if _is_keras_2(model) and model.layers else None
    numbers = _looked_up(model) if _is_keras_2(model) else set()
    flat = keras.tree.flatten_with_path(structure)
    keys = [path[-1] if path and isinstance(path[-1], str) else None for path, _ in flat]
    specs: dict[str, Any] = {}
    for place, (key, (_, each)) in enumerate(zip(keys, flat, strict=True)):
        name = key or each.name
        if name is None or name == of_layer or _MADE_UP_NAME.fullmatch(name):
            name = "inputs" if len(flat) == 1 else f"input_{place}"
        spec = tf.TensorSpec((None, *each.shape[1:]), each.dtype, name)
        is_number = each.name in numbers and spec.dtype.is_floating
        specs[name] = tf.TensorSpec(spec.shape, tf.int32, name) if is_number else spec
    if len(specs) < len(flat):
        raise RunError(f"the model's inputs have the names {', '.join(specs)}; expected {len(flat)} different ones")
    return structure, specs


def _words(layer: Any) -> list[str]:
    """Of a layer that looks words up."""
    if not hasattr(layer, "get_vocabulary"):
        return []
    vocabulary: list[Any] = layer.get_vocabulary()
    return [word for word in vocabulary if isinstance(word, str)]


def _output_names(model: Any) -> list[str]:
    """Of a model of Keras 2, whose export names its outputs by their layers: those names that Keras did not make up."""
    if not _is_keras_2(model):
        return []
    kinds = {layer.name: type(layer).__name__.lower() for layer in model.layers}
    names = [
        f"output_{place}" if re.sub(r"_\d+$", "", name).replace("_", "") == kinds.get(name) else name
        for place, name in enumerate(model.output_names or ())
    ]
    return names if len(set(names)) == len(names) else []


def _named(outputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """By their names, else as Keras's own export has them."""
    import keras

    if isinstance(outputs, dict):
        flat = keras.tree.flatten_with_path(outputs)
        return {"_".join(map(str, path)): tensor for path, tensor in flat}
    tensors = keras.tree.flatten(outputs)
    if len(names) != len(tensors):
        names = [f"output_{place}" for place in range(len(tensors))]
    return dict(zip(names, tensors, strict=True))


def _with_softmax(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Probabilities instead of logits: a softmax over classes, the sigmoid of a single number. Raises RunError."""
    import tensorflow as tf

    floats = [name for name, tensor in outputs.items() if tensor.dtype.is_floating and len(tensor.shape) == 2]
    if len(floats) != 1:
        raise RunError(f"softmax needs one output with a row of logits; the model has {', '.join(outputs)}")
    logits = tf.cast(outputs[floats[0]], tf.float32)
    return dict(outputs) | {floats[0]: tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)}
