"""API keys: who may send requests, and which. The file holds a hash of each key, never the key itself."""

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
from service.runtime.config_file import ConfigFile
from service.runtime.shared_values import Value, Values
from service.security.rate_limit import RateLimit, RateLimits
from service.settings import parse_rate

# Each may what those before it may: feedback, say which labels are right; admin, load and unload models.
Scope = Literal["predict", "feedback", "admin"]

# Needs no quotes in TOML, nor in a log.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")
Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN.pattern}$")]

# Shows what it is, wherever a key has leaked to.
PREFIX = "fr_"
RANDOM_BYTES = 32

logger = logging.getLogger(__name__)


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key in the file. `expires`: the first day, in UTC, on which it is rejected. `rate_limit`: instead of the
    setting of that name; empty: no limit."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    scope: Scope
    expires: date | None = None
    rate_limit: str | None = None

    def __post_init__(self) -> None:
        if self.rate_limit:
            parse_rate(self.rate_limit)


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
            # Half written, or a mistake: with no key at all nobody could use the service.
            raise ValueError("there is no key in it; expected a table `keys.NAME` for each")
        owners: dict[str, str] = {}
        for name, entry in self.keys.items():
            if (other := owners.setdefault(entry.sha256, name)) != name:
                raise ValueError(f"`keys.{other}` and `keys.{name}` are the same key")


# By digest.
Keys = Mapping[bytes, ApiKey]

# An unknown key is compared with this one, so that it takes as long as a known key.
_NOBODY = ApiKey("", bytes(32), "predict", 0.0)


class ApiKeys:
    """The valid keys. A thread of its own polls the file, because a disk may be slow."""

    def __init__(self, file: ConfigFile[Keys], poll_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._stopped = threading.Event()
        self.poll()

    @property
    def is_valid(self) -> bool:
        """Whether the file's present content is in force."""
        return not self._file.error

    def find(self, key: bytes) -> ApiKey | None:
        """The key's entry; None if it is unknown or has expired.

        The time of the lookup depends on hashes alone, which a caller cannot steer, and not on how much of a key is
        right.
        """
        digest = hashlib.sha256(key).digest()
        found = self._file.content.get(digest, _NOBODY)
        return found if hmac.compare_digest(found.digest, digest) and self._clock() < found.expires else None

    def poll(self) -> None:
        try:
            if not self._file.read():
                return
        # Whatever went wrong, a key that is removed later must be noticed.
        except Exception:
            logger.exception("reading the API keys failed; trying again")
            return
        if self._file.error:
            logger.error("%s; the previous keys stay valid", self._file.error)
        else:
            names = sorted(key.name for key in self._file.content.values())
            logger.info("%d valid API keys: %s", len(names), ", ".join(names))

    def start(self) -> None:
        threading.Thread(target=self._watch, name="api-keys", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self.poll()


def key_file(path: str, rate_limit: str, limits: RateLimits, values: Values | None = None) -> ConfigFile[Keys]:
    """The file of keys. `rate_limit`: of keys without one of their own. `values`: shared by the worker processes."""

    def decode_keys(written: bytes, path: Path) -> Keys:
        keys = [
            ApiKey(
                name,
                bytes.fromhex(entry.sha256),
                entry.scope,
                _end(entry.expires),
                limits.of(name, rate_limit if entry.rate_limit is None else entry.rate_limit),
            )
            for name, entry in decode(written, path).items()
        ]
        return {key.digest: key for key in keys}

    kept = Value(values, b"api-keys.toml") if values else None
    return ConfigFile(Path(path), decode_keys, {}, must_exist=True, kept=kept)


def decode(written: bytes, path: "os.PathLike[str]") -> dict[str, KeyEntry]:
    """Entries by name. Raises InvalidFile, which says where and what was expected."""
    return toml_file.decode(written, path, _File, "keys", KeyEntry).keys


def _end(expires: date | None) -> float:
    return datetime(expires.year, expires.month, expires.day, tzinfo=UTC).timestamp() if expires else float("inf")


def new_key() -> tuple[str, str]:
    """A key, and its SHA-256 for the file."""
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()
