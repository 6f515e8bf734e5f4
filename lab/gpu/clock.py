"""Two budgets of time: that of the whole kit, over all its pieces, and that of one piece."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mien.core.errors import InputError
from mien.core.files import write_atomically

_BEAT_SECONDS = 5.0


class Journal:
    """What the kit knows from piece to piece, in a file; and how long it has worked.

    Attributes:
        notes: JSON-ready values by name; call `save` after a change.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the journal, or begin one.

        Raises:
            InputError: if it is damaged.
        """
        self.path = path
        self.notes: dict[str, Any] = {}
        if path.is_file():
            try:
                self.notes = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is damaged: delete it to begin anew") from error
        self._clock = clock
        self._before = float(self.notes.get("spent", 0.0))
        self._began = clock()
        self._saved = self._began

    @property
    def spent(self) -> float:
        """Seconds of all pieces so far."""
        return self._before + self.in_piece

    @property
    def in_piece(self) -> float:
        """Seconds of this piece so far."""
        return self._clock() - self._began

    def beat(self) -> None:
        """Save now and then, so that a killed piece has its time counted, too."""
        if self._clock() - self._saved >= _BEAT_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the journal; raises OutputError."""
        self.notes["spent"] = round(self.spent, 1)
        text = json.dumps(self.notes, indent=2) + "\n"
        write_atomically(self.path, text.encode())
        self._saved = self._clock()
