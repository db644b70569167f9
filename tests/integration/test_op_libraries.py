"""Graphs with operations of other libraries than TensorFlow's: of one that is compiled here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.integration.models import VERSION_1, publish
from tests.integration.server import running

# By the C API: what takes the C++ headers in takes half a minute to compile. Like some of TensorFlow Text's, the
# operation says nothing of shapes.
SOURCE = """
#include <cstdint>
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_tensor.h"

static void compute(void* kernel, TF_OpKernelContext* context) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor *x = nullptr;
  TF_GetInput(context, 0, &x, status);
  int64_t size = TF_TensorElementCount(x), shape[] = {size};
  TF_Tensor* y = TF_AllocateOutput(context, 0, TF_FLOAT, shape, 1, size * sizeof(float), status);
  for (int64_t i = 0; i < size; ++i) ((float*)TF_TensorData(y))[i] = 3 * ((float*)TF_TensorData(x))[i];
  TF_DeleteTensor(x);
  TF_DeleteTensor(y);
  TF_DeleteStatus(status);
}

__attribute__((constructor)) static void add(void) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder("FittingRoomTriple");
  TF_OpDefinitionBuilderAddInput(op, "x: float");
  TF_OpDefinitionBuilderAddOutput(op, "y: float");
  TF_RegisterOpDefinition(op, status);
  TF_KernelBuilder* kernel = TF_NewKernelBuilder("FittingRoomTriple", "CPU", nullptr, &compute, nullptr);
  TF_RegisterKernelBuilder("FittingRoomTriple", kernel, status);
  TF_DeleteStatus(status);
}
"""
# In a process of its own: here the operation must stay unknown.
SAVE = """
import sys, tensorflow as tf
triple = tf.load_op_library(sys.argv[1])
class Triple(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": triple.fitting_room_triple(x=x)}
module = Triple()
tf.saved_model.save(module, sys.argv[2], signatures={"serving_default": module.__call__})
"""


def compiled(source: str, library: Path, *options: str) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler (g++) to make a library with an operation")
    library.with_suffix(".cc").write_text(source)
    command = [compiler, "-w", "-shared", "-fPIC", str(library.with_suffix(".cc")), "-o", str(library), *options]
    subprocess.run(command, check=True)
    return library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
    return compiled(SOURCE, tmp_path_factory.mktemp("library") / "triple.so", *options)


@pytest.fixture(scope="module")
def models(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the shipped regression, for the service is ready once something is AVAILABLE."""
    models = tmp_path_factory.mktemp("models")
    publish(VERSION_1, models / "regression" / "1")
    subprocess.run([sys.executable, "-c", SAVE, str(library), str(models / "triple" / "1")], check=True)
    return models


def test_graph_with_an_operation_of_a_named_library_is_served(models: Path, library: Path, tmp_path: Path) -> None:
    with running(models, tmp_path / "log", op_libraries=library) as server:
        answer = server.request("/v1/models/triple:predict", {"instances": [1.0, 10.0]})
        assert (answer.status, answer.json()) == (200, {"predictions": [3.0, 30.0]})


def test_predict_command_loads_the_library(models: Path, library: Path) -> None:
    command = [sys.executable, "-m", "service", "predict", str(models / "triple"), "10"]
    environment = os.environ | {"SERVING_OP_LIBRARIES": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "30" in done.stdout


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            'extern "C" int of_another_version();\nint needed = of_another_version();\n',
            f"undefined symbol: of_another_version.*for another TensorFlow than .* installed, {tf.__version__}",
        ),
        (
            "#include <cstdlib>\n__attribute__((constructor)) static void end() { std::abort(); }\n",
            "the process that tries to ends by SIGABRT",
        ),
    ],
    ids=["for another TensorFlow", "ends the process"],
)
def test_library_that_cannot_be_loaded_stops_the_start(
    source: str, reason: str, models: Path, library: Path, tmp_path: Path
) -> None:
    bad = compiled(source, tmp_path / "bad.so")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVING_")}
    command = [sys.executable, "-m", "service", "--models", str(models), "--op-libraries", f"{library}:{bad}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert re.search(f"error: SERVING_OP_LIBRARIES: {re.escape(str(bad))} cannot be loaded: .*{reason}", done.stderr)
