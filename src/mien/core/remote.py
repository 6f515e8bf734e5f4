"""Images from the web: one http(s) address in, the bytes of one image out, nothing trusted.

What a server could do is bounded: how long it may take, how much it may send, where it may lead on
to, and what it may send at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from mien.core.errors import InputError
from mien.core.file_types import HEAD_BYTES, READABLE, image_kind
from mien.core.web_address import parse_web_address
from mien.core.web_client import REDIRECTS, Asking, Deadline, Reply, asked, in_a_line, status_text

MAX_BYTES = 20_000_000
"""Larger files are refused."""

_READ_BYTES = 65_536


@dataclass(frozen=True)
class Limits:
    """What a server may do.

    Attributes:
        max_bytes: a longer image is refused, as soon as that is known.
        timeout_s: seconds that all of it may take, redirects included.
        redirects: how often it may lead on.
    """

    max_bytes: int = MAX_BYTES
    timeout_s: float = 30.0
    redirects: int = REDIRECTS


def fetch_image(
    url: str, *, allow_private: bool = False, offline: bool = False, limits: Limits | None = None
) -> bytes:
    """Download an image.

    Args:
        url: http or https, with a login (``https://user:password@host/``) if need be; it is sent to
            that host alone.
        allow_private: allow hosts that are not on the open internet (private, loopback, ...).
        offline: refuse.
        limits: how long and how large; `Limits`' own unless given.

    Returns:
        The file's bytes, which begin as an image does; whether it is whole, decoding tells.

    Raises:
        InputError: if it cannot be had, or is not an image. No message holds a login.
    """
    bounds = limits or Limits()
    address = parse_web_address(url)
    if offline:
        raise InputError(f"{address.shown} is on the web and this is offline: give a file")
    late = f"no image within {bounds.timeout_s:g} seconds"
    deadline = Deadline(bounds.timeout_s)
    asking = Asking("image/*,*/*;q=0.1", late, allow_private, bounds.redirects)
    reply = asked(address, asking, deadline)
    try:
        _check_head(reply, bounds.max_bytes)
        with in_a_line(reply.address, late):
            return _body(reply, bounds.max_bytes)
    finally:
        reply.close()


def _check_head(reply: Reply, max_bytes: int) -> None:
    """Refuse what its headers tell to be no image of a size that is taken."""
    name, head = reply.address.shown, reply.head
    if head.status != HTTPStatus.OK:
        raise InputError(f"{name}: the server answered {status_text(head.status)}")
    kind = (head.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind.startswith(("text/", "video/", "audio/")) or kind == "application/json":
        raise InputError(f"{name} is {_plain(kind)}: expected an image")
    coding = (head.getheader("Content-Encoding") or "identity").lower()
    if coding != "identity":
        raise InputError(f"{name}: the server packs the image: expected it as it is")
    if head.length is not None and head.length > max_bytes:
        raise InputError(_too_large(name, max_bytes, f", got {head.length / 1e6:.1f}"))


def _body(reply: Reply, max_bytes: int) -> bytes:
    name, expected = reply.address.shown, reply.head.length
    content = bytearray()
    while piece := reply.head.read1(_READ_BYTES):
        content += piece
        if len(content) > max_bytes:
            raise InputError(_too_large(name, max_bytes))
        if len(content) >= 16 and image_kind(content[:HEAD_BYTES]) not in READABLE:
            break
    if not content:
        raise InputError(f"{name}: the server sent nothing")
    if image_kind(content[:HEAD_BYTES]) not in READABLE:
        raise InputError(f"{name} is not an image: its first bytes are of none")
    if expected is not None and len(content) < expected:
        raise InputError(f"{name} broke off after {len(content)} of {expected} bytes")
    return bytes(content)


def _plain(text: str) -> str:
    return "".join(each if each.isalnum() or each in "/+-." else "?" for each in text[:60])


def _too_large(name: str, max_bytes: int, got: str = "") -> str:
    return f"{name} is too large: expected at most {max_bytes / 1e6:g} MB{got}"
