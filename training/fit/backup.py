"""Backups: the state from which a killed run resumes, in one file that is replaced after every epoch."""

import dataclasses
import hashlib
import io
import json
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.fit.strategy import Worker

FILE = "state.npz"


@dataclass
class Progress:
    """Whole epochs so far, Keras's history of them, and the seconds they took."""

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0


def folder(model_dir: Path, config: Any, data: str = "") -> Path:
    """A dot-folder, which no server loads. The same settings give the same folder, whatever the output. `data`: a
    digest of the examples, where the settings do not say which they are."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "output"}
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True, default=str) + data).encode()).hexdigest()
    return model_dir / f".training-{digest[:12]}"


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Lets Ctrl-C say that the same command goes on, if there is a state in the folder to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        if not any(folder.rglob(FILE)):
            raise
        raise KeyboardInterrupt("the same command goes on after the last whole epoch") from None


class Backup(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Replaces Keras's BackupAndRestore (docs/adr/0013). Of several workers only the chief reads and writes."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        super().__init__()
        self.folder, self.worker = folder, worker
        self.progress = Progress()
        self.since = time.perf_counter()

    def restore(self, model: Any) -> Progress | None:
        """Gives a compiled model the saved state, if any. A state that cannot be used is reported and ignored."""
        file = self.folder / FILE
        content = b""
        if self.worker.chief and file.exists():
            content = file.read_bytes() or b"\0"  # an empty file is damaged
        content = self.worker.share(content)
        if not content:
            return None
        variables = self._variables(model)
        try:
            with np.load(io.BytesIO(content)) as saved:
                first, *values = (saved[f"arr_{place}"] for place in range(len(saved.files)))
            progress = Progress(**json.loads(str(first)))
            if [each.shape for each in values] != [tuple(each.shape) for each in variables]:
                raise ValueError("it is of another network or optimizer")
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            if self.worker.chief:
                print(f"Starts anew: {file} cannot be gone on from ({error})", file=sys.stderr)
            return None
        with self.worker.scope():
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self.progress = progress
        return dataclasses.replace(progress, history={name: [*each] for name, each in progress.history.items()})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        if not self.worker.chief or not np.isfinite(logs["loss"]):
            return
        for name, value in logs.items():
            self.progress.history.setdefault(name, []).append(float(value))
        now = time.perf_counter()
        self.progress.seconds += now - self.since
        self.progress.epoch, self.since = epoch + 1, now
        values = [np.asarray(each) for each in self._variables(self.model)]
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{FILE}"
        with unfinished.open("wb") as file:
            np.savez(file, np.array(json.dumps(dataclasses.asdict(self.progress))), *values)
        unfinished.replace(self.folder / FILE)  # at once: a run killed at any moment leaves the old or the new

    def remove(self) -> None:
        if self.worker.chief:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _variables(self, model: Any) -> list[Any]:
        """Weights, other state of layers (a dropout's seed) and of the optimizer, without the metrics'."""
        if not model.optimizer.built:
            with self.worker.scope():
                model.optimizer.build(model.trainable_variables)
        metrics = {id(variable) for variable in model.metrics_variables}
        return [*(each for each in model.variables if id(each) not in metrics), *model.optimizer.variables]
