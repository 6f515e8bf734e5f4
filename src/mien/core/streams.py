"""The standard streams of a process that was started without some of them.

Python has None for a stream that is closed when it starts: ``>&-`` in a script, ``pythonw``, a
program of PyInstaller's without a console. What is written there is meant to be lost, no more.
"""

from __future__ import annotations

import io
import os
import sys
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
