"""What a test gets of a run of a command, as `mien predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def is_refusal(self, code: int, *said: str) -> None:
        """Assert that the command ended in one line on stderr, which says this, and no more."""
        assert (self.code, self.out) == (code, "")
        assert self.err.startswith("mien: ")
        assert self.err.count("\n") == 1
        for text in said:
            assert text in self.err


Mien = Callable[..., Outcome]
Predict = Callable[..., Outcome]
