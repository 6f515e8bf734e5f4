"""Downloading FER-2013, and laying it out as ``train|val|test/CLASS/IMAGE``, all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, MissingExtra, OutputError, UsageError, reason_of
from mien.core.files import claim_folder, expanded, release_folder
from mien.core.process import stderr
from mien.core.progress import Progress
from mien.data.csv_file import holds_csv, read_csv
from mien.data.dataset import SPLITS, Skipped
from mien.data.loading import decode_image, first_skipped, open_listed
from mien.data.sources import LAYOUT_HINT, VAL_FRACTION, split_of

KAGGLE_DATASET = "msambare/fer2013"

BY_HAND = (
    f"by hand: download archive.zip from https://www.kaggle.com/datasets/{KAGGLE_DATASET}, "
    "then run `mien data import archive.zip`"
)
"""The remedy where the download fails."""

_BAD_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_STAGING = ".importing-"
_CLAIM = ".importing"
"""The folder whose lock an import holds; without it, staged files are left over."""


@dataclass(frozen=True)
class ImportSummary:
    """The outcome of an import.

    Attributes:
        output: the folder that the data set was laid out in.
        classes: for each split, how many images each emotion has there.
        skipped: files that could not be used, and why.
        resized: images of another size than 48x48: copied as they are, resized when read.
        val_from: where val comes from: "folder", "names", "random", "usage" (of the CSV) or "none".
    """

    output: Path
    classes: Mapping[str, Mapping[str, int]]
    skipped: tuple[Skipped, ...]
    resized: tuple[str, ...]
    val_from: str

    @property
    def images(self) -> int:
        """Return how many images were laid out."""
        return sum(sum(counts.values()) for counts in self.classes.values())


def import_dataset(
    source: Path | str,
    output: Path | str,
    *,
    seed: int = 0,
    val_fraction: float = VAL_FRACTION,
    force: bool = False,
    quiet: bool = False,
) -> ImportSummary:
    """Lay a data set out in ``output/{train,val,test}/<class>/``.

    Images are copied byte for byte under their own names (the CSV's are written as PNG); those that
    cannot be decoded are skipped and named. All is written to a hidden folder and moved into place
    at the end, train last, so that what an interruption leaves is never taken for a whole data set;
    if an import is killed while it moves, the next one finishes that first. Two at once into one
    folder are refused. Other files in ``output`` are left alone.

    Args:
        source: a folder, zip or CSV, packed or not, see `mien.data.loading.load_dataset`.
        output: the folder to lay it out in; made where it is missing.
        seed: of the random val split, made only where neither folders nor names tell.
        val_fraction: share of each class of train (0-0.5) that it takes.
        force: replace the ``train``, ``val`` and ``test`` that are there.
        quiet: draw no progress bar.

    Raises:
        DataError: if the source is no data set, or train would lack a class.
        UsageError: if ``output`` holds a data set already, is what is read or lies in it, or
            another import into it is running.
        OutputError: if it cannot be written.
    """
    source, output = expanded(source), expanded(output)
    if not 0 <= val_fraction <= 0.5:
        raise UsageError(f"expected a val fraction from 0 to 0.5, got {val_fraction}")
    in_csv = holds_csv(source)
    check_output(output, force=force)
    if output.exists() and (output.samefile(source) or _would_replace_source(source, output)):
        raise UsageError(f"{source} would be imported into itself: choose another --output")
    if _lies_in_source(source, output):
        raise UsageError(
            f"{output} is in a split of {source}, which is read: choose another --output"
        )
    with _locked(output), _staged(output) as staging:
        _check_free(output, force=force)  # again, for one that has ended meanwhile
        if in_csv:
            summary = _stage_csv(source, staging, output, quiet)
        else:
            summary = _stage_files(source, staging, output, seed, val_fraction, quiet)
        _check_classes(source, summary)
        _swap(staging, output)
    return summary


def _would_replace_source(source: Path, output: Path) -> bool:
    """Return whether any folder read lies in one that is replaced, links resolved."""
    read = [source.resolve(), *((source / name).resolve() for name in SPLITS)]
    replaced = [(output / name).resolve() for name in SPLITS]
    return any(one.exists() and one.is_relative_to(part) for one in read for part in replaced)


def _lies_in_source(source: Path, output: Path) -> bool:
    """Return whether the output lies in a split of the source, where it would become a class."""
    if not source.is_dir():
        return False
    place, top = output.resolve(), source.resolve()
    if place.is_relative_to(top) and any(map(split_of, place.relative_to(top).parts)):
        return True
    splits = (folder.resolve() for folder in source.iterdir() if split_of(folder.name))
    return any(place.is_relative_to(split) for split in splits)


def check_output(output: Path, *, force: bool) -> None:
    """Finish what a killed import had begun in ``output``, and check that another may begin.

    Raises:
        UsageError: if it is a file, or holds a data set that may not be replaced, or another import
            into it is running.
        OutputError: if what a killed import left cannot be moved.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: expected a folder to lay the data set out in")
    if any(output.glob(f"{_CLAIM}*")):
        with _locked(output):
            pass
    _check_free(output, force=force)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock ``output`` against other imports, and finish what a killed one had begun."""
    made = not output.exists()
    lock = claim_folder(output / _CLAIM)
    try:
        _recover(output)
        yield
    finally:
        release_folder(output / _CLAIM, lock)
        if made:
            with contextlib.suppress(OSError):  # which it is where something came into it
                output.rmdir()


def _check_free(output: Path, *, force: bool) -> None:
    if force:
        return
    for name in SPLITS:
        folder = output / name
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{folder} is there already: choose another --output, or --force to replace it"
            )


@contextlib.contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """Give a hidden folder inside ``output``, on its file system; it is removed at the end."""
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
        # If not even the old splits can be moved back, they stay there for the next import.
        if done or not (staging / "old").exists():
            shutil.rmtree(staging, ignore_errors=True)


def _stage_files(
    source: Path, staging: Path, output: Path, seed: int, val_fraction: float, quiet: bool
) -> ImportSummary:
    classes = {name: dict.fromkeys(EMOTIONS, 0) for name in SPLITS}
    resized: list[str] = []
    with open_listed(source, seed=seed, val_fraction=val_fraction) as (opened, listing):
        skipped = [file for name in SPLITS for file in listing.skipped[name]]
        with Progress("importing", len(listing.entries), unit="img", quiet=quiet) as progress:
            for entry in listing.entries:
                progress.advance()
                try:
                    content = opened.read(entry.member)
                    _, other_size = decode_image(content)
                    (staging / "new" / entry.file).write_bytes(content)
                except DataError as error:
                    skipped.append(Skipped(entry.member, str(error)))
                    continue
                except OSError as error:
                    if error.errno not in _BAD_NAME:
                        raise
                    skipped.append(Skipped(entry.member, "has a name that no file here can have"))
                    continue
                classes[entry.split][EMOTIONS[entry.label]] += 1
                if other_size is not None:
                    resized.append(entry.file)
    return ImportSummary(output, classes, tuple(skipped), tuple(resized), listing.val_from)


def _stage_csv(source: Path, staging: Path, output: Path, quiet: bool) -> ImportSummary:
    splits = read_csv(source, quiet=quiet)
    total = sum(len(split) for split in splits.values())
    skipped = tuple(file for split in splits.values() for file in split.skipped)
    if total == 0 and not skipped:
        raise DataError(f"no images in {source}: {LAYOUT_HINT}")
    with Progress("importing", total, unit="img", quiet=quiet) as progress:
        for split in splits.values():
            for image, file in zip(split.images, split.files, strict=True):
                progress.advance()
                encoded = cv2.imencode(".png", image)[1]
                (staging / "new" / file).write_bytes(encoded.tobytes())
    classes = {name: split.class_counts() for name, split in splits.items()}
    return ImportSummary(output, classes, skipped, (), "usage" if len(splits["val"]) else "none")


def _check_classes(source: Path, summary: ImportSummary) -> None:
    missing = [emotion for emotion, count in summary.classes["train"].items() if count == 0]
    if missing:
        raise DataError(
            f"{source} has no usable image of {', '.join(missing)} in train; "
            f"nothing was imported{first_skipped(summary.skipped)}"
        )


def _swap(staging: Path, output: Path) -> None:
    """Move the old splits out and the new ones in, all or, where that fails, none.

    The folder ``old`` marks that the new splits are complete and the swap has begun: whoever finds
    it can finish it. Without train, nothing takes ``output`` for a data set.
    """
    new, old = staging / "new", staging / "old"
    old.mkdir(exist_ok=True)
    try:
        for name in SPLITS:
            if os.path.lexists(new / name) and os.path.lexists(output / name):
                (output / name).rename(old / name)
        for name in reversed(SPLITS):
            if os.path.lexists(new / name):
                (new / name).rename(output / name)
    except BaseException:
        _swap_back(staging, output)
        raise


def _swap_back(staging: Path, output: Path) -> None:
    new, old = staging / "new", staging / "old"
    for name in SPLITS:
        if not os.path.lexists(new / name):
            (output / name).rename(new / name)
    for name in reversed(SPLITS):
        if os.path.lexists(old / name):
            (old / name).rename(output / name)
    old.rmdir()


def _recover(output: Path) -> None:
    """Remove what killed imports left in ``output``, after finishing a swap that had begun."""
    try:
        for stale in output.glob(f"{_STAGING}*"):
            if (stale / "old").is_dir():
                _swap(stale, output)
            shutil.rmtree(stale)
    except OSError as error:
        raise _cannot_write(output, error) from error


def _cannot_write(output: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write the data set to {output}: {reason_of(error)}")


# ---------------------------------------------------------------- downloading
def download_dataset() -> Path:
    """Download FER-2013 with kagglehub, into its own cache, and return the folder.

    Raises:
        MissingExtra: without kagglehub.
        DataError: if it cannot be had: no network, no credential, or kagglehub says otherwise.
    """
    try:
        # kagglehub may print; stdout is for data alone.
        with contextlib.redirect_stdout(stderr()):
            import kagglehub

            return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except ImportError as error:
        raise MissingExtra("train", f"downloading FER-2013 ({BY_HAND})") from error
    # kagglehub raises errors of requests, its own client and the file system, and when it is
    # imported without a home folder.
    except Exception as error:
        raise DataError(f"cannot download FER-2013 ({_reason(error)}); {BY_HAND}") from error


def _reason(error: Exception) -> str:
    """Return why in a few words: the libraries' own messages run over many lines."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if status in (401, 403) or "Unauthenticated" in kind or "Credential" in kind:
        return "Kaggle asks for a credential: see https://www.kaggle.com/docs/api"
    if status is not None:
        return f"Kaggle answered {status}"
    if any(word in kind for word in ("Connection", "Timeout", "Proxy", "SSL")):
        return "no connection to Kaggle"
    words = " ".join(str(error).split())
    return f"{kind}: {words[:160]}" if words else kind
