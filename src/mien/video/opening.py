"""Opens videos: files, and addresses, which have to answer in time and may be asked.

FFmpeg makes the connections. For addresses of http(s) it is told to make only those that were
checked before (see docs/howto/addresses.md for what that protects from), unless ``allow_private``.
"""

from __future__ import annotations

import errno
import importlib
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from mien.core.errors import InputError, MissingExtra, UnreadableImage
from mien.core.web_address import is_web_address, shown_address

OPEN_TIMEOUT_S = 10.0
"""Seconds within which an address must turn out to be a video."""

READ_TIMEOUT_S = 10.0
"""Seconds without data after which a connection counts as lost."""

# One protocol alone: FFmpeg knows some that wrap another one ("cache:http://...").
_ADDRESS = re.compile(r"[a-z][a-z0-9]*://", re.IGNORECASE)
# Formats that hold their pictures themselves. Others (hls, dash, concat, sdp, ...) are lists of
# further addresses, which FFmpeg would open wherever they lie.
_FORMATS = (
    "asf,avi,flv,gif,h264,hevc,ivf,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,ogg,"
    "webm,wtv"
)
_HLS_START = b"#EXTM3U"
_LEADS_ON = (
    "a playlist, or of another kind that leads on to other files: "
    "--allow-private lets FFmpeg open them, wherever they lie"
)


def load_av(needed_for: str = "reading a video") -> Any:
    """Return PyAV, the module ``av``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingExtra("video", needed_for) from error


def opened(
    source: str | Path, *, options: dict[str, str] | None = None, allow_private: bool = False
) -> Any:
    """Open a PyAV container for reading; it is a context manager.

    Args:
        source: a file's path or an address.
        options: as ``av.open`` has them.
        allow_private: allow addresses of http(s), and what they lead on to, to be of hosts that are
            not on the open internet; playlists as well.

    Raises:
        InputError: if it cannot be opened.
        BarredAddress: if its host may not be asked.
    """
    av = load_av()
    name = shown_address(str(source))
    # Without its protocol, a file called "a:b.mp4" would be looked for under protocol "a".
    is_address = _ADDRESS.match(str(source)) is not None
    path = str(source) if is_address else f"file:{source}"
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if is_address else None
    patience = OPEN_TIMEOUT_S if is_address else math.inf
    is_held = is_web_address(path) and not allow_private
    if is_held:
        path, options = checked_web_video(path)
    began = time.monotonic()
    try:
        return av.open(path, timeout=timeout, options=options or {})
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        # Each protocol of FFmpeg has its own error for a timeout.
        if time.monotonic() - began >= patience:
            raise InputError(f"{name}: no video came within {patience:g} s") from error
        if is_held and getattr(error, "errno", None) == errno.EINVAL:
            raise InputError(f"{name}: {_LEADS_ON}") from error
        raise _cannot_open(name, error) from error


def opened_upload(file: IO[bytes], name: str) -> Any:
    """Open a PyAV container of a file that a stranger has sent; it is a context manager.

    What leads on to other files (playlists and the like) is none that is read.

    Args:
        file: open for reading, at its start.
        name: what errors call it.

    Raises:
        InputError: if it cannot be opened.
    """
    av = load_av()
    try:
        return av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": ""})
    except (av.error.FFmpegError, OSError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise UnreadableImage(f"{name}: not a video of a kind that is read here") from error
        raise _cannot_open(name, error) from error


def checked_web_video(url: str) -> tuple[str, dict[str, str]]:
    """Check the host of a video, and those that it redirects to.

    Returns:
        The address that the video has after all redirects, as FFmpeg is to ask for it, and the
        options that hold FFmpeg to it: no redirect, no other protocol, no playlist. Of http, the
        address is that of the IP address which was checked; of https, the certificate has to be
        that of the host.

    Raises:
        InputError: if it cannot be had, or may not be asked for.
    """
    # Imported here: they bring ssl and http with them.
    import ssl

    from mien.core.downloads import check_status, requested, resolve

    with requested(url, what="video", timeout_s=OPEN_TIMEOUT_S) as (address, response):
        check_status(address, response)
        if response.read(len(_HLS_START)) == _HLS_START:
            raise InputError(f"{address.shown}: {_LEADS_ON}")
    headers = "".join(f"{key}: {value}\r\n" for key, value in address.headers.items())
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "http,https,tcp,tls",
        "max_redirects": "0",
        "http_proxy": "",  # none, whatever the environment says
        "headers": headers,
        "user_agent": "mien",
    }
    if address.scheme == "http":
        address = replace(address, host=str(resolve(address, allow_private=False)[0]))
    else:
        options["tls_verify"] = "1"
        if authorities := ssl.get_default_verify_paths().cafile:
            options["ca_file"] = authorities
    return f"{address.scheme}://{address.netloc}{address.target}", options


def fell_silent(error: BaseException | None) -> bool:
    """Say whether reading timed out after `READ_TIMEOUT_S`."""
    return isinstance(error, load_av().error.ExitError)


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
