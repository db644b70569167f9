import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from service.engines.base import LoadError
from service.engines.tensorflow import c_api
from service.engines.tensorflow.op_libraries import main, missing_op, of_tensorflow_text
from service.settings import parse_files


@pytest.mark.parametrize(
    ("op", "whose"),
    [
        ("CaseFoldUTF8", "the package tensorflow-text brings it"),
        ("SimpleMLInferenceOpWithHandle", "the package tensorflow-decision-forests brings it"),
        ("Frobnicate", "TensorFlow itself does not have it"),
    ],
)
def test_missing_operation_names_its_package(op: str, whose: str) -> None:
    told = f"its graph has the operation {op!r}, and {whose}; name the library that does in SERVING_OP_LIBRARIES"
    assert missing_op(op) == told


def test_missing_tensorflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(c_api, "tensorflow", Mock(side_effect=ModuleNotFoundError("", name="tensorflow")))
    assert main(["a.so"]) == 1
    said = "TensorFlow, whose they are, is not installed; install it with make serve TENSORFLOW=1 (or: pip install "
    assert capsys.readouterr().out.startswith(said)


def test_failing_library_is_the_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def load(path: Path) -> None:
        if path.name == "b.so":
            raise LoadError("b.so cannot be loaded: no library")

    monkeypatch.setattr(c_api, "tensorflow", lambda: None)
    monkeypatch.setattr(c_api, "load_op_library", load)
    assert (main(["a.so"]), main(["a.so", "b.so", "c.so"])) == (0, 1)
    assert capsys.readouterr().out.splitlines()[-1] == "b.so cannot be loaded: no library"


def test_libraries_of_tensorflow_text_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    libraries = [tmp_path / "tensorflow_text" / "python" / folder / "_a.so" for folder in ("metrics", "ops")]
    for file in (*libraries, tmp_path / "tensorflow_text" / "__init__.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert of_tensorflow_text() == ""
    (tmp_path / "tensorflow.py").touch()
    assert parse_files(of_tensorflow_text()) == tuple(libraries)
