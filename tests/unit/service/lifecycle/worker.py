"""The lifecycle of one worker process, over a folder of fake models."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from service.api.v1.decode import decode_example
from service.engines.base import Engine
from service.inference.batching import BatchLimits
from service.inference.version import State
from service.lifecycle.loader import Loader, Retries
from service.lifecycle.policies import policy_file
from service.lifecycle.policy_source import PolicySource
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.lifecycle.version_records import VersionRecords
from service.lifecycle.watcher import Watcher
from service.lifecycle.workers import Agreement, Board
from service.runtime.shared_memory import MIN_CAPACITY, Kind, SharedMemory
from service.serving_config import RowProof, ServingConfig
from service.settings import Settings
from service.tensors.signature import DEFAULT_SIGNATURE, Signature
from tests.unit.service.fakes import FakeEngine, Unobserved, any_shape, echo, signature, tensor

Result = TypeVar("Result")

MAX_WAIT_SECONDS = 10
OF = signature({"x": any_shape("DT_FLOAT")})
ROWS = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
PROOF = RowProof(signatures=(DEFAULT_SIGNATURE,), rows_tried=8, largest_difference=0.0, tolerance=1e-5)


def board_of(memory: SharedMemory, slot: int) -> Board:
    """The board of the worker process in this slot."""
    memory.enter(slot)
    return Board(memory, slot)


def nearly_full_memory(free_bytes: int = 10_000) -> SharedMemory:
    memory = SharedMemory(MIN_CAPACITY)
    with memory.locked():
        memory.append(Kind.COUNT, 0, b"", len(memory.view) - memory.end - free_bytes)
    return memory


@dataclass
class Worker:
    """Loads a fake engine for every version, and does `meanwhile`; raises for those in `errors`. `now`: the time for
    retries and absences, in seconds."""

    models: Path
    registry: Registry = field(default_factory=Registry)
    errors: dict[str, Exception] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None
    signature: Signature = OF
    board: Board = field(default_factory=Board)
    now: float = 0.0
    timeout_seconds: float = 60
    failures: list[tuple[str, int]] = field(default_factory=list)
    records: VersionRecords = field(default_factory=VersionRecords)
    poll_seconds: float = 3600
    may_begin: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        self.models.mkdir(exist_ok=True)
        self.agreement = Agreement(self.registry, self.board, self.timeout_seconds, self.timeout_seconds)
        self.watcher = Watcher(
            Repository(self.models),
            self.registry,
            Loader(self.load_engine, lambda _model, _version: Unobserved(), BatchLimits(8, 0), decode_example),
            self.poll_seconds,
            PolicySource(policy_file(Settings(models=str(self.models))), self.board.values),
            self.agreement,
            on_failure=lambda model, version: self.failures.append((model, version)),
            retries=Retries(lambda: self.now),
            loaders=1,
            records=self.records,
            may_begin=self.may_begin,
            clock=lambda: self.now,
        )

    def load_engine(self, path: Path, _config: ServingConfig) -> Engine:
        name = "/".join(path.parts[-2:])
        self.loaded.append(name)
        self.meanwhile()
        if error := self.errors.get(name):
            raise error
        return self.records.marked(FakeEngine({DEFAULT_SIGNATURE: self.signature}, echo))

    def add(self, name: str | Path, content: bytes = b"graph") -> Path:
        """`name`: below the models folder, or absolute."""
        folder = self.models / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_bytes(content)
        return folder

    def begin_with(self, *names: str, policies: str = "") -> None:
        """What the first scan finds."""
        for name in names:
            self.add(name)
        self.write_policies(policies)
        self.watcher.scan()

    def scan(self, times: int = 2, seconds: float = 0.0) -> None:
        """Twice, so that what has appeared is loaded. `seconds`: from one to the next."""
        scan_in_turns(self, times=times, seconds=seconds)

    def write_policies(self, text: str) -> None:
        """Into a new file, so that it counts as changed."""
        (draft := self.models / ".models.toml").write_text(text)
        draft.rename(self.models / "models.toml")

    def states(self) -> dict[str, State]:
        return {
            f"{model}/{version}": status.state
            for model, versions in self.registry.statuses().items()
            for version, status in versions.items()
        }

    def error(self, model: str, version: int) -> str:
        return self.registry.statuses()[model][version].error


def scan_in_turns(*workers: Worker, times: int = 3, seconds: float = 0.0) -> None:
    """Often enough for what has appeared to be AVAILABLE in all of them."""
    for worker in workers * times:
        worker.watcher.scan()
        worker.now += seconds


def while_scanning(call: Callable[[], Result], *workers: Worker, seconds: float = 0.0) -> Result:
    """The result of a call in another thread, while the watchers work."""
    with ThreadPoolExecutor(1) as thread:
        called = thread.submit(call)
        while not called.done():
            scan_in_turns(*workers, times=1, seconds=seconds)
    return called.result()
