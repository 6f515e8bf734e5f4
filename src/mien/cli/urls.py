"""Images and videos that are given by their address on the web."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mien.batch.listing import Input
from mien.cli.options import number
from mien.core.errors import InputError
from mien.core.file_types import PLAYLIST_SUFFIXES, VIDEO_SUFFIXES
from mien.core.web_address import is_web_address, shown_address

__all__ = [
    "UrlReader",
    "add_url_options",
    "is_video_address",
    "is_web_address",
    "shown_address",
    "url_reader",
]

UrlReader = Callable[[str], Input]
"""What makes an `Input` of an address: its bytes, or the problem."""

_STREAM_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")
_LARGEST_MB = 1000


def add_url_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-private`` and ``--max-download``."""
    web = parser.add_argument_group("addresses")
    web.add_argument(
        "--allow-private",
        action="store_true",
        help="allow addresses of hosts that are not on the open internet (localhost, a LAN)",
    )
    web.add_argument(
        "--max-download",
        type=number(0, _LARGEST_MB, above=True),
        default=20,
        metavar="MB",
        help="refuse larger images from the web (%(default)s)",
    )


def url_reader(args: argparse.Namespace) -> UrlReader:
    """Return what downloads the images of http(s) addresses, each once.

    Args:
        args: with ``offline`` and what `add_url_options` adds.
    """
    max_bytes = round(args.max_download * 1e6)
    found: dict[str, Input] = {}
    # Inputs are gone through by two threads at times, one of which only counts.
    one_at_a_time = threading.Lock()

    def read(url: str) -> Input:
        with one_at_a_time:
            if url not in found:
                found[url] = _read(url, args.allow_private, args.offline, max_bytes)
            return found[url]

    return read


def is_video_address(word: str) -> bool:
    """Say whether a word is the address of a stream or, going by its suffix, of a video."""
    try:
        parts = urlsplit(word)
    except ValueError:
        return False
    if parts.scheme in _STREAM_SCHEMES:
        return True
    suffix = PurePosixPath(parts.path).suffix.lower()
    return parts.scheme in ("http", "https") and suffix in (*VIDEO_SUFFIXES, *PLAYLIST_SUFFIXES)


def _read(url: str, allow_private: bool, offline: bool, max_bytes: int) -> Input:
    # Imported here: it brings http and ssl with it.
    from mien.core.remote import Limits, fetch_image

    source = shown_address(url)
    limits = Limits(max_bytes=max_bytes)
    try:
        content = fetch_image(url, allow_private=allow_private, offline=offline, limits=limits)
    except InputError as error:
        text = str(error)
        return Input(source, problem=text if source in text else f"{source}: {text}")
    return Input(source, content=content)
