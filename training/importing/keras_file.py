"""A Keras model's file: who wrote it, and the model in it, read by Keras 3 or by tf_keras, which is Keras 2."""

import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import RunError

MAX_CHARACTERS = 200  # of what Keras says

_UNKNOWN_CLASS = re.compile(
    r"Could not (?:locate|find|deserialize) (?:class|function) ['\"]?(\w+)|Unknown \w+: '?(\w+)"
)
# What follows is a configuration, on many lines.
_DUMP = re.compile(r"(?<=[.!?])\s|(?:,| using)? config=|:? ?['\"]?\{")
_PUBLISH = "from training import publish; publish(model, ...)"


def read(path: Path, code: Path | None) -> tuple[Any, str]:
    """The model, and who wrote its file. RunError where it cannot be read."""
    version, config = _content(path)
    is_keras_2 = version.partition(".")[0] in ("1", "2")
    library = _keras_2(path, version) if is_keras_2 else _keras_3()
    custom = _classes_of(code) if code else {}
    if is_keras_2:
        if any(_is_keras_3(each) for each in custom.values()):
            raise RunError(
                f"{code}: its classes are Keras 3's, and Keras {version} wrote {path.name}; import tf_keras in it, or "
                "set TF_USE_LEGACY_KERAS=1 if it uses tf.keras"
            )
        _check(path, config, library, custom)
    try:
        model = library.models.load_model(path, custom_objects=custom, compile=False)
    except Exception as error:  # Keras raises many kinds
        text = " ".join(str(error).split())
        if unknown := _UNKNOWN_CLASS.search(text):
            raise _unknown(path, unknown[1] or unknown[2]) from None
        if "Lambda" in text:
            raise _untrusted(path) from None
        raise RunError(f"{path}: Keras cannot read it: {first_sentence(error)}") from None
    return model, f"Keras {version}" if version else "Keras, HDF5"


def first_sentence(error: Exception) -> str:
    """Of what Keras says: without the configurations that it shows."""
    text = " ".join(str(error).split()).rpartition("Exception encountered: ")[2]
    return _DUMP.split(text, maxsplit=1)[0][:MAX_CHARACTERS]


def _content(path: Path) -> tuple[str, Any]:
    """The version of Keras that wrote the file, as far as it says, and the model's configuration."""
    import h5py

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("metadata.json"))["keras_version"], json.loads(
                    archive.read("config.json")
                )
        with h5py.File(path) as file:
            version, config = (_text(file.attrs.get(name, "")) for name in ("keras_version", "model_config"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise RunError(f"{path}: Keras cannot read it: it is neither a .keras archive nor an HDF5 file") from None
    if not config:
        raise RunError(
            f"{path}: it holds weights only; load them in Python into the model that they are of, then {_PUBLISH}"
        )
    return version, json.loads(config)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _keras_3() -> Any:
    import keras

    return keras


def _keras_2(path: Path, version: str) -> Any:
    try:
        import tf_keras
    except ImportError:
        raise RunError(
            f"{path}: Keras {version} wrote it, which the package tf-keras reads: pip install --no-deps tf-keras"
        ) from None
    return tf_keras


def _is_keras_3(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, _keras_3().Layer)


def _check(path: Path, config: Any, library: Any, custom: dict[str, Any]) -> None:
    """Raises RunError where tf_keras would run code that the file brings, or import what it names: in HDF5 files it
    does so by itself."""
    for each in _objects(config):
        kind, module = each.get("class_name"), each.get("module")
        if kind == "__lambda__" or "lambda" in [value for key, value in each.items() if key.endswith("_type")]:
            raise _untrusted(path)
        if not isinstance(kind, str) or not isinstance(module, str):
            continue
        name = str(each.get("config")) if kind == "function" else kind
        is_own = (
            module.partition(".")[0] in ("keras", "tf_keras")
            or (module == "builtins" and hasattr(library.activations, name))
            or (kind == "__typespec__" and module.startswith("tensorflow."))
        )
        given = [library.saving.get_registered_object(key, custom) for key in (name, str(each.get("registered_name")))]
        if not is_own and given == [None, None]:
            raise _unknown(path, name)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Each object in a configuration, but for how the model was fitted, which is not read."""
    if isinstance(config, dict):
        yield config
        config = [value for key, value in config.items() if key != "compile_config"]
    if isinstance(config, list):
        for each in config:
            yield from _objects(each)


def _unknown(path: Path, name: str) -> RunError:
    return RunError(
        f"{path}: it has {name!r}, which Keras does not know; name the Python file that defines it with --code FILE, "
        f"or use {_PUBLISH} where the model is"
    )


def _untrusted(path: Path) -> RunError:
    return RunError(
        f"{path}: it has a Lambda layer, whose code a file cannot be trusted with; if you trust it, load the model in "
        f"Python (load_model's safe_mode=False), then {_PUBLISH}"
    )


def _classes_of(code: Path) -> dict[str, Any]:
    """Runs the file, and gives the classes and functions that it defines."""
    spec = importlib.util.spec_from_file_location(code.stem, code)
    if spec is None or spec.loader is None or not code.is_file():
        raise RunError(f"{code}: expected a Python file, with the classes and functions of the model")
    module = importlib.util.module_from_spec(spec)
    sys.modules[code.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RunError(f"{code}: {type(error).__name__}: {error}") from None
    return {name: each for name, each in vars(module).items() if callable(each) and each.__module__ == code.stem}
