"""API keys: who may ask, and for what. The file holds what a key is recognized by, never the key itself."""

import hashlib
import hmac
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from service.runtime import toml_file
from service.runtime.shared_values import Value, Values
from service.runtime.toml_file import TomlFile
from service.security import rate_limit
from service.security.rate_limit import RateLimit, RateLimits
from service.settings import Settings

# Of a key whose owner may load and unload models, and everything that one with `predict` may.
Scope = Literal["predict", "admin"]

# What needs no quotes in TOML, nor in a log.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN.pattern}$")]

# So that a key is known for what it is where it has leaked to.
PREFIX = "fr_"
RANDOM_BYTES = 32

logger = logging.getLogger(__name__)


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as the file has it. `expires`: the first day, in UTC, on which it is refused. `rate_limit`: instead of the
    setting of that name; empty: none."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scope: Scope
    expires: date | None = None
    rate_limit: str | None = None

    def __post_init__(self) -> None:
        if self.rate_limit:
            rate_limit.parse(self.rate_limit)


class ApiKey(msgspec.Struct, frozen=True):
    """`expires`: in seconds since 1970."""

    name: str
    digest: bytes
    scope: Scope
    expires: float
    limit: RateLimit | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: dict[Name, KeyEntry]

    def __post_init__(self) -> None:
        if not self.keys:
            # Half written, or by mistake; to let nobody in would be no service.
            raise ValueError("there is no key in it; expected a table `keys.NAME` for each")
        owners: dict[str, str] = {}
        for name, entry in self.keys.items():
            if (other := owners.setdefault(entry.sha256, name)) != name:
                raise ValueError(f"`keys.{other}` and `keys.{name}` are the same key")


# By its digest.
Keys = Mapping[bytes, ApiKey]

# What an unknown key is compared with, so that it takes as long as a known one.
_NOBODY = ApiKey("", bytes(32), "predict", 0.0)


class ApiKeys:
    """The keys that count, looked for anew every so many seconds by a thread of its own: a disk may be slow."""

    def __init__(self, file: TomlFile[Keys], poll_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._stopped = threading.Event()
        self.poll()

    @property
    def is_valid(self) -> bool:
        """Whether what the file says now counts."""
        return not self._file.error

    def find(self, key: bytes) -> ApiKey | None:
        """None for one that is unknown, or has expired.

        How long the search takes tells at most how a hash of the caller's choice compares with one that is kept, which
        nobody can steer, and not whether a key begins as another does.
        """
        digest = hashlib.sha256(key).digest()
        found = self._file.content.get(digest, _NOBODY)
        return found if hmac.compare_digest(found.digest, digest) and self._clock() < found.expires else None

    def poll(self) -> None:
        try:
            if not self._file.read():
                return
        # Whatever goes wrong, keys must still be found withdrawn the next time.
        except Exception:
            logger.exception("reading the API keys failed; trying again")
            return
        if self._file.error:
            logger.error("%s; the keys before go on to count", self._file.error)
        else:
            logger.info("%d API keys count: %s", len(self._file.content), ", ".join(self.names()))

    def names(self) -> list[str]:
        return sorted(key.name for key in self._file.content.values())

    def start(self) -> None:
        threading.Thread(target=self._watch, name="api-keys", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.poll()


def key_file(settings: Settings, limits: RateLimits, values: Values | None = None) -> TomlFile[Keys]:
    """`values`: what worker processes share."""

    def decode_keys(written: bytes, path: Path) -> Keys:
        keys = [
            ApiKey(
                name,
                bytes.fromhex(entry.sha256),
                entry.scope,
                _end(entry.expires),
                limits.of(name, settings.rate_limit if entry.rate_limit is None else entry.rate_limit),
            )
            for name, entry in decode(written, path).items()
        ]
        return {key.digest: key for key in keys}

    kept = Value(values, b"api-keys.toml") if values else None
    return TomlFile(Path(settings.api_keys_file), decode_keys, {}, must_exist=True, kept=kept)


def decode(written: bytes, path: "os.PathLike[str]") -> dict[str, KeyEntry]:
    """By name. Raises InvalidFile, with file, place and what was expected."""
    return toml_file.decode(written, path, _File, "keys", KeyEntry).keys


def _end(expires: date | None) -> float:
    return datetime(expires.year, expires.month, expires.day, tzinfo=UTC).timestamp() if expires else float("inf")


def new_key() -> tuple[str, str]:
    """A key, and what the file has of it: its SHA-256."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()
