"""Feedback for requests: the right labels, which come later."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.api.routes import Match, Method, parse_version
from service.api.v1.decode import kind_of, parse_json
from service.errors import InvalidRequest
from service.feedback.feedback import Feedback, Given
from service.http import Request, Response
from service.lifecycle.registry import Registry

# Of one body.
MAX_GIVEN = 10_000

_EXPECTED = 'expected {"request_id": "...", "label": "..."}, or a list of such objects'


def methods(registry: Registry, feedback: Feedback | None) -> Mapping[str, Method]:
    """`feedback`: None where it is off."""

    def give(match: Match, request: Request) -> Response:
        number = parse_version(match.parameters.get("version"))
        # Waits for what is still being loaded, and says what is wrong with a model that is not there.
        loaded = registry.get(match.model, number)
        request.context.found(loaded)
        if feedback is None:
            raise InvalidRequest("no feedback is taken here: SERVING_FEEDBACK_REQUESTS is 0")
        given = decode(request.body)
        request.context.decoded()
        everything = registry.loaded()
        # Without a number any of them may have answered.
        of_model = [each for each in everything if each.model == match.model] if number is None else []
        deadline = request.context.deadline
        outcome = feedback.give(given, of_model or [loaded], everything, deadline.check if deadline else _no_check)
        return Response(200, msgspec.json.encode(outcome))

    return {"v1.feedback": give}


def decode(data: bytes) -> list[Given]:
    """The body, an object or a list of objects. Raises InvalidRequest."""
    body = parse_json(data, _EXPECTED)
    if isinstance(body, dict):
        return [_given(body, "")]
    if not isinstance(body, list):
        raise InvalidRequest(f"the body is a JSON {kind_of(body)}; {_EXPECTED}")
    if not 0 < len(body) <= MAX_GIVEN:
        raise InvalidRequest(f"the body is a list of {len(body)} objects; expected 1 to {MAX_GIVEN}")
    return [_given(each, f"[{place}]: ") for place, each in enumerate(body)]


def _given(value: Any, place: str) -> Given:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place}a JSON {kind_of(value)}; {_EXPECTED}")
    for key in ("request_id", "label"):
        if key not in value:
            raise InvalidRequest(f"{place}{key!r} is missing; {_EXPECTED}")
    if unknown := sorted(value.keys() - {"request_id", "label"}):
        raise InvalidRequest(f"{place}unknown key {unknown[0]!r}; {_EXPECTED}")
    request_id, label = value["request_id"], value["label"]
    if not isinstance(request_id, str) or not request_id:
        raise InvalidRequest(f"{place}'request_id' is {_shown(request_id)}; expected the response's X-Request-ID")
    if isinstance(label, list):
        _check_labels(label, place)
    elif not isinstance(label, str):
        raise InvalidRequest(f"{place}'label' is a JSON {kind_of(label)}; expected a label, or a list with one per row")
    return Given(request_id, label, place)


def _check_labels(labels: Sequence[Any], place: str) -> None:
    for row, label in enumerate(labels):
        if label is not None and not isinstance(label, str):
            raise InvalidRequest(f"{place}'label'[{row}] is a JSON {kind_of(label)}; expected a label or null")
    if not any(label is not None for label in labels):
        raise InvalidRequest(f"{place}'label' has no label; expected one at least")


def _shown(value: Any) -> str:
    return "empty" if value == "" else f"a JSON {kind_of(value)}"


def _no_check() -> None:
    pass
