"""Variables that look like settings and are none: a typing error would else leave a default in force, unnoticed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

PREFIX = "SERVING_"

# What Kubernetes sets in every container of a namespace for each Service called `serving`, or `serving-...`.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES = re.compile(
    r"SERVING_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_KUBERNETES = re.compile(r"(?:tcp|udp|sctp)://")


def misspelt(environ: Mapping[str, str], known: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable with our prefix that is none of `known`, with the nearest of these."""
    names = list(known)
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(PREFIX) or name in names or _is_of_kubernetes(name, text):
            continue
        # Without the prefix, which makes all of them alike.
        nearest = get_close_matches(name.upper()[len(PREFIX) :], [each.removeprefix(PREFIX) for each in names], n=1)
        meant = f"is {PREFIX}{nearest[0]} meant?" if nearest else "docs/settings.md lists them"
        yield f"the variable {name!a} is passed over, for no setting is called so; {meant}"


def _is_of_kubernetes(name: str, text: str) -> bool:
    return bool(_OF_KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and _ADDRESS_OF_KUBERNETES.match(text)))
