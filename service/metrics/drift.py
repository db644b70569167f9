"""How unlike their reference the last rows of each version are."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from service.registry import Registry


def drift_metrics(registry: Registry) -> Iterator[Metric]:
    """Of the versions that are loaded and have a reference."""
    version = ("model", "version")
    rows = GaugeMetricFamily("serving_drift_window_rows", "Rows in the window that drift is told of.", labels=version)
    psi = GaugeMetricFamily(
        "serving_drift_psi",
        "Population stability index of the window against the reference, beyond what chance makes of it.",
        labels=(*version, "feature"),
    )
    shift = GaugeMetricFamily(
        "serving_drift_shift",
        "From -1, every row of the window below the reference, to 1, every row above it.",
        labels=(*version, "feature"),
    )
    for loaded in registry.loaded():
        if loaded.drift is None:
            continue
        labels = (loaded.model, loaded.version_text)
        now = loaded.drift.now()
        rows.add_metric(labels, float(now.rows))
        for each in now.features:
            psi.add_metric((*labels, each.feature), each.psi)
            if each.shift is not None:
                shift.add_metric((*labels, each.feature), each.shift)
    yield from (rows, psi, shift)
