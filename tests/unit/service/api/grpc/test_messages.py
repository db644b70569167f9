import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from service.api.grpc import messages
from service.api.grpc.messages import decode, encode
from service.api.routes import GRPC_ROUTES
from service.tensors.protobuf import InvalidMessage
from tests.unit.service.api.grpc import schema

ROOT = Path(__file__).parents[5]
PROTOS = ROOT / "service" / "api" / "grpc" / "protos"


def test_descriptors_are_those_of_the_files(tmp_path: Path) -> None:
    out = tmp_path / "descriptors.binpb"
    files = sorted(path.name for path in PROTOS.glob("*.proto"))
    # A process of its own: protoc does not go with TensorFlow, which another test may have loaded.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={out}", *files], check=True)
    made, kept = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()) for path in (out, PROTOS / "descriptors.binpb")
    )
    assert made == kept, "run make protos"


def test_every_method_of_the_files_has_a_route_and_is_documented() -> None:
    described = set()
    for content in messages.descriptors().files.values():
        file = descriptor_pb2.FileDescriptorProto.FromString(content)
        described |= {f"/{file.package}.{each.name}/{method.name}" for each in file.service for method in each.method}
    assert set(GRPC_ROUTES) == described | {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}
    page = (ROOT / "docs" / "grpc.md").read_text()
    assert [path for path in GRPC_ROUTES if f"`{path.rpartition('/')[2]}`" not in page] == []


VALUES: list[tuple[str, dict[str, Any]]] = [
    ("inference.ModelReadyRequest", {"name": "shirt", "version": "2"}),
    ("inference.ModelConfig", {"version_policy": {"all": {}}, "input": [{"name": "x", "data_type": "TYPE_FP32"}]}),
    ("inference.ModelMetadataResponse", {"versions": ["1", "2"], "inputs": [{"shape": [-1, 28, 300]}]}),
    ("inference.StatisticDuration", {"count": 2**40, "ns": 0}),
    ("tensorflow.serving.SamplingConfig", {"sampling_rate": 0.25}),
    ("tensorflow.serving.Class", {"label": "shoe", "score": 0.5}),
    ("tensorflow.serving.ModelConfig", {"version_labels": {"stable": 2, "canary": 0}}),
    ("tensorflow.serving.GetModelMetadataResponse", {"metadata": {"a": {"type_url": "b", "value": b"\xff"}}}),
]


@pytest.mark.parametrize(("name", "values"), VALUES, ids=[name for name, _ in VALUES])
def test_encoded_as_google_does(name: str, values: dict[str, Any]) -> None:
    made = schema.message(name)(**{key: value for key, value in values.items() if key != "metadata"})
    for key, value in values.get("metadata", {}).items():
        made.metadata[key].type_url, made.metadata[key].value = value["type_url"], value["value"]
    assert schema.message(name).FromString(encode(name, values)) == made
    read = decode(name, memoryview(made.SerializeToString()))
    assert schema.message(name).FromString(encode(name, read)) == made


def test_unknown_fields_are_skipped_and_the_last_value_counts() -> None:
    data = b"\x0a\x01a\x0a\x01b\xf2\x06\x01x"
    assert decode("inference.ModelReadyRequest", memoryview(data)) == {"name": "b"}
    for damaged in (b"\x0a\x05a", b"\x08\x01", b"\x0a\x01\xff"):
        with pytest.raises(InvalidMessage):
            decode("inference.ModelReadyRequest", memoryview(damaged))
