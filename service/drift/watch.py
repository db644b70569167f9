"""Which versions are watched for drift: those whose reference.json is about them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.drift.features import InputFeatures
from service.drift.monitor import Drift
from service.drift.psi import CONFIDENCE, LABEL, Bins
from service.drift.reference import REFERENCE_FILE, InvalidReference, Reference, read_reference
from service.drift.window import MAX_REQUESTS_PER_SECOND, Window, shared_window
from service.inference.version import LoadedVersion
from service.runtime.shared_memory import SharedMemory
from service.serving_config import ASSETS
from service.tensors.dtypes import DTYPES
from service.tensors.signature import DEFAULT_SIGNATURE, Signature, TensorSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriftWatch:
    """`rows`: of the windows; 0: nothing is watched. `memory`: where processes share them; None for one that is
    alone. `requests_per_second`: that are looked at."""

    rows: int
    memory: SharedMemory | None = None
    requests_per_second: float = MAX_REQUESTS_PER_SECOND

    def watch(self, loaded: LoadedVersion, path: Path) -> Drift | None:
        """None where there is no reference, or a wrong one: a version is served without one, too."""
        if not self.rows:
            return None
        try:
            reference = read_reference(path)
            return self._drift(reference, loaded) if reference is not None else None
        except (InvalidReference, OSError) as error:
            what = (loaded.model, loaded.version, ASSETS, REFERENCE_FILE, error)
            logger.warning("%s version %d is not watched for drift: %s/%s: %s", *what)
            return None

    def _drift(self, reference: Reference, loaded: LoadedVersion) -> Drift:
        signatures = loaded.engine.signatures
        default = signatures.get(DEFAULT_SIGNATURE)
        if default is None:
            raise InvalidReference(f"it is about {DEFAULT_SIGNATURE!r}, a signature that the version has not")
        _check_labels(reference, loaded)
        inputs = _inputs(reference, default)
        if not inputs and reference.labels is None:
            raise InvalidReference("it has neither features of inputs nor labels")
        bins = Bins(list(inputs.values()), reference, loaded.config.labels)
        alike = {
            name: loaded.label_output(name) if reference.labels is not None else None
            for name, each in signatures.items()
            if _is_alike(each, default, inputs)
        }
        fitting = {name: output for name, output in alike.items() if output or reference.labels is None}
        window = self._window(loaded, reference, len(bins.names))
        return Drift(inputs, bins, fitting, window, self.requests_per_second)

    def _window(self, loaded: LoadedVersion, reference: Reference, features: int) -> Window:
        if self.memory is None:
            return Window(self.rows, features)
        key = msgspec.json.encode((loaded.model, loaded.version, self.rows, reference))
        return shared_window(self.memory, key, self.rows, features)


def _inputs(reference: Reference, signature: Signature) -> dict[str, InputFeatures]:
    """Those that the reference has features of."""
    unknown = set(reference.inputs)
    found = {}
    for name, spec in signature.inputs.items():
        row_shape = _row_shape(spec)
        if row_shape is None:
            continue
        features = InputFeatures(name, row_shape)
        if missing := [each for each in features.names if each not in reference.inputs]:
            if len(missing) < len(features.names):
                raise InvalidReference(f"'inputs' has no {missing[0]!r}; expected every feature of the input {name!r}")
            continue
        found[name] = features
        unknown.difference_update(features.names)
    if unknown:
        raise InvalidReference(f"'inputs' has {min(unknown)!r}, which no input of the version has as a feature")
    return found


def _row_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """None for what has no features: it is no number, or its rows are of any shape."""
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.kind not in "fiub" or not spec.shape or 0 in spec.shape[1:] or -1 in spec.shape[1:]:
        return None
    return spec.shape[1:]


def _check_labels(reference: Reference, loaded: LoadedVersion) -> None:
    if reference.labels is None:
        return
    if not loaded.label_output(DEFAULT_SIGNATURE):
        raise InvalidReference("it has 'labels', and the version has none")
    if differing := sorted(reference.labels.keys() ^ set(loaded.config.labels)):
        where = "only here" if differing[0] in reference.labels else "only in serving.json"
        raise InvalidReference(f"'labels': {differing[0]!r} is {where}")
    if clashing := {LABEL, CONFIDENCE} & reference.inputs.keys():
        raise InvalidReference(f"'inputs' has {min(clashing)!r}, which is what an answer's own feature is called")


def _is_alike(signature: Signature, default: Signature, inputs: Mapping[str, InputFeatures]) -> bool:
    """Whether it takes these inputs, too."""
    return all(
        (spec := signature.inputs.get(name)) is not None
        and (spec.dtype, spec.shape) == (default.inputs[name].dtype, default.inputs[name].shape)
        for name in inputs
    )
