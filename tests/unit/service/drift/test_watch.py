import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.drift.watch import DriftWatch
from service.runtime.shared_memory import MIN_CAPACITY, SharedMemory
from service.tensors.signature import DEFAULT_SIGNATURE
from tests.unit.service.fakes import any_shape, signature, tensor
from tests.unit.service.watched_for_drift import (
    REFERENCE,
    SIGNATURE,
    UNIFORM,
    honest,
    how_high,
    version,
    watched,
    write_reference,
)

WITHOUT_LABELS = {"rows": 10_000, "inputs": {"x": UNIFORM}}


def test_a_version_without_a_reference_is_not_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert DriftWatch(1_000).watch(version(), tmp_path) is None
    assert caplog.records == []


def test_with_a_window_of_0_none_is_watched(tmp_path: Path) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftWatch(1_000).watch(version(), tmp_path) is not None
    assert DriftWatch(0).watch(version(), tmp_path) is None


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        (b"not JSON", "malformed"),
        (WITHOUT_LABELS | {"inputs": {"y": UNIFORM}}, "'inputs' has 'y', which no input of the version has"),
        (WITHOUT_LABELS | {"inputs": {"x": UNIFORM, "x mean": UNIFORM}}, "'inputs' has 'x mean', which no input"),
        (WITHOUT_LABELS | {"inputs": {}}, "it has neither features of inputs nor labels"),
        (REFERENCE | {"labels": {"low": 0.5, "middle": 0.5}}, "'labels': 'high' is only in serving.json"),
        (REFERENCE | {"labels": {"low": 0.5, "high": 0.5, "far": 0}}, "'labels': 'far' is only here"),
    ],
)
def test_a_wrong_reference_is_logged_and_the_version_not_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reference: Any, why: str
) -> None:
    write_reference(tmp_path, reference)
    assert DriftWatch(1_000).watch(version(), tmp_path) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("model version 1 is not watched for drift: assets.extra/reference.json: ")
    assert why in record.message


def test_labels_of_a_version_without_labels_are_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftWatch(1_000).watch(version(labels=()), tmp_path) is None
    assert "it has 'labels', and the version has none" in caplog.text


def test_an_input_must_have_all_its_features(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = signature({"sizes": tensor("DT_FLOAT", -1, 2)})
    write_reference(tmp_path, WITHOUT_LABELS | {"inputs": {"sizes[0]": UNIFORM}})
    assert DriftWatch(1_000).watch(version({DEFAULT_SIGNATURE: sizes}), tmp_path) is None
    assert "'inputs' has no 'sizes[1]'; expected every feature of the input 'sizes'" in caplog.text


def test_an_input_that_is_called_like_an_answers_feature_is_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = signature({"label": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)})
    write_reference(tmp_path, REFERENCE | {"inputs": {"label": UNIFORM}})
    assert DriftWatch(1_000).watch(version({DEFAULT_SIGNATURE: named}), tmp_path) is None
    assert "'inputs' has 'label'" in caplog.text


@pytest.mark.parametrize(
    "spec", [any_shape("DT_FLOAT"), tensor("DT_FLOAT", -1, -1), tensor("DT_STRING", -1), tensor("DT_FLOAT", -1, 0)]
)
def test_rows_of_any_shape_and_strings_have_no_features(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spec: Any
) -> None:
    write_reference(tmp_path, WITHOUT_LABELS)
    assert DriftWatch(1_000).watch(version({DEFAULT_SIGNATURE: signature({"x": spec})}), tmp_path) is None
    assert "'inputs' has 'x', which no input of the version has as a feature" in caplog.text


def test_a_version_without_the_default_signature_is_not_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_reference(tmp_path, WITHOUT_LABELS)
    assert DriftWatch(1_000).watch(version({"other": SIGNATURE}), tmp_path) is None
    assert "'serving_default'" in caplog.text


def test_inputs_that_the_reference_does_not_have_are_left_out(tmp_path: Path) -> None:
    two = signature({"text": tensor("DT_STRING", -1), "other": tensor("DT_FLOAT", -1), "x": tensor("DT_FLOAT", -1)})
    drift = watched(tmp_path, version({DEFAULT_SIGNATURE: two}), WITHOUT_LABELS)
    drift.observe(DEFAULT_SIGNATURE, {"text": np.full(40, b"a"), "other": honest(40), "x": honest(40)}, {})
    assert [each.feature for each in drift.now().features] == ["x"]


def test_signatures_that_take_the_same_inputs_are_watched_and_others_not(tmp_path: Path) -> None:
    signatures = {
        DEFAULT_SIGNATURE: SIGNATURE,
        "same": signature({"x": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
        "without scores": signature({"x": tensor("DT_FLOAT", -1)}),
        "other type": signature({"x": tensor("DT_INT32", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
        "other input": signature({"z": tensor("DT_FLOAT", -1)}, {"scores": tensor("DT_FLOAT", -1, 2)}),
    }
    drift = watched(tmp_path, version(signatures))
    for name in signatures:
        inputs = {"z" if name == "other input" else "x": honest(5)}
        drift.observe(name, inputs, how_high({"x": honest(5)}))
    assert drift.now().rows == 10


def test_processes_share_the_window_of_a_version_and_of_no_other(tmp_path: Path) -> None:
    memory = SharedMemory()
    one, other, another = (watched(tmp_path, version(number=number), memory=memory) for number in (1, 1, 2))
    inputs = {"x": honest(40)}
    one.observe(DEFAULT_SIGNATURE, inputs, how_high(inputs))
    assert other.now() == one.now()
    assert (other.now().rows, another.now().rows) == (40, 0)


def test_a_version_with_another_reference_has_a_window_of_its_own(tmp_path: Path) -> None:
    memory = SharedMemory()
    one = watched(tmp_path, version(), memory=memory)
    inputs = {"x": honest(40)}
    one.observe(DEFAULT_SIGNATURE, inputs, how_high(inputs))
    assert watched(tmp_path, version(), REFERENCE | {"rows": 9_999}, memory=memory).now().rows == 0


def test_where_no_window_can_be_made_the_version_is_served_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_reference(tmp_path, REFERENCE)
    assert DriftWatch(MIN_CAPACITY, SharedMemory(MIN_CAPACITY)).watch(version(), tmp_path) is None
    assert "is not watched for drift" in caplog.text
