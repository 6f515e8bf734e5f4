"""Results of images, faces and boxes, and their JSON and tables.

Values are validated on construction, so every result can be written.
"""

from __future__ import annotations

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.core.checks import check_choice, check_integer, check_list, check_type, invalid, is_number
from mien.core.emotions import EMOTIONS, valence
from mien.core.errors import UsageError, needs_extra, one_line
from mien.core.formats import escape_surrogates

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from PIL import Image

    from mien.core.images import ImageSource

SCHEMA = "mien/1"
"""Name and version of the JSON schema; the version changes with incompatible changes only."""

STATUSES: tuple[str, ...] = ("ok", "no_face", "unreadable", "error")
"""Faces found, no face found, not a readable image, any other error."""

QUALITY_FLAGS: tuple[str, ...] = ("small", "blurred", "dark", "bright", "turned_away")
"""Values of `Quality.flags`, in this order."""

SCORE_DIGITS = 6
"""Decimals of scores, confidences and blur in JSON and tables."""


# ---------------------------------------------------------------- faces
@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright image: top-left corner, width and height."""

    x: int
    y: int
    w: int
    h: int

    def __post_init__(self) -> None:
        _check_integer("box x", self.x, 0)
        _check_integer("box y", self.y, 0)
        _check_integer("box w", self.w, 1)
        _check_integer("box h", self.h, 1)

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom are exclusive, as in slices."""
        return (self.x, self.y, self.x + self.w, self.y + self.h)

    @property
    def area(self) -> int:
        """The number of pixels in the box."""
        return self.w * self.h

    def overlap(self, other: Box) -> float:
        """Return the intersection over union (IoU) with another box, 0 to 1."""
        check_type("other", other, Box, "a Box")
        width = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        height = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        if width <= 0 or height <= 0:
            return 0.0
        intersection = width * height
        return intersection / (self.area + other.area - intersection)

    def to_dict(self) -> dict[str, int]:
        """Return the box as a JSON object."""
        return dict(vars(self))


@dataclass(frozen=True)
class Quality:
    """Image quality of a face.

    Attributes:
        size_px: the shorter side of the face's box in pixels.
        blur: 0 (sharp) to 1 (fully blurred).
        flags: problems, from `QUALITY_FLAGS`.
    """

    size_px: int
    blur: float
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_integer("size_px", self.size_px, 1)
        _check_unit("blur", self.blur)
        check_list("flags", self.flags)
        for flag in self.flags:
            if flag not in QUALITY_FLAGS:
                raise UsageError(f"expected flags of {', '.join(QUALITY_FLAGS)}, got {flag!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the quality as a JSON object."""
        return {"size_px": self.size_px, "blur": _rounded(self.blur), "flags": list(self.flags)}


@dataclass(frozen=True)
class Smoothed:
    """A person's scores in a video, smoothed over time or corrected by a baseline.

    Attributes:
        emotion: the likeliest emotion, a key of ``scores``.
        confidence: its score.
        scores: the probability of each emotion, in the model's order; they sum to 1.
    """

    emotion: str
    confidence: float
    scores: Mapping[str, float]

    def __post_init__(self) -> None:
        _check_scores(self.emotion, self.confidence, self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as a JSON object."""
        return {
            "emotion": self.emotion,
            "confidence": _rounded(self.confidence),
            "scores": {name: _rounded(score) for name, score in self.scores.items()},
        }


@dataclass(frozen=True)
class Face:
    """A face and its emotion.

    Attributes:
        face_id: index of the face within its image, from 0, left to right.
        box: position of the face.
        face_confidence: the detector's confidence that this is a face, 0 to 1; not comparable
            between detectors.
        emotion: the likeliest emotion, a key of ``scores``.
        confidence: its score.
        uncertain: True if the confidence is below the model's threshold for this emotion, or the
            face is turned away.
        scores: the calibrated probability of each emotion, in the model's order; they sum to 1.
        quality: size, blur and other problems that affect the result.
        track_id: the person's number throughout a video, or None.
        smoothed: the person's scores smoothed over time, or None outside a video.
        turn: clockwise rotation of the face in degrees, which its crop undoes: about 90, -90 or 180
            in a photo that is sideways or upside down.
        corrected: the scores corrected by the person's baseline (`mien.video.tracker`), or None.
    """

    face_id: int
    box: Box
    face_confidence: float
    emotion: str
    confidence: float
    uncertain: bool
    scores: Mapping[str, float]
    quality: Quality
    track_id: int | None = None
    smoothed: Smoothed | None = None
    turn: float = 0.0
    corrected: Smoothed | None = None

    def __post_init__(self) -> None:
        _check_integer("face_id", self.face_id, 0)
        check_type("box", self.box, Box, "a Box")
        check_type("quality", self.quality, Quality, "a Quality")
        if self.track_id is not None:
            _check_integer("track_id", self.track_id, 0)
        _check_unit("face_confidence", self.face_confidence)
        _check_scores(self.emotion, self.confidence, self.scores)
        for what, scores in (("smoothed", self.smoothed), ("corrected", self.corrected)):
            if scores is not None:
                check_type(what, scores, Smoothed, "Smoothed scores")
        if not is_number(self.turn) or not math.isfinite(self.turn):
            raise invalid("turn", "degrees", self.turn)

    @property
    def valence(self) -> float | None:
        """Pleasantness, -1 to 1: happy minus the largest of angry, disgust, fear and sad.

        None if the model lacks one of these classes.
        """
        return valence(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the face as a JSON object, with ``smoothed`` and ``corrected`` unless None."""
        face: dict[str, Any] = {
            "face_id": self.face_id,
            "track_id": self.track_id,
            "box": self.box.to_dict(),
            "face_confidence": _rounded(self.face_confidence),
            "emotion": self.emotion,
            "confidence": _rounded(self.confidence),
            "uncertain": self.uncertain,
            "scores": {name: _rounded(score) for name, score in self.scores.items()},
            "quality": self.quality.to_dict(),
        }
        for key, scores in (("smoothed", self.smoothed), ("corrected", self.corrected)):
            if scores is not None:
                face[key] = scores.to_dict()
        return face


_check_integer = partial(check_integer, kind=int)


def _check_unit(what: str, value: object) -> None:
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
        raise invalid(what, "a number from 0 to 1", value)


def _check_scores(emotion: str, confidence: float, scores: Mapping[str, float]) -> None:
    """Check that scores are probabilities, and that emotion and confidence have the highest."""
    check_type("emotion", emotion, str, "a text")
    check_type("scores", scores, Mapping, "a score of each emotion")
    _check_unit("confidence", confidence)
    for name, score in scores.items():
        _check_unit(f"score of {name}", score)
    total = math.fsum(scores.values())
    if abs(total - 1.0) > 1e-3:
        raise UsageError(f"expected scores that sum to 1, got {total:.4f}")
    if emotion not in scores:
        raise UsageError(f"expected one of {', '.join(scores)} as emotion, got {emotion!r}")
    if confidence != scores[emotion]:
        raise UsageError(f"expected the score of {emotion} as confidence, got {confidence}")
    if confidence < max(scores.values()):
        raise UsageError(f"expected the likeliest emotion, got {emotion}")


def _rounded(value: float) -> float:
    return round(float(value), SCORE_DIGITS)


# ---------------------------------------------------------------- images
@dataclass(frozen=True)
class ModelInfo:
    """Identity of the model that gave a result.

    Attributes:
        name: for example "mien-b0".
        version: for example "1.0.0".
        sha256: hash of its ONNX file.
        labels: the labels that its scores follow: "people", "fer2013" or "own" (see
            `mien.core.models.READINGS`), or empty if unknown.
    """

    name: str
    version: str
    sha256: str
    labels: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the model's identity as a JSON object."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


class Viewable(ABC):
    """Base class of `Result` and `Faces`: shows a result as a picture, chart, HTML or table."""

    @property
    @abstractmethod
    def _own_result(self) -> Result:
        """The result that is shown."""

    def annotate(
        self, image: ImageSource | None = None, *, color: str | None = None
    ) -> Image.Image:
        """Return the picture with its faces and their emotions, drawn as by `mien.annotate`.

        Args:
            image: the picture. By default it is read again from its path or address, or is the
                array or Pillow image that was analyzed, if that still exists.
            color: the order of an array's channels, "rgb" or "bgr".

        Raises:
            UnreadableImage: if the picture cannot be read.
            UsageError: if it was not kept, or is not the one that was analyzed.
        """
        from mien.core.display import annotate_result

        return annotate_result(self._own_result, image, color)

    def save(
        self, path: str | Path, image: ImageSource | None = None, *, color: str | None = None
    ) -> Path:
        """Write the annotated picture and return its path. Other arguments as `annotate`.

        Raises:
            UnreadableImage: if the picture cannot be read.
            UsageError: if it was not kept, or the path is the analyzed picture itself or has an
                unsupported suffix.
            OutputError: if it cannot be written.
        """
        from mien.core.display import save_annotated

        return save_annotated(self._own_result, path, image, color)

    def plot(self, image: ImageSource | None = None, *, color: str | None = None) -> Axes:
        """Show the annotated picture and a chart of each face's scores with Matplotlib.

        At most twelve faces have a chart; the title says how many more there are.

        Arguments and errors as `annotate`.

        Returns:
            The axes of the picture.

        Raises:
            MissingExtra: if Matplotlib is not installed.
        """
        from mien.core.display import plot

        return plot(self._own_result, image, color)

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of the faces; see `mien.to_pandas`."""
        return to_pandas(self)

    def _repr_html_(self) -> str:
        """Return the picture with its boxes and each face's scores, for notebooks."""
        from mien.core.display import result_html

        return result_html(self._own_result)


@dataclass(frozen=True)
class Result(Viewable):
    """The result of one image, or of one frame of a video.

    A notebook shows the picture with its faces and their scores.

    Attributes:
        source: path or name of the image, or None if it has none.
        status: one of `STATUSES`.
        model: the model that was used.
        width: pixels of the upright image, or None if it could not be read.
        height: as ``width``.
        faces: the faces, left to right; empty unless the status is ``ok``.
        frame: index of the frame in its video, from 0, or None for an image.
        time_s: position in the video in seconds, or None for an image.
        error: what went wrong, in one line, if the status is ``unreadable`` or ``error``; else
            None.
    """

    source: str | None
    status: str
    model: ModelInfo
    width: int | None = None
    height: int | None = None
    faces: tuple[Face, ...] = ()
    frame: int | None = None
    time_s: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        check_choice("status", self.status, STATUSES)
        check_type("model", self.model, ModelInfo, "a ModelInfo")
        check_list("faces", self.faces, Face, "a list of faces")
        if (self.status == "ok") != bool(self.faces):
            raise UsageError(
                "expected faces if and only if the status is ok, "
                f"got {len(self.faces)} with status {self.status}"
            )
        if self.error is not None:
            check_type("error", self.error, str, "a text")
            object.__setattr__(self, "error", one_line(self.error))
        failed = self.status in ("unreadable", "error")
        if failed != bool(self.error):
            raise UsageError(
                "expected an error if and only if the status is unreadable or error, "
                f"got {self.error!r} with status {self.status}"
            )
        for what, side in (("width", self.width), ("height", self.height)):
            if side is not None or not failed:
                _check_integer(what, side, 1)
        if self.frame is not None:
            _check_integer("frame", self.frame, 0)
        if self.time_s is not None and not (is_number(self.time_s) and 0 <= self.time_s < math.inf):
            raise invalid("time_s", "0 seconds or more", self.time_s)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as a JSON object, with ``error`` unless None."""
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "source": self.source,
            "frame": self.frame,
            "time_s": None if self.time_s is None else _rounded(self.time_s),
            "status": self.status,
            "width": self.width,
            "height": self.height,
            "faces": [face.to_dict() for face in self.faces],
            "model": self.model.to_dict(),
        }
        if self.model.labels:
            result["labels"] = self.model.labels
        if self.error is not None:
            result["error"] = self.error
        return result

    @property
    def _own_result(self) -> Result:
        return self

    def remember_image(self, image: Callable[[], ImageSource | None], color: str | None) -> Result:
        """Remember how to get the image again; not part of the result's value or pickle."""
        object.__setattr__(self, "_image", (image, color))
        return self

    def recall_image(self) -> tuple[ImageSource | None, str | None]:
        """Return the image, or None if it is gone, and its colour order."""
        reference, color = getattr(self, "_image", (lambda: None, None))
        image = reference()
        return (self.source if image is None and self.frame is None else image), color

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the remembered image, for pickles and copies."""
        return {name: value for name, value in vars(self).items() if name != "_image"}


class Faces(list[Face], Viewable):
    """List of the faces of one image, left to right, with their `Result`."""

    def __init__(self, result: Result) -> None:
        check_type("result", result, Result, "a Result")
        super().__init__(result.faces)
        self.result = result

    @property
    def _own_result(self) -> Result:
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """Return the image's result as a JSON object; see `Result.to_dict`."""
        return self.result.to_dict()


class Results(list[Result]):
    """List of the results of several images."""

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the results as JSON objects."""
        return [result.to_dict() for result in self]

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of all faces; see `mien.to_pandas`."""
        return to_pandas(self)

    def _repr_html_(self) -> str:
        from mien.core.display import results_html

        return results_html(self)


# ---------------------------------------------------------------- tables
_FACE_COLUMNS: tuple[str, ...] = (
    *("source", "frame", "time_s", "face_id", "track_id", "status"),
    *("x", "y", "w", "h", "face_confidence"),
    *("emotion", "confidence", "uncertain"),
)

LAST_COLUMNS: tuple[str, ...] = ("error", "flags", "valence")
"""Columns added after the first release, which come last."""

TABLE_COLUMNS: tuple[str, ...] = (*_FACE_COLUMNS, *EMOTIONS, *LAST_COLUMNS)
"""Columns of a table of results (CSV, Parquet): one row per face, one for an image without any."""

_SMOOTHED, _CORRECTED = "smoothed_", "corrected_"
_RESERVED_PREFIXES = (_SMOOTHED, _CORRECTED, "share_")
_RESERVED: tuple[str, ...] = (
    *_FACE_COLUMNS,
    *("truth", "right"),  # columns of `mien evaluate` on a folder of pictures
    # Columns of `mien predict --events` and `--compare`.
    *("label", "start_s", "end_s", "seconds", "frames", "people"),
    *(*LAST_COLUMNS, "arousal", "labels", "model", "schema"),  # the last four for future columns
)


def score_columns(labels: Sequence[str]) -> dict[str, str]:
    """Return the column of each label's score: its name, with the prefix ``score_`` if it clashes.

    A name clashes if it equals a column of any table up to case, blanks and Unicode form (as
    databases compare them), or begins like the columns of smoothed or corrected scores, or of
    shares of time.

    Example:
        >>> score_columns(("calm", "Status"))
        {'calm': 'calm', 'Status': 'score_Status'}
    """
    taken = {_folded(name) for name in _RESERVED}
    columns = {}
    for label in labels:
        name = label
        while (folded := _folded(name)) in taken or folded.startswith(_RESERVED_PREFIXES):
            name = f"score_{name}"
        taken.add(folded)
        columns[label] = name
    return columns


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def table_columns(
    labels: Sequence[str] = EMOTIONS, *, smoothed: bool = False, corrected: bool = False
) -> tuple[str, ...]:
    """Return the columns of a table of results; see `TABLE_COLUMNS`.

    Args:
        labels: the model's labels; `score_columns` names their columns.
        smoothed: add the smoothed scores of a video: ``smoothed_emotion``, ``smoothed_confidence``,
            then ``smoothed_`` and each label's column.
        corrected: add the scores corrected by a baseline, in the same way with ``corrected_``.
    """
    scores = score_columns(labels).values()
    video_columns = [
        prefix + name
        for prefix in _prefixes(smoothed, corrected)
        for name in ("emotion", "confidence", *scores)
    ]
    return (*_FACE_COLUMNS, *scores, *video_columns, *LAST_COLUMNS)


def _prefixes(smoothed: bool, corrected: bool) -> list[str]:
    return [_SMOOTHED] * bool(smoothed) + [_CORRECTED] * bool(corrected)


def result_rows(
    result: Result,
    labels: Sequence[str] = EMOTIONS,
    *,
    smoothed: bool = False,
    corrected: bool = False,
) -> list[dict[str, Any]]:
    """Return the table rows of a result: one per face, or one with empty fields without any.

    Keys, their order and arguments are those of `table_columns`; missing values are None.
    """
    check_type("result", result, Result, "a Result")
    check_list("labels", labels, str, "a list of texts")
    written = result.to_dict()
    image = {key: written[key] for key in ("source", "frame", "time_s", "status")}
    image["error"] = written.get("error")
    names = table_columns(labels, smoothed=smoothed, corrected=corrected)
    empty = {**dict.fromkeys(names), **image}
    columns = score_columns(labels)
    rows = []
    for face, original in zip(written["faces"], result.faces, strict=True):
        row = {**empty, **{key: face[key] for key in _FACE_COLUMNS if key in face}, **face["box"]}
        row.update((name, face["scores"].get(label)) for label, name in columns.items())
        row["flags"] = ";".join(face["quality"]["flags"])
        row["valence"] = None if original.valence is None else _rounded(original.valence)
        for prefix in _prefixes(smoothed, corrected):
            if other := face.get(prefix[:-1]):
                row.update((prefix + key, other[key]) for key in ("emotion", "confidence"))
                scores = other["scores"]
                row.update((prefix + name, scores.get(label)) for label, name in columns.items())
        rows.append(row)
    return rows or [empty]


def utf8_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Escape the surrogates of file names that are not UTF-8 in a table row."""
    names = ("source", "error")
    return {**row, **{key: row[key] and escape_surrogates(row[key]) for key in names}}


_TEXT_COLUMNS = (
    *("source", "status", "emotion", "smoothed_emotion", "corrected_emotion"),
    *("error", "flags"),
)
ARROW_TYPES: Mapping[str, str] = {
    "frame": "int64",
    **dict.fromkeys(("face_id", "track_id", "x", "y", "w", "h"), "int32"),
    **dict.fromkeys(_TEXT_COLUMNS, "string"),
    "uncertain": "bool",
}
"""Arrow's types of a table's columns; those of the others are "double"."""

_PANDAS_TYPES = {"int64": "Int64", "int32": "Int64", "string": "string", "bool": "boolean"}


def to_pandas(results: Viewable | Iterable[Viewable]) -> pd.DataFrame:
    """Return results as a pandas data frame: the table that `mien predict` writes as CSV.

    Args:
        results: one or several results, as returned by `analyze`, `analyze_result`, `analyze_many`
            and `analyze_video`.

    Returns:
        One row per face, one for an image without any, with the columns of `TABLE_COLUMNS`; for a
        video also those of the smoothed and, with a baseline, of the corrected scores. Missing
        values are NA.

    Raises:
        MissingExtra: if pandas is not installed.
        UsageError: if an element is not a result.
    """
    expected = "what analyze, analyze_many or analyze_video returns"
    if not isinstance(results, Viewable):
        check_list("results", results, expected=expected)
    viewables = [results] if isinstance(results, Viewable) else list(results)
    for viewable in viewables:
        check_type("results", viewable, Viewable, expected)
    with needs_extra("notebook", "a data frame"):
        import pandas as pd

    table = [viewable._own_result for viewable in viewables]
    faces = [face for result in table for face in result.faces]
    own_labels = bool(table) and table[0].model.labels == "own"
    labels = tuple(faces[0].scores) if faces else (() if own_labels else EMOTIONS)
    scores = {
        "smoothed": any(result.frame is not None for result in table),
        "corrected": any(face.corrected is not None for face in faces),
    }
    rows = [utf8_row(row) for result in table for row in result_rows(result, labels, **scores)]
    columns = table_columns(labels, **scores)
    frame = pd.DataFrame(rows, columns=list(columns))
    types = {name: _PANDAS_TYPES.get(ARROW_TYPES.get(name, ""), "float64") for name in columns}
    return frame.astype(types)
