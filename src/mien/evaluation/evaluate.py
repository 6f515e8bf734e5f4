"""Evaluation of exported models: images, predictions, metrics, and before-and-after comparisons."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.checks import check_integer
from mien.core.emotions import find_emotion
from mien.core.errors import DataError, UsageError
from mien.core.file_types import IMAGE_SUFFIXES
from mien.core.files import expand_home, write_atomically
from mien.core.models import bundled_models, find_model
from mien.core.progress import Progress
from mien.core.results import ModelInfo
from mien.data.class_folder import (
    UNSPLIT,
    FaceDecoder,
    find_label,
    list_class_folder,
    map_to_labels,
    read_class_folder,
    resolve_mapping,
)
from mien.data.dataset import Split, TrainedOn, clean_mask, seen_masks
from mien.data.loading import decode_face, load_split, may_hold_csv
from mien.data.sources import FolderSource, is_leftover, source_kind, split_of
from mien.evaluation.figures import FAINT, draw_matrix, drawing
from mien.evaluation.metrics import (
    Floats,
    Labels,
    Mask,
    Metrics,
    evaluate,
    measure,
    measure_agreement,
)
from mien.evaluation.pictures import Samples
from mien.evaluation.report import Report, versions
from mien.evaluation.tables import MISSING, Table, markdown_table, percent, text_table
from mien.inference.classifier import Classifier

OUTPUTS = Path("outputs")
BATCH_SIZE = 64

Classify: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""Faces, uint8 (N, 48, 48), to probabilities, float32 (N, classes) whose rows sum to 1."""

_DEFAULT_SPLITS = ("test", "val", "train")
"""The default split is the first of these that has images."""


# ---------------------------------------------------------------- model
def find_exported(model: str) -> tuple[str | Path, Path | None]:
    """Return the name or folder of a model, and the folder of its training run, if any.

    Args:
        model: name of a bundled model, folder of a model, or folder of a run.

    Raises:
        ModelError: if there is no such model, or the run has not been exported.
    """
    if model in bundled_models():
        return model, None
    folder = find_model(model)
    return folder, folder.parent if (folder.parent / "config.toml").is_file() else None


def output_folder(run: Path | None, name: str) -> Path:
    """Return the folder for results of a model: that of its run, or one of the model's name."""
    return OUTPUTS / Path(name).name if run is None else run


# ---------------------------------------------------------------- images
@dataclass(frozen=True)
class EvaluationData:
    """Images labelled with a model's classes.

    Attributes:
        split: the images; its classes are the model's.
        clean: (N,), True for images without a pixel-identical copy in Training; None if unknown.
        left_out: number of images of each class that the model does not have.
        notes: messages to the user, one line each.
        trained: number of images excluded because the model was trained on them.
    """

    split: Split
    clean: Mask | None = None
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
    """Load the images to evaluate a model on.

    Args:
        classifier: the model.
        source: a data set for `mien.data.loading.load_dataset`, or a folder of class folders with
            any names, with or without ``train|val|test``.
        split: "train", "val" or "test"; by default the first of test, val and train with images.
        mapping: new names of classes, see `mien.data.class_folder.parse_mapping`; folders only.
        face_of: turns a file into a face; by default files are face crops. Folders only.
        trained_on: training images of the model, which are excluded.
        include_trained: include them; the others are then the ``clean`` ones.
        quiet: draw no progress bar.

    Raises:
        DataError: if there are no images, none of a class of the model, or none that it was not
            trained on.
        UsageError: if the split or a class in the mapping does not exist.
    """
    path = expand_home(source)
    plain = mapping is None and face_of is None
    is_folder = source_kind(path) == "folder"
    if not is_folder and not plain:
        raise UsageError(f"--map and --detector are for a folder of images, not for {path}")
    if plain and (not is_folder or _is_fer2013(path)):
        data = _load_fer2013(classifier, path, split or "test", quiet)
        return _handle_trained(data, None, trained_on, include_trained)
    listed = list_class_folder(path)
    chosen = _choose_split(listed.splits, split, path)
    named = resolve_mapping(listed.classes, mapping or {})
    loaded = read_class_folder(
        listed, splits=[chosen], classes=named, decoder=face_of or decode_face, quiet=quiet
    )[chosen]
    fitted, left_out = map_to_labels(loaded, classifier.labels, source_classes(classifier))
    notes = list(listed.notes)
    notes += [f"skipped {file.file}: {file.reason}" for file in (*listed.skipped, *loaded.skipped)]
    notes += _left_out_note(left_out)
    if split is None and chosen not in (UNSPLIT, "test"):
        notes.append(f"{path} has no test split: evaluating on {chosen}")
    data = EvaluationData(fitted, None, left_out, tuple(notes))
    return _handle_trained(data, path, trained_on, include_trained)


def source_classes(classifier: Classifier) -> dict[str, list[str]]:
    """Return the original classes behind each label of a fine-tuned model; empty for others."""
    classes: Any = classifier.manifest.data.get("classes")
    if not isinstance(classes, Mapping):
        return {}
    return {
        str(label): [str(name) for name in names]
        for label, names in classes.items()
        if isinstance(names, list)
    }


def clean_images(split: Split, source: Path | str, *, quiet: bool = False) -> Mask | None:
    """Mark the images (N,) of a data set's split without a pixel-identical copy in Training.

    None for Training itself.

    Raises:
        DataError: if the data set has no usable Training.
    """
    if split.name == "train":
        return None
    return clean_mask(split, load_split(source, "train", quiet=quiet))


def _handle_trained(
    data: EvaluationData, folder: Path | None, trained_on: TrainedOn | None, include: bool
) -> EvaluationData:
    """Exclude the training images, or mark the others as clean; adds a note."""
    if trained_on is None:
        return data
    split = data.split
    trained, selected_on = seen_masks(split, trained_on, folder)
    count = int(trained.sum())
    note = f"the model was trained on {count:,} of the {len(split):,} images"
    if include:
        others = ~trained if data.clean is None else data.clean & ~trained
        note += ": the clean ones are the others" if 0 < count < len(split) else ""
        return replace(data, clean=others, notes=(*data.notes, note))
    if count == len(split):
        raise DataError(
            f"{note}; figures on these say nothing about new images: use other data, or "
            "--include-trained"
        )
    note += ", which are excluded (--include-trained includes them)" if count else ""
    if selected_on.any():
        note += (
            f"; its best epoch was chosen on {int(selected_on.sum()):,} of the "
            f"{len(split) - count:,} evaluated images: expect slightly lower figures on new ones"
        )
    clean = None if data.clean is None else data.clean[~trained]
    kept = split.take(~trained)
    return replace(data, split=kept, clean=clean, notes=(*data.notes, note), trained=count)


def _load_fer2013(classifier: Classifier, path: Path, name: str, quiet: bool) -> EvaluationData:
    """Load a split of a data set in a layout of FER-2013, and mark its clean images."""
    split = load_split(path, name, quiet=quiet)
    notes: list[str] = []
    clean = None
    try:
        clean = clean_images(split, path, quiet=quiet)
    except DataError as error:
        notes.append(f"no figures on clean images: {error}")
    fitted, left_out = map_to_labels(split, classifier.labels, source_classes(classifier))
    if clean is not None and left_out:
        clean = clean[[split.classes[label] not in left_out for label in split.labels]]
    return EvaluationData(fitted, clean, left_out, (*notes, *_left_out_note(left_out)))


def _is_fer2013(folder: Path) -> bool:
    """Return True if a folder holds splits with the seven emotions, or else FER-2013's CSV."""
    paths = [PurePosixPath(name) for name in FolderSource(folder).members if not is_leftover(name)]
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    parents = {path.parts[-3:-1] for path in images if len(path.parts) > 1}
    if not parents:
        return any(may_hold_csv(str(path)) for path in paths)
    in_splits = {parts for parts in parents if len(parts) == 2 and split_of(parts[0]) is not None}
    return bool(in_splits) and all(find_emotion(parts[1]) is not None for parts in in_splits)


def _choose_split(splits: Sequence[str], requested: str | None, path: Path) -> str:
    if not splits:
        raise DataError(f"no images in the class folders of {path}")
    if requested is None:
        if UNSPLIT in splits:
            return UNSPLIT
        return next(name for name in _DEFAULT_SPLITS if name in splits)
    if requested in splits:
        return requested
    existing = "no splits, only classes" if UNSPLIT in splits else " and ".join(splits)
    raise UsageError(
        f"--split {requested}: {path} has {existing}; leave out --split, or choose one of them"
    )


def _left_out_note(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    excluded = ", ".join(f"{name} ({count:,} images)" for name, count in left_out.items())
    return [f"excluded, as the model has no such class: {excluded}"]


# ---------------------------------------------------------------- evaluation
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
        UsageError: if there are no images or the batch size is below 1.
    """
    check_integer("batch_size", batch_size, 1)
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
    clean: Mask | None = None,
    votes: Labels | None = None,
    tta: bool = False,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    quiet: bool = False,
) -> tuple[Report, Samples]:
    """Evaluate a model on a split.

    Args:
        classifier: the model.
        split: the images.
        clean: (N,), True for images without a copy in Training (see `clean_images`), or None.
        votes: FER+ votes, int64 (N, 10), or None.
        tta: average over shifted and mirrored views.
        seed: random seed of the sample images.
        batch_size: images per batch; affects speed and memory, not the metrics.
        quiet: draw no progress bar.

    Returns:
        The report, still without the name of the data and the command, and the images and
        predictions that `mien.evaluation.report.write_report` draws samples from.

    Raises:
        UsageError: if there are no images, or the batch size is below 1.
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
    thresholds = None
    if manifest.thresholds:
        thresholds = np.array([manifest.threshold(label) for label in labels])
    agreement = clean_agreement = None
    if votes is not None:
        agreement = measure_agreement(probabilities, votes)
        if clean is not None:
            clean_agreement = measure_agreement(probabilities[clean], votes[clean])
    evaluation = evaluate(
        probabilities, split.labels, clean=clean, classes=labels, thresholds=thresholds
    )
    report = Report(
        model=manifest.info,
        data="",
        split=split.name,
        tta=tta,
        evaluation=evaluation,
        seed=seed,
        skipped=len(split.skipped),
        versions=versions(),
        agreement=agreement,
        clean_agreement=clean_agreement,
        images_sha256=hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest(),
    )
    return report, Samples(split.images, split.labels, probabilities, labels)


# ---------------------------------------------------------------- before and after fine-tuning
@dataclass(frozen=True)
class Comparison:
    """Metrics of a fine-tuned model and of its base model on the same images.

    Attributes:
        split: name of the evaluated split.
        classes: classes of the fine-tuned model.
        known: those that the base model can predict.
        before: the base model on the images of ``known``, with probabilities renormalised over
            these classes; None if it knows fewer than two of them or has no images of them.
        after: the fine-tuned model on all images.
        after_known: the fine-tuned model on the images of ``known``; None if ``before`` is.
        models: the base model and the fine-tuned one.
    """

    split: str
    classes: tuple[str, ...]
    known: tuple[str, ...]
    before: Metrics | None
    after: Metrics
    after_known: Metrics | None
    models: tuple[ModelInfo, ModelInfo]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-compatible values."""
        metrics = {"before": self.before, "after": self.after, "after_known": self.after_known}
        return {
            "split": self.split,
            "classes": list(self.classes),
            "known": list(self.known),
            "models": [model.to_dict() for model in self.models],
            **{key: None if value is None else value.to_dict() for key, value in metrics.items()},
        }


def compare(
    base: Classifier,
    tuned: Classifier,
    split: Split,
    *,
    meanings: Mapping[str, Sequence[str]] | None = None,
    quiet: bool = False,
) -> Comparison:
    """Evaluate a fine-tuned model and its base model on the same images.

    A class's probability under the base model is the sum over the labels that it was made of
    (``meanings``, see `mien.data.class_folder.find_label`).

    Raises:
        ModelError: if a network fails.
    """
    classes = tuned.labels
    after = predict(tuned.classify, split.images, label="evaluating after", quiet=quiet)
    owners = [find_label(label, classes, meanings) for label in base.labels]
    known = tuple(name for name in classes if name in owners)
    subset = np.isin(split.labels, [classes.index(name) for name in known])
    before = after_known = None
    if len(known) > 1 and subset.any():
        images, labels = split.images[subset], split.labels[subset]
        rows = predict(base.classify, images, label="evaluating before", quiet=quiet)
        before = measure(_sum_by_class(rows, owners, classes), labels, classes=classes)
        after_known = measure(after[subset], labels, classes=classes)
    return Comparison(
        split=split.name,
        classes=classes,
        known=known,
        before=before,
        after=measure(after, split.labels, classes=classes),
        after_known=after_known,
        models=(base.manifest.info, tuned.manifest.info),
    )


def _sum_by_class(
    rows: npt.NDArray[np.float32], owners: Sequence[str | None], classes: Sequence[str]
) -> Floats:
    """Turn probabilities (N, labels) into those of classes (N, classes), rows sum to 1."""
    sums = np.zeros((len(rows), len(classes)))
    for index, owner in enumerate(owners):
        if owner is not None:
            # The negligible addend keeps rows from being all zeros.
            sums[:, classes.index(owner)] += rows[:, index].astype(np.float64) + 1e-12
    return np.asarray(sums / sums.sum(axis=1, keepdims=True), np.float64)


def comparison_text(comparison: Comparison) -> str:
    """Return both confusion matrices as aligned text, with accuracies."""
    blocks = []
    for heading, sentence, table in _comparison_parts(comparison):
        blocks += [f"{heading}\n{sentence}", text_table(*table)]
    return "\n\n".join(blocks) + "\n"


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write both confusion matrices as ``before_after.md`` and ``.png``.

    Raises:
        OutputError: if a file cannot be written.
        MissingExtra: without Matplotlib or Seaborn.
    """
    figure = "before_after.png"
    comparison_figure(comparison, folder / figure)
    blocks = ["# Before and after fine-tuning", f"![Confusion before and after]({figure})"]
    for heading, sentence, table in _comparison_parts(comparison):
        blocks += [f"## {heading}", sentence, markdown_table(*table)]
    write_atomically(folder / "before_after.md", ("\n\n".join(blocks) + "\n").encode())


def _comparison_parts(comparison: Comparison) -> list[tuple[str, str, Table]]:
    """Return heading, sentence and confusion matrix of both models."""
    base, tuned = comparison.models
    classes, known = comparison.classes, comparison.known
    return [
        (
            f"before: {base.name} {base.version}",
            _before_sentence(comparison),
            matrix_table(comparison.before, classes, known),
        ),
        (
            f"after: {tuned.name} {tuned.version}",
            _after_sentence(comparison),
            matrix_table(comparison.after, classes, classes),
        ),
    ]


def _before_sentence(comparison: Comparison) -> str:
    before, known = comparison.before, ", ".join(comparison.known)
    if before is None:
        if not known:
            return "has none of these classes"
        if len(comparison.known) == 1:
            return f"has only {known} of these classes: there is nothing to compare"
        return f"there are no images of the classes that it has: {known}"
    accuracy = f"accuracy {percent(before.accuracy, digits=1)}"
    unknown = [name for name in comparison.classes if name not in comparison.known]
    if not unknown:
        return f"{accuracy}, macro-F1 {percent(before.macro_f1, digits=1)}"
    return (
        f"{accuracy} on the {before.count:,} images of the classes that it has "
        f"(not: {', '.join(unknown)})"
    )


def _after_sentence(comparison: Comparison) -> str:
    after, known = comparison.after, comparison.after_known
    text = (
        f"accuracy {percent(after.accuracy, digits=1)}, "
        f"macro-F1 {percent(after.macro_f1, digits=1)}, {after.count:,} images"
    )
    if known is None or len(comparison.known) == len(comparison.classes):
        return text
    accuracy = percent(known.accuracy, digits=1)
    return f"{text}; {accuracy} on the {known.count:,} images of the base model's classes"


def matrix_table(metrics: Metrics | None, classes: Sequence[str], known: Sequence[str]) -> Table:
    """Return the confusion matrix as counts, with recalls; "-" where a class is not known."""
    rows = []
    for index, name in enumerate(classes):
        if metrics is None or name not in known:
            rows.append([name, *[MISSING] * (len(classes) + 1)])
            continue
        cells = [
            str(count) if column in known else MISSING
            for column, count in zip(classes, metrics.confusion[index], strict=True)
        ]
        rows.append([name, *cells, percent(metrics.classes[index].accuracy, digits=0)])
    return ["true \\ predicted", *classes, "accuracy"], rows


def comparison_figure(comparison: Comparison, path: Path) -> None:
    """Draw both confusion matrices side by side: counts, coloured by the share of each row."""
    count = len(comparison.classes)
    side = min(9.0, max(4.2, 1.6 + 0.72 * count))
    with drawing(path, 2 * side, side + 0.9) as figure:
        figure.suptitle(f"Before and after fine-tuning, on {comparison.split}")
        panels = (
            (comparison.before, comparison.known, comparison.models[0]),
            (comparison.after, comparison.classes, comparison.models[1]),
        )
        for axes, (metrics, known, model) in zip(figure.subplots(1, 2), panels, strict=True):
            _, rows = matrix_table(metrics, comparison.classes, known)
            texts = np.array([row[1:-1] for row in rows])
            rates = metrics.confusion_rates if metrics is not None else (None,) * count
            shares = np.array([row or (0.0,) * count for row in rates])
            text_size = 11 if count <= 12 else 7
            draw_matrix(axes, shares, texts, comparison.classes, text_size=text_size)
            accuracy = MISSING if metrics is None else percent(metrics.accuracy, digits=1)
            axes.set_title(f"{model.name}: accuracy {accuracy}")
        if len(comparison.known) < count:
            figure.supxlabel("-: not a class of the base model", fontsize=10, color=FAINT)
