"""``mien serve``: the HTTP service."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mien.cli.options import (
    add_command,
    add_face_options,
    add_recognizer_options,
    integer,
    number,
    recognizer_options,
)
from mien.cli.serve_log import FORMS, ServiceLog
from mien.cli.signals import Terminated, raise_on_sigterm
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from mien.core.process import usable_cores

if TYPE_CHECKING:
    import socket

    from mien.batch.inputs import RecognizerOptions
    from mien.inference.recognizer import Recognizer
    from mien.service.access import Access
    from mien.service.limits import Limits
    from mien.service.service import Service

PORT = 8000
"""Where nothing else is said."""

_DETAILS = """\
POST an image to /v1/analyze: as the field "image" of a form, or as the body with an image's type.
The answer is the JSON of mien predict; /v1/stream takes live frames over a WebSocket, /v1/video
videos. /docs describes all there is. Whoever reaches the port may ask, unless there are tokens.
Unless --threads is given, the network has a worker's share of the cores.
SIGTERM and Ctrl-C let requests in flight end first. MIEN_TOKENS holds tokens, too, with blanks
between them, or MIEN_TOKEN one.
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
            "mien serve --token-file tokens.txt --cors-origin https://example.org",
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
        type=integer(0, 65535),
        default=PORT,
        metavar="N",
        help="0 for any free one (default: %(default)s)",
    )
    add_recognizer_options(parser, crops="where each image is a face crop")
    add_face_options(parser)
    _add_limits(parser)
    _add_access(parser)
    add = parser.add_argument_group("running").add_argument
    add(
        "--processes",
        type=integer(1, 256),
        default=1,
        metavar="N",
        help="that share the port, each with a model (default: %(default)s)",
    )
    add("--access-log", action="store_true", help="a line on stderr for each request")
    add(
        "--log-format",
        choices=FORMS,
        default=FORMS[0],
        help="of the lines on stderr (default: %(default)s)",
    )


_SECONDS = number(0, 1e6, above=True)
_LIMITS: Sequence[tuple[str, Callable[[str], Any], Any, str, str]] = (
    ("--max-bytes", integer(), 20_000_000, "N", "refuse images of more bytes"),
    (
        *("--max-megapixels", number(0, 150, above=True), 50, "N"),
        "refuse images, and videos with frames, of more pixels, at most 150",
    ),
    ("--workers", integer(), None, "N", "images that are analyzed at the same time"),
    (
        *("--max-waiting", integer(), 32, "N"),
        "images that may arrive or wait beside those, before one is refused",
    ),
    ("--upload-timeout", _SECONDS, 30, "S", "refuse images that take longer to arrive, in seconds"),
    ("--analysis-timeout", _SECONDS, 60, "S", "give up images that take longer, in seconds"),
    (
        "--max-connections",
        integer(),
        1000,
        "N",
        "open at the same time; one more ends the longest idle",
    ),
    ("--max-streams", integer(), 16, "N", "streams of live frames at the same time"),
    ("--stream-timeout", _SECONDS, 60, "S", "end streams without a frame for so long, in seconds"),
    ("--max-videos", integer(), 1, "N", "videos that arrive or are read at the same time"),
    ("--max-video-bytes", integer(), 200_000_000, "N", "refuse videos of more bytes"),
    (
        *("--video-timeout", _SECONDS, 600, "S"),
        "give up videos that take longer, upload included, in seconds",
    ),
)
"""Option, type, default, what stands for its value, and help."""


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits")
    for option, kind, default, metavar, text in _LIMITS:
        said = "one a core, at most 4" if default is None else "%(default)s"
        help_text = f"{text} (default: {said})"
        limits.add_argument(option, type=kind, default=default, metavar=metavar, help=help_text)


def _add_access(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who may ask").add_argument
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="answer those alone who send a bearer token of this file, one a line",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="let pages of this origin read answers, as https://example.org; may be repeated",
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
    log = ServiceLog(args.log_format, args.quiet, args.debug, args.access_log)
    try:
        with raise_on_sigterm():
            return _listen_and_serve(args, log, on_listening or (lambda _: None))
    except Terminated:
        log.say("ended")
    return EXIT_DONE


@dataclass(frozen=True)
class Settings:
    """All that a process of the service has to know; can be pickled."""

    options: RecognizerOptions
    limits: Limits
    access: Access
    log: ServiceLog


def _listen_and_serve(
    args: argparse.Namespace, log: ServiceLog, on_listening: Callable[[str], None]
) -> int:
    from mien.service.page_files import NO_RUNTIME, Folders
    from mien.service.processes import check_count, supervise
    from mien.service.server import host_and_port, listen, raise_file_limit

    check_count(args.processes)
    limits = _limits(args)
    limits = replace(limits, max_connections=raise_file_limit(limits.max_connections))
    options = recognizer_options(args)
    if options.threads is None:
        options = replace(options, threads=network_threads(limits.workers, args.processes))
    settings = Settings(options, limits, _access(args), log)
    with listen(args.host, args.port) as port, log.catching():
        address = host_and_port(args.host, port.getsockname()[1])
        log.say(f"listening on http://{address} (Ctrl-C ends it)")
        if not _is_loopback(port) and not settings.access.digests:
            text = "others can reach this address, and there is no authentication"
            log.say(f"mien: {text}: use --token-file, or a proxy that has one")
        if not Folders.found().has_runtime:
            log.say(f"mien: {NO_RUNTIME}")
        on_listening(address)
        if args.processes == 1:
            serve(port, settings)
            return EXIT_DONE
        settings = replace(settings, options=settings.options.absolute())
        module = "mien.cli.serve_process"
        return supervise(module, settings, port.fileno(), args.processes, log.say)


def network_threads(workers: int, processes: int) -> int:
    """Return how many threads the network may use beside workers that keep the cores busy."""
    return max(1, usable_cores() // (workers * processes))


def _limits(args: argparse.Namespace) -> Limits:
    from mien.service.limits import Limits, default_workers

    return Limits(
        max_bytes=args.max_bytes,
        max_pixels=max(1, round(args.max_megapixels * 1e6)),
        workers=default_workers() if args.workers is None else args.workers,
        max_waiting=args.max_waiting,
        upload_seconds=args.upload_timeout,
        analysis_seconds=args.analysis_timeout,
        max_connections=args.max_connections,
        max_streams=args.max_streams,
        stream_seconds=args.stream_timeout,
        max_videos=args.max_videos,
        max_video_bytes=args.max_video_bytes,
        video_seconds=args.video_timeout,
    )


def _access(args: argparse.Namespace) -> Access:
    """Return who may ask; raises InputError for a file that is missing or has no token."""
    from mien.service.access import Access, tokens_in

    tokens = os.environ.get("MIEN_TOKENS", "").replace(",", " ").split()
    tokens += os.environ.get("MIEN_TOKEN", "").split()
    if args.token_file is not None:
        try:
            found = tokens_in(args.token_file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise InputError(f"--token-file {args.token_file}: cannot be read: {reason}") from error
        if not found:  # else everybody might ask, against what was meant
            raise InputError(f"--token-file {args.token_file}: expected a token a line, found none")
        tokens += found
    return Access.of(tokens, args.cors_origin)


def serve(
    port: socket.socket, settings: Settings, *, on_ready: Callable[[], None] | None = None
) -> None:
    """Serve until a signal, which is raised anew, or until the model turns out not to load.

    Args:
        port: listens.
        settings: of the service.
        on_ready: called once the model is loaded and warm.
    """
    from mien.service.app import create_app
    from mien.service.server import make_server, return_freed_memory

    failures: list[Exception] = []
    limits, log = settings.limits, settings.log

    def ready(recognizer: Recognizer) -> None:
        model, detector = recognizer.model, recognizer.detector.name
        who = "" if on_ready is None else f", process {os.getpid()}"
        log.say(f"ready: {model.name} {model.version}, {detector}, {limits.workers} at a time{who}")
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
        on_request=log.request if log.requests else None,
    )
    server = make_server(app, limits.max_connections)
    return_freed_memory()
    try:
        server.run(sockets=[port])
    except (KeyboardInterrupt, Terminated):
        if server.ended_by is None:  # it was not listening to signals yet, or any more
            raise
    if server.ended_by is not None:
        _end(app.state.service, interrupted=server.ended_by == signal.SIGINT, quiet=log.quiet)
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


def _is_loopback(port: socket.socket) -> bool:
    return ipaddress.ip_address(port.getsockname()[0].partition("%")[0]).is_loopback
