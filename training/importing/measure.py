"""Measures an engine in a process of its own: `python -m training.importing.measure`, which answers in JSON."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from service.engines.base import LoadOptions
from service.engines.loading import load_engine
from service.serving_config import TWIN_FILE, read_serving_config
from service.settings import EngineChoice
from training.data import Array
from training.evaluation.evaluate import microseconds
from training.report import one_core

SMAPS = Path("/proc/self/smaps_rollup")  # of Linux


@dataclass(frozen=True)
class Cost:
    """`micros`: of processor time for one row, on one core, the median of many. `memory`: in bytes, of a process with
    only this engine, libraries included (RSS: of what other processes use as well, PSS would count a part); None where
    the system does not say."""

    micros: float
    memory: int | None


def cost(version_dir: Path, engine: EngineChoice, signature: str, row: dict[str, Array]) -> Cost | None:
    """None where it could not be measured."""
    with TemporaryDirectory() as folder:
        texts = [array.astype("S") if array.dtype.kind == "O" else array for array in row.values()]
        np.savez(file := Path(folder) / "row.npz", *texts)
        arguments = str(version_dir.absolute()), engine, signature, json.dumps(list(row)), str(file)
        command = [sys.executable, "-m", __spec__.name, *arguments]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)  # noqa: S603
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return Cost(found["micros"], found["memory"])


def main(version_dir: Path, engine: EngineChoice, signature: str, names: list[str], rows: Path) -> None:
    with one_core():
        options = LoadOptions(prefer_tflite=(version_dir / TWIN_FILE).is_file())
        loaded = load_engine(version_dir, read_serving_config(version_dir), engine, options)
        arrays = np.load(rows).values()
        row = {
            name: array.astype(object) if array.dtype.kind == "S" else array
            for name, array in zip(names, arrays, strict=True)
        }
        micros = microseconds(lambda: loaded.run(signature, row), time.process_time)
    lines = SMAPS.read_text().splitlines() if SMAPS.is_file() else []
    memory = next((1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:")), None)
    print(json.dumps({"micros": micros, "memory": memory}))


if __name__ == "__main__":
    folder, choice, name, inputs, file = sys.argv[1:]
    main(Path(folder), choice, name, json.loads(inputs), Path(file))  # type: ignore[arg-type]
