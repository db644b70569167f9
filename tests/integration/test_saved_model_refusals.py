"""The engine `tensorflow` by itself: what it refuses, and in which words."""

import gzip
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorflow.core.protobuf import saved_model_pb2

from service.engines.base import LoadError
from service.engines.tensorflow import c_api
from service.engines.tensorflow.engine import SavedModelEngine
from service.errors import GraphError, InvalidRequest
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


def test_damaged_bytes_and_names_of_no_file_are_the_senders_fault(tmp_path: Path) -> None:
    odd_saved_models.save_reader(tmp_path / "1")
    (tmp_path / "here.txt").write_text("twelve bytes")
    engine = SavedModelEngine(tmp_path / "1")

    def read(file: str) -> Any:
        return engine.run("serving_default", {"file": np.array(file.encode(), object)})["length"].tolist()

    def unpack(packed: bytes) -> Any:
        return engine.run("unpack", {"packed": np.array([packed], object)})["length"].tolist()

    assert (read(str(tmp_path / "here.txt")), unpack(gzip.compress(b"hello"))) == (12, [5])
    with pytest.raises(GraphError) as missing:
        read("/srv/secret/none.wav")
    told = "the model refuses this input: none.wav; No such file or directory"
    assert (missing.value.status, str(missing.value)) == (404, told)
    with pytest.raises(InvalidRequest, match="the model refuses this input: inflate"):
        unpack(b"no gzip")


@pytest.mark.parametrize("device", ["/device:GPU:0", "/device:TPU:0", "/device:CPU:1"])
def test_what_a_graph_places_on_a_device_that_is_not_here_runs_on_the_one_that_is(device: str, tmp_path: Path) -> None:
    odd_saved_models.save_on_device(tmp_path / "1", device)
    assert run(SavedModelEngine(tmp_path / "1"), x=floats(10)) == {"y": [30]}


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
        (
            _rename_operation,
            "its graph has the operation 'Frobnicate', and TensorFlow itself does not have it; name the library that "
            "does in SERVING_OP_LIBRARIES",
        ),
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


def _in_text_form(version: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    (version / "saved_model.pbtxt").write_text(text_format.MessageToString(saved))
    (version / "saved_model.pb").unlink()


def test_a_graph_in_text_form_is_served(tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    _in_text_form(tmp_path / "1")
    assert run(SavedModelEngine(tmp_path / "1"), x=floats(10)) == {"y": [31]}


def test_a_graph_in_text_form_without_the_tag_says_so(tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    saved_models.rewrite(tmp_path / "1", _rename_tag)
    _in_text_form(tmp_path / "1")
    assert refusal(tmp_path / "1") == "it has no graph with the tag 'serve'"


def test_a_graph_in_text_form_that_is_damaged_says_so(tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").unlink()
    (tmp_path / "1" / "saved_model.pbtxt").write_text("saved_model_schema_version: one")
    assert refusal(tmp_path / "1") == (
        "TensorFlow cannot load it: Read less bytes than requested (its graph is in saved_model.pbtxt)"
    )


def test_a_graph_in_chunks_which_tensorflow_cannot_read_is_named(tmp_path: Path) -> None:
    saved_models.save_linear(tmp_path / "1")
    (tmp_path / "1" / "saved_model.pb").rename(tmp_path / "1" / "saved_model.cpb")
    assert refusal(tmp_path / "1") == (
        "its graph is in saved_model.cpb, which the TensorFlow that is installed cannot read; export it anew"
    )


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
    monkeypatch.setattr(c_api, "MIN_VERSION", (2, 99))
    with pytest.raises(LoadError) as raised:
        c_api.tensorflow.__wrapped__()
    assert str(raised.value).endswith("is of another version than is needed: 2.99 or a later 2.x")
    assert caplog.messages[-1].endswith(f"is version {tf.__version__}")
