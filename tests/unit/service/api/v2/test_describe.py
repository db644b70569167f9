import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.inference.batching import BatchLimits
from service.inference.version import LoadedVersion
from service.serving_config import ServingConfig
from service.tensors.signature import Signature
from tests.unit.service.fakes import (
    FakeEngine,
    FakeService,
    any_shape,
    echo,
    error,
    independent,
    make_available,
    signature,
    tensor,
)

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PICTURES = signature(
    {"pixels": tensor("DT_UINT8", -1, 28, 28), "names": tensor("DT_STRING", -1)},
    {"scores": tensor("DT_HALF", -1, 10), "found": tensor("DT_BOOL", -1)},
)
INFER = "/v2/models/model/infer"


def infer(rows: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows], "datatype": "FP32", "data": [1.0] * rows}]}


def test_the_server_names_itself_and_what_it_can_beyond_the_protocol(service: FakeService) -> None:
    project = tomllib.loads((Path(__file__).parents[5] / "pyproject.toml").read_text())["project"]
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


def add_signatures(service: FakeService, *names: str) -> None:
    """Of one model, each with another output."""
    signatures = {name: signature({"x": tensor("DT_FLOAT", -1)}, {name: tensor("DT_FLOAT", -1)}) for name in names}
    engine = FakeEngine(signatures, lambda inputs: {names[0]: inputs["x"]})
    make_available(service.registry, LoadedVersion("model", 1, engine, ServingConfig()))


@pytest.mark.parametrize("names", [["predict_object"], ["serving_default", "another"]])
def test_the_signature_that_answers_is_the_default_one_or_the_only_one(service: FakeService, names: list[str]) -> None:
    add_signatures(service, *names)
    metadata, config = service.get("/v2/models/model"), service.get("/v2/models/model/config")
    assert [output["name"] for output in metadata.get_json()["outputs"]] == names[:1]
    assert [output["name"] for output in config.get_json()["output"]] == names[:1]
    assert service.get("/v2/models/model/ready").get_json() == {"name": "model", "ready": True}
    answer = service.post(INFER, infer(2)).get_json()
    assert [output["name"] for output in answer["outputs"]] == names[:1]


def test_of_several_signatures_without_a_default_one_none_answers_and_the_model_is_not_ready(
    service: FakeService,
) -> None:
    add_signatures(service, "predict_images", "predict_object")
    sentence = (
        "model has several signatures, none of them 'serving_default': 'predict_images', 'predict_object'; ask for one "
        "by its name, which the Open Inference Protocol has no place for: POST /v1/models/model:predict with "
        '"signature_name"'
    )
    responses = [service.get(f"/v2/models/model{place}") for place in ("", "/config", "/ready")]
    for response in [*responses, service.post(INFER, infer(1))]:
        assert (response.status_code, error(response)) == (400, sentence)


def test_the_statistics_of_all_models_come_with_the_metadata_of_the_one_of_that_name(service: FakeService) -> None:
    service.add(LINEAR, model="other")
    assert service.get("/v2/models/stats").get_json().keys() == {"model_stats"}
    service.add(PICTURES, model="stats")
    answer = service.get("/v2/models/stats").get_json()
    assert {stats["name"] for stats in answer.pop("model_stats")} == {"other", "stats"}
    assert answer == service.get("/v2/models/stats/versions/1").get_json()
    assert {stats["name"] for stats in service.get("/v2/models/stats/stats").get_json()["model_stats"]} == {"stats"}


def test_statistics_do_not_fail_with_a_model_of_that_name(service: FakeService) -> None:
    engine = FakeEngine({"one": LINEAR, "two": LINEAR}, echo)
    make_available(service.registry, LoadedVersion("stats", 1, engine, ServingConfig()))
    assert service.get("/v2/models/stats").get_json().keys() == {"model_stats"}


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
