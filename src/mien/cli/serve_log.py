"""What `mien serve` says on stderr: lines for people, or JSON for what gathers logs."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from mien.cli.output import log_handler, log_to_stderr, note

if TYPE_CHECKING:
    from mien.service.middleware import Answered

FORMS = ("text", "json")
"""What ``--log-format`` may be."""

_OTHERS = ("uvicorn", "asyncio", "python_multipart")
_OWN = ("app", "middleware", "server", "service", "stream", "video")
_LIMITED = ("asyncio", "uvicorn.error", *(f"mien.service.{name}" for name in _OWN))
_LINES_A_MINUTE = 20


@dataclass(frozen=True)
class ServiceLog:
    """How the service speaks.

    Attributes:
        form: one of `FORMS`.
        quiet: errors alone, and requests if they are asked for.
        debug: show the traces of requests that fail.
        requests: a line for each request.
    """

    form: str = FORMS[0]
    quiet: bool = False
    debug: bool = False
    requests: bool = False

    def say(self, text: str) -> None:
        """Say something that is no error."""
        if self.form == "text":
            note(text, quiet=self.quiet)
        elif not self.quiet:
            _write(level="info", message=text.removeprefix("mien: "))

    def request(self, answered: Answered) -> None:
        """Say that a request was answered."""
        if self.form == "text":
            note(str(answered), quiet=False)
        else:
            _write(level="info", message="request", **answered.to_dict())

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Show the server's errors, and with ``debug`` the traces of requests that fail."""
        with ExitStack() as stack:
            for name in _LIMITED:
                log, few = logging.getLogger(name), _Few()
                log.addFilter(few)
                stack.callback(log.removeFilter, few)
            if self.form == "json":
                stack.enter_context(_as_json(self.quiet, self.debug))
            else:
                # What clients do wrong is theirs to know, and could fill the log.
                for name in _OTHERS:
                    stack.enter_context(log_to_stderr(quiet=True, name=name))
                if self.debug:
                    stack.enter_context(log_handler("mien", _Traces(logging.ERROR)))
            yield


@contextmanager
def _as_json(quiet: bool, debug: bool) -> Iterator[None]:
    """Write what is logged as JSON, and by nobody else."""
    own = logging.getLogger("mien")
    before, own.handlers = own.handlers, []
    try:
        with ExitStack() as stack:
            level = logging.ERROR if quiet else logging.WARNING
            stack.enter_context(log_handler("mien", _Json(level, debug)))
            for name in _OTHERS:
                stack.enter_context(log_handler(name, _Json(logging.ERROR, debug)))
            yield
    finally:
        own.handlers = before


def _write(**fields: Any) -> None:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now.replace("+00:00", "Z"), **fields})
    with suppress(OSError, ValueError):  # nobody reads stderr any more
        print(line, file=sys.stderr, flush=True)


class _Json(logging.Handler):
    """Writes records as lines of JSON."""

    def __init__(self, level: int, debug: bool) -> None:
        super().__init__(level)
        self._debug = debug

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        fields = {
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        if hasattr(record, "request_id"):
            fields["request_id"] = record.request_id
        if self._debug and record.exc_info and record.exc_info[1] is not None:
            fields["trace"] = "".join(traceback.format_exception(record.exc_info[1]))
        _write(**fields)


class _Few(logging.Filter):
    """Lets so many lines a minute pass: whatever goes wrong may do so for each request."""

    def __init__(self) -> None:
        super().__init__()
        self._since = -math.inf
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        now = time.monotonic()
        if now - self._since >= 60:
            self._since, self._count = now, 0
        self._count += 1
        if self._count == _LINES_A_MINUTE:
            record.msg = f"{record.getMessage()} (no more of this for a minute)"
            record.args = ()
        return self._count <= _LINES_A_MINUTE


class _Traces(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.exc_info and record.exc_info[1] is not None:
            traceback.print_exception(record.exc_info[1])
