"""Warm-up requests as TensorFlow writes them: TFRecord files, TensorProtos, tf.train.Examples."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.engines.base import LoadError
from service.engines.tensorflow.engine import SavedModelEngine
from service.lifecycle.warm_up import WARM_UP_FILE, replay
from service.serving_config import ASSETS
from service.tensors.tensor_proto import read_tensor
from tests.unit.service.protobufs import predict_log


def write(version: Path, *logs: bytes) -> None:
    (version / ASSETS).mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version / ASSETS / WARM_UP_FILE)) as writer:
        for log in logs:
            writer.write(log)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1.5, -2.0], [0.0, np.inf]], np.float32),
        np.array([1.0, 2.0]),
        np.array([-1, 2**31 - 1], np.int32),
        np.array([-1, 2**63 - 1], np.int64),
        np.array([255, 0], np.uint8),
        np.array([-128, 127], np.int8),
        np.array([True, False]),
        np.array([1.5, -0.25], np.float16),
        np.array(7.0, np.float32),
        np.zeros((0, 3), np.float32),
        np.full((3, 2), 5, np.int64),
        np.array([[b"shirt", "Füße".encode()]], object),
    ],
    ids=lambda values: f"{values.dtype}{values.shape}",
)
def test_tensors_are_read_as_tensorflow_writes_them(values: Any) -> None:
    by_value = values.ravel().tolist() or values
    for proto in (tf.make_tensor_proto(values), tf.compat.v1.make_tensor_proto(by_value, values.dtype, values.shape)):
        _, array = read_tensor(proto.SerializeToString())
        assert (array.dtype, array.shape, array.tolist()) == (values.dtype, values.shape, values.tolist())


def test_recorded_tensors_warm_up_a_saved_model(strangers: Path, tmp_path: Path) -> None:
    version = shutil.copytree(strangers / "linear" / "1", tmp_path / "1")
    floats, whole = (tf.make_tensor_proto([1, 2], dtype).SerializeToString() for dtype in (tf.float32, tf.int64))
    engine = SavedModelEngine(version)
    assert not replay(engine, version)
    write(version, predict_log("serving_default", {"x": floats}))
    assert replay(engine, version)
    write(version, predict_log("", {"x": floats}), predict_log("", {"x": whole}))
    with pytest.raises(LoadError, match="record 2 does not fit the signature 'serving_default': input 'x' is int64"):
        replay(engine, version)
