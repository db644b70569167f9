"""What each shipped version costs by itself: CPU of a request, memory of a worker process. Takes about five minutes."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.bodies import of_version
from benchmarks.load import Load, drive
from benchmarks.process import Running, cores, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

MODELS = Path("models")
CONNECTIONS, ROUNDS, SECONDS, WARM_UP_SECONDS = 16, 3, 3, 3
# A model whose batches take memory and do not pay: what they cost where the user asks for them.
BATCHED, BATCHED_FORM, BATCH_SIZES = "photos/1", "picture", (1, 4, 32)


def main() -> None:
    shipped = {f"{path.parent.name}/{path.name}": path for path in sorted(MODELS.glob("*/[0-9]*"))}
    parser = report.parser("benchmarks.sizing", __doc__)
    parser.add_argument("version", nargs="*", metavar="MODEL/VERSION", help="only this one; the others' figures stay")
    options = parser.parse_args()
    if unknown := [name for name in options.version if name not in shipped]:
        parser.error(f"no such version: {', '.join(unknown)}; there are {', '.join(shipped)}")
    found = report.results()["sizing"]
    versions = {name: one for name, one in found["versions"].items() if name in shipped}
    batches = found["batches"]
    for name in options.version or shipped:
        with tempfile.TemporaryDirectory(prefix="sizing-") as folder:
            alone = Alone(shipped[name].absolute(), Path(folder))
            versions[name] = alone.cost()
            print(name, versions[name], flush=True)
            if name == BATCHED:
                batches = {str(size): alone.batch_cost(size) for size in BATCH_SIZES}
                print(batches, flush=True)
    ordered = {name: versions[name] for name in sorted(versions)}
    report.finish("sizing", {"versions": ordered, "batches": batches}, write=not options.dry_run)


class Alone:
    """A version in a folder where no other is, and a request for it in each form that it takes."""

    def __init__(self, version: Path, folder: Path) -> None:
        self._model, self._folder = version.parent.name, folder
        self._bodies = of_version(version)
        place = folder / "models" / self._model / version.name
        place.parent.mkdir(parents=True)
        place.symlink_to(version)

    def cost(self) -> dict[str, Any]:
        """Memory is PSS of all processes under load; of each form, the bytes of a request and the CPU that it takes."""
        with self._served(1) as running:
            forms = {form: [len(body.content), self._cpu_us(running, form)] for form, body in self._bodies.items()}
            one_worker = running.pss_bytes() / 1e6
        with self._served(2) as running:
            for form in self._bodies:
                self._load(running, form)
            return {"one_worker_mb": one_worker, "two_workers_mb": running.pss_bytes() / 1e6, "forms": forms}

    def batch_cost(self, size: int) -> dict[str, float]:
        """With one worker and this size in the model's policy."""
        policies = self._folder / "models.toml"
        policies.write_text(f"[models.{self._model}]\nbatching = {{max_batch_size = {size}}}\n")
        with self._served(1, "--models-config", str(policies)) as running:
            return {"cpu_us": self._cpu_us(running, BATCHED_FORM), "mb": running.pss_bytes() / 1e6}

    @contextmanager
    def _served(self, workers: int, *flags: str) -> Iterator[Running]:
        server = fitting_room.server(*fitting_room.PATIENCE, *flags, models=str(self._folder / "models"), prepare=None)
        form, body = next(iter(self._bodies.items()))
        with serving(server, self._path(form), body, cores()[:workers], self._folder, workers) as running:
            yield running

    def _path(self, form: str) -> str:
        return f"/v2/models/{self._model}/infer" if form == "v2 binary" else f"/v1/models/{self._model}:predict"

    def _load(self, running: Running, form: str, seconds: int = SECONDS) -> Load:
        return drive(running, self._path(form), self._bodies[form], CONNECTIONS, seconds, cores()[1])

    def _cpu_us(self, running: Running, form: str) -> float:
        self._load(running, form, WARM_UP_SECONDS)
        return median(self._load(running, form).cpu_us for _ in range(ROUNDS))


def section(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for version, one in found["versions"].items():
        memory = [number(one["one_worker_mb"]), number(one["two_workers_mb"] - one["one_worker_mb"])]
        for form, (size, cpu_us) in one["forms"].items():
            rows.append([version, form, number(size / 1000), number(cpu_us), number(1e6 / cpu_us), *memory])
            memory = ["", ""]
    columns = ["body KB", "CPU µs a request", "requests/s to fill a core", "MB, one worker", "each more"]
    batches = [[size, number(one["cpu_us"]), number(one["mb"])] for size, one in found["batches"].items()]
    return [
        report.table(["version", "sent as", *columns], rows, left=2),
        f"Batches of `{BATCHED}`, with one worker:",
        report.table(["largest batch, rows", "CPU µs a request", "MB"], batches),
    ]


if __name__ == "__main__":
    main()
