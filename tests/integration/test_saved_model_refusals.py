"""The engine `tensorflow` by itself: what it refuses, and in which words."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from service.engines import LoadError, tensorflow_c
from service.engines.saved_model import SavedModelEngine
from service.errors import InvalidRequest
from tests.integration import odd_saved_models, saved_models
from tests.integration.arrays import floats, run
from tests.integration.conftest import SHIPPED


def refusal(version: Path) -> str:
    with pytest.raises(LoadError) as raised:
        SavedModelEngine(version)
    assert str(version) not in str(raised.value)
    return str(raised.value)


def test_what_a_model_refuses_is_said_in_its_words_alone(tmp_path: Path) -> None:
    saved_models.save_logarithm(tmp_path / "1")
    engine = SavedModelEngine(tmp_path / "1")
    with pytest.raises(InvalidRequest) as raised:
        run(engine, x=floats(101))
    assert str(raised.value).startswith("the model refuses this input: assertion failed: [x is above 100]")
    assert "node" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert run(engine, x=floats(1)) == {"y": [0]}


def test_a_file_that_is_missing_from_assets_is_named_without_its_folder(tmp_path: Path) -> None:
    odd_saved_models.save_vocabulary_file(tmp_path / "1")
    (file,) = (tmp_path / "1" / "assets").iterdir()
    file.unlink()
    assert refusal(tmp_path / "1") == f"TensorFlow cannot load it: assets/{file.name}; No such file or directory"


@pytest.mark.parametrize("missing", ["variables", "variables/variables.index"])
def test_a_version_without_its_variables_is_not_loaded(missing: str, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(SHIPPED / "clothing" / "1", version)
    shutil.rmtree(version / missing) if missing == "variables" else (version / missing).unlink()
    assert refusal(version) == "its variables are missing: it holds no variables/variables.index"


@pytest.mark.parametrize(
    "file", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_version_says_so_in_a_sentence(file: str, damage: str, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(SHIPPED / "clothing" / "1", version)
    content = (version / file).read_bytes()
    (version / file).write_bytes(content[: len(content) // 2] if damage == "cut" else b"\xff" * len(content))
    assert refusal(version).startswith("TensorFlow cannot load it: ")


def _rename_operation(saved: Any) -> None:
    saved.meta_graphs[0].graph_def.node[0].op = "Frobnicate"


def _rename_output(saved: Any) -> None:
    saved.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "nowhere:0"


def _number_output(saved: Any) -> None:
    saved.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "StatefulPartitionedCall:7"


def _drop_signatures(saved: Any) -> None:
    saved.meta_graphs[0].signature_def.clear()


def _rename_tag(saved: Any) -> None:
    saved.meta_graphs[0].meta_info_def.tags[:] = ["train", "gpu"]


def _drop_graphs(saved: Any) -> None:
    del saved.meta_graphs[:]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_rename_operation, "TensorFlow cannot load it: Op type not registered 'Frobnicate'"),
        (
            _rename_output,
            "TensorFlow cannot load it: a signature names the tensor 'nowhere:0', which its graph does not have",
        ),
        (
            _number_output,
            "TensorFlow cannot load it: a signature names the tensor 'StatefulPartitionedCall:7', "
            "which its graph does not have",
        ),
        (_drop_signatures, "it has no signature that takes and gives plain tensors"),
        (_rename_tag, "it has no graph with the tag 'serve'; tags found: train + gpu"),
        (_drop_graphs, "it has no graph with the tag 'serve'; tags found: none, for it holds no graph"),
    ],
)
def test_what_cannot_be_served_says_why(change: Callable[[Any], None], expected: str, tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    saved_models.rewrite(tmp_path / "1", change)
    assert refusal(tmp_path / "1") == expected


def test_one_signature_that_cannot_run_does_not_take_the_others_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved_models.save_vocabulary(tmp_path / "1")

    def lose_an_output(saved: Any) -> None:
        saved.meta_graphs[0].signature_def["length"].outputs["length"].name = "nowhere:0"

    saved_models.rewrite(tmp_path / "1", lose_an_output)
    assert list(SavedModelEngine(tmp_path / "1").signatures) == ["serving_default"]
    (record,) = caplog.records
    assert (record.levelno, "cannot run the signature 'length'" in record.message) == (logging.WARNING, True)


def test_an_older_tensorflow_is_refused_and_the_log_has_its_version(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorflow_c, "OLDEST", (2, 99))
    with pytest.raises(LoadError) as raised:
        tensorflow_c.tensorflow.__wrapped__()
    assert str(raised.value).endswith("is of another version than is needed: 2.99 or a later 2.x")
    assert caplog.messages[-1].endswith(f"is version {tf.__version__}")
