"""Which images a file of results is of, what it counts, and its checksum.

Of a million names 16 bytes each are kept: a set of strings takes ten times that. A file of them
has a line that says what it is, lines of digests, and one of everything else with a checksum over
all: one that was cut short or changed is told from a whole one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.batch.tally import Tally
from mien.core.files import sha256_of

_MAGIC = b"mien batch 1\n"
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Index:
    """What is known of a file of results.

    Attributes:
        tally: counts of its results.
        digests: of its images' names, one after the other; see `digest`.
        size: the file's, in bytes.
        sha256: the file's.
        run: what the run is of that made it; empty for a part of one.
    """

    tally: Tally
    digests: bytes
    size: int
    sha256: str
    run: Mapping[str, Any]

    def matches(self, file: Path) -> bool:
        """Say whether a file is there and is the one that this was written of."""
        try:
            return file.stat().st_size == self.size and sha256_of(file) == self.sha256
        except OSError:
            return False


def write_index(
    path: Path,
    file: Path,
    tally: Tally,
    digests: Iterable[bytes],
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write the index of a file of results; raises OSError as `open` does.

    Args:
        path: the index.
        file: the results, as they are on disk.
        tally: their counts.
        digests: of their images' names, in pieces of any length.
        run: what the run is of.
    """
    rest = {
        "size": file.stat().st_size,
        "sha256": sha256_of(file),
        "run": dict(run or {}),
        **tally.to_dict(),
    }
    check = hashlib.sha256()
    with path.open("wb") as index:
        index.write(_MAGIC)
        for piece in digests:
            check.update(piece)
            index.write(base64.b64encode(piece) + b"\n")
        # ASCII alone: names that are not UTF-8 come back as they were.
        text = json.dumps(rest)
        check.update(text.encode("ascii"))
        index.write(json.dumps({"rest": text, "check": check.hexdigest()}).encode("ascii"))


def read_index(path: Path) -> Index:
    """Read an index.

    Raises:
        OSError: as `open` does.
        ValueError: if it is none, or damaged.
    """
    digests = bytearray()
    try:
        with path.open("rb") as index:
            if index.readline() != _MAGIC:
                raise ValueError("it is not an index of results")
            while not (line := index.readline()).startswith(b"{"):
                if not line:
                    raise ValueError("it is cut short")
                digests += base64.b64decode(line, validate=False)
        last = json.loads(line)
        check = hashlib.sha256(digests + last["rest"].encode("ascii"))
        if check.hexdigest() != last["check"]:
            raise ValueError("it has been changed")
        rest = json.loads(last["rest"])
        tally = Tally.from_dict(rest)
        return Index(tally, bytes(digests), rest["size"], rest["sha256"], rest["run"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it has been changed: {error}") from error


def is_index(path: Path) -> bool:
    """Say whether a file may be overwritten by an index: it is one, damaged or not, or empty."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (_MAGIC, b"")


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
