"""Playlists (HLS) that strangers wrote: read whole, and every address in them looked at."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

from mien.core.errors import InputError
from mien.core.web_address import BarredAddress, WebAddress

START = b"#EXTM3U"
"""What a playlist begins with."""

MAX_BYTES = 5_000_000
"""Longer ones are refused: a day of segments of two seconds takes less."""

_LINES = re.compile(r"\r\n|[\r\n\0]")
_WITHIN_TAG = re.compile(r'URI="([^"]*)"')
_PACKED = re.compile(r"#EXT-X-KEY:.*METHOD=AES-128\b")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)


def checked_playlist(content: bytes, address: WebAddress) -> bytes:
    """Return a playlist whose entries are addresses of http(s), each in full.

    In full, since FFmpeg is not told of redirects: it would start from where it asked first.

    Args:
        content: the playlist.
        address: where it came from, after all redirects.

    Raises:
        InputError: if it is damaged, or encrypted in a way that takes FFmpeg's own connections.
        BarredAddress: if an entry is of another protocol (``file:``, ``rtsp:``, ...).
    """
    try:
        lines = _LINES.split(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{address.shown}: not a playlist: expected UTF-8") from error
    if any(_PACKED.match(line) for line in lines):
        raise InputError(
            f"{address.shown}: its segments are encrypted (AES-128): --allow-private lets FFmpeg "
            "open and decrypt them, wherever they lie"
        )
    return "\n".join(_checked_line(line, address) for line in lines).encode()


def _checked_line(line: str, address: WebAddress) -> str:
    if line.startswith("#EXT"):
        return _WITHIN_TAG.sub(lambda found: f'URI="{_entry(found[1], address)}"', line)
    entry = line.strip()
    return line if not entry or entry.startswith("#") else _entry(entry, address)


def _entry(entry: str, address: WebAddress) -> str:
    try:
        found = urljoin(address.full, entry)
        scheme = urlsplit(found).scheme
    except ValueError as error:
        raise InputError(f"{address.shown}: an entry of the playlist is no address") from error
    if scheme not in ("http", "https"):
        raise barred_protocol(address.shown, entry)
    return found


def barred_protocol(name: str, entry: str) -> BarredAddress:
    """Return what says that an entry of a playlist is of a protocol that is not followed.

    Args:
        name: whose playlist, as it may be shown.
        entry: the entry; its protocol alone is repeated.
    """
    found = _SCHEME.match(entry)
    scheme = found[0][:20].lower() if found else "something"
    return BarredAddress(f"{name}: its playlist names {scheme}: expected http or https alone")
