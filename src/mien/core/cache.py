"""The one folder for downloads, and fetching a pinned file into it."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from mien.core.errors import ModelError
from mien.core.files import sha256_of, write_atomically

_TIMEOUT_SECONDS = 30


def cache_folder() -> Path:
    """Return the folder for downloads: ``MIEN_HOME``, else ``mien`` in the platform's cache folder.

    It is not made here.
    """
    home = os.environ.get("MIEN_HOME")
    if home:
        return Path(home).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "mien" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mien"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mien"


@dataclass(frozen=True)
class PinnedFile:
    """A file that may be downloaded: where from, and what it must be."""

    name: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """Return where it lies in the cache, whether or not it is there."""
        return cache_folder() / self.name


def verified(file: PinnedFile, path: Path) -> bytes:
    """Return the content of a copy of a pinned file.

    Raises:
        ModelError: if it cannot be read or is not that file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(f"cannot read {path}: {reason}; expected {file.name}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ModelError(
            f"{path} does not match its hash: expected SHA-256 {file.sha256}, got {found}; "
            "delete it and download it again"
        )
    return content


def fetch(file: PinnedFile, *, offline: bool = False) -> Path:
    """Return a pinned file's place in the cache, downloading it if it is not there yet.

    Args:
        file: what to fetch.
        offline: never use the network.

    Raises:
        ModelError: if it is not there and cannot be downloaded, or what was downloaded is not it.
        OutputError: if it cannot be written into the cache.
    """
    path = file.path
    if path.is_file() and sha256_of(path) == file.sha256:
        return path
    by_hand = f"download {file.url} to {path} by hand"
    if offline:
        if path.is_file():
            verified(file, path)
        raise ModelError(f"{file.name} is not in the cache and this is offline: {by_hand}")
    content = _download(file, by_hand)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise ModelError(
            f"{file.url} gave something else: expected SHA-256 {file.sha256} "
            f"({file.size_bytes} bytes), got {found} ({len(content)} bytes); nothing was kept"
        )
    write_atomically(path, content)
    return path


def _download(file: PinnedFile, by_hand: str) -> bytes:
    # Imported here: it brings the whole of http and ssl with it.
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(file.url, headers={"User-Agent": "mien"})
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
            # One byte more than expected is enough to see that it is something else.
            return bytes(reply.read(file.size_bytes + 1))
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"cannot download {file.name} ({reason}): {by_hand}") from error
