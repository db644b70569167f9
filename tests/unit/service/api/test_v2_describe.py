import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.batcher import BatchLimits
from service.signature import Signature
from tests.unit.service.fakes import FakeService, any_shape, echo, error, independent, make_available, signature, tensor

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PICTURES = signature(
    {"pixels": tensor("DT_UINT8", -1, 28, 28), "names": tensor("DT_STRING", -1)},
    {"scores": tensor("DT_HALF", -1, 10), "found": tensor("DT_BOOL", -1)},
)
INFER = "/v2/models/model/infer"


def infer(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows], "datatype": "FP32", "data": [1.0] * rows}]}


def test_the_server_names_itself_and_what_it_can_beyond_the_protocol(service: FakeService) -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    assert service.get("/v2").get_json() == {
        "name": project["name"],
        "version": project["version"],
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_repository",
            "statistics",
        ],
    }


def test_the_metadata_describe_the_tensors_with_their_batch(service: FakeService) -> None:
    service.add(PICTURES)
    assert service.get("/v2/models/model").get_json() == {
        "name": "model",
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 28, 28]},
            {"name": "names", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP16", "shape": [-1, 10]},
            {"name": "found", "datatype": "BOOL", "shape": [-1]},
        ],
    }


def test_the_metadata_list_the_available_versions_and_describe_the_one_asked_for(service: FakeService) -> None:
    service.add(LINEAR, version=10)
    service.add(PICTURES, version=9)
    newest, older = service.get("/v2/models/model").get_json(), service.get("/v2/models/model/versions/9").get_json()
    assert newest["versions"] == older["versions"] == ["9", "10"]
    assert [newest["inputs"][0]["name"], older["inputs"][0]["name"]] == ["x", "pixels"]


def test_a_tensor_of_any_rank_is_said_to_have_one_free_size(service: FakeService) -> None:
    service.add(signature({"x": any_shape("DT_COMPLEX64")}))
    assert service.get("/v2/models/model").get_json()["inputs"] == [
        {"name": "x", "datatype": "COMPLEX64", "shape": [-1]}
    ]


def test_a_model_without_the_default_signature_says_so(service: FakeService) -> None:
    engine = service.add(LINEAR)
    engine.signatures = {"train": LINEAR}
    for path in ("/v2/models/model", "/v2/models/model/config"):
        response = service.get(path)
        assert response.status_code == 400
        assert "model has 'train'" in error(response)


def test_the_config_has_the_sizes_without_the_batch(service: FakeService) -> None:
    service.add(PICTURES)
    loaded = replace(service.registry.get("model"), limits=BatchLimits(8, timeout_seconds=0.0))
    assert service.get("/v2/models/model/config").get_json()["max_batch_size"] == 0
    make_available(service.registry, replace(loaded, independence=independent(loaded.engine.signatures)))
    config = service.get("/v2/models/model/config").get_json()
    assert config["name"] == "model"
    assert config["max_batch_size"] == 8
    assert [(part["name"], part["data_type"], part["dims"]) for part in config["input"] + config["output"]] == [
        ("pixels", "TYPE_UINT8", [28, 28]),
        ("names", "TYPE_STRING", []),
        ("scores", "TYPE_FP16", [10]),
        ("found", "TYPE_BOOL", []),
    ]


@pytest.mark.parametrize(
    "of",
    [
        signature({"x": tensor("DT_FLOAT", 2, 3)}, {"y": tensor("DT_FLOAT", -1)}),
        signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT")}),
        signature({"x": any_shape("DT_FLOAT")}, {"y": tensor("DT_FLOAT", -1)}),
    ],
)
def test_the_config_of_a_model_without_rows_has_no_batch(service: FakeService, of: Signature) -> None:
    service.add(of)
    config = service.get("/v2/models/model/config").get_json()
    spec = of.inputs["x"]
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, list(spec.shape or [-1]))


def test_the_config_says_whether_requests_are_batched(service: FakeService) -> None:
    engine = service.add(LINEAR)
    assert "dynamic_batching" not in service.get("/v2/models/model/config").get_json()
    limits = BatchLimits(8, timeout_seconds=0.0005)
    loaded = replace(service.registry.get("model"), limits=limits, independence=independent(engine.signatures))
    make_available(service.registry, replace(loaded, version=2))
    batching = service.get("/v2/models/model/config").get_json()["dynamic_batching"]
    assert batching == {"max_queue_delay_microseconds": 500}


def test_perf_analyzer_finds_all_that_it_reads(service: FakeService) -> None:
    """Its ModelParser: metadata and config of one model, then for each input whether it is optional or a shape."""
    service.add(LINEAR)
    metadata, config = (service.get(f"/v2/models/model{rest}").get_json() for rest in ("", "/config"))
    assert isinstance(config["max_batch_size"], int)
    assert not config.keys() & {"ensemble_scheduling", "sequence_batching"}
    assert [part["name"] for part in metadata["inputs"]] == [part["name"] for part in config["input"]]
    assert all(part["optional"] is False and part["is_shape_tensor"] is False for part in config["input"])


# Statistics


def statistics(service: FakeService, path: str = "/v2/models/model/stats") -> Any:
    return service.get(path).get_json()["model_stats"]


def test_the_statistics_count_requests_by_success_over_both_protocols(service: FakeService) -> None:
    service.add(LINEAR, echo)
    service.post(INFER, infer(1))
    service.post(INFER, {"inputs": []})
    service.post("/v1/models/model:predict", {"instances": [1.0]})
    service.get("/v2/models/model")  # is no inference
    (stats,) = statistics(service)
    assert (stats["name"], stats["version"]) == ("model", "1")
    assert (stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"]) == (2, 1)


def test_the_stages_of_the_answered_requests_add_up(service: FakeService) -> None:
    service.add(LINEAR, echo)
    for _ in range(3):
        service.post(INFER, infer(2))
    (stats,) = statistics(service)
    stages = stats["inference_stats"]
    for stage in ("success", "compute_input", "queue", "compute_infer", "compute_output"):
        assert stages[stage]["count"] == 3
        assert stages[stage]["ns"] > 0 or stage == "queue"
    parts = ("compute_input", "queue", "compute_infer", "compute_output")
    assert abs(stages["success"]["ns"] - sum(stages[part]["ns"] for part in parts)) <= len(parts)


def test_the_statistics_count_rows_and_runs(service: FakeService) -> None:
    service.add(LINEAR, echo)
    for rows in (1, 2, 3):
        service.post(INFER, infer(rows))
    (stats,) = statistics(service)
    assert (stats["inference_count"], stats["execution_count"]) == (6, 3)


def test_the_statistics_of_what_nobody_has_asked_yet_are_zero(service: FakeService) -> None:
    service.add(LINEAR)
    (stats,) = statistics(service)
    assert (stats["inference_count"], stats["execution_count"], stats["batch_stats"]) == (0, 0, [])
    assert all(stage == {"count": 0, "ns": 0} for stage in stats["inference_stats"].values())


def test_every_number_of_the_statistics_is_whole_and_not_negative(service: FakeService) -> None:
    service.add(LINEAR, lambda _: {"y": np.array([1.0])})
    for rows in (1, 2):
        service.post(INFER, infer(rows))
        service.post(INFER, {"inputs": []})
    (stats,) = statistics(service)
    numbers = [number for stage in stats["inference_stats"].values() for number in stage.values()]
    assert all(type(number) is int and number >= 0 for number in numbers)


def test_the_statistics_are_of_a_version_a_model_or_all(service: FakeService) -> None:
    service.add(LINEAR, version=1)
    service.add(LINEAR, version=2)
    service.add(LINEAR, model="another")

    def found(path: str) -> list[tuple[str, str]]:
        return [(stats["name"], stats["version"]) for stats in statistics(service, path)]

    assert found("/v2/models/model/versions/2/stats") == [("model", "2")]
    assert found("/v2/models/model/stats") == [("model", "1"), ("model", "2")]
    assert found("/v2/models/stats") == [("another", "1"), ("model", "1"), ("model", "2")]
