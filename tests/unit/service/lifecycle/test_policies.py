from pathlib import Path

import pytest

from service.lifecycle.policies import Label, Latest, ModelPolicy, Policies, decode, policy_file
from service.lifecycle.repository import Places
from service.runtime.config_file import InvalidFile
from service.settings import Settings

PATH = Path("models.toml")

FULL = b"""
only_listed = true

[default]
load = "on_demand"

[models.clothing]
versions = {latest = 2}
labels = {stable = 1, canary = {version = 2, share = 0.1}, next = {version = 3, shadow = 1}}
batching = {max_batch_size = 64, batch_timeout_micros = 500}

[models."two words"]
base_path = "/two"
versions = [1, 3]
replace = "unload_first"
"""


def test_every_part_is_read() -> None:
    policies = decode(FULL, PATH)
    clothing, two_words = policies.of("clothing"), policies.of("two words")
    assert clothing.versions == Latest(latest=2)
    assert clothing.labels["next"] == Label(version=3, shadow=1.0)
    assert clothing.label_versions == {"stable": 1, "canary": 2, "next": 3}
    assert (clothing.canary, clothing.shadow) == (("canary", 0.1), ("next", 1.0))
    assert (clothing.batching.max_batch_size, clothing.batching.batch_timeout_micros) == (64, 500)
    assert two_words.versions == [1, 3]
    assert (two_words.replace, clothing.replace) == ("unload_first", "load_first")
    assert (policies.of("another").load, clothing.load) == ("on_demand", "preload")
    assert policies.places == Places({"two words": Path("/two")}, frozenset({"clothing", "two words"}))


def test_empty_file_has_the_defaults() -> None:
    assert decode(b"", PATH) == Policies()
    assert Policies().of("any").canary is None


@pytest.mark.parametrize(
    ("table", "wanted", "named"),
    [
        ("versions = 'all'", {1, 2, 5}, set()),
        ("versions = {latest = 1}", {5}, set()),
        ("versions = {latest = 9}", {1, 2, 5}, set()),
        ("versions = [2, 7]", {2}, {2, 7}),
        ("versions = []", set(), set()),
        ("versions = {latest = 1}\nlabels = {old = 1, gone = 7}", {1, 5}, {1, 7}),
        ("versions = [1, 7]\nlabels = {new = {version = 2, shadow = 0.5}}", {1, 2}, {1, 2, 7}),
    ],
)
def test_wanted_and_named_versions(table: str, wanted: set[int], named: set[int]) -> None:
    policy = decode(f"[models.m]\n{table}".encode(), PATH).of("m")
    assert policy.wanted([5, 1, 2]) == wanted
    assert policy.named == named


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[models.m", "Expected ']' at the end of a table declaration"),
        ("\udcff", "expected UTF-8; invalid start byte at byte 0"),
        ("model = 1", "Object contains unknown field `model`"),
        ("models = 1", "Expected `object`, got `int` - at `models`"),
        ("[models]\nm = 1", "Expected `object`, got `int` - in `models.m`"),
        ("[models.m]\nversion = 1", "Object contains unknown field `version` - in `models.m`"),
        ("[models.m]\nversions = 'latest'", "Invalid enum value 'latest' - at `versions` - in `models.m`"),
        ("[models.m]\nversions = {latest = 0}", "Expected `int` >= 1 - at `versions.latest` - in `models.m`"),
        ("[models.m]\nversions = [20260312103015123456]", "Expected `int` <= 9223372036854775807 - at `versions[0]`"),
        ("[models.m]\nreplace = 'both'", "Invalid enum value 'both' - at `replace` - in `models.m`"),
        ("[models.m]\nload = 'lazy'", "Invalid enum value 'lazy' - at `load` - in `models.m`"),
        ("[models.m]\nbase_path = 'a'", "expected an absolute path"),
        ("[models.m.labels]\na = 'one'", "Expected `int | object`, got `str` - at `labels[...]` - in `models.m`"),
        ("[models.m.labels]\n'a/b' = 1", "at `key` in `labels` - in `models.m`"),
        ("[models.m.labels]\na = {version = 1, share = 1.5}", "Expected `float` <= 1.0"),
        ("[models.m.labels]\na = {version = 1, share = 0}", "Expected `float` > 0.0"),
        ("[models.m.labels]\na = {version = 1, share = 1, shadow = 1}", "a label has `share` (it answers) or `shadow`"),
        ("[models.m.labels]\na = {version = 1, share = 1}\nb = {version = 2, share = 1}", "but a and b have"),
        ("[models.m.labels]\nstable = {version = 1, shadow = 1}", "the label `stable` names what answers requests"),
        ("[models.m]\ndefault_label = 'a'\nlabels = {a = {version = 1, share = 1}}", "the label `a` names what"),
        ("[models.m.batching]\nmax_batch_size = 0", "Expected `int` >= 1 - at `batching.max_batch_size`"),
        ("[default.labels]\na = 1", "`default` takes no `labels`"),
        ("[default]\nbase_path = '/a'", "`default` takes no `base_path`"),
    ],
)
def test_fault_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        decode(text.encode(errors="surrogateescape"), PATH)
    assert str(raised.value).startswith("models.toml: ")
    assert words in str(raised.value)


def test_named_file_must_exist_and_the_one_in_the_models_folder_need_not(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match=r"missing\.toml: there is no such file"):
        policy_file(Settings(models_config=str(tmp_path / "missing.toml"))).check()
    file = policy_file(Settings(models=str(tmp_path)))
    file.check()
    (tmp_path / "models.toml").write_text("[default]\nload = 'lazy'")
    with pytest.raises(InvalidFile, match="Invalid enum value 'lazy'"):
        file.check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"versions": Latest(latest=1), "default_label": ""}),
        ("[models.m]\nversions = [1, 2]\n[models.other]\nload = 'on_demand'", {"versions": [1, 2]}),
    ],
    ids=["latest", "of models.toml"],
)
def test_policy_of_the_one_model_of_the_settings(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    (tmp_path / "models.toml").write_text(text)
    file = policy_file(Settings(base_path="/srv/x", model_name="m", models=str(tmp_path)))
    assert file.read()
    policy = ModelPolicy(base_path="/srv/x", **expected)  # type: ignore[arg-type]
    assert file.content == Policies(models={"m": policy}, only_listed=True)
