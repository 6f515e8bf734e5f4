"""Where mien keeps what it can fetch again, and how a file is written whole or not at all."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    r"""Return mien's cache folder; it need not exist yet.

    It is the environment variable ``MIEN_HOME`` where that is set, else the platform's own:
    ``$XDG_CACHE_HOME/mien`` or ``~/.cache/mien``, ``~/Library/Caches/mien`` on macOS,
    ``%LOCALAPPDATA%\mien`` on Windows.
    """
    home = os.environ.get("MIEN_HOME")
    if home:
        return Path(home).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mien"
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / ".cache") / "mien"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it to ``path`` at the end.

    The folder is made where it is missing. If the block raises, the temporary file is removed and
    ``path`` stays as it was, so that nobody ever reads half a file.

    Raises:
        OSError: if the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
