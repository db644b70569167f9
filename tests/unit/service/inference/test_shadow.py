from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.shadow import Arrays, Mirror, ShadowObserver, agree
from service.inference.version import LoadedVersion, Shadow
from service.serving_config import ServingConfig
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor
from tests.unit.service.held import Held

SCORES = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})
PLAIN = signature({"x": tensor("DT_FLOAT", -1)}, {"y": any_shape("DT_FLOAT")})
ONE = np.ones(1, np.float32)


def labelled(*labels: str) -> LoadedVersion:
    return loaded_version(SCORES, config=ServingConfig(labels=labels))


@pytest.mark.parametrize(("second", "expected"), [([0.6, 0.4], True), ([0.4, 0.6], False)])
def test_labelled_versions_agree_by_the_first_label(second: list[float], expected: bool) -> None:
    scores, others = (
        {"scores": np.array(rows, np.float32)} for rows in ([[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.6], second])
    )
    assert agree(labelled("cat", "dog"), scores, labelled("dog", "cat"), others, DEFAULT_SIGNATURE) is expected


WORDS = np.array([b"a", b"b"], object)


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
        ({"y": ONE}, {"z": ONE}, False),
    ],
)
def test_other_versions_agree_by_close_outputs(outputs: Arrays, others: Arrays, expected: bool) -> None:
    loaded = loaded_version(PLAIN)
    assert agree(loaded, outputs, loaded, others, DEFAULT_SIGNATURE) is expected


@dataclass
class Bench(ShadowObserver):
    """A shadow that doubles, or runs `answer`."""

    answer: Callable[[Arrays], Arrays] = lambda inputs: {"y": inputs["x"] * 2}
    of: Signature = PLAIN
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

    def offer(self, output: float = 2.0, *, share: float = 1.0, rows: int = 1) -> None:
        inputs, outputs = {"x": np.ones(rows, np.float32)}, {"y": np.array([output])}
        shadow = Shadow(loaded_version(self.of, version=2), share)
        self.mirror.offer(shadow, loaded_version(PLAIN), DEFAULT_SIGNATURE, inputs, outputs)


def test_copies_run_on_the_shadow_and_are_compared() -> None:
    at = Bench()
    for output in (2.0, 3.0):
        at.offer(output)
    at.mirror.wait()
    assert at.ran == [(2, DEFAULT_SIGNATURE)] * 2
    assert at.agreed == [True, False]


def test_share_of_the_requests() -> None:
    numbers = iter([0.49, 0.5])
    at = Bench(settings={"draw": lambda: next(numbers)})
    for _ in range(2):
        at.offer(share=0.5)
    at.mirror.wait()
    assert len(at.agreed) == 1


def test_failed_copies_are_counted_and_the_next_is_run() -> None:
    errors = iter([InvalidRequest("no"), MemoryError()])

    def answer(inputs: Arrays) -> Arrays:
        if error := next(errors, None):
            raise error
        return {"y": inputs["x"] * 2}

    at = Bench(answer)
    for _ in range(3):
        at.offer()
    at.mirror.wait()
    assert (at.failures, at.agreed) == (2, [True])


def test_inputs_of_other_types_fail_without_a_run() -> None:
    at = Bench(of=signature({"x": tensor("DT_INT32", -1)}))
    at.offer()
    at.mirror.wait()
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
    first, *others = rows
    at.offer(rows=first)
    held.wait_for_calls()
    for count in others:
        at.offer(rows=count)
    held.release()
    at.mirror.wait()
    assert (at.drops, len(at.agreed)) == (drops, len(rows) - drops)
    # Then there is room again.
    at.offer(rows=first)
    at.mirror.wait()
    assert at.drops == drops
