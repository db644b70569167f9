"""`models.toml`: which versions of a model are loaded, when, under which labels, and how they are batched.

Every part is optional. docs/operations.md describes the parts.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from service.settings import Settings

FILE_NAME = "models.toml"

VersionNumber = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
LabelName = Annotated[str, msgspec.Meta(pattern=r"^[^/:]+$")]
# The label whose version answers requests that name none.
STABLE = "stable"


Table = TypeVar("Table")


class InvalidPolicies(ValueError):
    """models.toml is not what it should be; the message says where."""


class Latest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    latest: Annotated[int, msgspec.Meta(ge=1)]


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`share`: of the requests that name no version, how many this one answers (a canary). `shadow`: of how many it
    gets a copy, without answering. Neither: it answers who asks for the label."""

    version: VersionNumber
    share: Share | None = None
    shadow: Share | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.shadow is not None:
            raise ValueError("a label has `share` (it answers) or `shadow` (it does not), not both")


class Batching(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the settings of the same names say, for one model."""

    max_batch_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    batch_timeout_micros: Annotated[int, msgspec.Meta(ge=0)] | None = None


class ModelPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    versions: Literal["all"] | Latest | list[VersionNumber] = "all"
    labels: dict[LabelName, VersionNumber | Label] = {}
    load: Literal["preload", "on_demand"] = "preload"
    batching: Batching = Batching()

    def __post_init__(self) -> None:
        for kind in ("share", "shadow"):
            names = [name for name, label in self.labels.items() if getattr(label, kind, None) is not None]
            if len(names) > 1:
                raise ValueError(f"one label of a model has a `{kind}` at most, but {' and '.join(names)} have")
            if STABLE in names:
                raise ValueError(f"the label `{STABLE}` names what answers requests without a version, and no `{kind}`")

    @property
    def label_versions(self) -> dict[str, int]:
        return {name: label if isinstance(label, int) else label.version for name, label in self.labels.items()}

    @property
    def canary(self) -> tuple[str, float] | None:
        """The label, and its share."""
        return self._special("share")

    @property
    def shadow(self) -> tuple[str, float] | None:
        return self._special("shadow")

    def wanted(self, on_disk: Collection[int]) -> set[int]:
        """Of the versions on disk those that are to be loaded: what the policy names, and what a label does."""
        if isinstance(self.versions, Latest):
            chosen = set(sorted(on_disk)[-self.versions.latest :])
        elif isinstance(self.versions, list):
            chosen = set(self.versions)
        else:
            chosen = set(on_disk)
        return (chosen | set(self.label_versions.values())) & set(on_disk)

    def _special(self, kind: Literal["share", "shadow"]) -> tuple[str, float] | None:
        for name, label in self.labels.items():
            share: float | None = getattr(label, kind, None)
            if share is not None:
                return name, share
        return None


class Policies(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`default` is for every model that has no table of its own."""

    default: ModelPolicy = ModelPolicy()
    models: dict[str, ModelPolicy] = {}

    def __post_init__(self) -> None:
        if self.default.labels:
            raise ValueError("`default` takes no `labels`: they name versions of one model")

    def of(self, model: str) -> ModelPolicy:
        return self.models.get(model, self.default)

    def wanted(self, on_disk: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Of the versions on disk, by model and number, those that are to be loaded."""
        numbers: dict[str, set[int]] = {}
        for model, version in on_disk:
            numbers.setdefault(model, set()).add(version)
        return {(model, version) for model, known in numbers.items() for version in self.of(model).wanted(known)}


class PolicyFile:
    """Read again whenever it changes. One that `must_exist` was named by a setting; any other may come and go.

    `kept`: where to leave a copy of what counts. A worker process that begins while the file is bad goes by it, as the
    others do.
    """

    def __init__(self, path: Path, must_exist: bool = False, kept: Path | None = None) -> None:
        self._path = path
        self._must_exist = must_exist
        self._kept = kept
        self._seen: object = None
        self.policies = Policies()
        # Why what the file says now does not count.
        self.error = ""

    def read(self) -> bool:
        """Whether it had changed. Where it is bad, what was read before goes on to count, and `error` says why."""
        if (seen := self._fingerprint()) == self._seen:
            return False
        is_first, self._seen = self._seen is None, seen
        try:
            content = self._content()
            self.policies = decode(content, self._path)
            self.error = ""
        except InvalidPolicies as error:
            self.error = str(error)
            if is_first and self._kept is not None and self._kept.exists():
                self.policies = decode(self._kept.read_bytes(), self._kept)
        else:
            self._keep(content)
        return True

    def check(self) -> None:
        """Raises InvalidPolicies."""
        decode(self._content(), self._path)

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            if self._must_exist:
                raise InvalidPolicies(f"{self._path}: there is no such file") from None
            return b""
        except OSError as error:
            raise InvalidPolicies(f"{self._path} cannot be read: {error.strerror}") from None

    def _keep(self, content: bytes) -> None:
        if self._kept is not None:
            draft = self._kept.with_name(f".{self._kept.name}-{os.getpid()}")
            draft.write_bytes(content)
            draft.rename(self._kept)

    def _fingerprint(self) -> object:
        try:
            stat = self._path.stat()
        except OSError as error:
            return error.errno
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def policy_file(settings: Settings, shared: Path | None = None) -> PolicyFile:
    """`shared`: a folder that worker processes share."""
    kept = shared / FILE_NAME if shared else None
    if settings.models_config:
        return PolicyFile(Path(settings.models_config), must_exist=True, kept=kept)
    return PolicyFile(settings.models / FILE_NAME, kept=kept)


def decode(content: bytes, path: "os.PathLike[str]") -> Policies:
    """Raises InvalidPolicies, with file, place and what was expected."""
    try:
        tables: Mapping[str, object] = msgspec.toml.decode(content)
        models = tables.get("models")
        if isinstance(models, dict):
            # One by one: of a table of tables msgspec does not say in which one the fault is.
            for name, policy in models.items():
                _convert(policy, ModelPolicy, path, f" - in `models.{name}`")
        return _convert(tables, Policies, path, "")
    except UnicodeDecodeError as error:
        raise InvalidPolicies(f"{path}: expected UTF-8; {error.reason} at byte {error.start}") from None
    except msgspec.DecodeError as error:
        raise InvalidPolicies(f"{path}: {error}") from None


def _convert(value: object, kind: type[Table], path: "os.PathLike[str]", place: str) -> Table:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidPolicies(f"{path}: {str(error).replace('$.', '')}{place}") from None
