import gzip
import io
import logging
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from service.lifecycle.repository import Key
from service.runtime.fetching import FetchReport, begin_first_fetch, first_fetch_is_over
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.stores.errors import StoreError
from service.stores.fetcher import Loop
from service.stores.folder import FetchFolder
from service.stores.layout import Layout
from service.stores.location import Location
from service.stores.mirror import ArchiveMirror, Mirror, ObjectMirror
from service.stores.sources import File

GRAPH = "saved_model.pb"
CAPACITY = 2**20


class FakeSource:
    """`objects`: by path. `fault`: raised by listings. `faults`: by path, raised by fetches."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: StoreError | None = None
        self.faults: dict[str, Exception] = {}
        self.fetched: list[str] = []

    def listing(self) -> list[File]:
        if self.fault:
            raise self.fault
        return [File(path, len(content), str(hash(content))) for path, content in self.objects.items()]

    def fetch(self, file: File, target: Path, fetched: Callable[[int], None]) -> None:
        self.fetched.append(file.path)
        if file.path in self.faults:
            raise self.faults[file.path]
        target.write_bytes(self.objects[file.path])
        fetched(file.size)


class Fetching:
    """A mirror of a fake store, into a folder. `latest`: only the latest version of a model is wanted."""

    def __init__(self, root: Path, kind: type[Mirror] = ObjectMirror, max_bytes: int = 0) -> None:
        self.root = root
        self.source = FakeSource()
        self.now = 0.0
        self.latest = False
        self.memory = SharedMemory(CAPACITY)
        begin_first_fetch(self.memory)
        self.report = FetchReport(self.memory)
        layout = Layout("x", is_one_model=False, is_free=kind is ArchiveMirror)
        self.mirror = kind(
            self.source, FetchFolder(root, max_bytes), layout, self.choose, self.report, lambda: self.now
        )

    def choose(self, keys: Collection[Key]) -> set[Key]:
        return {max(keys)} if self.latest and keys else set(keys)

    def put(self, version: int, content: bytes = b"graph") -> None:
        self.source.objects[f"m/{version}/{GRAPH}"] = content
        self.source.objects[f"m/{version}/variables/a"] = b"weights"

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            self.mirror.poll()

    @property
    def versions(self) -> set[str]:
        return {path.parent.name for path in self.root.glob(f"*/*/{GRAPH}")}

    @property
    def reasons(self) -> list[str]:
        return [str(failure.error) for failure in self.mirror.failures.values()]


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "fetched")


def test_version_is_fetched_once_two_listings_agree(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.poll()
    assert not fetching.versions
    assert not fetching.mirror.has_begun
    fetching.poll()
    assert (fetching.root / "m/1/variables/a").read_bytes() == b"weights"
    assert fetching.mirror.has_begun
    fetching.poll(2)
    assert len(fetching.source.fetched) == 2


def test_version_that_grows_is_not_fetched(fetching: Fetching) -> None:
    fetching.put(1)
    for number in range(3):
        fetching.source.objects[f"m/1/variables/{number}"] = b"more"
        fetching.poll()
    assert not fetching.versions
    fetching.poll()
    assert fetching.versions == {"1"}


def test_version_without_a_graph_is_not_fetched(fetching: Fetching, caplog: pytest.LogCaptureFixture) -> None:
    fetching.put(1)
    del fetching.source.objects[f"m/1/{GRAPH}"]
    fetching.poll(3)
    assert not fetching.source.fetched
    # There is nothing to wait for.
    assert fetching.mirror.has_begun
    (record,) = caplog.records
    assert record.getMessage() == (
        "the store holds no version to serve but 1 other file; expected <model>/<version>/saved_model.pb"
    )


def test_changed_version_takes_the_old_ones_place(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.poll(2)
    fetching.put(1, b"another")
    del fetching.source.objects["m/1/variables/a"]
    fetching.poll(2)
    assert (fetching.root / "m/1" / GRAPH).read_bytes() == b"another"
    assert not (fetching.root / "m/1/variables").exists()


def test_version_is_removed_once_two_listings_lack_it(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.put(2)
    fetching.poll(2)
    del fetching.source.objects[f"m/1/{GRAPH}"]
    fetching.poll(3)
    assert fetching.versions == {"1", "2"}
    del fetching.source.objects["m/1/variables/a"]
    fetching.poll()
    assert fetching.versions == {"1", "2"}
    fetching.poll()
    assert fetching.versions == {"2"}


def test_nothing_is_fetched_again_after_a_restart(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.poll(2)
    (fetching.root / ".fetching/left").mkdir()
    second = Fetching(fetching.root)
    second.source.objects = fetching.source.objects
    second.poll()
    assert second.mirror.has_begun
    assert not second.source.fetched
    assert not list((fetching.root / ".fetching").iterdir())


def test_store_that_fails_takes_nothing_away(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.poll(2)
    second = Fetching(fetching.root)
    second.source.fault = StoreError("unreachable", "it fails")
    for _ in range(3):
        with pytest.raises(StoreError):
            second.poll()
    assert second.versions == {"1"}
    assert second.mirror.has_begun


def test_failed_version_leaves_nothing_and_is_tried_again_later(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.put(2)
    fetching.source.faults[f"m/2/{GRAPH}"] = StoreError("denied", "it denies access")
    fetching.poll(3)
    assert fetching.versions == {"1"}
    assert fetching.mirror.has_begun
    assert fetching.reasons == ["it denies access"]
    assert not list((fetching.root / ".fetching").iterdir())
    fetching.source.faults.clear()
    fetching.poll()
    assert fetching.versions == {"1"}
    fetching.now = 2.0
    fetching.poll()
    assert fetching.versions == {"1", "2"}
    assert not fetching.reasons


def test_failed_version_is_tried_at_once_when_it_changes(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.source.faults[f"m/1/{GRAPH}"] = StoreError("refused", "it is damaged")
    fetching.poll(2)
    assert not fetching.mirror.has_begun
    fetching.source.faults.clear()
    fetching.now = 1e9
    fetching.poll()
    assert not fetching.versions
    fetching.put(1, b"mended")
    fetching.poll(2)
    assert fetching.versions == {"1"}


def test_failure_of_a_version_that_is_gone_is_forgotten(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.source.faults[f"m/1/{GRAPH}"] = StoreError("refused", "it is damaged")
    fetching.poll(2)
    fetching.source.objects.clear()
    fetching.poll()
    assert not fetching.reasons


@pytest.mark.parametrize("kind", ["unreachable", "throttled"])
def test_store_that_wants_a_pause_is_left_alone(fetching: Fetching, kind: str) -> None:
    fetching.put(1)
    fetching.put(2)
    fetching.poll()
    fetching.source.faults[f"m/2/{GRAPH}"] = StoreError(kind, "it fails")  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        fetching.poll()
    assert not any(path.startswith("m/1") for path in fetching.source.fetched)


def test_disk_that_fails_is_named(fetching: Fetching) -> None:
    fetching.put(1)
    fetching.source.faults[f"m/1/{GRAPH}"] = OSError(28, "No space left on device")
    fetching.poll(2)
    assert fetching.reasons == ["it cannot be written: No space left on device"]


def test_folder_of_somebody_else_is_left_alone(fetching: Fetching) -> None:
    fetching.put(1)
    (fetching.root / "m/1").mkdir(parents=True)
    (fetching.root / "m/1" / GRAPH).write_bytes(b"theirs")
    fetching.poll(4)
    assert (fetching.root / "m/1" / GRAPH).read_bytes() == b"theirs"
    assert "was not fetched; remove it" in fetching.reasons[0]


def test_room_is_made_of_versions_that_nobody_wants(tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, max_bytes=5000)
    for version in (1, 2):
        fetching.put(version, bytes(1900))
    fetching.poll(2)
    fetching.latest = True
    fetching.put(3, bytes(1900))
    fetching.poll(2)
    # The latest of those before answers until the new one does.
    assert fetching.versions == {"2", "3"}
    fetching.put(4, bytes(9000))
    fetching.poll(2)
    assert "3" in fetching.versions
    assert fetching.reasons == [
        f"there is no room for its 9007 bytes in {tmp_path}: {fetching.mirror._folder.limit()} are free"
    ]


def test_policies_are_fetched_if_they_are_valid(fetching: Fetching) -> None:
    path = fetching.root / "models.toml"
    fetching.source.objects["models.toml"] = b"[models.m]\nversions = [1]\n"
    fetching.poll()
    assert path.read_bytes() == b"[models.m]\nversions = [1]\n"
    fetching.source.objects["models.toml"] = b"[models.m]\nversions = 'no'\n"
    fetching.poll()
    assert path.read_bytes() == b"[models.m]\nversions = [1]\n"
    assert fetching.reasons[0].startswith("models.toml: ")
    del fetching.source.objects["models.toml"]
    second = Fetching(fetching.root)
    second.poll()
    assert not path.exists()


def test_policies_of_somebody_else_are_left_alone(fetching: Fetching) -> None:
    (path := fetching.root / "models.toml").write_bytes(b"theirs")
    fetching.poll()
    fetching.source.objects["models.toml"] = b""
    fetching.poll()
    assert path.read_bytes() == b"theirs"
    assert "was not fetched; remove it" in fetching.reasons[0]


def archive_of(*names: str) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
        return gzip.compress(out.getvalue(), mtime=0)


def test_archive_is_unpacked_and_followed(tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, ArchiveMirror)
    fetching.source.objects[""] = archive_of("1/saved_model.pb", "1/variables/a", "README")
    fetching.poll()
    assert not fetching.versions
    fetching.poll(2)
    assert fetching.versions == {"1"}
    assert fetching.mirror.has_begun
    fetching.source.objects[""] = archive_of("2/saved_model.pb")
    fetching.poll(2)
    assert fetching.versions == {"2"}
    assert fetching.source.fetched == ["", ""]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [(b"x", "it is no tar file"), (archive_of("README"), "the archive holds no version; expected <model>/<version>/")],
)
def test_archive_that_is_refused_is_not_fetched_again(tmp_path: Path, archive: bytes, reason: str) -> None:
    fetching = Fetching(tmp_path, ArchiveMirror)
    fetching.source.objects[""] = archive
    fetching.now = 1e9
    fetching.poll(4)
    assert fetching.source.fetched == [""]
    assert reason in fetching.reasons[0]
    assert not fetching.mirror.has_begun


def loop_of(fetching: Fetching, poll_seconds: float = 30) -> Loop:
    return Loop(fetching.mirror, Location("s3", "bucket"), fetching.report, poll_seconds)


def test_first_fetch_is_over_once_there_is_something(fetching: Fetching) -> None:
    loop, values = loop_of(fetching), Values(fetching.memory)
    fetching.put(1)
    assert not first_fetch_is_over(values)
    assert loop.step() == 1.0
    assert not first_fetch_is_over(values)
    assert loop.step() == 30
    assert first_fetch_is_over(values)


def test_one_look_is_enough_if_there_is_no_polling(fetching: Fetching) -> None:
    loop = loop_of(fetching, poll_seconds=0)
    fetching.put(1)
    assert (loop.step(), loop.step()) == (1.0, None)


def test_store_that_fails_is_asked_more_and_more_seldom(
    fetching: Fetching, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 1.0)
    caplog.set_level(logging.INFO)
    loop = loop_of(fetching, poll_seconds=0.1)
    fetching.source.fault = StoreError("throttled", "it asks for fewer requests")
    assert [loop.step() for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    fetching.source.fault = StoreError("throttled", "it asks for fewer requests", retry_after=100)
    assert loop.step() == 100
    fetching.source.fault = None
    loop.step()
    assert [record.getMessage() for record in caplog.records] == [
        "s3://bucket: it asks for fewer requests; what is there goes on serving, and it is tried again",
        "s3://bucket answers again",
    ]
