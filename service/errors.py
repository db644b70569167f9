"""Errors with an HTTP status, and their responses."""

import logging
import re
from pathlib import Path

import msgspec

from service.http import Response, error_response

_NAME = r"[^\s/'\"`:;,()\[\]<>]"
_ABSOLUTE_PATH = re.compile(rf"(?<![\w./:-])/(?:{_NAME}+/)+({_NAME}*)")

logger = logging.getLogger(__name__)


class ServingError(Exception):
    """The message goes to the client: what is wrong, where, and what was expected. `grpc_status`: where HTTP's does not
    tell it."""

    status = 500
    headers: tuple[tuple[str, str], ...] = ()
    grpc_status: int | None = None


class InvalidRequest(ServingError):
    status = 400


class FailedPrecondition(ServingError):
    """Valid, but not in the present state of the service."""

    status = 400
    grpc_status = 9


class NotFound(ServingError):
    status = 404


class PayloadTooLarge(ServingError):
    status = 413


class UnsupportedMediaType(ServingError):
    status = 415


class Unimplemented(ServingError):
    status = 501


class Unavailable(ServingError):
    status = 503
    headers = (("retry-after", "1"),)


class GraphError(ServingError):
    """An error that a graph reports, with the status for its code. Codes are TensorFlow's, which are gRPC's."""

    def __init__(self, message: str, status: int, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.grpc_status = code
        if status in (429, 503):
            self.headers = (("retry-after", "1"),)


def response_to_error(error: Exception, method: str, path: str, request_id: str) -> Response:
    """The response for an error. A possible bug is logged, with its traceback."""
    response = error_response(500, "internal error; the service's log has the details")
    if isinstance(error, ServingError):
        response = error_response(error.status, str(error), *error.headers)
        if error.grpc_status is not None:
            response = msgspec.structs.replace(response, grpc_status=error.grpc_status)
    # Not 503 and 504, which are no bugs and come in numbers under load.
    if response.status == 500:
        # A path must not forge lines of the log, or send control codes to a terminal.
        path = path.encode("unicode_escape").decode()
        logger.error(
            "%s %s failed (request %s)", method, path, request_id, exc_info=error, extra={"request_id": request_id}
        )
    return response


def without_paths(message: str, folder: Path) -> str:
    """The message with paths relative to the folder, and only the last part of any other absolute path."""
    text = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return _ABSOLUTE_PATH.sub(r"\1", text)
