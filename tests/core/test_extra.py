"""Checks of optional dependencies."""

from __future__ import annotations

import pytest

from mien.core.errors import MissingExtra, needs_extra, require_extra


def test_missing_module_names_the_extra() -> None:
    require_extra("train", "json", "csv", needed_for="A report")
    with pytest.raises(MissingExtra, match=r"A report needs the extra \[train\]"):
        require_extra("train", "json", "no_such_module", needed_for="A report")
    with pytest.raises(MissingExtra, match=r"A report"), needs_extra("train", "A report"):
        import no_such_module  # type: ignore[import-not-found] # noqa: F401


def test_other_errors_are_not_converted() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("train", "A report"):
        raise ZeroDivisionError
