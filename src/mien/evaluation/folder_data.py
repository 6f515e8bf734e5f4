"""What ``mien evaluate --data`` measures on: a data set, or any folder of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import find_emotion
from mien.core.errors import DataError, UsageError
from mien.core.files import expanded
from mien.data.class_folder import (
    WHOLE,
    FaceOf,
    fit_labels,
    list_class_folder,
    named_classes,
    read_class_folder,
)
from mien.data.csv_file import holds_csv
from mien.data.dataset import Split
from mien.data.loading import crop_face, load_split
from mien.data.sources import FolderSource, is_leftover, source_kind, split_of
from mien.data.trained_on import TrainedOn, seen_masks
from mien.evaluation.evaluating import clean_images
from mien.inference.classifier import Classifier

_ORDER = ("test", "val", "train")
"""Which split is taken where none is asked for: the first that has images."""


@dataclass(frozen=True)
class Scored:
    """Images with a model's labels.

    Attributes:
        split: the images; its classes are the model's.
        clean: which have no pixel-identical copy in Training, (N,); None where unknown.
        left_out: how many images there are of each class that the model lacks.
        notes: what the user should know, a line each.
        trained: how many images were left out since the model was trained on them.
    """

    split: Split
    clean: npt.NDArray[np.bool_] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trained: int = 0


def meanings_in(classifier: Classifier) -> dict[str, list[str]]:
    """Return of which classes a fine-tuned model's labels were made; empty for another model."""
    classes: Any = classifier.manifest.data.get("classes")
    if not isinstance(classes, Mapping):
        return {}
    return {
        str(label): [str(name) for name in names]
        for label, names in classes.items()
        if isinstance(names, list)
    }


def load_scored(
    classifier: Classifier,
    source: Path | str,
    *,
    split: str | None = None,
    mapping: Mapping[str, str] | None = None,
    face_of: FaceOf | None = None,
    trained_on: TrainedOn | None = None,
    include_trained: bool = False,
    quiet: bool = False,
) -> Scored:
    """Load what a model is measured on.

    Args:
        classifier: the model.
        source: a data set as `mien.data.loading.load_dataset` takes it, or a folder of class
            folders with any names, with or without ``train|val|test``.
        split: "train", "val" or "test"; unless given, the first of test, val and train that is
            there.
        mapping: what classes become, see `mien.data.class_folder.parse_map`; folders only.
        face_of: how a file becomes a face; files are face crops unless given. Folders only.
        trained_on: what the model was trained on, which is left out.
        include_trained: take it in; the others are then the ``clean`` ones.
        quiet: draw no progress bar.

    Raises:
        DataError: if there is no data, no class that the model knows, or nothing that it was not
            trained on.
        UsageError: if the split is not there, or the mapping names what is not there.
    """
    path = expanded(source)
    plain = mapping is None and face_of is None
    if source_kind(path) != "folder" and not plain:
        raise UsageError(f"--map and --detector are for a folder of images, not for {path}")
    if plain and (source_kind(path) != "folder" or _is_data_set(path)):
        scored = _standard(classifier, path, split or "test", quiet)
        return _held_out(scored, None, trained_on, include_trained)
    listed = list_class_folder(path)
    chosen = _chosen_split(listed.splits, split, path)
    named = named_classes(listed.classes, mapping or {})
    loaded = read_class_folder(
        listed, splits=[chosen], classes=named, face_of=face_of or crop_face, quiet=quiet
    )[chosen]
    fitted, left_out = fit_labels(loaded, classifier.labels, meanings_in(classifier))
    notes = list(listed.notes)
    notes += [f"skipped {one.file}: {one.reason}" for one in (*listed.skipped, *loaded.skipped)]
    notes += _left_out_note(left_out)
    if split is None and chosen not in (WHOLE, "test"):
        notes.append(f"{path} has no test: measured on {chosen}")
    scored = Scored(fitted, None, left_out, tuple(notes))
    return _held_out(scored, path, trained_on, include_trained)


def _held_out(
    scored: Scored, folder: Path | None, trained_on: TrainedOn | None, include: bool
) -> Scored:
    """Leave out what the model was trained on, or mark the others; say how many there are."""
    if trained_on is None:
        return scored
    split = scored.split
    trained, chosen = seen_masks(split, trained_on, folder)
    count = int(trained.sum())
    said = f"the model was trained on {count:,} of the {len(split):,} images"
    if include:
        both = ~trained if scored.clean is None else scored.clean & ~trained
        said += ": the clean ones are the others" if 0 < count < len(split) else ""
        return replace(scored, clean=both, notes=(*scored.notes, said))
    if count == len(split):
        raise DataError(
            f"{said}, and figures on these prove nothing: give others, or --include-trained"
        )
    said += ", which are left out (--include-trained takes them in)" if count else ""
    if chosen.any():
        said += (
            f"; its best epoch was chosen on {int(chosen.sum()):,} of the "
            f"{len(split) - count:,} that are measured: expect a little less of other images"
        )
    clean = None if scored.clean is None else scored.clean[~trained]
    kept = split.take(~trained)
    return replace(scored, split=kept, clean=clean, notes=(*scored.notes, said), trained=count)


def _standard(classifier: Classifier, path: Path, name: str, quiet: bool) -> Scored:
    """Load a split of a data set in the layout of FER-2013, with its clean images."""
    split = load_split(path, name, quiet=quiet)
    notes: list[str] = []
    clean = None
    try:
        clean = clean_images(split, path, quiet=quiet)
    except DataError as error:
        notes.append(f"no figures on clean images: {error}")
    fitted, left_out = fit_labels(split, classifier.labels, meanings_in(classifier))
    if clean is not None and left_out:
        kept = {name for name, count in split.class_counts().items() if name not in left_out}
        clean = clean[[split.classes[label] in kept for label in split.labels]]
    return Scored(fitted, clean, left_out, (*notes, *_left_out_note(left_out)))


def _is_data_set(folder: Path) -> bool:
    """Say whether a folder is FER-2013's: splits with the seven emotions in them, or its CSV."""
    if holds_csv(folder):
        return True
    placed = [
        PurePosixPath(member).parts[-3:-1]
        for member in FolderSource(folder).members
        if not is_leftover(member)
    ]
    in_splits = {parts for parts in placed if len(parts) == 2 and split_of(parts[0]) is not None}
    return bool(in_splits) and all(find_emotion(parts[1]) is not None for parts in in_splits)


def _chosen_split(splits: Sequence[str], asked: str | None, path: Path) -> str:
    if not splits:
        raise DataError(f"no images in the class folders of {path}")
    if asked is None:
        return WHOLE if WHOLE in splits else next(name for name in _ORDER if name in splits)
    if asked in splits:
        return asked
    has = "no splits, only classes" if WHOLE in splits else " and ".join(splits)
    raise UsageError(f"--split {asked}: {path} has {has}; leave out --split, or choose one of them")


def _left_out_note(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    listed = ", ".join(f"{name} ({count:,} images)" for name, count in left_out.items())
    return [f"left out, for the model has no such class: {listed}"]
