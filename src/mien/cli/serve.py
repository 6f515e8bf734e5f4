"""``mien serve``: the HTTP service."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, Field, dataclass, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from mien.cli.options import (
    add_command,
    add_face_options,
    add_recognizer_options,
    integer,
    number,
    path_name,
    recognizer_options,
)
from mien.cli.output import log_handler, note
from mien.cli.signals import Terminated, raise_on_sigterm
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError, UsageError
from mien.core.files import read_text
from mien.core.process import usable_cores
from mien.service import Limits, require_app

if TYPE_CHECKING:
    from mien.batch.inputs import RecognizerOptions
    from mien.inference.recognizer import Recognizer
    from mien.service.access import Access
    from mien.service.middleware import AccessRecord
    from mien.service.service import Service

PORT = 8000

LOG_FORMATS = ("text", "json")

_TOKEN_VARIABLES = ("MIEN_TOKENS", "MIEN_TOKEN")

_DETAILS = """\
POST an image to /v1/analyze: as the field "image" of a form, or as the body with an image's type.
The answer is the JSON of mien predict. /v1/stream takes live frames over a WebSocket, /v1/video
takes videos, and /docs describes the API.
Everybody who can reach the port may use it, unless there are tokens: in --token-file, in the
variable MIEN_TOKENS (separated by spaces) or MIEN_TOKEN.
Unless --threads is given, the network uses a worker's share of the cores.
SIGTERM and Ctrl-C stop the service after the requests in flight.
"""


# ---------------------------------------------------------------- options
def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``serve``."""
    parser = add_command(
        commands,
        "serve",
        help="answer images over HTTP, and serve the studio page",
        description="Answer images over HTTP with their faces and emotions, and serve the page "
        "that mien studio opens.",
        examples=(
            "mien serve",
            "mien serve --host 0.0.0.0 --port 80 --model mien-nano --access-log",
            "mien serve --token-file tokens.txt --cors-origin https://example.org",
        ),
        usage="[options]",
        details=_DETAILS,
    )
    add_options(parser)
    parser.set_defaults(run=lambda args: run(args, "mien serve"))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the service, which `run` reads."""
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only)",
    )
    add(
        "--port",
        type=integer(0, 65535),
        default=PORT,
        metavar="N",
        help="port to listen on, 0 for any free one (default: %(default)s)",
    )
    add_recognizer_options(parser, crops="where each image is a face crop")
    add_face_options(parser)
    limits = parser.add_argument_group("limits")
    for limit in fields(Limits):
        _add_limit(limits, limit)
    add = parser.add_argument_group("access").add_argument
    add(
        "--token-file",
        type=path_name,
        metavar="FILE",
        help="require a bearer token; the file has one per line",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="let pages of this origin read answers (https://example.org); repeatable",
    )
    add = parser.add_argument_group("running").add_argument
    add(
        "--processes",
        type=integer(1, 256),
        default=1,
        metavar="N",
        help="processes that share the port, each with a model (default: %(default)s)",
    )
    add("--access-log", action="store_true", help="write a line on stderr for each request")
    add(
        "--log-format",
        choices=LOG_FORMATS,
        default=LOG_FORMATS[0],
        help="format of the lines on stderr (default: %(default)s)",
    )


def _add_limit(group: argparse._ArgumentGroup, limit: Field[Any]) -> None:
    """Add the option of a field of `Limits`."""
    option, metavar = limit.name, "N"
    parse: Callable[[str], float] = integer()
    default = None if limit.default is MISSING else limit.default
    if option.endswith("_seconds"):
        option, parse, metavar = option.replace("_seconds", "_timeout"), _SECONDS, "S"
    elif option == "max_pixels":
        option, parse, default = "max_megapixels", _pixels, f"{Limits.max_pixels / 1e6:g}"
    shown = "one per core, at most 4" if default is None else "%(default)s"
    group.add_argument(
        f"--{option.replace('_', '-')}",
        dest=limit.name,
        type=parse,
        default=default,
        metavar=metavar,
        help=f"{limit.metadata['help']} (default: {shown})",
    )


_SECONDS = number(0, 1e6, above=True)
_MEGAPIXELS = number(0, 150, above=True)


def _pixels(megapixels: str) -> int:
    return max(1, round(_MEGAPIXELS(megapixels) * 1e6))


def _access(args: argparse.Namespace) -> Access:
    """Build the access rules from options and environment variables.

    Raises:
        InputError: if the token file cannot be read or holds no token.
        UsageError: if a token or an origin is invalid, or a variable is set, but nothing has a
            token: then everybody could use a service that was meant to be closed.
    """
    from mien.service.access import Access, parse_tokens

    tokens: list[str] = []
    if args.token_file is not None:
        try:
            tokens = parse_tokens(read_text(args.token_file))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(f"--token-file {args.token_file}: cannot be read: {reason}") from error
        if not tokens:
            raise InputError(f"--token-file {args.token_file}: expected a token a line, found none")
    variables = [name for name in _TOKEN_VARIABLES if name in os.environ]
    for name in variables:
        tokens += os.environ[name].replace(",", " ").split()
    if variables and not tokens:
        raise UsageError(
            f"{variables[0]} is set but empty: expected a token; unset it to serve without "
            "authentication"
        )
    return Access.of(tokens, args.cors_origin)


# ---------------------------------------------------------------- serving
@dataclass(frozen=True)
class Settings:
    """Picklable settings of a process of the service."""

    options: RecognizerOptions
    limits: Limits
    access: Access
    log: ServiceLog


def run(
    args: argparse.Namespace, command: str, *, on_listening: Callable[[str], None] | None = None
) -> int:
    """Serve until a signal; return the exit code.

    Args:
        args: parsed options of `add_options`.
        command: name of the command, for the error about missing packages.
        on_listening: called with host and port, as in URLs, before the model is loaded.
    """
    require_app(command)
    log = ServiceLog(args.log_format, args.quiet, args.debug, args.access_log)
    try:
        with raise_on_sigterm():
            return _listen_and_serve(args, log, on_listening or (lambda _: None))
    except Terminated:
        log.info("stopped")
    return EXIT_DONE


def _listen_and_serve(
    args: argparse.Namespace, log: ServiceLog, on_listening: Callable[[str], None]
) -> int:
    from mien.service.page_files import NO_RUNTIME, Folders
    from mien.service.server import (
        check_processes,
        host_and_port,
        listen,
        raise_file_limit,
        supervise,
    )

    check_processes(args.processes)
    values = {limit.name: getattr(args, limit.name) for limit in fields(Limits)}
    limits = Limits(**{name: value for name, value in values.items() if value is not None})
    limits = replace(limits, max_connections=raise_file_limit(limits.max_connections))
    options = recognizer_options(args)
    if options.threads is None:
        options = replace(options, threads=network_threads(limits.workers, args.processes))
    settings = Settings(options, limits, _access(args), log)
    with listen(args.host, args.port) as listener, log.install():
        address = host_and_port(args.host, listener.getsockname()[1])
        log.info(f"listening on http://{address} (press Ctrl-C to stop)")
        if not _is_loopback(listener) and not settings.access.digests:
            warning = "others can reach this address, and there is no authentication"
            log.info(f"mien: {warning}: use --token-file, or a proxy that has one")
        if not Folders.found().has_runtime:
            log.info(f"mien: {NO_RUNTIME}")
        on_listening(address)
        if args.processes == 1:
            serve(listener, settings)
            return EXIT_DONE
        settings = replace(settings, options=settings.options.absolute())
        target = ("-c", "from mien.cli.serve import run_worker; run_worker()")
        return supervise(target, settings, listener.fileno(), args.processes, log.info)


def network_threads(workers: int, processes: int) -> int:
    """Return a worker's share of the cores: threads of the network while all workers are busy."""
    return max(1, usable_cores() // (workers * processes))


def serve(
    listener: socket.socket, settings: Settings, *, on_ready: Callable[[], None] | None = None
) -> None:
    """Serve until a signal, which is raised again, or until the model fails to load.

    Args:
        listener: listening socket.
        settings: settings of the service.
        on_ready: called once the model is loaded and warm; given in one of several processes.
    """
    from mien.service.app import create_app
    from mien.service.server import make_server, return_freed_memory

    failures: list[Exception] = []
    limits, log = settings.limits, settings.log

    def ready(recognizer: Recognizer) -> None:
        model = recognizer.model
        parts = [f"{model.name} {model.version}", recognizer.detector.name]
        parts.append(f"{limits.workers} at a time")
        if on_ready is not None:
            parts.append(f"process {os.getpid()}")
        log.info(f"ready: {', '.join(parts)}")
        if on_ready is not None:
            on_ready()

    def on_failure(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(
        settings.options.load,
        limits,
        access=settings.access,
        on_ready=ready,
        on_failure=on_failure,
        on_request=log.access if log.has_access_log else None,
    )
    server = make_server(app, limits.max_connections)
    return_freed_memory()
    try:
        server.run(sockets=[listener])
    except (KeyboardInterrupt, Terminated):
        if server.ended_by is None:  # the server's own handlers were not installed
            raise
    if server.ended_by is not None:
        _end(app.state.service, interrupted=server.ended_by == signal.SIGINT, quiet=log.quiet)
    if failures:
        raise failures[0]


def _end(service: Service, *, interrupted: bool, quiet: bool) -> NoReturn:
    """Raise what the signal means; if a thread is stuck, end the process instead.

    The signal itself is not raised again: it may be ignored (``nohup``).
    """
    from mien.service.server import exit_now

    count = service.workers.running
    if count:
        message = "mien: interrupted" if interrupted else "" if quiet else "stopped"
        if service.recognizer is not None:
            images = "1 image" if count == 1 else f"{count} images"
            message = f"mien: stopped without {images} that took too long"
        exit_now(EXIT_INTERRUPTED if interrupted else EXIT_DONE, message)
    raise KeyboardInterrupt if interrupted else Terminated


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


# ---------------------------------------------------------------- one of several processes
def run_worker() -> NoReturn:
    """Run a process of ``mien serve --processes N``; its argument is the listener's descriptor."""
    from mien.cli.main import main
    from mien.service.server import report_ready, worker_settings

    settings: Settings = worker_settings()

    def run_until_signal(_: argparse.Namespace) -> int:
        with (
            suppress(Terminated),  # the parent reports the end
            raise_on_sigterm(),
            socket.socket(fileno=int(sys.argv[1])) as listener,
            settings.log.install(),
        ):
            serve(listener, settings, on_ready=report_ready)
        return EXIT_DONE

    def register_worker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        commands.add_parser("serve").set_defaults(run=run_until_signal)

    flags = [f"--{name}" for name in ("quiet", "debug") if getattr(settings.log, name)]
    sys.exit(main(["serve", *flags], registers=[register_worker]))


# ---------------------------------------------------------------- log
_LIBRARIES = ("uvicorn", "asyncio", "python_multipart")
_MODULES = ("app", "middleware", "server", "service", "stream", "video")
_LIMITED_LOGGERS = ("asyncio", "uvicorn.error", *(f"mien.service.{name}" for name in _MODULES))
_LINES_PER_MINUTE = 20


@dataclass(frozen=True)
class ServiceLog:
    """Log of the service on stderr.

    Attributes:
        output_format: one of `LOG_FORMATS`.
        quiet: write errors only, and the access log if there is one.
        debug: write the tracebacks of requests that fail.
        has_access_log: write a line for each request.
    """

    output_format: str = LOG_FORMATS[0]
    quiet: bool = False
    debug: bool = False
    has_access_log: bool = False

    def info(self, message: str) -> None:
        """Write a line unless `quiet`."""
        if not self.quiet:
            self.write(message, level="info", message=message.removeprefix("mien: "))

    def access(self, record: AccessRecord) -> None:
        """Write a line of the access log."""
        self.write(str(record), level="info", message="request", **record.to_dict())

    def write(self, text: str, **fields: Any) -> None:
        """Write a line: the text, or the fields and the time as JSON."""
        if self.output_format == "text":
            note(text, quiet=False)
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now.replace("+00:00", "Z"), **fields})
        with suppress(OSError, ValueError):  # stderr is closed
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def install(self) -> Iterator[None]:
        """Write what the service and its libraries log during the block, at a limited rate."""
        own = logging.getLogger("mien")
        with ExitStack() as stack:
            stack.callback(setattr, own, "handlers", own.handlers)
            own.handlers = [_LogHandler(self, logging.ERROR if self.quiet else logging.WARNING)]
            # Warnings of libraries are about mistakes of clients, and could fill the log.
            for name in _LIBRARIES:
                stack.enter_context(log_handler(name, _LogHandler(self, logging.ERROR)))
            for name in _LIMITED_LOGGERS:
                logger, rate_limit = logging.getLogger(name), _RateLimit()
                logger.addFilter(rate_limit)
                stack.callback(logger.removeFilter, rate_limit)
            yield


class _LogHandler(logging.Handler):
    """Handler that writes records to a `ServiceLog`, with their tracebacks in debug mode."""

    def __init__(self, log: ServiceLog, level: int) -> None:
        super().__init__(level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        message = record.getMessage()
        fields = {"level": record.levelname.lower(), "message": message, "logger": record.name}
        if hasattr(record, "request_id"):
            fields["request_id"] = record.request_id
        trace = ""
        if self._log.debug and record.exc_info and record.exc_info[1] is not None:
            trace = fields["trace"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._log.write(f"mien: {message}", **fields)
        if trace and self._log.output_format == "text":
            print(trace, end="", file=sys.stderr)


class _RateLimit(logging.Filter):
    """Filter that passes a number of lines per minute: an error may recur at every request."""

    def __init__(self) -> None:
        super().__init__()
        self._since = -math.inf
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if a record is to be written; the last one before a pause says so."""
        now = time.monotonic()
        if now - self._since >= 60:
            self._since, self._count = now, 0
        self._count += 1
        if self._count == _LINES_PER_MINUTE:
            record.msg = f"{record.getMessage()} (no more of this for a minute)"
            record.args = ()
        return self._count <= _LINES_PER_MINUTE
