from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.shadow import Arrays, Mirror, ShadowObserver, agree
from service.inference.version import LoadedVersion, Shadow
from service.serving_config import ServingConfig
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor
from tests.unit.service.held import Held

SCORES = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})
PLAIN = loaded_version(signature({"x": tensor("DT_FLOAT", -1)}, {"y": any_shape("DT_FLOAT")}))
WORDS = np.array([b"a", b"b"], object)


@pytest.mark.parametrize(("second", "expected"), [([0.6, 0.4], True), ([0.4, 0.6], False)])
def test_labelled_versions_agree_by_the_first_label(second: list[float], expected: bool) -> None:
    one, other = (loaded_version(SCORES, config=ServingConfig(labels=each)) for each in (("a", "b"), ("b", "a")))
    scores, others = {"scores": np.array([[0.9, 0.1], [0.2, 0.8]])}, {"scores": np.array([[0.4, 0.6], second])}
    assert agree(one, scores, other, others, DEFAULT_SIGNATURE) is expected


@pytest.mark.parametrize(
    ("outputs", "others", "expected"),
    [
        ({"y": np.array([1.0, np.nan])}, {"y": np.array([1.0004, np.nan])}, True),
        ({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.1])}, False),
        ({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0])}, False),
        ({"y": np.array([True])}, {"y": np.array([True])}, True),
        ({"y": WORDS}, {"y": WORDS.copy()}, True),
        ({"y": WORDS}, {"y": np.array([b"a", b"c"], object)}, False),
        ({"y": WORDS}, {"y": np.array([1.0, 2.0])}, False),
        ({"y": np.ones(1)}, {"z": np.ones(1)}, False),
    ],
)
def test_other_versions_agree_by_close_outputs(outputs: Arrays, others: Arrays, expected: bool) -> None:
    assert agree(PLAIN, outputs, PLAIN, others, DEFAULT_SIGNATURE) is expected


def double(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2}


@dataclass
class Bench(ShadowObserver):
    """A shadow that runs `answer`."""

    answer: Callable[[Arrays], Arrays] = double
    dtype: str = "DT_FLOAT"
    settings: dict[str, Any] = field(default_factory=dict)
    agreed: list[bool] = field(default_factory=list)
    failures: int = 0
    drops: int = 0
    ran: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mirror = Mirror(self._infer, self, **self.settings)

    def _infer(self, loaded: LoadedVersion, name: str, inputs: Arrays) -> Arrays:
        self.ran.append((loaded.version, name))
        return self.answer(inputs)

    def compared(self, shadow: LoadedVersion, agrees: bool) -> None:
        self.agreed.append(agrees)

    def failed(self, shadow: LoadedVersion) -> None:
        self.failures += 1

    def dropped(self, shadow: LoadedVersion) -> None:
        self.drops += 1

    def offer(self, *outputs: float, share: float = 1.0, rows: int = 1) -> None:
        for output in outputs:
            shadow = Shadow(loaded_version(signature({"x": tensor(self.dtype, -1)}), version=2), share)
            copy = {"x": np.ones(rows, np.float32)}, {"y": np.array([output])}
            self.mirror.offer(shadow, PLAIN, DEFAULT_SIGNATURE, *copy)

    def run(self, *outputs: float, share: float = 1.0) -> None:
        self.offer(*outputs, share=share)
        self.mirror.wait()


def test_copies_run_on_the_shadow_and_are_compared() -> None:
    at = Bench()
    at.run(2.0, 3.0)
    assert (at.ran, at.agreed) == ([(2, DEFAULT_SIGNATURE)] * 2, [True, False])


def test_share_of_the_requests() -> None:
    at = Bench(settings={"draw": iter([0.49, 0.5]).__next__})
    at.run(2.0, 2.0, share=0.5)
    assert len(at.agreed) == 1


def test_failed_copies_are_counted_and_the_next_is_run() -> None:
    errors = iter([InvalidRequest("no"), MemoryError()])

    def answer(inputs: Arrays) -> Arrays:
        if error := next(errors, None):
            raise error
        return double(inputs)

    at = Bench(answer)
    at.run(2.0, 2.0, 2.0)
    assert (at.failures, at.agreed) == (2, [True])


def test_inputs_of_other_types_fail_without_a_run() -> None:
    at = Bench(dtype="DT_INT32")
    at.run(2.0)
    assert (at.failures, at.ran) == (1, [])


@pytest.mark.parametrize(
    ("settings", "rows", "drops"),
    [({"max_waiting": 1}, (1, 1, 1, 1), 2), ({"max_waiting_bytes": 2_000}, (300, 300, 100), 1)],
    ids=["copies", "bytes"],
)
def test_copies_beyond_the_limit_are_dropped(settings: dict[str, Any], rows: tuple[int, ...], drops: int) -> None:
    held = Held()

    def answer(inputs: Arrays) -> Arrays:
        held()
        return inputs

    at = Bench(answer, settings=settings)
    at.offer(2.0, rows=rows[0])
    held.wait_for_calls()
    for count in rows[1:]:
        at.offer(2.0, rows=count)
    held.release()
    at.mirror.wait()
    # Then there is room again.
    at.offer(2.0, rows=rows[0])
    at.mirror.wait()
    assert (at.drops, len(at.agreed)) == (drops, len(rows) - drops + 1)
