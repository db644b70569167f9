"""The short road: predictions from the server's event loop to the model and back, without Flask.

The same functions answer as behind Flask's routes (api/v1.py); only finding the route, errors and metrics are done
here.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import msgspec

from service.api import v1
from service.calls import Call
from service.errors import status_and_message
from service.image import picture_pixels
from service.inference import Inference
from service.messages import Answer, Request, error_answer
from service.metrics import Metrics
from service.settings import Settings

_V1 = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?"
    r":(?P<verb>predict|classify|regress)"
)

# What the event loop itself may do while all other connections wait: about a millisecond.
QUICK_BODY_BYTES = 64 * 1024
QUICK_PICTURE_BYTES = 16 * 1024
QUICK_PIXELS = 64 * 1024

LONGEST_KEPT_TARGET = 256


class Route(msgspec.Struct, frozen=True):
    """`asked`: what the path names, as the protocol's `answer` takes it."""

    path: str
    protocol: str
    verb: str
    model: str
    answer: Callable[..., Answer]
    asked: dict[str, Any]


def find_route(target: bytes) -> Route | None:
    """The route of a POST to this path, as it stands in the request's first line; None for what Flask answers."""
    # What is kept must not grow with what strangers ask for.
    return _find_route(target) if len(target) <= LONGEST_KEPT_TARGET else _find_route.__wrapped__(target)


@lru_cache(1024)
def _find_route(target: bytes) -> Route | None:
    path = unquote(target.decode("latin-1"))
    if match := _V1.fullmatch(path):
        return Route(path, "v1", match["verb"], match["model"], v1.answer, match.groupdict())
    return None


class ShortRoad:
    def __init__(self, inference: Inference, settings: Settings, metrics: Metrics) -> None:
        self._inference = inference
        self._settings = settings
        self._metrics = metrics

    def is_quick(self, route: Route, request: Request) -> bool:
        """Whether answering takes no longer than the event loop may be held up."""
        registry = self._inference.registry
        if len(request.body) > QUICK_BODY_BYTES or not registry.first_scan_done.is_set():
            return False
        # By its bytes where they say enough: to look into a picture takes a while, too.
        if request.mimetype.startswith("image/") and (
            len(request.body) > QUICK_PICTURE_BYTES or picture_pixels(request.body) > QUICK_PIXELS
        ):
            return False
        return registry.is_quick(route.model)

    def answer(self, route: Route, request: Request) -> Answer:
        call = Call()
        try:
            answer = route.answer(self._inference, self._settings, call, request, **route.asked)
        except Exception as error:
            answer = error_answer(*status_and_message(error, "POST", route.path))
        call.end(self._metrics, route.protocol, route.verb, answer.status)
        return answer
