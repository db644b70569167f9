"""Files of Keras: by which Keras they are read, and what is never run."""

import json
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.errors import RunError
from training.importing import keras_file


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two Kerases were asked to load a file."""
    found: list[str] = []
    for name in ("keras", "tf_keras"):

        def load_model(*_: Any, name: str = name, **__: Any) -> None:
            found.append(name)

        saving = SimpleNamespace(get_registered_object=lambda name, custom: custom.get(name))
        models, activations = SimpleNamespace(load_model=load_model), SimpleNamespace(relu=None)
        fake = SimpleNamespace(models=models, activations=activations, saving=saving, Layer=int)
        monkeypatch.setitem(sys.modules, name, fake)
    return found


def archive(folder: Path, version: str, config: Any) -> Path:
    with zipfile.ZipFile(folder / "m.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
        file.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [config]}}))
    return folder / "m.keras"


@pytest.mark.parametrize(
    ("version", "library"), [("1.2.2", "tf_keras"), ("2.4.0-tf", "tf_keras"), ("2.21.0", "tf_keras"), ("3.0", "keras")]
)
def test_version_of_the_file_says_who_reads_it(version: str, library: str, loaded: list[str], tmp_path: Path) -> None:
    _, text = keras_file.read(archive(tmp_path, version, {}), None)
    assert (loaded, text) == ([library], f"Keras {version}")


def named(module: str, name: str) -> dict[str, Any]:
    function = {"class_name": "function", "module": module, "config": name}
    return {"class_name": "Dense", "config": {"activation": function}}


@pytest.mark.parametrize(
    "config",
    [
        {"class_name": "Lambda", "config": {"function": ["4wE="], "function_type": "lambda"}},
        {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"value": "4wE="}}}},
        named("os", "system"),
        named("builtins", "exec"),
        {"class_name": "Popen", "module": "subprocess", "config": {}},
    ],
)
def test_code_that_a_file_of_keras_2_brings_is_refused(config: Any, loaded: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Lambda layer|which Keras does not know"):
        keras_file.read(archive(tmp_path, "2.15.0", config), None)
    assert not loaded


@pytest.mark.parametrize(
    "config", [named("builtins", "relu"), named("keras.activations", "gelu"), named("mine", "own")]
)
def test_known_functions_are_read(config: Any, loaded: list[str], tmp_path: Path) -> None:
    (code := tmp_path / "mine.py").write_text("def own(values):\n    return values")
    keras_file.read(archive(tmp_path, "2.15.0", config), code)
    assert loaded == ["tf_keras"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("No weights. Please ensure\n that all is well.", "No weights."),
        ("Error when deserializing class 'A' using config={'a': 1}.", "Error when deserializing class 'A'"),
        ("Error in 'A' using config={'a': {}}.\n\nException encountered: No argument: b. See c", "No argument: b."),
        ("Unknown function '{'a': 1}'", "Unknown function"),
        ("x" * 300, "x" * 200),
    ],
)
def test_what_keras_says_is_cut_to_its_first_sentence(said: str, sentence: str) -> None:
    assert keras_file.first_sentence(ValueError(said)) == sentence
