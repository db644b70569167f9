from pathlib import Path

from benchmarks.first_models import VERSIONS
from benchmarks.hundred_models import FURTHER, copy
from service.lifecycle.repository import Repository


def test_a_hundred_models_and_a_second_version_stand_beside_the_first_ones(tmp_path: Path) -> None:
    copy(tmp_path / "models")
    found = Repository(tmp_path / "models").versions()
    assert len(found) == len(VERSIONS) + FURTHER
    assert {(model, version) for model, version in found} > {(each.parent.name, int(each.name)) for each in VERSIONS}
    assert [version for model, version in found if model == "regression"] == [1, 2]
