"""Loading the optional parts (Matplotlib, Seaborn, scikit-learn) only where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from mien.core.errors import MissingExtra


@contextmanager
def train_extra(needed_for: str) -> Iterator[None]:
    """Wrap imports of the extra [train]; ``needed_for`` names the feature, as "The report".

    Raises:
        MissingExtra: if what is imported inside is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra("train", needed_for) from error


def require_train_extra(*modules: str, needed_for: str) -> None:
    """Check that modules are installed, before work is done that would be lost without them.

    Raises:
        MissingExtra: if one is not.
    """
    if any(find_spec(module) is None for module in modules):
        raise MissingExtra("train", needed_for)
