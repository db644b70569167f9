from pathlib import Path

from benchmarks.hundred_models import FURTHER, copy
from service.repository import Repository


def test_a_hundred_models_and_a_second_version_stand_beside_the_shipped_ones(tmp_path: Path) -> None:
    copy(tmp_path / "models")
    shipped, found = Repository(Path("models")).versions(), Repository(tmp_path / "models").versions()
    assert len(found) == len(shipped) + FURTHER
    assert {model for model, version in shipped} < {model for model, version in found}
    assert [version for model, version in found if model == "regression"] == [1, 2]
