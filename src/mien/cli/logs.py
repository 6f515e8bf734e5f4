"""What the library logs, as the command line says it: one line on stderr, none when quiet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mien.cli.output import note


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        note(f"mien: {record.getMessage()}", quiet=False)


@contextmanager
def logs_as_notes(*, quiet: bool, name: str = "mien") -> Iterator[None]:
    """Show the library's warnings, or its errors alone, while a command runs.

    Args:
        quiet: errors alone.
        name: the logger's; another package's where a command uses it.
    """
    logger, notes = logging.getLogger(name), _Notes(logging.ERROR if quiet else logging.WARNING)
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)
