"""Opens videos: files and addresses, which have to answer in time."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, UnreadableImage
from mien.core.web_address import is_web_address, shown_address
from mien.video.extra import load_av
from mien.video.web_container import SilentVideo, web_opened

OPEN_TIMEOUT_S = 10.0
"""Seconds in which what an address leads to must show that it is a video."""

READ_TIMEOUT_S = 10.0
"""Seconds of silence after which what an address leads to counts as lost."""

# One protocol alone: FFmpeg knows some that wrap another one ("cache:http://...").
_ADDRESS = re.compile(r"[a-z][a-z0-9]*://", re.IGNORECASE)


@contextmanager
def opened(
    source: str | Path, *, options: dict[str, str] | None = None, allow_private: bool = False
) -> Iterator[Any]:
    """Open a container for reading.

    Args:
        source: a file's path or an address.
        options: as ``av.open`` has them; not for addresses of http(s) without ``allow_private``.
        allow_private: allow addresses of http(s), and what they lead on to, to be of hosts that are
            not on the open internet.

    Raises:
        InputError: if it cannot be opened.
    """
    av = load_av()
    where, name = str(source), shown_address(str(source))
    is_address = _ADDRESS.match(where) is not None
    patience = OPEN_TIMEOUT_S if is_address else math.inf
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if is_address else None
    # Without its protocol, a file called "a:b.mp4" would be looked for under protocol "a".
    path = where if is_address else f"file:{where}"
    began = time.monotonic()
    with ExitStack() as stack:
        try:
            if is_web_address(where) and not allow_private:
                held = web_opened(where, open_s=OPEN_TIMEOUT_S, read_s=READ_TIMEOUT_S)
            else:
                # Who vouches for the hosts gets FFmpeg's own client, which can do more than ours:
                # it keeps connections open and decrypts segments.
                held = av.open(path, timeout=timeout, options=options or {})
            container = stack.enter_context(held)
        except (av.error.FFmpegError, OSError, UnicodeError) as error:
            # FFmpeg has a word of its own for this in each protocol, few of which say it.
            if time.monotonic() - began >= patience:
                raise InputError(f"{name}: no video came within {patience:g} s") from error
            raise _cannot_open(name, error) from error
        yield container


def fell_silent(error: BaseException | None) -> bool:
    """Say whether reading was given up because nothing came for `READ_TIMEOUT_S`."""
    return isinstance(error, (load_av().error.ExitError, SilentVideo))


def reason_of(error: BaseException) -> str:
    """Return why the operating system or FFmpeg could not, in a few words."""
    if fell_silent(error):
        return f"nothing came for {READ_TIMEOUT_S:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _cannot_open(name: str, error: Exception) -> InputError:
    av = load_av()
    if isinstance(error, av.error.FileNotFoundError):
        return InputError(f"{name}: no such file")
    if isinstance(error, av.error.InvalidDataError):
        return UnreadableImage(f"{name}: not a video, or its header is cut off or damaged")
    if isinstance(error, av.error.EOFError):
        return UnreadableImage(f"{name}: ends before its first frame")
    return InputError(f"{name}: cannot be opened: {reason_of(error)}")
