"""Loading the optional parts (Matplotlib, Seaborn, scikit-learn) only where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
