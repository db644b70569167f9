"""The policies in force: those of the operator's file, or of a later request to reload."""

import hashlib
from collections.abc import Callable

import msgspec

from service.lifecycle.policies import Policies
from service.runtime.config_file import ConfigFile
from service.runtime.shared_values import Values

_KEY = b"reload request"


class ReloadRequest(msgspec.Struct, frozen=True):
    """Policies that a client has sent. `number`: grows. `instead_of`: the digest of the file's text at that time; the
    file counts again once it has changed. All worker processes therefore agree on what is in force."""

    policies: Policies
    number: int
    instead_of: str


# Made once: two threads that are the first to decode a type crash the process (msgspec 0.22).
_decoder = msgspec.json.Decoder(ReloadRequest)


class PolicySource:
    """`content`: the policies in force. `error`: why the file is invalid. `number`: of the last request read."""

    def __init__(self, file: ConfigFile[Policies], values: Values) -> None:
        """`values`: shared by the worker processes."""
        self.content = file.content
        self.number = 0
        self._file = file
        self._values = values
        self._encoded: bytes | None = None

    @property
    def error(self) -> str:
        return self._file.error

    def has_request(self) -> bool:
        """Whether there is one that has not been read."""
        return self._values.get(_KEY) != self._encoded

    def read(self) -> bool:
        """Whether anything has changed."""
        has_changed = self._file.read()
        if (encoded := self._values.get(_KEY)) != self._encoded:
            self._encoded, has_changed = encoded, True
        if has_changed:
            request = _decode(encoded)
            self.number = request.number if request else 0
            is_in_force = request is not None and request.instead_of == self._digest()
            self.content = request.policies if request is not None and is_in_force else self._file.content
        return has_changed

    def request(self, change: Callable[[Policies], Policies]) -> int:
        """Put what it makes of the policies in force in all worker processes, also in those that start later, until the
        file changes. Returns the request's number. Raises MemoryFull, and what `change` raises."""
        digest = self._digest()

        def following(before: bytes | None) -> bytes:
            last = _decode(before)
            policies = last.policies if last and last.instead_of == digest else self._file.content
            return msgspec.json.encode(ReloadRequest(change(policies), last.number + 1 if last else 1, digest))

        return _decoder.decode(self._values.change(_KEY, following)).number

    def _digest(self) -> str:
        return hashlib.sha256(self._file.written or b"").hexdigest()


def _decode(encoded: bytes | None) -> ReloadRequest | None:
    return _decoder.decode(encoded) if encoded else None
