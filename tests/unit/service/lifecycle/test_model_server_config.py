from contextlib import nullcontext
from pathlib import Path

import pytest

from service.errors import FailedPrecondition
from service.lifecycle.model_server_config import (
    InvalidConfig,
    ModelConfig,
    check_first_labels,
    config_file,
    decode,
    policies_of,
)
from service.lifecycle.policies import CapturePolicy, Latest, Policies
from service.lifecycle.registry import Registry
from service.runtime.config_file import InvalidFile
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.settings import Settings
from tests.unit.service.fakes import loaded_version, make_available
from tests.unit.service.lifecycle.worker import OF

PATH = Path("/etc/models.config")

FULL = b"""
model_config_list: {
  config: { name: "one", base_path: "/models/one", model_platform: "tensorflow" },
  config {
    name: 'two'
    base_path: '/elsewhere/two/'
    model_type: TENSORFLOW
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
    logging_config { log_collector_config { filename_prefix: "/logs/two" } sampling_config { sampling_rate: 0.5 } }
  }
  config { name: "three" base_path: "/m" model_type: 1 model_version_policy { latest { num_versions: 3 } } }
  config { name: "four" base_path: "/m" model_platform: "tensorflow" model_version_policy { all {} } }
}
"""


def config(fields: str) -> str:
    return f"model_config_list {{ config {{ name: 'm' base_path: '/m' model_platform: 'tensorflow' {fields} }} }}"


def one(**fields: object) -> Policies:
    given = {"name": "m", "base_path": "/m", "model_platform": "tensorflow", **fields}
    return policies_of([ModelConfig(**given)])  # type: ignore[arg-type]


def test_every_field_is_read() -> None:
    policies = decode(FULL, PATH)
    assert policies.only_listed
    assert [(name, policy.base_path, policy.versions) for name, policy in policies.models.items()] == [
        ("one", "/models/one", Latest(latest=1)),
        ("two", "/elsewhere/two/", [42, 43]),
        ("three", "/m", Latest(latest=3)),
        ("four", "/m", "all"),
    ]
    two = policies.of("two")
    assert two.label_versions == {"stable": 42, "canary": 43}
    assert two.capture == CapturePolicy(share=0.5, file="/logs/two")
    assert policies.of("one").capture is None
    # There no label answers requests without a version.
    assert two.default_version is None


def test_empty_config_serves_nothing() -> None:
    assert decode(b"", PATH) == Policies(only_listed=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_path": "m"}, "Expected model m to have an absolute path or URI; got base_path()=m"),
        ({"base_path": ""}, "Expected model m to have an absolute path or URI; got base_path()="),
        ({"base_path": "gs://a/m"}, "URIs are not supported"),
        ({"model_platform": ""}, "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"),
        ({"model_type": 1}, "Illegal setting both ModelServerConfig::model_type (deprecated) and"),
        ({"model_platform": "", "model_type": 2}, "ModelServerConfig::model_type choice 2 not supported."),
        ({"model_platform": "torch"}, "Model m requests unsupported platform torch"),
        ({"name": ""}, "name is ''"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"name": "a:b"}, "name is 'a:b'"),
        ({"versions": [-1]}, "`int` >= 0 - at `$.versions[0]`"),
        ({"labels": {"a/b": 1}}, "labels"),
    ],
)
def test_what_cannot_be_served_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        one(**fields)
    assert message in str(raised.value)


def test_a_name_is_listed_once() -> None:
    config = ModelConfig(name="m", base_path="/m", model_platform="tensorflow")
    with pytest.raises(InvalidConfig, match="Illegal to list model m multiple times in config list"):
        policies_of([config, config])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bad", "/etc/models.config: Error parsing text-format tensorflow.serving.ModelServerConfig: 1:"),
        ("model_config_list {\n config { name: 3 } }", '2:17: "model_config_list.config.name": expected a string'),
        ("model_config_list {\n config { name: 'm' } }", "/etc/models.config:2: Expected model m to have an absolute"),
        ("\ncustom_model_config { [a.b/c] {} }", "/etc/models.config:2: custom_model_config is not supported"),
        (
            config("logging_config { sampling_config { sampling_rate: 2 } }"),
            "m: Expected `float` <= 1.0 - at `$.capture.",
        ),
    ],
)
def test_error_in_a_file_names_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        decode(text.encode(), PATH)
    assert message in str(raised.value)


LABELLED = one(labels={"stable": 1})
REFUSED = "Request to assign label to version 1 of model m, which is not currently available for inference"


@pytest.mark.parametrize(
    ("available", "before", "allow_unavailable", "is_refused"),
    [(1, {}, False, False), (2, {}, False, True), (2, {}, True, False), (2, {"stable": 2}, True, True)],
    ids=["available", "not available", "new and allowed", "in use"],
)
def test_label_of_a_version(available: int, before: dict[str, int], allow_unavailable: bool, is_refused: bool) -> None:
    registry = Registry()
    make_available(registry, loaded_version(OF, model="m", version=available))
    registry.set_policies(one(labels=before))
    with pytest.raises(FailedPrecondition, match=REFUSED) if is_refused else nullcontext():
        registry.check_labels(LABELLED, allow_unavailable=allow_unavailable)


def test_labels_at_the_start_have_to_be_allowed() -> None:
    check_first_labels(LABELLED, allow_unavailable=True)
    with pytest.raises(FailedPrecondition, match=REFUSED):
        check_first_labels(LABELLED, allow_unavailable=False)


def test_file_is_refused_until_its_labels_may_be(tmp_path: Path) -> None:
    def write(labels: str) -> None:
        (draft := tmp_path / "draft").write_text(config(labels))
        draft.rename(path)

    def check(_policies: Policies) -> None:
        if refusals:
            raise FailedPrecondition(refusals[0])

    refusals, path, now = ["not yet"], tmp_path / "models.config", 0.0
    write("")
    settings = Settings(model_config_file=str(path), model_config_file_poll_wait_seconds=1, models=str(tmp_path))
    file = config_file(settings, Values(SharedMemory()), check)
    file._clock = lambda: now
    assert file.read()
    write("version_labels { key: 'a' value: 1 }")
    assert not file.read()
    now += 1
    assert file.read()
    assert file.error.endswith("models.config: not yet")
    assert file.content.of("m").labels == {}
    now += 1
    # It is logged once.
    assert not file.read()
    refusals.clear()
    now += 1
    assert file.read()
    assert (file.content.of("m").labels, file.error) == ({"a": 1}, "")
