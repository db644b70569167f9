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
REFUSED = StoreError("refused", "it is damaged")


class Fetching:
    """A mirror of a fake store, which it is itself, into a folder.

    `objects`: by path. `fault`: raised by listings. `faults`: by path, raised by fetches. `latest`: only the latest
    version of a model is wanted."""

    def __init__(self, root: Path, kind: type[Mirror] = ObjectMirror, max_bytes: int = 0) -> None:
        self.root = root
        self.objects: dict[str, bytes] = {}
        self.fault: StoreError | None = None
        self.faults: dict[str, Exception] = {}
        self.fetched: list[str] = []
        self.now = 0.0
        self.latest = False
        self.memory = SharedMemory(2**20)
        begin_first_fetch(self.memory)
        self.report = FetchReport(self.memory)
        layout = Layout("x", is_one_model=False, is_free=kind is ArchiveMirror)
        self.folder = FetchFolder(root, max_bytes)
        self.mirror = kind(self, self.folder, layout, self.choose, self.report, lambda: self.now)

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

    def choose(self, keys: Collection[Key]) -> set[Key]:
        return {max(keys)} if self.latest and keys else set(keys)

    def put(self, *versions: int, content: bytes = b"graph") -> None:
        for version in versions:
            self.objects |= {f"m/{version}/{GRAPH}": content, f"m/{version}/variables/a": b"weights"}

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
    """The store holds version 1."""
    fetching = Fetching(tmp_path / "fetched")
    fetching.put(1)
    return fetching


@pytest.fixture
def fetched(fetching: Fetching) -> Fetching:
    """Version 1 is fetched."""
    fetching.poll(2)
    return fetching


def test_version_is_fetched_once_two_listings_agree(fetching: Fetching) -> None:
    fetching.poll()
    assert not fetching.versions
    assert not fetching.mirror.has_begun
    fetching.poll()
    assert (fetching.root / "m/1/variables/a").read_bytes() == b"weights"
    assert fetching.mirror.has_begun
    fetching.poll(2)
    assert len(fetching.fetched) == 2


def test_version_without_a_graph_is_not_fetched(fetching: Fetching, caplog: pytest.LogCaptureFixture) -> None:
    del fetching.objects[f"m/1/{GRAPH}"]
    fetching.poll(3)
    assert not fetching.fetched
    # There is nothing to wait for.
    assert fetching.mirror.has_begun
    assert caplog.messages == [
        "the store holds no version to serve but 1 other file; expected <model>/<version>/saved_model.pb"
    ]


def test_changed_version_takes_the_old_ones_place_once_it_settles(fetched: Fetching) -> None:
    graph = fetched.root / "m/1" / GRAPH
    del fetched.objects["m/1/variables/a"]
    for content in (b"half", b"another"):
        fetched.objects[f"m/1/{GRAPH}"] = content
        fetched.poll()
        assert graph.read_bytes() == b"graph"
    fetched.poll()
    assert graph.read_bytes() == b"another"
    assert not (fetched.root / "m/1/variables").exists()


def test_version_is_removed_once_two_listings_lack_it(fetching: Fetching) -> None:
    fetching.put(2)
    fetching.poll(2)
    del fetching.objects[f"m/1/{GRAPH}"]
    fetching.poll(3)
    del fetching.objects["m/1/variables/a"]
    fetching.poll()
    assert fetching.versions == {"1", "2"}
    fetching.poll()
    assert fetching.versions == {"2"}


def test_nothing_is_fetched_again_after_a_restart(fetched: Fetching) -> None:
    (fetched.root / ".fetching/left").mkdir()
    second = Fetching(fetched.root)
    second.put(1)
    second.poll()
    assert second.mirror.has_begun
    assert not second.fetched
    assert not list((fetched.root / ".fetching").iterdir())


def test_store_that_fails_takes_nothing_away(fetched: Fetching) -> None:
    second = Fetching(fetched.root)
    second.fault = StoreError("unreachable", "it fails")
    for _ in range(3):
        with pytest.raises(StoreError):
            second.poll()
    assert second.versions == {"1"}
    assert second.mirror.has_begun


def test_failed_version_leaves_nothing_and_is_tried_again_later(fetching: Fetching) -> None:
    fetching.put(2)
    fetching.faults[f"m/2/{GRAPH}"] = StoreError("denied", "it denies access")
    fetching.poll(3)
    assert fetching.versions == {"1"}
    assert fetching.mirror.has_begun
    assert fetching.reasons == ["it denies access"]
    assert not list((fetching.root / ".fetching").iterdir())
    fetching.faults.clear()
    fetching.poll()
    assert fetching.versions == {"1"}
    fetching.now = 2.0
    fetching.poll()
    assert fetching.versions == {"1", "2"}
    assert not fetching.reasons


def test_refused_version_is_tried_again_when_it_changes(fetching: Fetching) -> None:
    fetching.faults[f"m/1/{GRAPH}"] = REFUSED
    fetching.poll(2)
    assert not fetching.mirror.has_begun
    fetching.faults.clear()
    fetching.now = 1e9
    fetching.poll()
    assert not fetching.versions
    fetching.put(1, content=b"mended")
    fetching.poll(2)
    assert fetching.versions == {"1"}


def test_failure_of_a_version_that_is_gone_is_forgotten(fetching: Fetching) -> None:
    fetching.faults[f"m/1/{GRAPH}"] = REFUSED
    fetching.poll(2)
    fetching.objects.clear()
    fetching.poll()
    assert not fetching.reasons


@pytest.mark.parametrize("kind", ["unreachable", "throttled"])
def test_store_that_wants_a_pause_is_left_alone(fetching: Fetching, kind: str) -> None:
    fetching.put(2)
    fetching.poll()
    fetching.faults[f"m/2/{GRAPH}"] = StoreError(kind, "it fails")  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        fetching.poll()
    assert not any(path.startswith("m/1") for path in fetching.fetched)


def test_disk_that_fails_is_named(fetching: Fetching) -> None:
    fetching.faults[f"m/1/{GRAPH}"] = OSError(28, "No space left on device")
    fetching.poll(2)
    assert fetching.reasons == ["it cannot be written: No space left on device"]


@pytest.mark.parametrize("path", [f"m/1/{GRAPH}", "models.toml"])
def test_file_of_somebody_else_is_left_alone(fetching: Fetching, path: str) -> None:
    (file := fetching.root / path).parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"theirs")
    fetching.poll()
    fetching.objects["models.toml"] = b""
    fetching.poll(3)
    assert file.read_bytes() == b"theirs"
    assert "was not fetched; remove it" in fetching.reasons[0]


def test_room_is_made_of_versions_that_nobody_wants(tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, max_bytes=5000)
    fetching.put(1, 2, content=bytes(1900))
    fetching.poll(2)
    fetching.latest = True
    fetching.put(3, content=bytes(1900))
    fetching.poll(2)
    # The latest of those before answers until the new one does.
    assert fetching.versions == {"2", "3"}
    fetching.put(4, content=bytes(9000))
    fetching.poll(2)
    assert "3" in fetching.versions
    free = fetching.folder.limit()
    assert fetching.reasons == [f"there is no room for its 9007 bytes in {tmp_path}: {free} are free"]


def test_policies_are_fetched_if_they_are_valid(fetching: Fetching) -> None:
    path, valid = fetching.root / "models.toml", b"[models.m]\nversions = [1]\n"
    for content in (valid, b"[models.m]\nversions = 'no'\n"):
        fetching.objects["models.toml"] = content
        fetching.poll()
        assert path.read_bytes() == valid
    assert fetching.reasons[0].startswith("models.toml: ")
    Fetching(fetching.root).poll()
    assert not path.exists()


def archive_of(*names: str) -> bytes:
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
        return gzip.compress(out.getvalue(), mtime=0)


def test_archive_is_unpacked_and_followed(tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, ArchiveMirror)
    fetching.objects[""] = archive_of("1/saved_model.pb", "1/variables/a", "README")
    fetching.poll()
    assert not fetching.versions
    fetching.poll(2)
    assert fetching.versions == {"1"}
    assert fetching.mirror.has_begun
    fetching.objects[""] = archive_of("2/saved_model.pb")
    fetching.poll(2)
    assert fetching.versions == {"2"}
    assert fetching.fetched == ["", ""]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [(b"x", "it is no tar file"), (archive_of("README"), "the archive holds no version; expected <model>/<version>/")],
    ids=["damaged", "empty"],
)
def test_archive_that_is_refused_is_not_fetched_again(tmp_path: Path, archive: bytes, reason: str) -> None:
    fetching = Fetching(tmp_path, ArchiveMirror)
    fetching.objects[""] = archive
    fetching.now = 1e9
    fetching.poll(4)
    assert fetching.fetched == [""]
    assert reason in fetching.reasons[0]
    assert not fetching.mirror.has_begun


def loop_of(fetching: Fetching, poll_seconds: float) -> Loop:
    return Loop(fetching.mirror, Location("s3", "bucket"), fetching.report, poll_seconds)


@pytest.mark.parametrize(("poll_seconds", "pause"), [(30, 30), (0, None)])
def test_first_fetch_is_over(fetching: Fetching, poll_seconds: float, pause: float | None) -> None:
    loop, values = loop_of(fetching, poll_seconds), Values(fetching.memory)
    assert (loop.step(), first_fetch_is_over(values)) == (1.0, False)
    assert (loop.step(), first_fetch_is_over(values)) == (pause, True)


def test_store_that_fails_is_asked_more_and_more_seldom(
    fetching: Fetching, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 1.0)
    caplog.set_level(logging.INFO)
    loop = loop_of(fetching, 0.1)
    fetching.fault = StoreError("throttled", "it asks for fewer requests")
    assert [loop.step() for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    fetching.fault.retry_after = 100
    assert loop.step() == 100
    fetching.fault = None
    loop.step()
    assert caplog.messages == [
        "s3://bucket: it asks for fewer requests; what is there goes on serving, and it is tried again",
        "s3://bucket answers again",
    ]
