import os
import shutil
from pathlib import Path

import psutil
import pytest

from service.inference.folder import Folder, fingerprint


def add(path: Path) -> Path:
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"graph")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return add(tmp_path / "1")


def test_fingerprint_changes_with_any_file_and_with_the_folder(path: Path) -> None:
    assert fingerprint(path) == fingerprint(path)
    found = {fingerprint(path), fingerprint(path.with_name("nowhere"))}
    variables = path / "variables" / "variables.index"
    variables.parent.mkdir()
    for content in (b"a", b"ab"):
        variables.write_bytes(content)
        found.add(fingerprint(path))
    os.utime(variables, ns=(1, 1))
    found.add(fingerprint(path))
    variables.rename(variables.with_name("renamed"))
    found.add(fingerprint(path))
    for _ in range(2):
        path.rename(path.with_name(f"old {len(found)}"))
        path.mkdir()
        found.add(fingerprint(path))
    assert len(found) == 8


def test_only_another_folder_replaces_a_folder(path: Path) -> None:
    folder = Folder(path)
    (path / "saved_model.pb").write_bytes(b"edited")
    (path / "variables").mkdir()
    assert not folder.is_replaced(path)
    shutil.rmtree(path)
    assert not folder.is_replaced(path)
    # Its inode number is not given away as long as it is held open.
    assert folder.is_replaced(add(path))


def test_links_are_followed(path: Path) -> None:
    (link := path.with_name("link")).symlink_to(path)
    folder = Folder(link)
    assert (folder.path, folder.identity) == (path, Folder(path).identity)
    link.unlink()
    link.symlink_to(add(path.with_name("2")))
    assert folder.is_replaced(link)


def test_unused_folder_is_closed(path: Path) -> None:
    before = psutil.Process().num_fds()
    folder = Folder(path)
    assert psutil.Process().num_fds() == before + 1
    del folder
    assert psutil.Process().num_fds() == before
