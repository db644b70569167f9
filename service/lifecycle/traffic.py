"""Who answers a model's requests."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from service.inference.version import LoadedVersion, Shadow, State, VersionStatus
from service.lifecycle.policies import STABLE, ModelPolicy


@dataclass(frozen=True, slots=True)
class Traffic:
    """Made anew whenever a version or the policy changes, so that a request only looks things up.

    `versions`: those loaded, for requests that name one. `labels`: which version each names now. `default` answers
    requests that name none, but for the `share` of them that the `canary` answers.
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
    """`held`: versions that are not wanted any more, each with those that it waits for."""
    available = {number for number in versions if statuses[number].state is State.AVAILABLE}
    labels = {
        name: _target(number, labels_before.get(name), available) for name, number in policy.label_versions.items()
    }
    canary, share = _labelled(policy.canary, labels)
    shadow, mirrored_share = _labelled(policy.shadow, labels)
    answering = available - {shadow}
    # Once their successors answer, they only wait for these to do so in every worker process.
    answering -= {number for number, successors in held.items() if successors <= answering}
    number: int | None
    if (stable := labels.get(STABLE)) in available:
        number = stable
    elif answering:
        # Where nothing but the canary is left, it answers all.
        number = max(answering - {canary} or answering)
    else:
        # None is AVAILABLE in every worker process yet: then the one that will be, if it is loaded in this one.
        coming = {number for number, status in statuses.items() if status.state in (State.START, State.LOADING)}
        number = stable if stable in coming else max(coming - {canary, shadow}, default=None)
    if number is None or number not in versions:
        return Traffic(versions, labels)
    mirror = Shadow(versions[shadow], mirrored_share) if shadow in available and shadow != number else None
    default = _mirrored(versions[number], mirror)
    if canary not in available or canary == number:
        return Traffic(versions, labels, default)
    return Traffic(versions, labels, default, _mirrored(versions[canary], mirror), share)


def successors(
    policy: ModelPolicy, traffic: Traffic, version: int, wanted: Set[int], failed: Set[int], is_on_disk: bool
) -> set[int]:
    """Who answers the requests that `version` answers now, once it is gone and the policy is carried out.

    `wanted`: those on disk that are to be loaded; `failed`: those that could not be. What the policy names and is not
    there may still come, unless `version` was taken from the disk as well (`is_on_disk`).
    """
    targets = policy.label_versions
    found = {targets[label] for label, number in traffic.labels.items() if number == version}
    if traffic.default is not None and traffic.default.version == version:
        stable = targets.get(STABLE, version)
        if stable != version and (stable in wanted or is_on_disk):
            found.add(stable)
        else:
            special = {targets[label[0]] for label in (policy.canary, policy.shadow) if label}
            candidates = wanted - special or wanted
            if not candidates and is_on_disk:
                candidates = policy.named
            # One that failed before this one went is not who was meant to take its place, if there are others.
            found |= {max(candidates - failed or candidates)} if candidates else set()
    return {number for number in found - {version} if number in wanted or is_on_disk}


def _target(wanted: int, before: int | None, available: Set[int]) -> int:
    """A label moves once the version that it is to name is AVAILABLE; until then the one before keeps it."""
    if before is not None and before in available and wanted not in available:
        return before
    return wanted


def _mirrored(loaded: LoadedVersion, mirror: Shadow | None) -> LoadedVersion:
    return loaded if mirror is None else replace(loaded, shadow=mirror)


def _labelled(given: tuple[str, float] | None, labels: Mapping[str, int]) -> tuple[int | None, float]:
    return (labels[given[0]], given[1]) if given else (None, 0.0)
