"""What a PromQL expression names, and what there is to name."""

import re

from prometheus_client import CollectorRegistry

from service.lifecycle.registry import Registry
from service.metrics.definitions import Metrics, scrape_page
from service.metrics.instruments import Histograms

SAMPLE_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def names_in(expression: str) -> set[str]:
    """The metric names in an expression: what is neither label, function nor operator."""
    bare = re.sub(
        r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right) ?\([^)]*\)", " ", expression
    )
    return set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]+\b(?!\s*\()", bare)) - {"or", "and", "unless"}


def exported_names() -> set[str]:
    families = scrape_page(Metrics(CollectorRegistry()), Registry()).collect()
    return {family.name + suffix for family in families for suffix in SAMPLE_SUFFIXES[family.type]}


def exported_bounds() -> set[str]:
    """Of all histograms, as the label `le` says them."""
    families = Metrics(CollectorRegistry()).families
    return {repr(float(bound)) for family in families if isinstance(family, Histograms) for bound in family.bounds}
