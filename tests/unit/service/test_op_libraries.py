from pathlib import Path

import pytest

from service.op_libraries import missing_op, parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("_b.so", "_a.so", "other.so", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("separator", [":", ",", ", ", ":,"])
def test_files_are_separated_by_colons_or_commas(folder: Path, separator: str) -> None:
    names = [folder / "other.so", folder / "_a.so"]
    assert parse(separator.join(map(str, names))) == tuple(names)


def test_no_files_are_none() -> None:
    assert parse("") == parse(" , ") == ()


def test_a_pattern_stands_for_all_that_fit_and_none_is_named_twice(folder: Path) -> None:
    assert parse(f"{folder}/_b.so:{folder}/_*.so") == (folder / "_b.so", folder / "_a.so")


def test_a_name_without_a_folder_is_one_of_this_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert parse("other.so") == (folder / "other.so",)


@pytest.mark.parametrize("name", ["none.so", "none*.so", ""])
def test_what_is_no_file_is_named(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f": there is no file {folder}/") as raised:
        parse(f"{folder}/_a.so:{folder}/{name}")
    assert str(raised.value).endswith(f"/{name}")


@pytest.mark.parametrize(
    ("op", "whose"),
    [
        ("CaseFoldUTF8", "the package tensorflow-text brings it"),
        ("TFText>RoundRobinTrim", "the package tensorflow-text brings it"),
        ("SimpleMLInferenceOpWithHandle", "the package tensorflow-decision-forests brings it"),
        ("Addons>ImageProjectiveTransformV3", "the package tensorflow-addons brings it"),
        ("Frobnicate", "TensorFlow itself does not have it"),
    ],
)
def test_a_missing_operation_is_told_with_whose_it_is_and_what_to_do(op: str, whose: str) -> None:
    told = f"its graph has the operation {op!r}, and {whose}; name the library that does in SERVING_OP_LIBRARIES"
    assert missing_op(op) == told
