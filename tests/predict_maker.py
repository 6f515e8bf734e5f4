"""Outcome of a command in a test: exit code, stdout and stderr."""

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

    def assert_error(self, code: int, *messages: str) -> None:
        """Assert that the command printed nothing but one line on stderr, with these parts."""
        assert (self.code, self.out) == (code, "")
        assert self.err.startswith("mien: ")
        assert self.err.count("\n") == 1
        for text in messages:
            assert text in self.err


Mien = Callable[..., Outcome]
Predict = Callable[..., Outcome]
