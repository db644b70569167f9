import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from service.serving_config import (
    ASSETS,
    CONFIG_FILE,
    ImageSpec,
    InvalidServingConfig,
    OutlierScore,
    Sample,
    ServingConfig,
    Twin,
    misplaced_models,
    read_serving_config,
    saved_model_digest,
    write_serving_config,
)
from tests.unit.service.fakes import any_shape, signature, tensor

TWIN = Twin(sha256="a", saved_model_sha256="b", inputs_tried=1000, largest_difference=1e-6, tolerance=1e-5)
WHOLE = ServingConfig(
    signatures={
        "serving_default": signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1, 2)}),
        "of_any_rank": signature({"x": any_shape("DT_INT8")}, {}),
    },
    labels=("cat", "dog"),
    image=ImageSpec(height=28, width=20, mode="L", fit="contain", ground="black"),
    example={"instances": [10.0]},
    twin=TWIN,
    outlier_score=OutlierScore(signature="scored", output="outlier_score", threshold=1.0),
)


def write(version_dir: Path, text: str) -> Path:
    (version_dir / ASSETS).mkdir()
    (version_dir / ASSETS / CONFIG_FILE).write_text(text)
    return version_dir


@pytest.mark.parametrize(
    "config",
    [
        WHOLE,
        ServingConfig(
            twin=msgspec.structs.replace(TWIN, precision="int8", accuracy=0.91, saved_model_accuracy=0.92),
            samples=(Sample(file="a.png", expected="cat"), Sample(instance=[1.0])),
        ),
    ],
)
def test_round_trip(tmp_path: Path, config: ServingConfig) -> None:
    write_serving_config(tmp_path, config)
    assert read_serving_config(tmp_path) == config


def test_defaults(tmp_path: Path) -> None:
    assert read_serving_config(tmp_path) == ServingConfig()
    config = read_serving_config(write(tmp_path, '{"image": {"height": 3, "width": 4}}'))
    assert config.image == ImageSpec(height=3, width=4, mode="RGB", fit="stretch", ground=None)


def test_file_is_replaced_and_indented(tmp_path: Path) -> None:
    write_serving_config(tmp_path, WHOLE)
    write_serving_config(tmp_path, ServingConfig(labels=("a",), no_twin="too large a difference"))
    text = (tmp_path / ASSETS / CONFIG_FILE).read_text()
    assert text == '{\n  "labels": [\n    "a"\n  ],\n  "no_twin": "too large a difference"\n}\n'


IMAGE = {"height": 1, "width": 1}
PROOF = msgspec.to_builtins(TWIN)
SCORE = {"signature": "s", "output": "o", "threshold": 1}
SHAPELESS = {"name": "", "dtype": "", "shape": "?"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (b"labels: [a]", "malformed"),
        ([], "Expected `object`, got `array`"),
        ({"lables": []}, "unknown field `lables`"),
        ({"labels": [1]}, "$.labels[0]"),
        ({"signatures": {"s": {"method_name": "", "outputs": {}, "inputs": {"x": SHAPELESS}}}}, ".inputs[...].shape"),
        ({"image": {"height": 28}}, "`width` - at `$.image`"),
        ({"image": IMAGE | {"height": 0}}, "$.image.height"),
        ({"image": IMAGE | {"width": 65_536}}, "$.image.width"),
        ({"image": IMAGE | {"mode": "CMYK"}}, "$.image.mode"),
        ({"image": IMAGE | {"fit": "crop"}}, "$.image.fit"),
        ({"image": IMAGE | {"mode": "L", "ground": "grey"}}, "$.image.ground"),
        ({"image": IMAGE | {"ground": "white"}}, "'ground' goes with the mode 'L' only"),
        ({"twin": {"sha256": "a"}}, "$.twin"),
        ({"twin": PROOF | {"precision": "int4"}}, "$.twin.precision"),
        ({"twin": PROOF | {"precision": "int8", "accuracy": 0.9}}, "a twin in int8 is proved by 'accuracy' and"),
        ({"twin": PROOF | {"precision": "float16", "saved_model_accuracy": 0.9}}, "a twin in float16 is proved by"),
        ({"outlier_score": {"signature": "s", "output": "o"}}, "`threshold` - at `$.outlier_score`"),
        ({"outlier_score": SCORE | {"threshold": 0}}, "'threshold' is 0.0; expected a finite number above 0"),
        ({"outlier_score": SCORE | {"quantile": 0.99}}, "unknown field `quantile`"),
        ({"samples": [{}]}, "a sample has either 'file' or 'instance'"),
        ({"samples": [{"file": "a.png", "instance": 1}]}, "a sample has either 'file' or 'instance'"),
    ],
)
def test_invalid_file_is_rejected(content: object, words: str, tmp_path: Path) -> None:
    text = content if isinstance(content, bytes) else msgspec.json.encode(content)
    with pytest.raises(InvalidServingConfig) as raised:
        read_serving_config(write(tmp_path, text.decode()))
    assert str(raised.value).startswith("assets.extra/serving.json: ")
    assert words in str(raised.value)


def test_threshold_is_finite() -> None:
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a finite number above 0"):
            OutlierScore(signature="scored", output="outlier_score", threshold=threshold)


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """With files that count for the digest, and two that do not."""
    for name in ("saved_model.pb", "variables/variables.index", "assets/sub/words.txt", "fingerprint.pb"):
        (tmp_path / "1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "1" / name).write_text(name)
    write_serving_config(tmp_path / "1", WHOLE)
    return tmp_path / "1"


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index", "assets/sub/words.txt"])
def test_digest_depends_on_graph_variables_assets_and_their_names(saved_model: Path, name: str) -> None:
    digests = {saved_model_digest(saved_model)}
    for text in ("other", ""):
        (saved_model / name).write_text(text)
        digests.add(saved_model_digest(saved_model))
    (saved_model / "variables" / "variables.index").rename(saved_model / "variables" / "renamed")
    assert len(digests | {saved_model_digest(saved_model)}) == 4


def test_digest_ignores_the_folder_and_other_files(saved_model: Path) -> None:
    before = saved_model_digest(saved_model)
    write_serving_config(saved_model, ServingConfig())
    (saved_model / "fingerprint.pb").unlink()
    assert saved_model_digest(saved_model.rename(saved_model.parent / "7")) == before


def test_misplaced_models_are_found(tmp_path: Path) -> None:
    misplaced = ["export/saved_model.pb", "lite/model.tflite", "model.keras"]
    for name in (*misplaced, "assets.extra/model.tflite", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(misplaced_models(tmp_path)) == misplaced


# In a process of its own, which may crash.
IN_MANY_THREADS = """
import importlib, pathlib, sys, threading
from service import serving_config

sys.setswitchinterval(1e-6)
for _ in range(40):
    importlib.reload(serving_config)
    together = threading.Barrier(8)

    def read():
        together.wait()
        serving_config.read_serving_config(pathlib.Path(sys.argv[1]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_first_at_the_same_time(tmp_path: Path) -> None:
    write_serving_config(tmp_path, WHOLE)
    subprocess.run([sys.executable, "-c", IN_MANY_THREADS, str(tmp_path)], check=True)
