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


def test_what_people_look_at_is_shown_and_nothing_else(folder: Path) -> None:
    assert [(file.name, file.size) for file in VersionFiles(folder).shown()] == [
        ("README.md", 10),
        ("samples/01.png", 3),
    ]


def test_a_file_comes_with_the_type_that_browsers_are_told(folder: Path) -> None:
    assert VersionFiles(folder).read("samples/01.png") == (b"png", "image/png")
    assert VersionFiles(folder).read("README.md") == (b"# clothing", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "model.tflite",
        "../saved_model.pb",
        "../../../secret.md",
        "samples/../README.md",
        "/README.md",
        "",
        "no.md",
        "a\0.md",
    ],
)
def test_nothing_else_is_handed_out(folder: Path, name: str) -> None:
    with pytest.raises(NotFound, match="no such file"):
        VersionFiles(folder).read(name)


def test_a_link_out_of_the_folder_is_not_followed(folder: Path) -> None:
    (folder / "assets.extra" / "link.md").symlink_to(folder.parents[1] / "secret.md")
    with pytest.raises(NotFound):
        VersionFiles(folder).read("link.md")


@pytest.mark.parametrize(
    ("text", "metrics"), [('{"accuracy": 0.9}', {"accuracy": 0.9}), ("[1]", None), ("{", None), (None, None)]
)
def test_metrics_are_there_where_they_can_be_read(folder: Path, text: str | None, metrics: object) -> None:
    if text is not None:
        (folder / "assets.extra" / "metrics.json").write_text(text)
    assert VersionFiles(folder).metrics() == metrics


def test_the_size_is_that_of_the_whole_version(folder: Path) -> None:
    assert VersionFiles(folder).total_size() == 5 + 10 + 3 + 3


def test_a_version_without_anything_beside_it_shows_nothing(tmp_path: Path) -> None:
    files = VersionFiles(tmp_path)
    assert (files.shown(), files.metrics()) == ([], None)


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
def test_the_thumbnail_is_a_small_sample_or_else_a_figure(
    tmp_path: Path, sizes: dict[str, int], thumbnail: str | None
) -> None:
    for name, size in sizes.items():
        file = tmp_path / "assets.extra" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
    assert VersionFiles(tmp_path).thumbnail() == thumbnail
