import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.base import LoadError
from service.lifecycle.warm_up import MAX_RECORDS, WARM_UP_FILE, RecordedRequest, recorded_requests
from service.serving_config import ASSETS
from tests.unit.service.protobufs import examples_log, message, predict_log, tensor, tf_record

ONE = tensor(1, (1,), message(5, struct.pack("<f", 1.5)))


def write(version: Path, content: bytes) -> Path:
    (version / ASSETS).mkdir(exist_ok=True)
    (version / ASSETS / WARM_UP_FILE).write_bytes(content)
    return version


def read(version: Path, content: bytes) -> list[RecordedRequest]:
    return list(recorded_requests(write(version, content)))


def refusal(version: Path, content: bytes) -> str:
    with pytest.raises(LoadError) as raised:
        read(version, content)
    return str(raised.value)


def test_a_version_without_the_file_brings_none(tmp_path: Path) -> None:
    assert list(recorded_requests(tmp_path)) == []
    assert read(tmp_path, b"") == []


def test_predict_requests_are_read_with_their_signature_and_tensors(tmp_path: Path) -> None:
    first, second = read(tmp_path, tf_record(predict_log("", {"x": ONE}), predict_log("other", {"a": ONE, "b": ONE})))
    assert (first.where, first.signature_name) == (f"{ASSETS}/{WARM_UP_FILE}, record 1", "serving_default")
    assert first.inputs["x"].tolist() == [1.5]
    assert (second.signature_name, set(second.inputs)) == ("other", {"a", "b"})


@pytest.mark.parametrize("kind", [2, 3])
def test_examples_are_given_as_they_are_with_the_context_merged_in(tmp_path: Path, kind: int) -> None:
    plain, merged = read(
        tmp_path, tf_record(examples_log(kind, b"one", b"two"), examples_log(kind, b"one", context=b"context "))
    )
    assert plain.inputs[""].tolist() == [b"one", b"two"]
    assert merged.inputs[""].tolist() == [b"context one"]


@pytest.mark.parametrize("kind", [4, 5, 7])
def test_kinds_that_are_not_served_are_passed_over(tmp_path: Path, kind: int) -> None:
    (one,) = read(tmp_path, tf_record(message(kind), predict_log("", {"x": ONE})))
    assert one.where.endswith("record 2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a record", "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(predict_log("", {"x": ONE}))[:-1], "is no TFRecord file, or ends in the middle of a record"),
        (tf_record(b"\xff"), "record 1 is no tensorflow.serving.PredictionLog"),
        (tf_record(b""), "it holds neither a predict_log nor a classify_log nor a regress_log"),
        (tf_record(predict_log("", {"x": tensor(1, (2,))})), "a tensor of the shape (2,) holds 0 values"),
        (tf_record(*[message(4)] * (MAX_RECORDS + 1)), f"has too many records: at most {MAX_RECORDS} are taken"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path, content)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("version")


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_whatever_raise_anything_else(version: Path, content: bytes, is_framed: bool) -> None:
    with contextlib.suppress(LoadError):
        read(version, tf_record(content) if is_framed else content)
