from pathlib import Path

import pytest

from service.engines.base import LoadError
from service.engines.tensorflow import c_api
from service.engines.tensorflow.op_libraries import main, missing_op


@pytest.mark.parametrize(
    ("op", "whose"),
    [
        ("CaseFoldUTF8", "the package tensorflow-text brings it"),
        ("SimpleMLInferenceOpWithHandle", "the package tensorflow-decision-forests brings it"),
        ("Frobnicate", "TensorFlow itself does not have it"),
    ],
)
def test_a_missing_operation_names_its_package(op: str, whose: str) -> None:
    told = f"its graph has the operation {op!r}, and {whose}; name the library that does in SERVING_OP_LIBRARIES"
    assert missing_op(op) == told


def test_missing_tensorflow_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    monkeypatch.setattr(c_api, "tensorflow", missing)
    assert main(["a.so"]) == 1
    said = "TensorFlow, whose they are, is not installed; install it with make serve TENSORFLOW=1 (or: pip install "
    assert capsys.readouterr().out.startswith(said)


def test_the_failing_library_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path) -> None:
        if path.name == "b.so":
            raise LoadError("b.so cannot be loaded: no library")

    monkeypatch.setattr(c_api, "tensorflow", lambda: None)
    monkeypatch.setattr(c_api, "load_op_library", load)
    assert (main(["a.so"]), main(["a.so", "b.so", "c.so"])) == (0, 1)
    assert capsys.readouterr().out.splitlines()[-1] == "b.so cannot be loaded: no library"
