"""Models whose versions lie elsewhere than in the models folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.inference.version import State
from service.lifecycle.policies import Latest, ModelPolicy, Policies, decode, policy_file
from service.lifecycle.repository import Places, Repository
from service.runtime.config_file import InvalidFile
from service.settings import Settings
from tests.unit.service.lifecycle.worker import Worker


def version_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    return folder


def found(repository: Repository) -> Mapping[str, Path]:
    return {f"{model}/{version}": path for (model, version), path in repository.versions().items()}


def test_versions_in_a_base_path_are_found_beside_the_folder(tmp_path: Path) -> None:
    inside = version_in(tmp_path / "models" / "a" / "1")
    elsewhere = version_in(tmp_path / "elsewhere" / "7")
    repository = Repository(tmp_path / "models")
    assert repository.look_in(Places({"b": elsewhere.parent}))
    assert found(repository) == {"a/1": inside, "b/7": elsewhere}
    assert not repository.look_in(Places({"b": elsewhere.parent}))


def test_a_base_path_counts_more_than_the_folder(tmp_path: Path) -> None:
    version_in(tmp_path / "models" / "a" / "1")
    elsewhere = version_in(tmp_path / "elsewhere" / "7")
    repository = Repository(tmp_path / "models")
    repository.look_in(Places({"a": elsewhere.parent}))
    assert found(repository) == {"a/7": elsewhere}


def test_only_listed_models_are_found_without_a_folder(tmp_path: Path) -> None:
    one, other = version_in(tmp_path / "x" / "1"), version_in(tmp_path / "y" / "0002")
    repository = Repository(tmp_path / "none")
    repository.look_in(Places({"one": one.parent, "other": other.parent}, frozenset({"one", "other"})))
    assert found(repository) == {"one/1": one, "other/2": other}


def test_a_base_path_may_be_of_several_models(tmp_path: Path) -> None:
    folder = version_in(tmp_path / "x" / "1")
    repository = Repository(tmp_path)
    repository.look_in(Places({"one": folder.parent, "other": folder.parent}, frozenset({"one", "other"})))
    assert found(repository) == {"one/1": folder, "other/1": folder}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing", "its base path cannot be read: No such file or directory"),
        ("file", "its base path cannot be read: Not a directory"),
        ("empty", "its base path has no folder with a number"),
        ("version", "saved_model.pb lies in it, and not in a folder of a version"),
    ],
)
def test_a_base_path_without_versions_is_said(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    version_in(tmp_path / "version")
    repository = Repository(tmp_path)
    repository.look_in(Places({"a": tmp_path / place}, frozenset({"a"})))
    assert found(repository) == {}
    assert reason in repository.skipped["a"]
    assert str(tmp_path) not in repository.skipped["a"]


def test_a_base_path_that_is_gone_keeps_its_versions(tmp_path: Path) -> None:
    """A file server that fails for a while must not take models out of service."""
    folder = version_in(tmp_path / "x" / "1")
    repository = Repository(tmp_path)
    repository.look_in(Places({"a": folder.parent}, frozenset({"a"})))
    assert found(repository) == {"a/1": folder}
    shutil.rmtree(folder.parent)
    assert found(repository) == {"a/1": folder}


def test_the_disk_is_polled_once_in_a_pause(tmp_path: Path) -> None:
    now = 0.0
    repository = Repository(tmp_path, pause_seconds=60, clock=lambda: now)
    assert found(repository) == {}
    folder = version_in(tmp_path / "a" / "1")
    now += 59
    assert found(repository) == {}
    now += 1
    assert found(repository) == {"a/1": folder}
    # Other places are looked into at once.
    other = version_in(tmp_path / "x" / "2")
    repository.look_in(Places({"b": other.parent}, frozenset({"b"})))
    assert found(repository) == {"b/2": other}


def test_policies_name_places() -> None:
    policies = decode(
        b'only_listed = true\n[models.a]\nbase_path = "/a"\n[models.b]\nversions = [1]', Path("models.toml")
    )
    assert policies.places == Places({"a": Path("/a")}, frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.a]\nbase_path = 'a'", "expected an absolute path"),
        ("[default]\nbase_path = '/a'", "`default` takes no `base_path`"),
        ("[models.a]\ndefault_label = 'live'\nlabels = {live = {version = 1, share = 0.5}}", "the label `live` names"),
    ],
)
def test_wrong_places_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        decode(text.encode(), Path("models.toml"))


def test_the_one_model_of_the_settings_serves_its_latest_version(tmp_path: Path) -> None:
    settings = Settings(base_path=str(tmp_path), model_name="m", models=str(tmp_path / "none"))
    file = policy_file(settings)
    assert file.read()
    policy = ModelPolicy(base_path=str(tmp_path), versions=Latest(latest=1), default_label="")
    assert file.content == Policies(models={"m": policy}, only_listed=True)


def test_models_toml_speaks_of_the_one_model_too(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[models.m]\nversions = [1, 2]\n[models.other]\nload = 'on_demand'")
    settings = Settings(base_path=str(tmp_path / "m"), model_name="m", models_config=str(tmp_path / "models.toml"))
    file = policy_file(settings)
    file.read()
    assert list(file.content.models) == ["m"]
    assert file.content.of("m").versions == [1, 2]
    assert file.content.of("m").base_path == str(tmp_path / "m")


def test_a_model_whose_base_path_moves_is_loaded_anew(worker: Worker, tmp_path: Path) -> None:
    for name in ("one", "other"):
        version_in(tmp_path / name / "1")
    worker.write_policies(f"only_listed = true\n[models.a]\nbase_path = '{tmp_path}/one'")
    worker.scan()
    assert worker.states() == {"a/1": State.AVAILABLE}
    worker.write_policies(f"only_listed = true\n[models.a]\nbase_path = '{tmp_path}/other'")
    worker.scan()
    assert worker.loader.loaded == ["one/1", "other/1"]
    assert worker.registry.get("a").folder.path == tmp_path / "other" / "1"  # type: ignore[union-attr]


def test_the_default_label_is_the_policy_s(worker: Worker) -> None:
    for number in (1, 2):
        worker.add(f"a/{number}")
    worker.write_policies("[models.a]\ndefault_label = ''\nlabels = {stable = 1}")
    worker.scan()
    assert worker.registry.get("a").version == 2
    worker.write_policies("[models.a]\ndefault_label = 'live'\nlabels = {stable = 2, live = 1}")
    worker.scan()
    assert worker.registry.get("a").version == 1
