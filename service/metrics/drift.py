"""How unlike their reference the last rows of each version are."""

from collections.abc import Iterator

from service.lifecycle.registry import Registry
from service.metrics.asked import Asked


def drift_metrics(registry: Registry) -> Iterator[Asked]:
    """Of the versions that are loaded and have a reference."""
    version = ("model", "version")
    rows = Asked("serving_drift_window_rows", "Rows in the window that drift is told of.", version)
    psi = Asked(
        "serving_drift_psi",
        "Population stability index of the window against the reference, beyond what chance makes of it.",
        (*version, "feature"),
    )
    shift = Asked(
        "serving_drift_shift",
        "From -1, every row of the window below the reference, to 1, every row above it.",
        (*version, "feature"),
    )
    for loaded in registry.loaded():
        if loaded.drift is None:
            continue
        labels = (loaded.model, loaded.version_text)
        now = loaded.drift.now()
        rows.add(labels, float(now.rows))
        for each in now.features:
            psi.add((*labels, each.feature), each.psi)
            if each.shift is not None:
                shift.add((*labels, each.feature), each.shift)
    yield from (rows, psi, shift)
