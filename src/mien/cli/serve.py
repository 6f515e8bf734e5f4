"""``mien serve``: the HTTP service."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import math
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from mien.cli.options import (
    add_command,
    add_finding_options,
    add_recognizer_options,
    number,
    recognizer_options,
    whole,
)
from mien.cli.output import logs_as_notes, note
from mien.cli.stopping import Terminated, terminable
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    import socket

    from mien.batch.inputs import RecognizerOptions
    from mien.inference.recognizer import Recognizer
    from mien.service.limits import Limits
    from mien.service.middleware import Answered
    from mien.service.service import Service

_OWN_LOGS = tuple(
    f"mien.service.{name}" for name in ("app", "middleware", "server", "service", "stream", "video")
)
_LINES_A_MINUTE = 20

PORT = 8000
"""Where nothing else is said."""

_DETAILS = """\
POST an image to /v1/analyze: as the field "image" of a form, or as the body with an image's type.
The answer is the JSON of mien predict. /docs describes all there is. There is no authentication:
let others at it through a proxy that has one. SIGTERM and Ctrl-C let requests in flight end first.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``serve``."""
    parser = add_command(
        commands,
        "serve",
        help="answer images over HTTP, and give the studio's page",
        description="Answer images over HTTP with their faces and emotions, and give the page "
        "that mien studio opens.",
        examples=(
            "mien serve",
            "mien serve --host 0.0.0.0 --port 80 --model mien-nano --access-log",
        ),
        usage="[options]",
        details=_DETAILS,
    )
    add_options(parser)
    parser.set_defaults(run=_run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what serving takes, under whatever name."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone)",
    )
    add(
        "--port",
        type=whole(0, 65535),
        default=PORT,
        metavar="N",
        help="0 for any free one (default: %(default)s)",
    )
    add_recognizer_options(parser, crops="where each image is a face crop")
    add_finding_options(parser)
    _add_limits(parser)
    add("--access-log", action="store_true", help="a line on stderr for each request")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    add(
        "--max-bytes",
        type=whole(),
        default=20_000_000,
        metavar="N",
        help="refuse images of more bytes (default: %(default)s)",
    )
    add(
        "--max-megapixels",
        type=number(0, 150, above=True),
        default=50,
        metavar="N",
        help="refuse images of more pixels, at most 150 (default: %(default)s)",
    )
    add(
        "--workers",
        type=whole(),
        metavar="N",
        help="images that are analyzed at the same time (default: one a core, at most 4)",
    )
    add(
        "--max-waiting",
        type=whole(),
        default=32,
        metavar="N",
        help="images that may arrive or wait beside those, before one is refused "
        "(default: %(default)s)",
    )
    add(
        "--upload-timeout",
        type=number(0, 1e6, above=True),
        default=30,
        metavar="S",
        help="refuse images that take longer to arrive, in seconds (default: %(default)s)",
    )
    add(
        "--analysis-timeout",
        type=number(0, 1e6, above=True),
        default=60,
        metavar="S",
        help="give up images that take longer, in seconds (default: %(default)s)",
    )
    add(
        "--max-connections",
        type=whole(),
        default=1000,
        metavar="N",
        help="open at the same time; one more ends the longest idle (default: %(default)s)",
    )


def _run(args: argparse.Namespace) -> int:
    return run(args, "mien serve")


def run(
    args: argparse.Namespace, command: str, *, on_listening: Callable[[str], None] | None = None
) -> int:
    """Serve until a signal; return the exit code.

    Args:
        args: what `add_options` takes.
        command: who needs the packages of the service.
        on_listening: called with host and port, as URLs have them, before the model is loaded.
    """
    from mien.service import require_app

    require_app(command)
    try:
        with terminable():
            _listen_and_serve(args, on_listening or (lambda _: None))
    except Terminated:
        note("ended", quiet=args.quiet)
    return EXIT_DONE


def _listen_and_serve(args: argparse.Namespace, on_listening: Callable[[str], None]) -> None:
    from mien.service.limits import Limits, default_workers
    from mien.service.page_files import NO_RUNTIME, Folders
    from mien.service.server import host_and_port, listen, raise_file_limit

    limits = Limits(
        max_bytes=args.max_bytes,
        max_pixels=max(1, round(args.max_megapixels * 1e6)),
        workers=default_workers() if args.workers is None else args.workers,
        max_waiting=args.max_waiting,
        upload_seconds=args.upload_timeout,
        analysis_seconds=args.analysis_timeout,
        max_connections=args.max_connections,
    )
    limits = replace(limits, max_connections=raise_file_limit(limits.max_connections))
    options = recognizer_options(args)
    with listen(args.host, args.port) as port, _logs(args):
        address = host_and_port(args.host, port.getsockname()[1])
        note(f"listening on http://{address} (Ctrl-C ends it)", quiet=args.quiet)
        if not _is_loopback(port):
            text = "others can reach this address, and there is no authentication"
            note(f"mien: {text}: put a proxy that has one before it", quiet=args.quiet)
        if not Folders.found().has_runtime:
            note(f"mien: {NO_RUNTIME}", quiet=args.quiet)
        on_listening(address)
        _serve(port, options, limits, args)


def _serve(
    port: socket.socket, options: RecognizerOptions, limits: Limits, args: argparse.Namespace
) -> None:
    """Serve until a signal, which is raised anew, or until the model turns out not to load."""
    from mien.service.app import create_app
    from mien.service.server import make_server, return_freed_memory

    failures: list[Exception] = []

    def on_ready(recognizer: Recognizer) -> None:
        model, detector = recognizer.model, recognizer.detector.name
        text = f"ready: {model.name} {model.version}, {detector}, {limits.workers} at a time"
        note(text, quiet=args.quiet)

    def on_failure(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        options.load,
        limits,
        on_ready=on_ready,
        on_failure=on_failure,
        on_request=_log_request if args.access_log else None,
    )
    server = make_server(app, limits.max_connections)
    return_freed_memory()
    try:
        server.run(sockets=[port])
    except (KeyboardInterrupt, Terminated):
        if server.ended_by is None:  # it was not listening to signals yet, or any more
            raise
    if server.ended_by is not None:
        _end(app.state.service, interrupted=server.ended_by == signal.SIGINT, quiet=args.quiet)
    if failures:
        raise failures[0]


def _end(service: Service, *, interrupted: bool, quiet: bool) -> NoReturn:
    """End as the signal says, which may have been ignored when the process began (``nohup``)."""
    from mien.service.server import exit_now

    count = service.workers.unfinished
    if count:
        line = "mien: interrupted" if interrupted else "" if quiet else "ended"
        if service.recognizer is not None:
            images = "1 image" if count == 1 else f"{count} images"
            line = f"mien: ended without {images} that took too long"
        exit_now(EXIT_INTERRUPTED if interrupted else EXIT_DONE, line)
    raise KeyboardInterrupt if interrupted else Terminated


def _log_request(answered: Answered) -> None:
    note(str(answered), quiet=False)


def _is_loopback(port: socket.socket) -> bool:
    return ipaddress.ip_address(port.getsockname()[0].partition("%")[0]).is_loopback


@contextmanager
def _logs(args: argparse.Namespace) -> Iterator[None]:
    """Show the server's errors as lines, and with ``--debug`` the traces of requests that fail."""
    with ExitStack() as stack:
        # What clients do wrong is theirs to know, and could fill the log.
        for name in ("uvicorn", "asyncio", "python_multipart"):
            stack.enter_context(logs_as_notes(quiet=True, name=name))
        for name in ("asyncio", "uvicorn.error", *_OWN_LOGS):
            log, few = logging.getLogger(name), _Few()
            log.addFilter(few)
            stack.callback(log.removeFilter, few)
        if args.debug:
            logger, traces = logging.getLogger("mien"), _Traces(logging.ERROR)
            logger.addHandler(traces)
            stack.callback(logger.removeHandler, traces)
        yield


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
