"""Which of a million names are done, in 16 bytes each: a set of strings takes ten times that."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

_DIGEST_BYTES = 16


def digest(source: str | None) -> bytes:
    """Return the 16 bytes, a hash, that stand for an image's name."""
    name = (source or "").encode("utf-8", "surrogatepass")
    found = hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()
    # NumPy drops NULs from the end of a string: one that had them would not be found again.
    return found[:-1] + bytes([found[-1] | 1])


def sorted_digests(digests: bytes) -> Any:
    """Return the digests of many names, one after the other, as a sorted array of them."""
    return np.sort(np.frombuffer(digests, f"S{_DIGEST_BYTES}"))


def holds(digests: Any, source: str | None) -> bool:
    """Return whether a name is one of those in an array that `sorted_digests` gave."""
    wanted = np.bytes_(digest(source))
    place = int(np.searchsorted(digests, wanted))
    return place < len(digests) and bool(digests[place] == wanted)
