"""Checks of arguments: each raises UsageError, in one line that says what was expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TypeGuard, cast

from mien.core.errors import UsageError, abbreviate


def invalid(what: str, expected: str, value: object) -> UsageError:
    """Return the error for an argument named ``what`` that is not as expected."""
    return UsageError(f"expected {what} as {expected}, got {abbreviate(repr(value))}")


def is_number(value: object) -> TypeGuard[float]:
    """Return True for a number, NumPy's included, but not for True and False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_integer(
    what: str, value: object, least: int, *, kind: type[int] | type[Integral] = Integral
) -> None:
    """Check an integer of ``least`` or more; ``kind=int`` refuses NumPy's, which JSON cannot."""
    if not isinstance(value, kind) or isinstance(value, bool) or value < least:
        raise invalid(what, f"an integer of {least} or more", value)


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Check that a value is one of some texts."""
    if not isinstance(value, str) or value not in choices:
        raise UsageError(
            f"expected {what}={', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, "
            f"got {abbreviate(repr(value))}"
        )


def check_type(what: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check a value's type; ``expected`` describes it, as in "a list of faces"."""
    if not isinstance(value, kind):
        raise invalid(what, expected, value)


def check_path(what: str, value: object) -> Path:
    """Return a path given as a text or path; an empty one would be the current folder."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise invalid(what, "a path", value)
    return Path(value)


def check_list(what: str, value: object, of: type | None = None, expected: str = "a list") -> None:
    """Check that a value can be iterated over, and is not a text or bytes.

    Args:
        what: name of the argument.
        value: its value; iterated over here if ``of`` is given.
        of: type of its elements; any if None.
        expected: describes the value.
    """
    # A class with only __getitem__, such as PyTorch's Dataset, is iterable, but no Iterable.
    iterable = isinstance(value, Iterable) or hasattr(type(value), "__getitem__")
    if not iterable or isinstance(value, str | bytes | bytearray):
        raise invalid(what, expected, value)
    if of is not None:
        for element in cast("Iterable[object]", value):
            check_type(what, element, of, expected)
