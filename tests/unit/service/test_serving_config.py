from pathlib import Path
from typing import Any

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
from tests.unit.service.fakes import signature, tensor

WHOLE = ServingConfig(
    signatures={"serving_default": signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1, 2)})},
    labels=("cat", "dog"),
    image=ImageSpec(height=28, width=20, mode="L", fit="contain", ground="black"),
    example={"instances": [10.0]},
    twin=Twin(sha256="a", saved_model_sha256="b", inputs_tried=1000, largest_difference=1e-6, tolerance=1e-5),
    outlier_score=OutlierScore(signature="scored", output="outlier_score", threshold=1.0),
)


def write(version_dir: Path, text: str) -> Path:
    (version_dir / ASSETS).mkdir()
    (version_dir / ASSETS / CONFIG_FILE).write_text(text)
    return version_dir


def test_round_trip(tmp_path: Path) -> None:
    write_serving_config(tmp_path, WHOLE)
    assert read_serving_config(tmp_path) == WHOLE


def test_the_file_is_replaced_and_indented(tmp_path: Path) -> None:
    write_serving_config(tmp_path, WHOLE)
    write_serving_config(tmp_path, ServingConfig(labels=("a",), no_twin="too large a difference"))
    text = (tmp_path / ASSETS / CONFIG_FILE).read_text()
    assert text == '{\n  "labels": [\n    "a"\n  ],\n  "no_twin": "too large a difference"\n}\n'


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read_serving_config(tmp_path) == read_serving_config(write(tmp_path, "{}")) == ServingConfig()


def test_defaults_of_a_picture(tmp_path: Path) -> None:
    config = read_serving_config(write(tmp_path, '{"image": {"height": 3, "width": 4}}'))
    assert config.image == ImageSpec(height=3, width=4, mode="RGB", fit="stretch", ground=None)


BROKEN: dict[str, tuple[str, str]] = {
    "empty": ("", "truncated"),
    "truncated": ('{"labels": ["a"', "truncated"),
    "no_json": ("labels: [a]", "malformed"),
    "a_list": ("[]", "Expected `object`, got `array`"),
    "unknown_part": ('{"lables": []}', "unknown field `lables`"),
    "labels_of_numbers": ('{"labels": [1]}', "$.labels[0]"),
    "image_without_width": ('{"image": {"height": 28}}', "`width` - at `$.image`"),
    "image_of_no_height": ('{"image": {"height": 0, "width": 1}}', "$.image.height"),
    "image_too_wide": ('{"image": {"height": 1, "width": 65536}}', "$.image.width"),
    "unknown_mode": ('{"image": {"height": 1, "width": 1, "mode": "CMYK"}}', "$.image.mode"),
    "unknown_fit": ('{"image": {"height": 1, "width": 1, "fit": "crop"}}', "$.image.fit"),
    "misspelt_ground": ('{"image": {"height": 1, "width": 1, "mode": "L", "ground": "grey"}}', "$.image.ground"),
    "ground_of_colour": ('{"image": {"height": 1, "width": 1, "ground": "black"}}', "'ground' goes with the mode 'L'"),
    "twin_without_proof": ('{"twin": {"sha256": "a"}}', "$.twin"),
    "twin_of_unknown_precision": (
        '{"twin": {"sha256": "", "saved_model_sha256": "", "inputs_tried": 1, "largest_difference": 0, '
        '"tolerance": 0, "precision": "int4"}}',
        "$.twin.precision",
    ),
    "twin_of_lower_precision_without_accuracy": (
        '{"twin": {"sha256": "", "saved_model_sha256": "", "inputs_tried": 1, "largest_difference": 0, '
        '"tolerance": 0, "precision": "int8", "accuracy": 0.9}}',
        "a twin in int8 is proved by 'accuracy' and 'saved_model_accuracy' - at `$.twin`",
    ),
    "score_without_threshold": ('{"outlier_score": {"signature": "s", "output": "o"}}', "`threshold`"),
    "score_of_threshold_0": (
        '{"outlier_score": {"signature": "s", "output": "o", "threshold": 0}}',
        "'threshold' is 0.0; expected a finite number above 0 - at `$.outlier_score`",
    ),
    "score_of_endless_threshold": (
        '{"outlier_score": {"signature": "s", "output": "o", "threshold": 1e999}}',
        "$.outlier_score",
    ),
    "score_of_unknown_part": (
        '{"outlier_score": {"signature": "s", "output": "o", "threshold": 1, "quantile": 0.99}}',
        "unknown field `quantile`",
    ),
    "shape_of_text": (
        '{"signatures": {"s": {"method_name": "", "outputs": {}, '
        '"inputs": {"x": {"name": "", "dtype": "", "shape": "?"}}}}}',
        "$.signatures[...].inputs[...].shape",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invalid_file_is_rejected(name: str, tmp_path: Path) -> None:
    text, words = BROKEN[name]
    with pytest.raises(InvalidServingConfig) as raised:
        read_serving_config(write(tmp_path, text))
    assert str(raised.value).startswith("assets.extra/serving.json: ")
    assert words in str(raised.value)


def test_a_ground_for_colour_pictures_is_rejected() -> None:
    with pytest.raises(ValueError, match="'ground' goes with the mode 'L' only"):
        ImageSpec(height=1, width=1, mode="RGB", ground="white")


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_meaningless_threshold_is_rejected(threshold: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number above 0"):
        OutlierScore(signature="scored", output="outlier_score", threshold=threshold)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_twin_of_lower_precision_needs_both_accuracies(tmp_path: Path, precision: Any) -> None:
    assert WHOLE.twin is not None
    twin = msgspec.structs.replace(WHOLE.twin, precision=precision, accuracy=0.91, saved_model_accuracy=0.92)
    write_serving_config(tmp_path, ServingConfig(twin=twin))
    assert read_serving_config(tmp_path).twin == twin
    with pytest.raises(ValueError, match=f"a twin in {precision} is proved by"):
        msgspec.structs.replace(twin, saved_model_accuracy=None)


@pytest.mark.parametrize("sample", [{}, {"file": "a.png", "instance": 1}])
def test_a_sample_is_either_a_file_or_an_instance(sample: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a sample has either 'file' or 'instance'"):
        Sample(**sample)


def test_a_signature_of_free_rank_round_trips(tmp_path: Path) -> None:
    of: Any = {"method_name": "m", "inputs": {"x": {"name": "x:0", "dtype": "DT_INT8", "shape": None}}, "outputs": {}}
    text = msgspec.json.encode({"signatures": {"s": of}}).decode()
    assert read_serving_config(write(tmp_path, text)).signatures["s"].inputs["x"].shape is None


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.index").write_bytes(b"index")
    return tmp_path


def test_the_digest_does_not_depend_on_the_folder(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "7"
    saved_model.rename(copy)
    before = saved_model_digest(copy)
    copy.rename(saved_model)
    assert saved_model_digest(saved_model) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "saved_model.pb").write_bytes(b"other"),
        lambda folder: (folder / "variables" / "variables.index").write_bytes(b"other"),
        lambda folder: (folder / "variables" / "variables.index").rename(folder / "variables" / "renamed"),
        lambda folder: (folder / "variables" / "variables.data").write_bytes(b""),
        lambda folder: ((folder / "assets").mkdir(), (folder / "assets" / "vocabulary.txt").write_bytes(b"a")),
    ],
    ids=["graph", "variables", "a name", "one more file", "assets"],
)
def test_the_digest_depends_on_graph_variables_and_assets(saved_model: Path, change: Any) -> None:
    before = saved_model_digest(saved_model)
    change(saved_model)
    assert saved_model_digest(saved_model) != before


def test_the_digest_ignores_other_files(saved_model: Path) -> None:
    before = saved_model_digest(saved_model)
    write_serving_config(saved_model, WHOLE)
    (saved_model / "fingerprint.pb").write_bytes(b"x")
    assert saved_model_digest(saved_model) == before


def test_the_digest_of_nested_assets(saved_model: Path) -> None:
    (saved_model / "assets" / "sub").mkdir(parents=True)
    vocabulary = saved_model / "assets" / "sub" / "vocabulary.txt"
    vocabulary.write_text("a")
    before = saved_model_digest(saved_model)
    vocabulary.write_text("b")
    assert saved_model_digest(saved_model) != before


def test_misplaced_models_are_found(tmp_path: Path) -> None:
    for name in ("export/saved_model.pb", "model.keras", "notes/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(misplaced_models(tmp_path)) == ["export/saved_model.pb", "model.keras"]
