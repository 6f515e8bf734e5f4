"""Evaluating a model: which model, on which images, and the measuring."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.emotions import find_emotion
from mien.core.errors import DataError, UsageError
from mien.core.files import expand_home
from mien.core.models import bundled_models, find_model
from mien.core.progress import Progress
from mien.data.class_folder import (
    UNSPLIT,
    FaceDecoder,
    list_class_folder,
    map_to_labels,
    read_class_folder,
    resolve_mapping,
)
from mien.data.dataset import Split, TrainedOn, clean_mask, seen_masks
from mien.data.loading import decode_face, holds_csv, load_split
from mien.data.sources import FolderSource, is_leftover, source_kind, split_of
from mien.evaluation.metrics import evaluate, measure_agreement
from mien.evaluation.report import Report, Samples, versions
from mien.inference.classifier import Classifier

OUTPUTS = Path("outputs")
BATCH_SIZE = 64

Classify: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Standard faces, uint8 (N, 48, 48), to probabilities, float32 (N, classes) whose rows sum to 1."""

_ORDER = ("test", "val", "train")
"""The default split is the first of these that has images."""


# ---------------------------------------------------------------- the model
def find_exported(model: str) -> tuple[str | Path, Path | None]:
    """Return what to open as a model, and the folder of its run, if it has one.

    Args:
        model: a bundled model's name, a model's folder, or a run's.

    Raises:
        ModelError: if there is none, or it is a run that was not exported.
    """
    if model in bundled_models():
        return model, None
    folder = find_model(model)
    return folder, folder.parent if (folder.parent / "config.toml").is_file() else None


def home_of(run: Path | None, name: str) -> Path:
    """Return the folder for what is written about a model: its run's, else one of its name."""
    return OUTPUTS / Path(name).name if run is None else run


# ---------------------------------------------------------------- the images
@dataclass(frozen=True)
class EvaluationData:
    """Images with a model's labels.

    Attributes:
        split: the images; its classes are the model's.
        clean: which have no pixel-identical copy in Training, (N,); None where unknown.
        left_out: how many images there are of each class that the model lacks.
        notes: what the user should know, a line each.
        trained: images left out because the model was trained on them.
    """

    split: Split
    clean: npt.NDArray[np.bool_] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trained: int = 0


def load_evaluation_data(
    classifier: Classifier,
    source: Path | str,
    *,
    split: str | None = None,
    mapping: Mapping[str, str] | None = None,
    face_of: FaceDecoder | None = None,
    trained_on: TrainedOn | None = None,
    include_trained: bool = False,
    quiet: bool = False,
) -> EvaluationData:
    """Load what a model is measured on.

    Args:
        classifier: the model.
        source: a data set as `mien.data.loading.load_dataset` takes it, or a folder of class
            folders with any names, with or without ``train|val|test``.
        split: "train", "val" or "test"; by default the first of test, val and train that is there.
        mapping: what classes become, see `mien.data.class_folder.parse_mapping`; folders only.
        face_of: how a file becomes a face; by default files are face crops. Folders only.
        trained_on: what the model was trained on, which is left out.
        include_trained: take it in; the others are then the ``clean`` ones.
        quiet: draw no progress bar.

    Raises:
        DataError: if there is no data, no class that the model knows, or nothing that it was not
            trained on.
        UsageError: if the split is not there, or the mapping names what is not there.
    """
    path = expand_home(source)
    plain = mapping is None and face_of is None
    is_folder = source_kind(path) == "folder"
    if not is_folder and not plain:
        raise UsageError(f"--map and --detector are for a folder of images, not for {path}")
    if plain and (not is_folder or _is_data_set(path)):
        data = _load_data_set(classifier, path, split or "test", quiet)
        return _without_trained(data, None, trained_on, include_trained)
    listed = list_class_folder(path)
    chosen = _chosen_split(listed.splits, split, path)
    named = resolve_mapping(listed.classes, mapping or {})
    loaded = read_class_folder(
        listed, splits=[chosen], classes=named, decoder=face_of or decode_face, quiet=quiet
    )[chosen]
    fitted, left_out = map_to_labels(loaded, classifier.labels, meanings_in(classifier))
    notes = list(listed.notes)
    notes += [f"skipped {one.file}: {one.reason}" for one in (*listed.skipped, *loaded.skipped)]
    notes += _left_out_note(left_out)
    if split is None and chosen not in (UNSPLIT, "test"):
        notes.append(f"{path} has no test: measured on {chosen}")
    data = EvaluationData(fitted, None, left_out, tuple(notes))
    return _without_trained(data, path, trained_on, include_trained)


def meanings_in(classifier: Classifier) -> dict[str, list[str]]:
    """Return which classes a fine-tuned model's labels were made of; empty for others."""
    classes: Any = classifier.manifest.data.get("classes")
    if not isinstance(classes, Mapping):
        return {}
    return {
        str(label): [str(name) for name in names]
        for label, names in classes.items()
        if isinstance(names, list)
    }


def clean_images(
    split: Split, source: Path | str, *, quiet: bool = False
) -> npt.NDArray[np.bool_] | None:
    """Mark the images (N,) of a data set's split that have no pixel-identical copy in Training.

    None for Training itself.

    Raises:
        DataError: if the data set has no usable Training.
    """
    if split.name == "train":
        return None
    return clean_mask(split, load_split(source, "train", quiet=quiet))


def _without_trained(
    data: EvaluationData, folder: Path | None, trained_on: TrainedOn | None, include: bool
) -> EvaluationData:
    """Leave out what the model was trained on, or mark the rest as clean, with a note."""
    if trained_on is None:
        return data
    split = data.split
    trained, chosen = seen_masks(split, trained_on, folder)
    count = int(trained.sum())
    said = f"the model was trained on {count:,} of the {len(split):,} images"
    if include:
        both = ~trained if data.clean is None else data.clean & ~trained
        said += ": the clean ones are the others" if 0 < count < len(split) else ""
        return replace(data, clean=both, notes=(*data.notes, said))
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
    clean = None if data.clean is None else data.clean[~trained]
    kept = split.take(~trained)
    return replace(data, split=kept, clean=clean, notes=(*data.notes, said), trained=count)


def _load_data_set(classifier: Classifier, path: Path, name: str, quiet: bool) -> EvaluationData:
    """Load a split of a data set in the layout of FER-2013, with its clean images."""
    split = load_split(path, name, quiet=quiet)
    notes: list[str] = []
    clean = None
    try:
        clean = clean_images(split, path, quiet=quiet)
    except DataError as error:
        notes.append(f"no figures on clean images: {error}")
    fitted, left_out = map_to_labels(split, classifier.labels, meanings_in(classifier))
    if clean is not None and left_out:
        clean = clean[[split.classes[label] not in left_out for label in split.labels]]
    return EvaluationData(fitted, clean, left_out, (*notes, *_left_out_note(left_out)))


def _is_data_set(folder: Path) -> bool:
    """Return whether a folder is FER-2013: splits with the seven emotions in them, or its CSV."""
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
        return UNSPLIT if UNSPLIT in splits else next(name for name in _ORDER if name in splits)
    if asked in splits:
        return asked
    has = "no splits, only classes" if UNSPLIT in splits else " and ".join(splits)
    raise UsageError(f"--split {asked}: {path} has {has}; leave out --split, or choose one of them")


def _left_out_note(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    listed = ", ".join(f"{name} ({count:,} images)" for name, count in left_out.items())
    return [f"left out, for the model has no such class: {listed}"]


# ---------------------------------------------------------------- measuring
def predict(
    classify: Classify,
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = BATCH_SIZE,
    label: str = "evaluating",
    quiet: bool = False,
) -> npt.NDArray[np.float32]:
    """Classify images, uint8 (N, 48, 48), in batches, with a progress bar; float32 (N, classes).

    Raises:
        UsageError: if there is no image or the batch size is below 1.
    """
    if batch_size < 1:
        raise UsageError(f"expected a batch size of 1 or more, got {batch_size}")
    if len(images) == 0:
        raise UsageError("nothing to evaluate: there are no images")
    batches = []
    with Progress(label, len(images), unit="img", quiet=quiet) as progress:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            batches.append(classify(batch))
            progress.advance(len(batch))
    return np.concatenate(batches)


def evaluate_model(
    classifier: Classifier,
    split: Split,
    *,
    clean: npt.NDArray[np.bool_] | None = None,
    votes: npt.NDArray[np.int64] | None = None,
    tta: bool = False,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> tuple[Report, Samples]:
    """Measure a model on a split.

    Args:
        classifier: the model, as its users run it.
        split: the images.
        clean: those without a copy in Training (see `clean_images`), None where unknown.
        votes: FER+'s votes, int64 (N, 10), None where unknown.
        tta: average over shifted and mirrored views.
        seed: of the choice of the sample pictures.
        batch_size: images at a time; it changes speed and memory, not the metrics.
        quiet: draw no progress bar.

    Returns:
        The report, which does not yet name the data set and the command, and what
        `mien.evaluation.report_folder.write_report` shows of the images.

    Raises:
        UsageError: if there is no image, or the batch size is below 1.
        ModelError: if the network fails.
    """
    probabilities = predict(
        lambda faces: classifier.classify(faces, augment=tta, batch_size=batch_size),
        split.images,
        batch_size=batch_size,
        label=f"evaluating {split.name}",
        quiet=quiet,
    )
    manifest, labels = classifier.manifest, classifier.labels
    thresholds = np.array([manifest.threshold(label) for label in labels])
    agreement = clean_agreement = None
    if votes is not None:
        agreement = measure_agreement(probabilities, votes)
        if clean is not None:
            clean_agreement = measure_agreement(probabilities[clean], votes[clean])
    report = Report(
        model=manifest.info,
        data="",
        split=split.name,
        tta=tta,
        evaluation=evaluate(
            probabilities,
            split.labels,
            clean=clean,
            classes=labels,
            thresholds=thresholds if manifest.thresholds else None,
        ),
        seed=seed,
        skipped=len(split.skipped),
        versions=versions(),
        agreement=agreement,
        clean_agreement=clean_agreement,
        images_sha256=hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest(),
    )
    return report, Samples(split.images, split.labels, probabilities, labels)
