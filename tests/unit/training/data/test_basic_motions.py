import hashlib
from pathlib import Path

import numpy as np
import pytest

from training.data import basic_motions
from training.errors import DatasetError

# Two recordings of two channels and three steps.
TINY = """#Made up.
@problemName Tiny
@dimensions 2
@classLabel true Sitting Flying

@data
0.1,-0.2,0.3:1,2,3:Flying
4,5,6:7e-1,8,9:Sitting
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    content = TINY.encode()
    monkeypatch.setattr(basic_motions, "FILES", dict.fromkeys(basic_motions.FILES, hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(basic_motions, "local_folder", lambda: tmp_path)
    for name in basic_motions.FILES:
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_recording_becomes_steps_of_channels_with_a_label_of_the_header(folder: Path) -> None:
    data = basic_motions.load()
    expected = [[[0.1, 1], [-0.2, 2], [0.3, 3]], [[4, 0.7], [5, 8], [6, 9]]]
    np.testing.assert_array_equal(data.train_motions, np.array(expected, np.float32))
    assert data.train_motions.dtype == np.float32
    np.testing.assert_array_equal(data.test_motions, data.train_motions)
    assert data.names == ("Sitting", "Flying")
    assert data.train_labels.tolist() == data.test_labels.tolist() == [1, 0]


@pytest.mark.parametrize("content", [b"", TINY.encode()[:-9], TINY.replace("8,9", "8,8").encode(), b"\xff"])
def test_damaged_file_is_named_with_what_was_expected(content: bytes, folder: Path) -> None:
    (folder / "BasicMotions_TEST.ts").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        basic_motions.load()
    assert str(caught.value).startswith(f"{folder / 'BasicMotions_TEST.ts'}: SHA-256 ")
    assert str(caught.value).endswith(basic_motions.HOW_TO_GET)


def test_missing_file_and_package_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "BasicMotions_TRAIN.ts").unlink()
    with pytest.raises(DatasetError, match=r"BasicMotions_TRAIN\.ts: cannot be read \(No such file or directory\)"):
        basic_motions.load()
    monkeypatch.undo()
    monkeypatch.setattr(basic_motions, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"aeon is not installed.*pip install --no-deps aeon"):
        basic_motions.load()


def test_real_data_passes_the_checks() -> None:
    if basic_motions.local_folder() is None:
        pytest.skip("aeon is not installed (requirements/train.txt)")
    data = basic_motions.load()
    assert data.train_motions.shape == data.test_motions.shape == (40, 100, 6)
    assert data.names == ("Standing", "Running", "Walking", "Badminton")
    assert np.bincount(data.train_labels).tolist() == np.bincount(data.test_labels).tolist() == [10] * 4
    assert np.isfinite(data.train_motions).all()
