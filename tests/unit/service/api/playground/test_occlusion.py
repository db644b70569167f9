import numpy as np
import pytest

from service.api.playground.occlusion import OcclusionMap, cells_within, ground_of, occlusion_map
from service.errors import InvalidRequest
from service.inference.context import RequestContext
from service.inference.deadline import Deadline, DeadlineExceeded
from service.serving_config import ServingConfig
from service.tensors.dtypes import Array
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import Arrays, FakeEngine, loaded_version, signature, tensor

PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 40, 40)}, {"scores": tensor("DT_FLOAT", -1, 2)})
LABELS = ServingConfig(labels=("dark", "bright corner"))


def corner_finder(inputs: Arrays) -> dict[str, Array]:
    """As sure of the bright corner as the upper left eighth is bright."""
    score = inputs["pixels"][:, :5, :5].mean(axis=(1, 2)) / 255
    return {"scores": np.stack([1 - score, score], axis=1).astype(np.float32)}


def picture() -> dict[str, Array]:
    pixels = np.zeros((1, 40, 40), np.float32)
    pixels[0, :5, :5] = 255
    return {"pixels": pixels}


def occluded(label: str, config: ServingConfig = LABELS) -> OcclusionMap:
    return occlusion_map(loaded_version(PICTURES, corner_finder, config), DEFAULT_SIGNATURE, picture(), label)


def test_best_label_drops_most_where_its_evidence_is_hidden() -> None:
    found = occluded("")
    assert (found.label, found.score, found.drops.shape) == ("bright corner", 1.0, (20, 20))
    row, column = divmod(int(found.drops.argmax()), 20)
    assert (row < 3, column < 3) == (True, True)
    assert found.drops.max() > 0.5
    assert found.drops[10:, 10:].max() == 0


def test_drop_is_negative_where_the_patch_spoke_against_the_label() -> None:
    found = occluded("dark")
    assert (found.label, found.score) == ("dark", 0.0)
    assert found.drops.min() < -0.5


def test_expired_deadline_ends_the_runs_in_batches() -> None:
    loaded = loaded_version(PICTURES, corner_finder, LABELS)
    engine = loaded.engine
    assert isinstance(engine, FakeEngine)
    context = RequestContext()
    deadline = context.deadline = Deadline.unlimited()

    def check() -> None:
        context.check_deadline()
        if len(engine.runs) == 3:
            deadline.cancel()

    with pytest.raises(DeadlineExceeded, match="being run by its model"):
        occlusion_map(loaded, DEFAULT_SIGNATURE, picture(), "", check)
    assert [len(inputs["pixels"]) for _, inputs in engine.runs] == [loaded.limits.max_batch_size] * 4


def test_unknown_label_is_400() -> None:
    with pytest.raises(InvalidRequest, match="no labels"):
        occluded("", ServingConfig())
    with pytest.raises(InvalidRequest, match="no label 'Hat'; it has 'dark', 'bright corner'"):
        occluded("Hat")


@pytest.mark.parametrize(("row_seconds", "cells"), [(0.0, 20), (0.001, 20), (0.014, 8), (1.0, 5)])
def test_slow_model_gets_a_coarser_map(row_seconds: float, cells: int) -> None:
    assert cells_within(row_seconds) == cells


@pytest.mark.parametrize(("height", "width"), [(3, 3), (28, 28), (5, 224)])
def test_every_cell_hides_something(height: int, width: int) -> None:
    spec = signature({"pixels": tensor("DT_FLOAT", -1, height, width, 3)}, {"scores": tensor("DT_FLOAT", -1, 2)})
    hidden = []

    def count_hidden(inputs: Arrays) -> dict[str, Array]:
        hidden.extend((inputs["pixels"] != 255).any(axis=(1, 2, 3)).tolist())
        return {"scores": np.zeros((len(inputs["pixels"]), 2), np.float32)}

    pixels = np.full((1, height, width, 3), 255, np.float32)
    pixels[0, 0, 0] = 0  # so that the ground is not white
    occlusion_map(loaded_version(spec, count_hidden, LABELS), DEFAULT_SIGNATURE, {"pixels": pixels}, "")
    assert all(hidden[1:])


def test_ground_is_the_mean_of_the_border() -> None:
    pixels = np.zeros((4, 4, 3), np.float32)
    pixels[[0, -1]] = pixels[:, [0, -1]] = (10, 20, 30)
    assert ground_of(pixels).tolist() == [10, 20, 30]
