"""The short road: predictions from the server's event loop to the model and back, without Flask.

The same functions answer as behind Flask's routes (api/v1.py); only finding the route, errors and metrics are done
here.
"""

import re
from dataclasses import dataclass

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
QUICK_PIXELS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    path: str
    verb: str
    model: str
    version: str | None
    label: str | None


class ShortRoad:
    def __init__(self, inference: Inference, settings: Settings, metrics: Metrics) -> None:
        self._inference = inference
        self._settings = settings
        self._metrics = metrics

    def route(self, method: str, path: str, mimetype: str) -> Route | None:
        """None for what Flask answers. Forms are among it: it has a parser for them."""
        if method != "POST" or mimetype == "multipart/form-data":
            return None
        match = _V1.fullmatch(path)
        return Route(path, match["verb"], match["model"], match["version"], match["label"]) if match else None

    def is_quick(self, route: Route, request: Request) -> bool:
        """Whether answering takes no longer than the event loop may be held up."""
        registry = self._inference.registry
        if len(request.body) > QUICK_BODY_BYTES or not registry.first_scan_done.is_set():
            return False
        if request.mimetype.startswith("image/") and picture_pixels(request.body) > QUICK_PIXELS:
            return False
        return registry.is_quick(route.model)

    def answer(self, route: Route, request: Request) -> Answer:
        call = Call()
        try:
            text = v1.answer(
                self._inference, self._settings, call, request, route.verb, route.model, route.version, route.label
            )
            answer = Answer(200, text)
        except Exception as error:
            answer = error_answer(*status_and_message(error, "POST", route.path))
        call.end(self._metrics, "v1", route.verb, answer.status)
        return answer
