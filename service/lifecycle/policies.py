"""Policies: `models.toml` says which versions of a model are loaded, when, their labels, and how they are batched.

Every part is optional; docs/operations/models.md describes them.
"""

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from service.errors import FailedPrecondition
from service.lifecycle.repository import MAX_VERSION, Key, Places
from service.runtime import toml_file
from service.runtime.config_file import ConfigFile
from service.runtime.shared_values import Value, Values
from service.settings import Settings

FILE_NAME = "models.toml"

VersionNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
LabelName = Annotated[str, msgspec.Meta(pattern=r"^[^/:]+$")]
# The label of the version that answers requests without a version, unless a policy names another.
STABLE = "stable"


class Latest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    latest: Annotated[int, msgspec.Meta(ge=1)]


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`share`: of the requests without a version, the share that this version answers (a canary). `shadow`: the share
    of which it gets a copy. Without either, the version answers only requests for the label."""

    version: VersionNumber
    share: Share | None = None
    shadow: Share | None = None

    def __post_init__(self) -> None:
        if self.share is not None and self.shadow is not None:
            raise ValueError("a label has `share` (it answers) or `shadow` (it does not), not both")


class Batching(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Overrides the settings of the same names for one model. `independent_rows`: overrides the proof in serving.json
    that rows may be batched."""

    max_batch_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    batch_timeout_micros: Annotated[int, msgspec.Meta(ge=0)] | None = None
    independent_rows: bool | None = None


class CapturePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`share`: of the model's requests, the share that is captured. `file`: where to; empty: the setting's."""

    share: Share
    file: str = ""


class ModelPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`base_path`: the absolute path of the folder with the versions, if that is not <models>/<model>. `default_label`:
    the label whose version answers requests without one; while there is none, the highest AVAILABLE version does."""

    base_path: str = ""
    versions: Literal["all"] | Latest | list[VersionNumber] = "all"
    labels: dict[LabelName, VersionNumber | Label] = {}
    default_label: str = STABLE
    load: Literal["preload", "on_demand"] = "preload"
    # When one version replaces another. TensorFlow Serving calls these availability-preserving and
    # resource-preserving.
    replace: Literal["load_first", "unload_first"] = "load_first"
    batching: Batching = Batching()
    capture: CapturePolicy | None = None

    def __post_init__(self) -> None:
        if self.base_path and not Path(self.base_path).is_absolute():
            raise ValueError(f"`base_path` is {self.base_path!r}; expected an absolute path")
        for kind in ("share", "shadow"):
            names = [name for name, label in self.labels.items() if getattr(label, kind, None) is not None]
            if len(names) > 1:
                raise ValueError(f"one label of a model has a `{kind}` at most, but {' and '.join(names)} have")
            if self.default_label in names:
                raise ValueError(
                    f"the label `{self.default_label}` names what answers requests without a version, and no `{kind}`"
                )

    @property
    def label_versions(self) -> dict[str, int]:
        return {name: label if isinstance(label, int) else label.version for name, label in self.labels.items()}

    @property
    def canary(self) -> tuple[str, float] | None:
        """Label and share."""
        return self._special("share")

    @property
    def shadow(self) -> tuple[str, float] | None:
        """Label and share."""
        return self._special("shadow")

    @property
    def default_version(self) -> int | None:
        """The version of the default label, if there is one."""
        return self.label_versions.get(self.default_label)

    @property
    def named(self) -> set[int]:
        """The versions that the policy lists or labels by number, on disk or not."""
        return {*(self.versions if isinstance(self.versions, list) else ()), *self.label_versions.values()}

    def wanted(self, on_disk: Collection[int]) -> set[int]:
        """The versions on disk that are to be loaded: those the policy selects, and those with a label."""
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
    """`default` applies to every model without a table of its own. `only_listed`: no other models are served, whatever
    the models folder holds."""

    default: ModelPolicy = ModelPolicy()
    models: dict[str, ModelPolicy] = {}
    only_listed: bool = False

    def __post_init__(self) -> None:
        for part in ("labels", "base_path"):
            if getattr(self.default, part):
                raise ValueError(f"`default` takes no `{part}`, which is of one model")

    def of(self, model: str) -> ModelPolicy:
        return self.models.get(model, self.default)

    @property
    def places(self) -> Places:
        base_paths = {name: Path(policy.base_path) for name, policy in self.models.items() if policy.base_path}
        return Places(base_paths, frozenset(self.models) if self.only_listed else None)

    @property
    def captures(self) -> dict[str, tuple[str, float]]:
        """File and share, by model."""
        return {name: (one.capture.file, one.capture.share) for name, one in self.models.items() if one.capture}

    def wanted(self, on_disk: Collection[Key]) -> set[Key]:
        """The versions on disk that are to be loaded."""
        numbers: dict[str, set[int]] = {}
        for model, version in on_disk:
            numbers.setdefault(model, set()).add(version)
        return {(model, version) for model, known in numbers.items() for version in self.of(model).wanted(known)}


def label_refused(model: str, label: str, version: int) -> FailedPrecondition:
    """In TensorFlow Serving's words."""
    return FailedPrecondition(
        f"Request to assign label to version {version} of model {model}, which is not currently available for "
        f"inference (label {label!r}; allow_version_labels_for_unavailable_models lets new labels name such versions)"
    )


def policy_file(settings: Settings, values: Values | None = None) -> ConfigFile[Policies]:
    """models.toml. `values`: shared by the worker processes."""
    named = settings.models_config
    path = Path(named) if named else Path(settings.models) / FILE_NAME
    kept = Value(values, FILE_NAME.encode()) if values else None
    read = partial(_decode_for_base_path, settings) if settings.base_path else decode
    return ConfigFile(path, read, Policies(), must_exist=bool(named), kept=kept)


def decode(written: bytes, path: "os.PathLike[str]") -> Policies:
    """Raises InvalidFile, which names the place in the file and what was expected."""
    return toml_file.decode(written, path, Policies, "models", ModelPolicy)


def _decode_for_base_path(settings: Settings, written: bytes, path: "os.PathLike[str]") -> Policies:
    """The policies of the one model that the settings give a base path."""
    policies, model = decode(written, path), settings.model_name or Path(settings.base_path).absolute().name
    # As in TensorFlow Serving.
    policy = policies.models.get(model, ModelPolicy(versions=Latest(latest=1), default_label=""))
    base_path = str(Path(settings.base_path).absolute())
    return Policies(models={model: msgspec.structs.replace(policy, base_path=base_path)}, only_listed=True)
