"""Errors, each with its HTTP status, and the response that a client gets for one."""

import logging
import re
from pathlib import Path

from service.http import Response, error_response

logger = logging.getLogger(__name__)


class ServingError(Exception):
    """Its message goes to the client as it is: what was wrong, where, and what was expected."""

    status = 500
    headers: tuple[tuple[str, str], ...] = ()


class InvalidRequest(ServingError):
    status = 400


class NotFound(ServingError):
    status = 404


class PayloadTooLarge(ServingError):
    status = 413


class UnsupportedMediaType(ServingError):
    status = 415


class Unavailable(ServingError):
    status = 503
    headers = (("retry-after", "1"),)


class GraphError(ServingError):
    """What a graph itself reports, with the status that its code stands for."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        if status in (429, 503):
            self.headers = (("retry-after", "1"),)


def response_to_error(error: Exception, method: str, path: str, request_id: str) -> Response:
    """What the client is told. What is a bug, or may be one, goes to the log."""
    answer = error_response(500, "internal error; the service's log has the details")
    if isinstance(error, ServingError):
        answer = error_response(error.status, str(error), *error.headers)
    # 503 and 504 say what is the matter, and under load there are many.
    if answer.status == 500:
        # No path may look like lines of the log, or move the cursor of who reads them.
        path = path.encode("unicode_escape").decode()
        logger.error(
            "%s %s failed (request %s)", method, path, request_id, exc_info=error, extra={"request_id": request_id}
        )
    return answer


_NAME = r"[^\s/'\"`:;,()\[\]<>]"
_ABSOLUTE = re.compile(rf"(?<![\w./:-])/(?:{_NAME}+/)+({_NAME}*)")


def without_paths(message: str, folder: Path) -> str:
    """What lies in the folder keeps its place within it; of any other absolute path the last part stays."""
    words = message.replace(f"{folder}/", "").replace(str(folder), "its folder")
    return _ABSOLUTE.sub(r"\1", words)
