from pathlib import Path

import pytest

from service.errors import FailedPrecondition
from service.inference.version import State, VersionStatus
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
from tests.unit.service.fakes import loaded_version
from tests.unit.service.lifecycle.worker import OF

PATH = Path("/etc/models.config")

FULL = b"""
model_config_list: {
  config: {
    name: "one", base_path: "/models/one", model_platform: "tensorflow"
  },
  config {
    name: 'two'
    base_path: '/elsewhere/two/'
    model_type: TENSORFLOW
    model_version_policy { specific { versions: 42 versions: 43 } }
    version_labels { key: 'stable' value: 42 }
    version_labels { key: 'canary' value: 43 }
    logging_config {
      log_collector_config { type: "file" filename_prefix: "/logs/two" }
      sampling_config { sampling_rate: 0.5 }
    }
  }
  config {
    name: "three" base_path: "/m" model_platform: "tensorflow" model_version_policy { latest { num_versions: 3 } }
  }
  config { name: "four" base_path: "/m" model_platform: "tensorflow" model_version_policy { all {} } }
}
"""


def one(**fields: object) -> Policies:
    given = {"name": "m", "base_path": "/m", "model_platform": "tensorflow", **fields}
    return policies_of([ModelConfig(**given)])  # type: ignore[arg-type]


def fault(text: str) -> str:
    with pytest.raises(InvalidFile) as raised:
        decode(text.encode(), PATH)
    return str(raised.value)


def test_every_field_is_read() -> None:
    policies = decode(FULL, PATH)
    assert policies.only_listed
    assert {name: policy.base_path for name, policy in policies.models.items()} == {
        "one": "/models/one",
        "two": "/elsewhere/two/",
        "three": "/m",
        "four": "/m",
    }
    versions = [policy.versions for policy in policies.models.values()]
    assert versions == [Latest(latest=1), [42, 43], Latest(latest=3), "all"]
    two = policies.of("two")
    assert two.label_versions == {"stable": 42, "canary": 43}
    assert two.capture == CapturePolicy(share=0.5, file="/logs/two")
    assert policies.of("one").capture is None


def test_no_label_answers_requests_without_a_version() -> None:
    """There the latest version does, whatever is called stable."""
    assert one(labels={"stable": 1}).of("m").default_version is None


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
        (
            "improperly formatted",
            "/etc/models.config: Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1: ",
        ),
        ("model_config_list {\n config { name: 3 } }", '2:17: "model_config_list.config.name": expected a string'),
        ("model_config_list {\n config { name: 'm' } }", "/etc/models.config:2: Expected model m to have an absolute"),
        ("\ncustom_model_config { [a.b/c] {} }", "/etc/models.config:2: custom_model_config is not supported"),
        (
            "model_config_list { config { name: 'm' base_path: '/m' model_platform: 'tensorflow' logging_config { "
            "sampling_config { sampling_rate: 2 } } } }",
            "/etc/models.config:1: model m: Expected `float` <= 1.0 - at `$.capture.share`",
        ),
    ],
)
def test_error_in_a_file_names_file_and_line(text: str, message: str) -> None:
    assert message in fault(text)


# Labels


def registry_with(*versions: int) -> Registry:
    registry = Registry()
    for version in versions:
        registry.set_status(
            "m", version, VersionStatus(State.AVAILABLE), loaded_version(OF, model="m", version=version)
        )
    return registry


LABELLED = one(labels={"stable": 1})
REFUSED = "Request to assign label to version 1 of model m, which is not currently available for inference"


@pytest.mark.parametrize("allow_unavailable", [False, True])
def test_a_label_may_name_an_available_version(allow_unavailable: bool) -> None:
    registry_with(1).check_labels(LABELLED, allow_unavailable=allow_unavailable)


def test_a_label_of_a_version_that_is_not_available_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match=REFUSED):
        registry_with(2).check_labels(LABELLED, allow_unavailable=False)


def test_a_new_label_may_be_allowed_to_name_any_version() -> None:
    registry_with(2).check_labels(LABELLED, allow_unavailable=True)


def test_a_label_in_use_never_moves_to_a_version_that_is_not_available() -> None:
    registry = registry_with(2)
    registry.set_policies(one(labels={"stable": 2}))
    with pytest.raises(FailedPrecondition, match=REFUSED):
        registry.check_labels(LABELLED, allow_unavailable=True)


def test_labels_at_the_start_have_to_be_allowed() -> None:
    check_first_labels(LABELLED, allow_unavailable=True)
    with pytest.raises(FailedPrecondition, match=REFUSED):
        check_first_labels(LABELLED, allow_unavailable=False)


def test_file_is_refused_until_its_labels_may_be(tmp_path: Path) -> None:
    def write(labels: str) -> None:
        (draft := tmp_path / "draft").write_text(
            f"model_config_list {{ config {{ name: 'm' base_path: '/m' model_platform: 'tensorflow' {labels} }} }}"
        )
        draft.rename(tmp_path / "models.config")

    def check(_policies: Policies) -> None:
        if refusals:
            raise FailedPrecondition(refusals[0])

    refusals = ["not yet"]
    write("")
    settings = Settings(
        model_config_file=str(tmp_path / "models.config"), model_config_file_poll_wait_seconds=1, models=str(tmp_path)
    )
    now = 0.0
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
