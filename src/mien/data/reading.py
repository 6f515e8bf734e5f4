"""A data set from a folder, a zip or the challenge's CSV into memory, cached."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mien.core.errors import DataError, OutputError
from mien.core.faces import FACE_SIZE
from mien.core.files import expanded
from mien.core.progress import Progress
from mien.data import array_cache
from mien.data.csv_archive import holds_csv
from mien.data.csv_file import read_csv
from mien.data.dataset import SPLITS, Skipped, Split
from mien.data.decoding import decode_image
from mien.data.listing import Entry, list_entries
from mien.data.sources import LAYOUT_HINT, Source, open_source, source_state

_log = logging.getLogger(__name__)

ARRAYS_SUFFIX = ".npz"
"""Of a data set in one file, as `mien.data.array_cache.save` writes it."""


def load_split(source: Path | str, split: str, *, cache: bool = True, quiet: bool = False) -> Split:
    """Load one split of a data set; see `load_dataset`."""
    return load_dataset(source, splits=(split,), cache=cache, quiet=quiet)[split]


def load_dataset(
    source: Path | str,
    *,
    splits: Sequence[str] = SPLITS,
    cache: bool = True,
    quiet: bool = False,
) -> dict[str, Split]:
    """Load splits of a data set into memory, in the same order always (sorted by file).

    Files that cannot be used are skipped: each split names them, with the reason, and one warning
    is logged. Images of another size are resized to 48x48 and named in `Split.resized`.

    Args:
        source: a folder or zip with ``train|val|test/CLASS/IMAGE`` below any one top folder,
            Kaggle's (no ``val``: the ``PublicTest_*`` files of ``test`` are val; if names do not
            tell, a fixed stratified eighth of train is), the challenge's CSV, packed or not, or the
            faces of a fine-tuning run (``faces.npz``), which may have classes of its own.
        splits: which of "train", "val", "test" to return.
        cache: keep the arrays in mien's cache folder, and take them from there while the source's
            path, size and time (for a folder: those of all its files) are the same.
        quiet: draw no progress bar.

    Raises:
        DataError: if the source is none of these, a split has no usable image, or train lacks a
            class.
    """
    path = expanded(source)
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise DataError(f"unknown split {unknown[0]!r}: expected one of {', '.join(SPLITS)}")
    if path.suffix == ARRAYS_SUFFIX:
        loaded = array_cache.load(path)
    elif cache:
        loaded = _load_cached(path, splits, quiet)
    else:
        loaded = read_splits(path, quiet=quiet)
    lacking = [name for name in splits if name not in loaded]
    if lacking:
        raise DataError(f"{path} has no {lacking[0]}: expected one of {', '.join(loaded)}")
    chosen = {name: loaded[name] for name in splits}
    for split in chosen.values():
        _check_usable(split, path)
        _warn_of_skipped(split, path)
    return chosen


def read_splits(source: Path, *, quiet: bool = False) -> dict[str, Split]:
    """Read all splits, without cache or complaint: any of them may turn out empty.

    Raises:
        DataError: if the source is no data set.
    """
    if holds_csv(source):
        return read_csv(source, quiet=quiet)
    with open_source(source) as opened:
        listing = list_entries(opened.members())
        for text in listing.merged:
            _log.warning("%s: %s", source, text)
        skipped = {name: list(files) for name, files in listing.skipped.items()}
        skipped["train"] += opened.refused()
        if not listing.entries and not any(skipped.values()):
            raise DataError(f"no images in {source}: {LAYOUT_HINT}")
        with Progress(
            f"reading {source.name}", len(listing.entries), unit="img", quiet=quiet
        ) as progress:
            return {
                name: _read_split(
                    opened,
                    name,
                    [entry for entry in listing.entries if entry.split == name],
                    skipped[name],
                    progress,
                )
                for name in SPLITS
            }


def _read_split(
    source: Source,
    name: str,
    entries: Sequence[Entry],
    skipped: Sequence[Skipped],
    progress: Progress,
) -> Split:
    images = np.empty((len(entries), FACE_SIZE, FACE_SIZE), np.uint8)
    kept: list[Entry] = []
    resized: list[str] = []
    failed = list(skipped)
    for entry in entries:
        progress.advance()
        try:
            image, other_size = decode_image(source.read(entry.member))
        except DataError as error:
            failed.append(Skipped(entry.member, str(error)))
            continue
        images[len(kept)] = image
        kept.append(entry)
        if other_size is not None:
            resized.append(entry.file)
    labels = np.array([entry.label for entry in kept], np.int64)
    files = tuple(entry.file for entry in kept)
    return Split(name, images[: len(kept)], labels, files, tuple(failed), tuple(resized))


def _load_cached(path: Path, splits: Sequence[str], quiet: bool) -> dict[str, Split]:
    try:
        place = array_cache.cache_path(path, source_state(path))
    except OutputError as error:
        _log.warning("the data set is not cached: %s", error)
        return read_splits(path, quiet=quiet)
    found = array_cache.read(place, splits)
    if found is not None:
        return found
    loaded = read_splits(path, quiet=quiet)
    array_cache.write(place, loaded)
    return loaded


def _check_usable(split: Split, path: Path) -> None:
    """Raise if there is nothing to work with, and say what was skipped, since that is often why."""
    if len(split) == 0:
        raise DataError(f"{path} has no usable image for {split.name}{_first_skipped(split)}")
    missing = [emotion for emotion, count in split.class_counts().items() if count == 0]
    if not missing:
        return
    what = f"{path}: no usable image of {', '.join(missing)} in {split.name}"
    if split.name == "train":
        names = ", ".join(split.classes)
        raise DataError(f"{what} (expected all of {names}){_first_skipped(split)}")
    _log.warning(what)


def _first_skipped(split: Split) -> str:
    if not split.skipped:
        return f": {LAYOUT_HINT}"
    first = split.skipped[0]
    return f": {len(split.skipped)} files were skipped, the first: {first.file} {first.reason}"


def _warn_of_skipped(split: Split, path: Path) -> None:
    if split.skipped:
        first = split.skipped[0]
        _log.warning(
            "%s: %d files of %s skipped, the first: %s %s (`mien data audit` names all)",
            path, len(split.skipped), split.name, first.file, first.reason,
        )  # fmt: skip
    if split.resized:
        _log.warning(
            "%s: %d images of %s are not 48x48 and were resized, the first: %s",
            path, len(split.resized), split.name, split.resized[0],
        )  # fmt: skip
