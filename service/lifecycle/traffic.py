"""Traffic: which version answers which of a model's requests. Labels, canary, shadow."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from service.inference.version import LoadedVersion, Shadow, State, VersionStatus
from service.lifecycle.policies import ModelPolicy


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rebuilt whenever a version or the policy changes, so that a request only looks things up.

    `versions`: all that are loaded, for requests with a version. `labels`: the version that each label names now.
    `default` answers requests without a version, except for the `share` that the `canary` answers.
    """

    versions: Mapping[int, LoadedVersion] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    default: LoadedVersion | None = None
    canary: LoadedVersion | None = None
    share: float = 0.0


def route(
    policy: ModelPolicy,
    statuses: Mapping[int, VersionStatus],
    versions: Mapping[int, LoadedVersion],
    labels_before: Mapping[str, int],
    held: Mapping[int, Set[int]],
) -> Traffic:
    """`held`: versions that are no longer wanted, each with the successors that it waits for."""
    available = {number for number in versions if statuses[number].state is State.AVAILABLE}
    labels = {
        name: _target(number, labels_before.get(name), available) for name, number in policy.label_versions.items()
    }
    canary, share = _labelled(policy.canary, labels)
    shadow, shadow_share = _labelled(policy.shadow, labels)
    answering = available - {shadow}
    # A held version whose successors answer here only waits for the other worker processes.
    answering -= {number for number, successors in held.items() if successors <= answering}
    number: int | None
    if (stable := labels.get(policy.default_label)) in available:
        number = stable
    elif answering:
        # If only the canary is left, it answers everything.
        number = max(answering - {canary} or answering)
    else:
        # Nothing is AVAILABLE in every worker process yet: use the version that will be, if it is loaded in this one.
        coming = {number for number, status in statuses.items() if status.state in (State.START, State.LOADING)}
        number = stable if stable in coming else max(coming - {canary, shadow}, default=None)
    if number is None or number not in versions:
        return Traffic(versions, labels)
    copy_to = Shadow(versions[shadow], shadow_share) if shadow in available and shadow != number else None
    default = _with_shadow(versions[number], copy_to)
    if canary not in available or canary == number:
        return Traffic(versions, labels, default)
    return Traffic(versions, labels, default, _with_shadow(versions[canary], copy_to), share)


def successors(
    policy: ModelPolicy, traffic: Traffic, version: int, wanted: Set[int], failed: Set[int], is_on_disk: bool
) -> set[int]:
    """The versions that will answer the requests of `version` once it is unloaded and the policy is carried out.

    `wanted`: versions on disk that are to be loaded; `failed`: those of them that could not be. A version that the
    policy names and that is missing may still appear, unless `version` itself was removed (not `is_on_disk`).
    """
    targets = policy.label_versions
    found = {targets[label] for label, number in traffic.labels.items() if number == version}
    if traffic.default is not None and traffic.default.version == version:
        stable = policy.default_version
        if stable is not None and stable != version and (stable in wanted or is_on_disk):
            found.add(stable)
        else:
            special = {targets[label[0]] for label in (policy.canary, policy.shadow) if label}
            candidates = wanted - special or wanted
            if not candidates and is_on_disk:
                candidates = policy.named
            # A version that had already failed was not meant as the successor, if there are others.
            found |= {max(candidates - failed or candidates)} if candidates else set()
    return {number for number in found - {version} if number in wanted or is_on_disk}


def _target(wanted: int, before: int | None, available: Set[int]) -> int:
    """A label moves once its new version is AVAILABLE; until then it stays with the one before."""
    if before is not None and before in available and wanted not in available:
        return before
    return wanted


def _with_shadow(loaded: LoadedVersion, shadow: Shadow | None) -> LoadedVersion:
    return loaded if shadow is None else replace(loaded, shadow=shadow)


def _labelled(label: tuple[str, float] | None, labels: Mapping[str, int]) -> tuple[int | None, float]:
    """Version and share of the canary's or the shadow's label."""
    return (labels[label[0]], label[1]) if label else (None, 0.0)
