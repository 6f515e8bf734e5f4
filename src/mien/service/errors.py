"""API errors: status, code and message in one JSON form."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.responses import Response

from mien.core.formats import json_text

ERROR_SCHEMA = "mien-error/1"
"""Name and version of the JSON form of errors."""

REQUEST_ID = "request_id"
"""Key of a request's id in the ASGI scope, in log records and in errors."""

CODES: Mapping[int, str] = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_type",
    422: "undecodable",
    426: "upgrade_required",
    431: "headers_too_large",
    500: "internal",
    501: "not_supported",
    503: "busy",
}
"""Default code of each status; 422 may also be ``too_long``, 503 ``not_ready`` or ``stopping``."""

TOO_LONG = "too_long"
"""Code of an analysis that was abandoned."""

_RETRY_AFTER_S = 1


class ApiError(Exception):
    """Error that is the reply to a request.

    Attributes:
        status: HTTP status.
        code: name of the error for programs; that of `CODES` by default.
        message: one line: what happened, what was expected, how to fix it.
        headers: further headers of the reply; 503 has ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or CODES.get(status, "error")
        self.message = " ".join(message.split())
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("Retry-After", str(_RETRY_AFTER_S))

    def to_dict(self, request_id: str | None = None) -> dict[str, str]:
        """Return the JSON object of the error."""
        error = {"schema": ERROR_SCHEMA, "code": self.code, "error": self.message}
        return error if request_id is None else {**error, REQUEST_ID: request_id}

    def response(self, request_id: str | None = None) -> Response:
        """Build the reply."""
        body = json_bytes(self.to_dict(request_id))
        return Response(body, self.status, self.headers, "application/json")


def json_bytes(content: object) -> bytes:
    """Encode a reply as one line of JSON; lone surrogates in a file's name are escaped."""
    return (json_text(content, indent=None) + "\n").encode("utf-8", "backslashreplace")


def stopping_error() -> ApiError:
    """Build the error of requests that are cut off because the service stops."""
    return ApiError(503, "the service is stopping: try again in a moment", code="stopping")


def internal_error(
    logger: logging.Logger, event: str, error: Exception, request_id: str
) -> ApiError:
    """Log an unexpected exception with its traceback; return an error that reveals none of it."""
    logger.error(
        f"{event}: {type(error).__name__}: {error} (request {request_id})",
        exc_info=error,
        extra={REQUEST_ID: request_id},
    )
    return ApiError(500, "internal error: the file may be fine; the service's log says what failed")
