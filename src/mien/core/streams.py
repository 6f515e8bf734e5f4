"""The standard streams of a process that was started without some of them.

Python has None for a stream that is closed when it starts: ``>&-`` in a script, ``pythonw``, a
program of PyInstaller's without a console. What is written there is meant to be lost, no more.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast


class _Nowhere(io.TextIOBase):
    """A stream that loses what is written."""

    def write(self, text: str) -> int:
        """Take a text."""
        return len(text)


def stderr() -> TextIO:
    """Return the stream for messages; what is written is lost where there is none."""
    if sys.stderr is None or sys.stderr.closed:
        return cast(TextIO, _Nowhere())
    return sys.stderr


def open_closed_streams() -> None:
    """Have the null device for each standard stream that is closed; for a program at its start.

    The descriptors as well: the next file that is opened would get the number of one, and what
    native code prints would stand in it. Processes that are started inherit them.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere == number:  # the lowest number that is free
                os.set_inheritable(number, True)
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def stderr_without_native_lines() -> Iterator[None]:
    """Keep stderr for what Python says, and lose what C libraries write there; for a program.

    libtiff says what is damaged in a file on descriptor 2, in lines of its own, and Pillow has no
    way to stop it; OpenCV and others do likewise. To redirect the descriptor around each decoding
    would lose what other threads say meanwhile. So it is exchanged once, before there are threads:
    ``sys.stderr`` gets one of its own, and 2 becomes the null device, for processes that are
    started, too. A crash is still said, by `faulthandler`.

    Nothing is done where ``sys.stderr`` is not descriptor 2, as in a notebook or a test.
    """
    before = sys.stderr
    if before is not sys.__stderr__ or not isinstance(before, io.TextIOWrapper) or before.closed:
        yield
        return
    before.flush()
    kept = os.dup(2)
    own = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    says_crashes = not faulthandler.is_enabled()
    if says_crashes:
        faulthandler.enable(own)
    sys.stderr = own
    try:
        yield
    finally:
        sys.stderr = before
        if says_crashes:
            faulthandler.disable()
        try:
            own.flush()
        finally:
            os.dup2(kept, 2)
            own.close()
