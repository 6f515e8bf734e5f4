"""Download FER-2013, and import it into ``train|val|test/CLASS/IMAGE``, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, MissingExtra, OutputError, UsageError, error_reason
from mien.core.files import claim_folder, expand_home, release_folder
from mien.core.process import stderr
from mien.data.dataset import SPLITS, Skipped
from mien.data.loading import first_skipped, open_images
from mien.data.sources import VAL_FRACTION, source_kind, split_of

KAGGLE_DATASET = "msambare/fer2013"

BY_HAND = (
    f"by hand: download archive.zip from https://www.kaggle.com/datasets/{KAGGLE_DATASET}, "
    "then run `mien data import archive.zip`"
)
"""How to get the data if the download fails."""

_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_STAGING = ".importing-"
_CLAIM = ".importing"
"""Lock folder of a running import; staged files without a lock are left over from a killed one."""


@dataclass(frozen=True)
class ImportSummary:
    """The outcome of an import.

    Attributes:
        output: the folder that the data set was written to.
        classes: number of images by split and emotion.
        skipped: files that could not be used, and why.
        resized: images that are not 48x48: copied unchanged, resized when they are loaded.
        val_from: origin of val: "folder", "names", "random", "usage" (of the CSV) or "none".
    """

    output: Path
    classes: Mapping[str, Mapping[str, int]]
    skipped: tuple[Skipped, ...]
    resized: tuple[str, ...]
    val_from: str

    @property
    def images(self) -> int:
        """Number of imported images."""
        return sum(sum(counts.values()) for counts in self.classes.values())


# ---------------------------------------------------------------- importing
def import_dataset(
    source: Path | str,
    output: Path | str,
    *,
    seed: int = 0,
    val_fraction: float = VAL_FRACTION,
    force: bool = False,
    quiet: bool = False,
) -> ImportSummary:
    """Import a data set into ``output/{train,val,test}/<class>/``.

    Images are copied byte for byte and keep their names; those of the CSV are written as PNG.
    Undecodable ones are skipped and listed. Everything is written to a hidden folder first and
    moved into place at the end, train last, so an interrupted import never looks like a complete
    data set. If an import is killed while it moves, the next one finishes it. Simultaneous imports
    into one folder are refused. Other files in ``output`` are left alone.

    Args:
        source: a folder, zip or CSV, see `mien.data.loading.load_dataset`.
        output: the folder to write to; created if missing.
        seed: seed of the random val split, for sources without val.
        val_fraction: share of each class of train (0-0.5) that the random val takes.
        force: replace existing ``train``, ``val`` and ``test`` folders.
        quiet: show no progress bar.

    Raises:
        DataError: if the source is not a data set, or train would lack a class.
        UsageError: if ``output`` holds a data set already, is or lies in the source, or is being
            imported into by another process.
        OutputError: if it cannot be written.
    """
    source, output = expand_home(source), expand_home(output)
    if not 0 <= val_fraction <= 0.5:
        raise UsageError(f"expected a val fraction from 0 to 0.5, got {val_fraction}")
    source_kind(source)  # raises DataError if it is no data set
    check_output(output, force=force)
    _check_overlap(source, output)
    with _locked(output), _staged(output) as staging:
        _check_free(output, force=force)  # again, because another import may just have ended
        summary = _write_images(source, staging, output, seed, val_fraction, quiet)
        _check_classes(source, summary)
        _swap(staging, output)
    return summary


def _check_overlap(source: Path, output: Path) -> None:
    """Raise UsageError if the import would replace what it reads, or write into it."""
    inputs = [source.resolve(), *((source / name).resolve() for name in SPLITS)]
    replaced = [(output / name).resolve() for name in SPLITS]
    replaces_input = any(
        path.exists() and path.is_relative_to(folder) for path in inputs for folder in replaced
    )
    if output.exists() and (output.samefile(source) or replaces_input):
        raise UsageError(f"{source} would be imported into itself: choose another --output")
    if not source.is_dir():
        return
    place, top = output.resolve(), source.resolve()
    is_in_split = place.is_relative_to(top) and any(map(split_of, place.relative_to(top).parts))
    linked = (folder.resolve() for folder in source.iterdir() if split_of(folder.name))
    if is_in_split or any(place.is_relative_to(split) for split in linked):
        raise UsageError(
            f"{output} is in a split of {source}, which is read: choose another --output"
        )


def check_output(output: Path, *, force: bool) -> None:
    """Finish an import into ``output`` that was killed, and check that a new one may begin.

    Raises:
        UsageError: if it is a file, holds a data set that may not be replaced, or is being imported
            into by another process.
        OutputError: if the files of a killed import cannot be moved.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: expected a folder for the data set")
    if any(output.glob(f"{_CLAIM}*")):
        with _locked(output):
            pass
    _check_free(output, force=force)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock ``output`` against other imports, after finishing a killed one."""
    created = not output.exists()
    lock = claim_folder(output / _CLAIM)
    try:
        _recover(output)
        yield
    finally:
        release_folder(output / _CLAIM, lock)
        if created:
            with contextlib.suppress(OSError):  # it is not empty
                output.rmdir()


def _check_free(output: Path, *, force: bool) -> None:
    if force:
        return
    for name in SPLITS:
        folder = output / name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{folder} already exists: choose another --output, or --force to replace it"
            )


@contextlib.contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """Yield a hidden folder inside ``output``, on its file system; it is removed at the end."""
    staging = output / f"{_STAGING}{uuid.uuid4().hex}"
    done = False
    try:
        for name in SPLITS:
            for emotion in EMOTIONS:
                (staging / "new" / name / emotion).mkdir(parents=True)
        yield staging
        done = True
    except OSError as error:
        raise _cannot_write(output, error) from error
    finally:
        # If the old splits could not be moved back, they stay there for the next import.
        if done or not (staging / "old").exists():
            shutil.rmtree(staging, ignore_errors=True)


def _write_images(
    source: Path, staging: Path, output: Path, seed: int, val_fraction: float, quiet: bool
) -> ImportSummary:
    classes = {name: dict.fromkeys(EMOTIONS, 0) for name in SPLITS}
    resized: list[str] = []
    options: dict[str, Any] = {"seed": seed, "val_fraction": val_fraction, "quiet": quiet}
    with open_images(source, "importing", **options) as (images, listing):
        unusable: dict[str, list[Skipped]] = {name: [] for name in SPLITS}
        for entry, content, result in images:
            if isinstance(result, Skipped):
                unusable[entry.split].append(result)
                continue
            face, other_size = result
            try:
                file = content or cv2.imencode(".png", face)[1].tobytes()
                (staging / "new" / entry.file).write_bytes(file)
            except OSError as error:
                if error.errno not in _NAME_ERRORS:
                    raise
                reason = "has a name that this system cannot write"
                unusable[entry.split].append(Skipped(entry.member, reason))
                continue
            classes[entry.split][EMOTIONS[entry.label]] += 1
            if other_size is not None:
                resized.append(entry.file)
    val_from = listing.val_from
    if val_from == "usage" and not any(classes["val"].values()):
        val_from = "none"
    groups = (listing.skipped, unusable)
    skipped = tuple(file for files in groups for name in SPLITS for file in files[name])
    return ImportSummary(output, classes, skipped, tuple(resized), val_from)


def _check_classes(source: Path, summary: ImportSummary) -> None:
    missing = [emotion for emotion, count in summary.classes["train"].items() if count == 0]
    if missing:
        raise DataError(
            f"{source} has no usable image of {', '.join(missing)} in train; "
            f"nothing was imported{first_skipped(summary.skipped)}"
        )


def _swap(staging: Path, output: Path) -> None:
    """Move the old splits out and the new ones in; undo that if it fails.

    The folder ``old`` marks that the new splits are complete and the swap has begun, so that
    `_recover` can finish it. Without train, ``output`` is not taken for a data set.
    """
    new, old = staging / "new", staging / "old"
    old.mkdir(exist_ok=True)
    try:
        _move(output, old, [name for name in SPLITS if os.path.lexists(new / name)])
        _move(new, output, SPLITS[::-1])  # train last
    except BaseException:
        _move(output, new, [name for name in SPLITS if not os.path.lexists(new / name)])
        _move(old, output, SPLITS[::-1])
        old.rmdir()
        raise


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if os.path.lexists(source / name):
            (source / name).rename(target / name)


def _recover(output: Path) -> None:
    """Finish the swap of a killed import if it had begun, and remove leftover files."""
    try:
        for stale in output.glob(f"{_STAGING}*"):
            if (stale / "old").is_dir():
                _swap(stale, output)
            shutil.rmtree(stale)
    except OSError as error:
        raise _cannot_write(output, error) from error


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write the data set to {output}: {error_reason(error)}")


# ---------------------------------------------------------------- downloading
def download_dataset() -> Path:
    """Download FER-2013 with kagglehub, into its own cache, and return the folder.

    Raises:
        MissingExtra: if kagglehub is not installed.
        DataError: if the download fails, as without a network or a credential.
    """
    try:
        # kagglehub may print, but stdout is reserved for results.
        with contextlib.redirect_stdout(stderr()):
            import kagglehub

            return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except ImportError as error:
        raise MissingExtra("train", f"downloading FER-2013 ({BY_HAND})") from error
    # kagglehub raises errors of requests, its own client and the file system, and fails to import
    # without a home folder.
    except Exception as error:
        raise DataError(
            f"cannot download FER-2013 ({_download_error(error)}); {BY_HAND}"
        ) from error


def _download_error(error: Exception) -> str:
    """Summarize an error in a few words: the libraries' messages have many lines."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if status in (401, 403) or "Unauthenticated" in kind or "Credential" in kind:
        return "Kaggle asks for a credential: see https://www.kaggle.com/docs/api"
    if status is not None:
        return f"Kaggle answered {status}"
    if any(word in kind for word in ("Connection", "Timeout", "Proxy", "SSL")):
        return "no connection to Kaggle"
    message = " ".join(str(error).split())
    return f"{kind}: {message[:160]}" if message else kind
