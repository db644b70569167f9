from pathlib import Path

import pytest

from training.data import clothing_photos
from training.errors import DatasetError


def test_missing_photos_error_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOTHING_PHOTOS_DIR", raising=False)
    with pytest.raises(DatasetError, match=r"CLOTHING_PHOTOS_DIR is not set\. To get the photos: git clone "):
        clothing_photos.local_folder()
    monkeypatch.setenv("CLOTHING_PHOTOS_DIR", str(tmp_path))
    with pytest.raises(DatasetError, match=r"train: no such folder\. To get the photos"):
        clothing_photos.local_folder()
