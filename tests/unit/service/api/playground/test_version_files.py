from pathlib import Path

import pytest

from service.api.playground.version_files import MAX_THUMBNAIL_BYTES, VersionFiles
from service.errors import NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    version = tmp_path / "models" / "clothing" / "1"
    (version / "assets.extra" / "samples").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"12345")
    (version / "assets.extra" / "README.md").write_text("# clothing")
    (version / "assets.extra" / "model.tflite").write_bytes(b"123")
    (version / "assets.extra" / "samples" / "01.png").write_bytes(b"png")
    (tmp_path / "models" / "secret.md").write_text("secret")
    return version


def test_files(folder: Path) -> None:
    files = VersionFiles(folder)
    assert [(file.name, file.size) for file in files.shown()] == [("README.md", 10), ("samples/01.png", 3)]
    assert files.read("samples/01.png") == (b"png", "image/png")
    assert files.read("README.md") == (b"# clothing", "text/plain; charset=utf-8")
    assert files.total_size() == 5 + 10 + 3 + 3


@pytest.mark.parametrize(
    "name",
    [
        "model.tflite",
        "../saved_model.pb",
        "../../../secret.md",
        "samples/../README.md",
        "/README.md",
        "",
        "a\0.md",
        "link.md",
    ],
)
def test_other_files_are_not_found(folder: Path, name: str) -> None:
    (folder / "assets.extra" / "link.md").symlink_to(folder.parents[1] / "secret.md")
    with pytest.raises(NotFound, match="no such file"):
        VersionFiles(folder).read(name)


@pytest.mark.parametrize(
    ("text", "metrics"), [('{"accuracy": 0.9}', {"accuracy": 0.9}), ("[1]", None), ("{", None), (None, None)]
)
def test_metrics(folder: Path, text: str | None, metrics: object) -> None:
    if text is not None:
        (folder / "assets.extra" / "metrics.json").write_text(text)
    assert VersionFiles(folder).metrics() == metrics
    without = VersionFiles(folder.parent)
    assert (without.shown(), without.metrics()) == ([], None)


@pytest.mark.parametrize(
    ("sizes", "thumbnail"),
    [
        ({"notes.csv": 1}, None),
        ({"learning_curve.png": 1, "b.jpg": 1}, "b.jpg"),
        ({"confusion_matrix.png": 1, "learning_curve.png": 1}, "confusion_matrix.png"),
        ({"confusion_matrix.png": 1, "samples/01.jpg": 1}, "samples/01.jpg"),
        ({"confusion_matrix.png": 1, "sample.png": MAX_THUMBNAIL_BYTES + 1}, "confusion_matrix.png"),
    ],
)
def test_thumbnail(tmp_path: Path, sizes: dict[str, int], thumbnail: str | None) -> None:
    for name, size in sizes.items():
        file = tmp_path / "assets.extra" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    assert VersionFiles(tmp_path).thumbnail() == thumbnail
