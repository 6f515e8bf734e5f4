"""Computing all teachers' logits that a recipe needs ahead of its training, on another machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mien.core.errors import UsageError
from mien.training.backend import prepare_backend
from mien.training.batches import BatchSource
from mien.training.config import Config
from mien.training.distillation import Teaching
from mien.training.training_data import load_training_data
from mien.training.views import make_view


@dataclass(frozen=True)
class FilledCache:
    """What stands in a cache of teachers' logits for a recipe.

    Attributes:
        folder: the cache.
        teachers: their names.
        views: how many views the recipe shows.
        files: how many files that makes, one a teacher and view.
        computed: how many of them were computed now; the others stood there.
        size_bytes: of all of them.
    """

    folder: str
    teachers: tuple[str, ...]
    views: int
    files: int
    computed: int
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)


def fill_cache(config: Config, *, quiet: bool = False) -> FilledCache:
    """Compute the teachers' logits that are not in the recipe's cache yet.

    Each view's file is written as soon as it is computed, so that going on after a stop is calling
    this again. With the cache full, the recipe trains without the teachers.

    Raises:
        UsageError: if the recipe names no teachers, views or cache.
        ModelError: if a teacher is missing or damaged.
        InputError: if a file in the cache is damaged or of another teacher or other pixels.
        DataError: if the data are missing, empty or malformed.
        OutputError: if a file cannot be written.
    """
    settings = config.distill
    if not (settings.teachers and settings.cache):
        raise UsageError(
            "there are no teachers' logits to compute: expected a recipe with distill.teachers, "
            "distill.views and distill.cache"
        )
    data = load_training_data(config, quiet=quiet)
    prepare_backend(config.training)
    teaching = Teaching(config, data.train.images, quiet=quiet)
    examples = BatchSource(data.train, config, data.votes).examples()
    for view in teaching.views:
        teaching.of_view(view, make_view(examples, config, view).for_teachers)
    # Where some teachers are not here, theirs must be of one network each.
    teaching.identities()
    paths = teaching.cached_files()
    return FilledCache(
        folder=settings.cache,
        teachers=tuple(teacher.name for teacher in teaching.teachers),
        views=len(teaching.views),
        files=len(paths),
        computed=teaching.computed,
        size_bytes=sum(path.stat().st_size for path in paths),
    )
