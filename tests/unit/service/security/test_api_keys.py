import hashlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pytest

from service.runtime.config_file import InvalidFile
from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.security.api_keys import ApiKeys, decode, key_file, new_key
from service.security.rate_limit import RateLimits

DAY = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
MAX_SECONDS = 10


def entry(key: str, name: str = "alice", **parts: object) -> str:
    """A table of the file."""
    told = {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scope": "predict", **parts}
    lines = (f"{part} = {value if isinstance(value, date) else repr(value)}" for part, value in told.items())
    return "\n".join([f"[keys.{name}]", *lines, ""])


def write(path: Path, text: str) -> None:
    """A new file, so that it counts as changed however soon it follows the one before."""
    (draft := path.with_suffix(".draft")).write_text(text)
    draft.rename(path)


def keys_of(path: Path, now: float = 0.0, values: Values | None = None) -> ApiKeys:
    return ApiKeys(key_file(str(path), "", RateLimits(), values), 0.001, lambda: now)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the key "one"."""
    write(path := tmp_path / "keys.toml", entry("one"))
    return path


def test_key_is_found_by_its_hash(path: Path) -> None:
    write(path, entry("one") + entry("two", "bob", scope="admin"))
    keys = keys_of(path)
    found = [keys.find(b"one"), keys.find(b"two")]
    assert [(key.name, key.scope) for key in found if key] == [("alice", "predict"), ("bob", "admin")]
    for other in (b"", b"three", b"One", b"one ", hashlib.sha256(b"one").hexdigest().encode()):
        assert keys.find(other) is None


@pytest.mark.parametrize(("now", "counts"), [(DAY - 1, True), (DAY, False)])
def test_key_expires_at_the_start_of_its_day(path: Path, now: float, counts: bool) -> None:
    write(path, entry("one", expires=date(2027, 1, 1)))
    assert (keys_of(path, now).find(b"one") is not None) is counts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing required field `keys`"),
        ("[keys]", "there is no key in it"),
        (entry("one") + "surname = 'x'", "unknown field `surname` - in `keys.alice`"),
        (entry("one", scope="root"), "Invalid enum value 'root' - at `scope` - in `keys.alice`"),
        (entry("one", sha256="ABC"), "matching regex '^[0-9a-f]{64}$' - at `sha256` - in `keys.alice`"),
        (entry("one", "'a b'"), "matching regex '^[A-Za-z0-9_-]{1,64}$'"),
        (entry("one", rate_limit="often"), "'often': expected a rate as 100/second"),
        (entry("one") + entry("one", "bob"), "`keys.alice` and `keys.bob` are the same key"),
    ],
)
def test_invalid_file_is_named_with_place_and_expectation(text: str, words: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        decode(text.encode(), Path("keys.toml"))
    assert str(raised.value).startswith("keys.toml: ")
    assert words in str(raised.value)


def test_keys_come_and_go_with_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = keys_of(path)
    write(path, entry("two", "bob"))
    assert keys.find(b"one")
    keys.poll()
    assert (keys.find(b"one"), keys.find(b"two") is not None) == (None, True)
    assert caplog.messages == ["1 valid API keys: alice", "1 valid API keys: bob"]


def test_invalid_file_leaves_the_keys_of_all_workers_valid_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = Values(SharedMemory())
    keys = keys_of(path, values=values)
    spoils: list[Callable[[], None]] = [partial(write, path, "[keys]"), path.unlink]
    for spoil in spoils:
        spoil()
        caplog.clear()
        keys.poll()
        keys.poll()
        assert (keys.find(b"one") is not None, keys.is_valid, len(caplog.messages)) == (True, False, 1)
        assert keys_of(path, values=values).find(b"one")
    assert "there is no such file" in caplog.text
    write(path, entry("two"))
    keys.poll()
    assert (keys.find(b"one"), keys.is_valid) == (None, True)


def test_unexpected_error_is_logged_and_the_file_polled_again(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(path)
    write(path, entry("two"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", lambda _: 1 / 0)
        keys.poll()
    assert "ZeroDivisionError" in caplog.text
    keys.poll()
    assert keys.find(b"two")


def test_nobody_is_let_in_without_a_file(tmp_path: Path) -> None:
    keys = keys_of(tmp_path / "none.toml")
    assert (keys.find(b"one"), keys.is_valid) == (None, False)


def test_thread_polls_the_file(path: Path) -> None:
    keys = keys_of(path)
    write(path, entry("two"))
    keys.start()
    deadline = time.monotonic() + MAX_SECONDS
    while keys.find(b"two") is None:
        assert time.monotonic() < deadline
    keys.stop()


def test_new_keys_are_long_and_different() -> None:
    (one, digest), (other, _) = new_key(), new_key()
    assert one != other
    assert (one[:3], len(one)) == ("fr_", 46)
    assert digest == hashlib.sha256(one.encode()).hexdigest()
