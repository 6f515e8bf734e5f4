"""FER-2013 from a folder, a zip or the challenge's CSV into memory, cached as arrays."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError, MienError, OutputError
from mien.core.faces import FACE_SIZE, standard_face
from mien.core.files import cache_folder, expanded
from mien.core.images import load_image
from mien.core.progress import Progress
from mien.data.csv_file import holds_csv, read_csv
from mien.data.dataset import ARRAYS_SUFFIX, SPLITS, Skipped, Split, load_splits, save_splits
from mien.data.sources import (
    LAYOUT_HINT,
    VAL_FRACTION,
    Entry,
    Listing,
    Source,
    list_entries,
    open_source,
    source_state,
)

_log = logging.getLogger(__name__)

_CACHE_FORMAT = "2"
"""To be raised when reading or the layout of the cache changes."""

_FACE_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x30\0\0\0\x30\x08\0\0\0\0"
"""How a PNG of 48x48 pixels, 8-bit grey, not interlaced, begins; a checksum follows."""

_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

_ENDS = ((b"\x89PNG", b"IEND\xaeB`\x82"), (b"\xff\xd8\xff", b"\xff\xd9"))
"""First bytes of a format, and bytes that every complete file contains."""


# ---------------------------------------------------------------- loading
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
    """Load splits of a data set into memory, sorted by file.

    Files that cannot be used are skipped: each split names them, with the reason, and one warning
    is logged. Images of another size are resized to 48x48 and named in `Split.resized`.

    Args:
        source: a folder or zip with ``train|val|test/CLASS/IMAGE`` below any one top folder,
            Kaggle's (no ``val``: the ``PublicTest_*`` files of ``test`` are val; if names do not
            tell, a fixed stratified eighth of train is), the challenge's CSV, packed or not, or the
            faces of a fine-tuning run (``faces.npz``), which may have classes of its own.
        splits: which of "train", "val", "test" to return.
        cache: keep the arrays in mien's cache folder, and take them from there while the source's
            path, sizes and times are the same.
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
        loaded = load_splits(path)
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


def _load_cached(path: Path, splits: Sequence[str], quiet: bool) -> dict[str, Split]:
    """Take the arrays from the cache, or read the source and cache it; trouble is logged."""
    state = source_state(path)
    where = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    what = hashlib.sha256(f"{_CACHE_FORMAT}\0{state}".encode()).hexdigest()[:16]
    place: Path | None = None
    try:
        place = cache_folder() / "datasets" / f"{where}-{what}.npz"
        if place.is_file():
            return load_splits(place, splits)
    except DataError as error:
        _log.warning("%s; done now, from %s", error, path)
    except OSError:
        pass  # in another user's folder: writing says so
    except OutputError as error:  # no cache folder
        _log.warning("the data set is not cached: %s", error)
    loaded = read_splits(path, quiet=quiet)
    if place is not None:
        try:
            save_splits(place, loaded)
            for stale in place.parent.glob(f"{where}-*.npz"):
                if stale != place:
                    stale.unlink(missing_ok=True)
        except (OutputError, OSError) as error:
            _log.warning("the data set is not cached: %s", error)
    return loaded


def _check_usable(split: Split, path: Path) -> None:
    if len(split) == 0:
        raise DataError(
            f"{path} has no usable image for {split.name}{first_skipped(split.skipped)}"
        )
    missing = [emotion for emotion, count in split.class_counts().items() if count == 0]
    if not missing:
        return
    what = f"{path}: no usable image of {', '.join(missing)} in {split.name}"
    if split.name == "train":
        names = ", ".join(split.classes)
        raise DataError(f"{what} (expected all of {names}){first_skipped(split.skipped)}")
    _log.warning(what)


def first_skipped(skipped: Sequence[Skipped]) -> str:
    """Return the end of an error that nothing is usable: what was skipped, or is expected."""
    if not skipped:
        return f": {LAYOUT_HINT}"
    return f": {len(skipped)} files were skipped, the first: {skipped[0]}"


def _warn_of_skipped(split: Split, path: Path) -> None:
    if split.skipped:
        _log.warning(
            "%s: %d files of %s skipped, the first: %s (`mien data audit` names all)",
            path, len(split.skipped), split.name, split.skipped[0],
        )  # fmt: skip
    if split.resized:
        _log.warning(
            "%s: %d images of %s are not 48x48 and were resized, the first: %s",
            path, len(split.resized), split.name, split.resized[0],
        )  # fmt: skip


# ---------------------------------------------------------------- reading
def read_splits(source: Path, *, quiet: bool = False) -> dict[str, Split]:
    """Read all splits, without cache or warnings: any of them may turn out empty.

    Raises:
        DataError: if the source is no data set.
    """
    if holds_csv(source):
        return read_csv(source, quiet=quiet)
    with open_listed(source) as (opened, listing):
        title = f"reading {source.name}"
        with Progress(title, len(listing.entries), unit="img", quiet=quiet) as progress:
            return {name: _read_split(opened, name, listing, progress) for name in SPLITS}


@contextmanager
def open_listed(
    source: Path, *, seed: int = 0, val_fraction: float = VAL_FRACTION
) -> Iterator[tuple[Source, Listing]]:
    """Open a folder or zip and list its images; what the source refuses is skipped with train.

    Raises:
        DataError: if the source is no data set, or holds no image at all.
    """
    with open_source(source) as opened:
        listing = list_entries(opened.members, seed=seed, val_fraction=val_fraction)
        for text in listing.merged:
            _log.warning("%s: %s", source, text)
        listing.skipped["train"] += tuple(opened.refused)
        if not listing.entries and not any(listing.skipped.values()):
            raise DataError(f"no images in {source}: {LAYOUT_HINT}")
        yield opened, listing


def _read_split(source: Source, name: str, listing: Listing, progress: Progress) -> Split:
    entries = [entry for entry in listing.entries if entry.split == name]
    images = np.empty((len(entries), FACE_SIZE, FACE_SIZE), np.uint8)
    kept: list[Entry] = []
    resized: list[str] = []
    skipped = list(listing.skipped[name])
    for entry in entries:
        progress.advance()
        try:
            images[len(kept)], other_size = decode_image(source.read(entry.member))
        except DataError as error:
            skipped.append(Skipped(entry.member, str(error)))
            continue
        kept.append(entry)
        if other_size is not None:
            resized.append(entry.file)
    labels = np.array([entry.label for entry in kept], np.int64)
    files = tuple(entry.file for entry in kept)
    return Split(name, images[: len(kept)], labels, files, tuple(skipped), tuple(resized))


# ---------------------------------------------------------------- decoding
def decode_image(data: bytes) -> tuple[npt.NDArray[np.uint8], str | None]:
    """Decode an image of a data set to the pixels that `mien predict` sees of it.

    Returns:
        The image, uint8 (48, 48) grey, and its size as ``96x128`` (width x height) if it had
        another one and was resized, else None.

    Raises:
        DataError: with the reason only ("is empty", ...), to be put after the file's name.
    """
    face = _plain_face(data)
    if face is not None:
        return face, None
    if not data:
        raise DataError("is empty")
    # In other formats, the decoder detects truncation.
    if any(data.startswith(start) and end not in data for start, end in _ENDS):
        raise DataError("is truncated")
    try:
        image = load_image(data)
    except MienError as error:  # of memory that does not suffice, too
        raise DataError(str(error).removeprefix("image ")) from error
    height, width = image.shape[:2]
    is_face = (height, width) == (FACE_SIZE, FACE_SIZE)
    return standard_face(image), None if is_face else f"{width}x{height}"


def crop_face(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the standard face of an image that is a face crop; raises as `decode_image`."""
    return decode_image(data)[0]


def _plain_face(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Decode FER-2013's own kind of file in a third of the time; None for any other.

    A whole PNG of 48x48 8-bit grey pixels that holds nothing else, no palette, transparency, gamma
    or orientation, means the same pixels to every decoder.
    """
    start = len(_FACE_PNG) + 4
    end = start + 8 + int.from_bytes(data[start : start + 4], "big")
    chunk = data[start + 4 : end]
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    if not (data.startswith(_FACE_PNG) and chunk.startswith(b"IDAT")):
        return None
    if data[end:] != checksum + _PNG_END:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if image is None else np.asarray(image, np.uint8)
