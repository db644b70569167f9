import hashlib
import logging
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from service.runtime.shared_memory import SharedMemory
from service.runtime.shared_values import Values
from service.runtime.toml_file import InvalidFile
from service.security.api_keys import ApiKeys, decode, key_file, new_key
from service.security.rate_limit import RateLimits
from service.settings import Settings

PATH = Path("keys.toml")
DAY = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
SECONDS_AT_MOST = 10


def entry(key: str, name: str = "alice", **parts: object) -> str:
    """A table of the file."""
    told = {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scope": "predict", **parts}
    lines = (f"{part} = {value if isinstance(value, date) else repr(value)}" for part, value in told.items())
    return "\n".join([f"[keys.{name}]", *lines, ""])


def write(path: Path, text: str) -> None:
    """Anew, so that it counts as changed however quickly one follows the other."""
    (draft := path.with_suffix(".draft")).write_text(text)
    draft.rename(path)


def keys_of(path: Path, now: float = 0.0, values: Values | None = None) -> ApiKeys:
    return ApiKeys(key_file(Settings(api_keys_file=str(path)), RateLimits(), values), 0.001, lambda: now)


def test_a_key_is_found_by_its_hash_and_says_whose_it_is_and_what_it_may(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write(path, entry("one") + entry("two", "bob", scope="admin"))
    keys = keys_of(path)
    assert [(found.name, found.scope) for key in (b"one", b"two") if (found := keys.find(key))] == [
        ("alice", "predict"),
        ("bob", "admin"),
    ]
    for other in (b"", b"three", b"One", b"one ", hashlib.sha256(b"one").hexdigest().encode()):
        assert keys.find(other) is None


@pytest.mark.parametrize(("now", "counts"), [(DAY - 1, True), (DAY, False), (DAY + 1e9, False)])
def test_a_key_is_refused_from_the_day_on_that_it_expires(tmp_path: Path, now: float, counts: bool) -> None:
    path = tmp_path / "keys.toml"
    write(path, entry("one", expires=date(2027, 1, 1)))
    assert (keys_of(path, now).find(b"one") is not None) is counts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing required field `keys`"),
        ("[keys]", "there is no key in it"),
        ("[keys.a", "Expected ']'"),
        (entry("one") + "surname = 'x'", "unknown field `surname` - in `keys.alice`"),
        (entry("one", scope="root"), "Invalid enum value 'root' - at `scope` - in `keys.alice`"),
        (entry("one", sha256="ABC"), "matching regex '^[0-9a-f]{64}$' - at `sha256` - in `keys.alice`"),
        (entry("one", expires="soon"), "- at `expires` - in `keys.alice`"),
        (entry("one", "'a b'"), "matching regex '^[A-Za-z0-9_-]{1,64}$'"),
        (entry("one", rate_limit="often"), "'often': expected a rate as 100/second"),
        (entry("one") + entry("one", "bob"), "`keys.alice` and `keys.bob` are the same key"),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_place_and_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        decode(text.encode(), PATH)
    assert str(raised.value).startswith("keys.toml: ")
    assert words in str(raised.value)


def test_keys_come_and_go_with_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys.toml"
    write(path, entry("one"))
    keys = keys_of(path)
    write(path, entry("two", "bob"))
    assert keys.find(b"one")
    keys.poll()
    assert keys.find(b"one") is None
    assert keys.find(b"two")
    assert caplog.messages == ["1 API keys count: alice", "1 API keys count: bob"]


def test_while_the_file_is_bad_the_keys_before_count_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"
    write(path, entry("one"))
    keys = keys_of(path)
    for text in ("[keys]", None):
        write(path, text) if text is not None else path.unlink()
        caplog.clear()
        keys.poll()
        keys.poll()
        assert keys.find(b"one")
        assert not keys.is_valid
        (message,) = caplog.messages
        assert message.endswith("; the keys before go on to count")
    write(path, entry("two"))
    keys.poll()
    assert keys.is_valid
    assert keys.find(b"one") is None


def test_a_worker_that_begins_while_the_file_is_bad_takes_the_keys_that_the_others_take(tmp_path: Path) -> None:
    path, values = tmp_path / "keys.toml", Values(SharedMemory())
    write(path, entry("one"))
    keys_of(path, values=values)
    write(path, "[keys]")
    keys = keys_of(path, values=values)
    assert keys.find(b"one")
    assert not keys.is_valid


def test_a_worker_that_knows_no_keys_lets_nobody_in(tmp_path: Path) -> None:
    keys = keys_of(tmp_path / "gone.toml")
    assert keys.find(b"one") is None
    assert not keys.is_valid


def test_the_file_is_looked_at_again_and_again_by_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write(path, entry("one"))
    keys = keys_of(path)
    write(path, entry("two"))
    keys.start()
    deadline = time.monotonic() + SECONDS_AT_MOST
    while keys.find(b"two") is None:
        assert time.monotonic() < deadline
    keys.stop()


def test_a_new_key_is_long_and_unlike_any_other() -> None:
    made = [new_key() for _ in range(3)]
    assert len({key for key, _ in made}) == 3
    for key, digest in made:
        assert key.startswith("fr_")
        assert len(key) == 46
        assert digest == hashlib.sha256(key.encode()).hexdigest()
