"""What a client is told where there is no result: one shape, one line."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from mien.core.formats import json_text

ERROR_SCHEMA = "mien-error/1"
"""Name and version of the JSON form of errors."""

CODES: Mapping[int, str] = {
    400: "malformed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_type",
    422: "undecodable",
    431: "headers_too_large",
    500: "internal",
    503: "busy",
}
"""The code of each status; 503 has ``not_ready`` and ``stopping``, too."""

RETRY_SECONDS = 1
"""What ``Retry-After`` says with 503."""


def json_bytes(content: object) -> bytes:
    """Return a reply's body: one line of JSON, whatever characters a file's name has."""
    return (json_text(content, indent=None) + "\n").encode("utf-8", "backslashreplace")


class Refusal(Exception):
    """A request that is answered with an error.

    Attributes:
        status: the HTTP status.
        code: the error's name for programs.
        message: one line: what happened, what was expected, how to mend it.
        headers: that the reply has beside its content type.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Take the status and the line; the code is the status' own unless given."""
        super().__init__(message)
        self.status = status
        self.code = code or CODES.get(status, "error")
        self.message = " ".join(message.split())
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    def body(self) -> bytes:
        """Return the reply's JSON."""
        content = {"schema": ERROR_SCHEMA, "code": self.code, "error": self.message}
        return json_bytes(content)

    def response(self) -> Response:
        """Return the reply."""
        return Response(self.body(), self.status, self.headers, "application/json")


def internal_error() -> Refusal:
    """Return what is said of an error of the service's own: nothing that is not the client's."""
    return Refusal(500, "internal error: the image may be fine; the service's log says what failed")
