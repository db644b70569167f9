import os
import shutil
from pathlib import Path

import psutil

from service.inference.folder import Folder, fingerprint


def add(root: Path, version: str) -> Path:
    folder = root / version
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    return folder


def test_fingerprint_is_stable(tmp_path: Path) -> None:
    folder = add(tmp_path, "1")
    assert fingerprint(folder) == fingerprint(folder)


def test_missing_folder_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "nowhere") != fingerprint(add(tmp_path, "1"))


def test_fingerprint_changes_with_any_file(tmp_path: Path) -> None:
    folder = add(tmp_path, "1")
    found = {fingerprint(folder)}
    variables = folder / "variables" / "variables.index"
    variables.parent.mkdir()

    variables.write_bytes(b"a")
    found.add(fingerprint(folder))
    variables.write_bytes(b"ab")
    found.add(fingerprint(folder))
    os.utime(variables, ns=(1, 1))
    found.add(fingerprint(folder))
    variables.rename(variables.with_name("renamed"))
    found.add(fingerprint(folder))
    assert len(found) == 5


def test_fingerprint_changes_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    before = fingerprint(folder)
    folder.rename(tmp_path / "old")
    folder.mkdir()
    assert fingerprint(folder) != before


def test_only_another_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = add(tmp_path, "1")
    folder = Folder(path)
    (path / "saved_model.pb").write_bytes(b"edited")
    (path / "variables").mkdir()
    assert not folder.is_replaced(path)
    shutil.rmtree(path)
    assert not folder.is_replaced(path)
    # Its inode number is not given away as long as it is held open.
    add(tmp_path, "1")
    assert folder.is_replaced(path)


def test_links_are_followed(tmp_path: Path) -> None:
    path = add(tmp_path, "1")
    (link := tmp_path / "link").symlink_to(path)
    folder = Folder(link)
    assert (folder.path, folder.identity) == (path, Folder(path).identity)
    link.unlink()
    link.symlink_to(add(tmp_path, "2"))
    assert folder.is_replaced(link)


def test_unused_folder_is_closed(tmp_path: Path) -> None:
    path = add(tmp_path, "1")
    before = psutil.Process().num_fds()
    folder = Folder(path)
    assert psutil.Process().num_fds() == before + 1
    del folder
    assert psutil.Process().num_fds() == before
