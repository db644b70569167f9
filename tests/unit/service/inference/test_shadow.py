import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.inference.shadow import Arrays, Mirror, ShadowObserver, agree
from service.inference.version import LoadedVersion, Shadow
from service.serving_config import ServingConfig
from tests.unit.service.fakes import any_shape, loaded_version, signature, tensor

SECONDS_AT_MOST = 10
SCORES = signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})
PLAIN = signature({"x": tensor("DT_FLOAT", -1)}, {"y": any_shape("DT_FLOAT")})
INPUTS = {"x": np.ones(1, np.float32)}


def with_labels(*labels: str) -> LoadedVersion:
    return loaded_version(SCORES, config=ServingConfig(labels=labels))


def scores(*rows: list[float]) -> Arrays:
    return {"scores": np.array(rows, np.float32)}


@dataclass
class Told(ShadowObserver):
    agreed: list[bool] = field(default_factory=list)
    failures: int = 0
    drops: int = 0

    def compared(self, shadow: LoadedVersion, agrees: bool) -> None:
        self.agreed.append(agrees)

    def failed(self, shadow: LoadedVersion) -> None:
        self.failures += 1

    def dropped(self, shadow: LoadedVersion) -> None:
        self.drops += 1


def test_versions_with_labels_agree_where_the_same_label_comes_first() -> None:
    one, other = with_labels("cat", "dog"), with_labels("dog", "cat")
    assert agree(one, scores([0.9, 0.1], [0.2, 0.8]), other, scores([0.4, 0.6], [0.6, 0.4]), "serving_default")
    assert not agree(one, scores([0.9, 0.1], [0.2, 0.8]), other, scores([0.4, 0.6], [0.4, 0.6]), "serving_default")


@pytest.mark.parametrize(
    ("of_one", "of_other", "expected"),
    [
        ([1.0, np.nan], [1.0004, np.nan], True),
        ([1.0, 2.0], [1.0, 2.1], False),
        ([1.0, 2.0], [1.0], False),
        ([True], [True], True),
    ],
)
def test_other_versions_agree_where_all_numbers_are_close(
    of_one: list[float], of_other: list[float], expected: bool
) -> None:
    one = other = loaded_version(PLAIN)
    assert agree(one, {"y": np.array(of_one)}, other, {"y": np.array(of_other)}, "serving_default") is expected


def test_strings_agree_where_they_are_equal_and_outputs_of_other_names_never_do() -> None:
    one = other = loaded_version(PLAIN)
    words, numbers = np.array([b"a", b"b"], object), np.array([1.0, 2.0])
    assert agree(one, {"y": words}, other, {"y": words.copy()}, "serving_default")
    assert not agree(one, {"y": words}, other, {"y": np.array([b"a", b"c"], object)}, "serving_default")
    assert not agree(one, {"y": words}, other, {"y": numbers}, "serving_default")
    assert not agree(one, {"y": numbers}, other, {"z": numbers}, "serving_default")


def test_a_copy_is_run_on_the_shadow_and_compared() -> None:
    asked: list[tuple[LoadedVersion, str]] = []

    def infer(loaded: LoadedVersion, name: str, inputs: Arrays) -> Arrays:
        asked.append((loaded, name))
        return {"y": inputs["x"] * 2}

    mirror = Mirror(infer, told := Told())
    shadow = loaded_version(PLAIN, version=2)
    for answer in (2.0, 3.0):
        mirror.offer(Shadow(shadow, 1.0), loaded_version(PLAIN), "serving_default", INPUTS, {"y": np.array([answer])})
    mirror.wait()
    assert asked == [(shadow, "serving_default")] * 2
    assert told.agreed == [True, False]


def test_only_its_share_of_the_requests_is_copied() -> None:
    numbers = iter([0.49, 0.5])
    mirror = Mirror(lambda *_: {"y": np.ones(1)}, told := Told(), lambda: next(numbers))
    for _ in range(2):
        mirror.offer(Shadow(loaded_version(PLAIN), 0.5), loaded_version(PLAIN), "serving_default", INPUTS, {})
    mirror.wait()
    assert len(told.agreed) == 1


def test_a_shadow_that_fails_is_counted_and_the_next_copy_is_run() -> None:
    outcomes = iter([InvalidRequest("refused"), MemoryError()])

    def infer(loaded: LoadedVersion, name: str, inputs: Arrays) -> Arrays:
        if error := next(outcomes, None):
            raise error
        return {"y": inputs["x"]}

    mirror = Mirror(infer, told := Told())
    for _ in range(3):
        mirror.offer(Shadow(loaded_version(PLAIN), 1.0), loaded_version(PLAIN), "serving_default", INPUTS, INPUTS)
    mirror.wait()
    assert (told.failures, told.agreed) == (2, [False])


def test_a_shadow_that_takes_other_types_fails_without_being_run() -> None:
    mirror = Mirror(lambda *_: pytest.fail("it was run"), told := Told())
    other = loaded_version(signature({"x": tensor("DT_INT32", -1)}))
    mirror.offer(Shadow(other, 1.0), loaded_version(PLAIN), "serving_default", INPUTS, {})
    mirror.wait()
    assert told.failures == 1


def test_what_is_too_much_for_the_shadow_is_dropped_and_nobody_waits() -> None:
    started, go_on = threading.Event(), threading.Event()

    def infer(loaded: LoadedVersion, name: str, inputs: Arrays) -> Arrays:
        started.set()
        go_on.wait(SECONDS_AT_MOST)
        return {"y": np.ones(1)}

    mirror = Mirror(infer, told := Told(), max_waiting=1)

    def offer() -> None:
        mirror.offer(Shadow(loaded_version(PLAIN), 1.0), loaded_version(PLAIN), "serving_default", INPUTS, {})

    offer()
    assert started.wait(SECONDS_AT_MOST)
    for _ in range(3):
        offer()
    go_on.set()
    mirror.wait()
    assert (told.drops, len(told.agreed)) == (2, 2)


def test_what_waits_for_the_shadow_is_bounded_by_its_bytes() -> None:
    started, go_on = threading.Event(), threading.Event()

    def infer(loaded: LoadedVersion, name: str, inputs: Arrays) -> Arrays:
        started.set()
        go_on.wait(SECONDS_AT_MOST)
        return {"y": np.ones(1)}

    mirror = Mirror(infer, told := Told(), max_waiting_bytes=2_000)

    def offer(bytes_: int) -> None:
        inputs = {"x": np.zeros(bytes_ // 4, np.float32)}
        mirror.offer(Shadow(loaded_version(PLAIN), 1.0), loaded_version(PLAIN), "serving_default", inputs, {})

    offer(1_200)
    assert started.wait(SECONDS_AT_MOST)
    offer(1_200)
    offer(400)
    go_on.set()
    mirror.wait()
    assert (told.drops, len(told.agreed)) == (1, 2)
    offer(1_200)
    mirror.wait()
    assert (told.drops, len(told.agreed)) == (1, 3)
