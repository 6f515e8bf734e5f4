"""Files fetched from the web: pinned by their hash, kept in the cache folder."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mien.core.errors import ModelError, OutputError
from mien.core.files import CACHE_HINT, cache_folder, obstacle, sha256_of, write_atomically

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class PinnedFile:
    """A file that may be downloaded: where from, and what it must be."""

    name: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def path(self) -> Path:
        """Return where it lies in the cache, whether or not it is there; raises OutputError."""
        return cache_folder() / self.name

    def is_cached(self) -> bool:
        """Say whether it is there to be read; no cache, or one that is another user's, has none."""
        try:
            path = self.path
        except OutputError:
            return False
        # pathlib's raises PermissionError where a folder on the way cannot be looked into.
        return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113


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
    with suppress(OSError):  # missing, or not to be read
        if sha256_of(path) == file.sha256:
            return path
    trouble = obstacle(path.parent)
    by_hand = f"download {file.url} to {path} by hand"
    if trouble:
        by_hand = f"{trouble}: {CACHE_HINT}, and download {file.url} into it"
    if offline:
        if file.is_cached():
            verified(file, path)
        raise ModelError(f"{file.name} is not in the cache and this is offline: {by_hand}")
    if trouble:
        raise OutputError(f"{file.name} cannot be kept, {trouble}: {CACHE_HINT}")
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
