"""Optional parts are asked for by name."""

from __future__ import annotations

import pytest

from mien.core.errors import MissingExtra
from mien.evaluation.extra import require_train_extra, train_extra


def test_what_is_not_installed_names_the_extra() -> None:
    require_train_extra("json", "csv", needed_for="A report")
    with pytest.raises(MissingExtra, match=r"A report needs the extra \[train\]"):
        require_train_extra("json", "no_such_module", needed_for="A report")
    with pytest.raises(MissingExtra, match=r"A report"), train_extra("A report"):
        import no_such_module  # type: ignore[import-not-found] # noqa: F401


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), train_extra("A report"):
        raise ZeroDivisionError
