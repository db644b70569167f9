"""`python -m training exercises` on few pictures, and the snippets of docs/exercises.md."""

import contextlib
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (requirements/train.txt)")

from tests.integration.training_run import ROOT, run
from training import exercises
from training.data import fashion_mnist
from training.exercises import Exercise

needs_fashion_mnist = pytest.mark.skipif(
    fashion_mnist.local_folder() is None, reason=f"Fashion-MNIST is not on this machine. {fashion_mnist.HOW_TO_GET}"
)


@needs_fashion_mnist
def test_quick_run_writes_table_and_pictures(tmp_path: Path) -> None:
    names = ["units-128", "one-convolution"]
    printed = run("exercises", "--quick", "--only", ",".join(names), "--output", str(tmp_path))
    text = (tmp_path / "table.md").read_text("utf-8")
    assert text in printed
    assert text.startswith("**Quick look with fewer pictures and epochs")
    assert "6,000 pictures to train, 2,000 to test" in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [a-z]+-", line)]
    assert [name for name, *_ in rows] == names
    for _, layers, epochs, parameters, *_, train_accuracy, test_accuracy, size, microseconds in rows:
        assert layers.endswith("→ 10")
        assert epochs == "1"
        # A twin in float32 has four bytes for a parameter and little beside.
        assert number(size) * 1000 == pytest.approx(4 * number(parameters), rel=0.05)
        assert 0.5 < number(test_accuracy) < 0.9
        assert 0.5 < number(train_accuracy) < 0.9
        assert number(microseconds) > 0
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"one-convolution-boot.png", "units.png", "scaling.png", "convolutions.png"}


def number(cell: str) -> float:
    return float(cell.replace(",", "").removesuffix(" KB"))


def test_fit_does_not_depend_on_earlier_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "convert", lambda model: b"")
    monkeypatch.setattr(exercises, "time_of_a_prediction", lambda twin, picture: 0.0)
    random = np.random.default_rng(1)
    split = exercises.Split(random.uniform(0, 255, (64, 28, 28)).astype(np.float32), random.integers(10, size=64))
    small, other = (
        Exercise(name="small", filters=(2,), units=(4,), epochs=2),
        Exercise(name="other", units=(3,), epochs=2),
    )
    first, between, again = (exercises.outcome(each, 1, split, split, split) for each in (small, other, small))
    assert first.history == again.history != between.history
    assert first.test_accuracy == first.train_accuracy == again.test_accuracy


@pytest.mark.parametrize(("accuracy", "stops"), [(0.9, False), (0.91, True)])
def test_level_stops_above_its_accuracy(accuracy: float, stops: bool) -> None:
    model = SimpleNamespace(stop_training=False)
    (callback,) = exercises.stopping(Exercise(name="level", stop="level"), model)
    callback.on_epoch_end(0, {"accuracy": accuracy})
    assert model.stop_training is stops


def test_patience_watches_the_validation_loss() -> None:
    (callback,) = exercises.stopping(Exercise(name="patience", stop="patience"), None)
    assert (callback.monitor, callback.patience, callback.restore_best_weights) == ("val_loss", 3, True)
    assert exercises.stopping(Exercise(name="never"), None) == ()


@needs_fashion_mnist
def test_snippets_of_the_docs_print_what_they_say() -> None:
    page = (ROOT / "docs/exercises.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(snippet, "docs/exercises.md", "exec"), names)
        assert printed.getvalue().splitlines() == re.findall(r"# → (.+)", snippet)
    assert "two" in names, "the last snippet was not found"
