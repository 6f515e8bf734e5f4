"""Results: boxes, faces, images; their JSON, table rows, and the forms of other tools.

Values are validated on construction, so a result that exists can be written.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from mien.core.display import Viewable, data_frame, results_html
from mien.core.emotions import EMOTIONS, FER2013_CSV_ORDER, valence
from mien.core.errors import UsageError, one_line
from mien.core.formats import escape_surrogates

if TYPE_CHECKING:
    import pandas as pd

    from mien.core.images import ImageSource

SCHEMA = "mien/1"
"""Name and version of the JSON schema; the version changes when readers have to."""

STATUSES: tuple[str, ...] = ("ok", "no_face", "unreadable", "error")
"""Faces found, none found, not an image, any other error."""

QUALITY_FLAGS: tuple[str, ...] = ("small", "blurred", "dark", "bright", "turned_away")
"""Possible `Quality.flags`, in this order."""

SCORE_DIGITS = 6
"""Decimals of scores, confidences and blur in JSON and tables."""


# ---------------------------------------------------------------- results and their JSON
@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the upright image: top-left corner, width and height."""

    x: int
    y: int
    w: int
    h: int

    def __post_init__(self) -> None:
        _whole("box x", self.x, 0)
        _whole("box y", self.y, 0)
        _whole("box w", self.w, 1)
        _whole("box h", self.h, 1)

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; right and bottom lie just outside, as in slices."""
        return (self.x, self.y, self.x + self.w, self.y + self.h)

    @property
    def area(self) -> int:
        """The number of pixels in the box."""
        return self.w * self.h

    def overlap(self, other: Box) -> float:
        """Return intersection over union with another box, 0 to 1."""
        width = min(self.x + self.w, other.x + other.w) - max(self.x, other.x)
        height = min(self.y + self.h, other.y + other.h) - max(self.y, other.y)
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / (self.area + other.area - shared)

    def to_dict(self) -> dict[str, int]:
        """Return the box as JSON has it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Quality:
    """How well a face can be seen.

    Attributes:
        size_px: the smaller side of the face's box in pixels.
        blur: 0 (sharp) to 1 (nothing but blur).
        flags: any of `QUALITY_FLAGS`.
    """

    size_px: int
    blur: float
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _whole("size_px", self.size_px, 1)
        _share("blur", self.blur)
        unknown = [flag for flag in self.flags if flag not in QUALITY_FLAGS]
        if unknown:
            raise UsageError(
                f"unknown quality flag {unknown[0]!r}: expected {', '.join(QUALITY_FLAGS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the quality as JSON has it."""
        return {
            "size_px": self.size_px,
            "blur": round(float(self.blur), SCORE_DIGITS),
            "flags": list(self.flags),
        }


@dataclass(frozen=True)
class Smoothed:
    """A person's scores in a video, smoothed over time or corrected by a baseline.

    Attributes:
        emotion: the likeliest emotion, a key of ``scores``.
        confidence: its score.
        scores: a probability for each emotion, in the model's order; they sum to 1.
    """

    emotion: str
    confidence: float
    scores: Mapping[str, float]

    def __post_init__(self) -> None:
        _check_scores(self.emotion, self.confidence, self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as JSON has them."""
        return {
            "emotion": self.emotion,
            "confidence": round(float(self.confidence), SCORE_DIGITS),
            "scores": _rounded(self.scores),
        }


@dataclass(frozen=True)
class Face:
    """One face and its emotion.

    Attributes:
        face_id: number of the face within its image, from 0, left to right.
        box: where the face is.
        face_confidence: how sure the detector is that this is a face, 0 to 1; detectors differ in
            what they mean by it.
        emotion: the likeliest emotion, a key of ``scores``.
        confidence: its score.
        uncertain: the confidence is below the model's threshold for this emotion, or the face is
            turned away.
        scores: a calibrated probability for each emotion, in the model's order; they sum to 1.
        quality: size, blur and what else may spoil the reading.
        track_id: the person's number throughout a video, or None.
        smoothed: the person's scores smoothed over time, or None outside a video.
        turn: degrees, clockwise, by which the face leant and its crop was turned back: about 90,
            -90 or 180 where a photo lies on a side or stands on its head.
        corrected: the scores corrected by the person's baseline (`mien.video.baseline`), or None.
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
        _whole("face_id", self.face_id, 0)
        if self.track_id is not None:
            _whole("track_id", self.track_id, 0)
        _share("face_confidence", self.face_confidence)
        _check_scores(self.emotion, self.confidence, self.scores)

    @property
    def valence(self) -> float | None:
        """How pleasant it looks, -1 to 1: happy minus the largest of angry, disgust, fear and sad.

        None for a model that lacks one of these classes.
        """
        return valence(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Return the face as JSON has it; ``smoothed`` and ``corrected`` where there are any."""
        face: dict[str, Any] = {
            "face_id": self.face_id,
            "track_id": self.track_id,
            "box": self.box.to_dict(),
            "face_confidence": round(float(self.face_confidence), SCORE_DIGITS),
            "emotion": self.emotion,
            "confidence": round(float(self.confidence), SCORE_DIGITS),
            "uncertain": self.uncertain,
            "scores": _rounded(self.scores),
            "quality": self.quality.to_dict(),
        }
        if self.smoothed is not None:
            face["smoothed"] = self.smoothed.to_dict()
        if self.corrected is not None:
            face["corrected"] = self.corrected.to_dict()
        return face


@dataclass(frozen=True)
class ModelInfo:
    """Which model gave a result.

    Attributes:
        name: the model's.
        version: as "1.0.0".
        sha256: of its ONNX file.
        labels: whose labels its scores follow: "people", "fer2013" or "own" (see
            `mien.core.models.READINGS`); empty if nobody said so.
    """

    name: str
    version: str
    sha256: str
    labels: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the model's identity as JSON has it."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True)
class Result(Viewable):
    """What was found in one image, or in one frame of a video.

    In a notebook it shows itself: the picture with its faces, and their scores.

    Attributes:
        source: the path or name of the image, or None for one that has none.
        status: one of `STATUSES`.
        model: the model that read it.
        width: pixels of the upright image, or None where it could not be read.
        height: as ``width``.
        faces: the faces, left to right; empty unless the status is ``ok``.
        frame: number of the frame in its video, from 0, or None for an image.
        time_s: when in the video, in seconds, or None for an image.
        error: one line that says what went wrong; given exactly when the status is ``unreadable``
            or ``error``.
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
        if self.status not in STATUSES:
            raise UsageError(f"expected a status of {', '.join(STATUSES)}, got {self.status!r}")
        if (self.status == "ok") != bool(self.faces):
            raise UsageError(
                f"expected faces exactly when the status is ok, "
                f"got {len(self.faces)} with status {self.status}"
            )
        if self.error is not None:
            object.__setattr__(self, "error", one_line(self.error))
        failed = self.status in ("unreadable", "error")
        if failed != bool(self.error):
            raise UsageError(
                "expected an error exactly when the status is unreadable or error, "
                f"got {self.error!r} with status {self.status}"
            )
        for what, side in (("width", self.width), ("height", self.height)):
            if side is not None or not failed:
                _whole(what, side, 1)
        if self.frame is not None:
            _whole("frame", self.frame, 0)
        if self.time_s is not None and not (math.isfinite(self.time_s) and self.time_s >= 0):
            raise UsageError(f"expected time_s of 0 seconds or more, got {self.time_s!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON has it; ``error`` is there only where something went wrong."""
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "source": self.source,
            "frame": self.frame,
            "time_s": None if self.time_s is None else round(float(self.time_s), SCORE_DIGITS),
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

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of the faces, as `mien.to_pandas` does."""
        return to_pandas(self)

    @property
    def _own_result(self) -> Result:
        return self

    def remember_image(self, image: Callable[[], ImageSource | None], color: str | None) -> Result:
        """Remember how to get the image again; this is not part of the result's value."""
        object.__setattr__(self, "_image", (image, color))
        return self

    def recall_image(self) -> tuple[ImageSource | None, str | None]:
        """Return the image, None if it is gone, and its colour order."""
        image, color = getattr(self, "_image", (lambda: None, None))
        found = image()
        return (self.source if found is None and self.frame is None else found), color

    def __getstate__(self) -> dict[str, Any]:
        """Leave the image out of pickles and copies."""
        return {name: value for name, value in vars(self).items() if name != "_image"}


class Faces(list[Face], Viewable):
    """The faces of one image, left to right: a list, and the `Result` that they are from."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.faces)
        self.result = result

    @property
    def _own_result(self) -> Result:
        return self.result

    def to_dict(self) -> dict[str, Any]:
        """Return the image's result as JSON has it, as `Result.to_dict`."""
        return self.result.to_dict()

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of the faces, as `mien.to_pandas` does."""
        return to_pandas(self)


class Results(list[Result]):
    """The results of several images: a list that becomes a table."""

    def __init__(self, results: Iterable[Result] = ()) -> None:
        super().__init__(results)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the results as JSON has them."""
        return [result.to_dict() for result in self]

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of all faces, as `mien.to_pandas` does."""
        return to_pandas(self)

    def _repr_html_(self) -> str:
        return results_html(self)


def _whole(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"expected {what} as a whole number of {least} or more, got {value!r}")


def _share(what: str, value: object) -> None:
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
        raise UsageError(f"expected {what} as a number from 0 to 1, got {value!r}")


def _check_scores(emotion: str, confidence: float, scores: Mapping[str, float]) -> None:
    """Check that scores are probabilities, and emotion and confidence those of the likeliest."""
    for name, score in scores.items():
        _share(f"score of {name}", score)
    total = math.fsum(scores.values())
    if abs(total - 1.0) > 1e-3:
        raise UsageError(f"expected scores that sum to 1, got {total:.4f}")
    if emotion not in scores:
        raise UsageError(f"expected an emotion out of {', '.join(scores)}, got {emotion!r}")
    if confidence != scores[emotion]:
        raise UsageError(
            f"expected the confidence to be the score of {emotion} "
            f"({scores[emotion]}), got {confidence}"
        )
    if confidence < max(scores.values()):
        raise UsageError(f"expected the likeliest emotion, got {emotion}")


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(score), SCORE_DIGITS) for name, score in scores.items()}


# ---------------------------------------------------------------- tables
_FACE_COLUMNS: tuple[str, ...] = (
    *("source", "frame", "time_s", "face_id", "track_id", "status"),
    *("x", "y", "w", "h", "face_confidence"),
    *("emotion", "confidence", "uncertain"),
)

LAST_COLUMNS: tuple[str, ...] = ("error", "flags", "valence")
"""Columns added later, which stay last."""

TABLE_COLUMNS: tuple[str, ...] = (*_FACE_COLUMNS, *EMOTIONS, *LAST_COLUMNS)
"""Columns of a table of results (CSV, Parquet): one row a face, one row where there is none."""

_SMOOTHED, _CORRECTED = "smoothed_", "corrected_"
_RESERVED: tuple[str, ...] = (
    *_FACE_COLUMNS,
    *("truth", "right"),  # of the table of one's own pictures
    # Later columns stand after the scores; a class must not take their names before they come.
    *(*LAST_COLUMNS, "arousal", "labels", "model", "schema"),
)


def score_columns(labels: Sequence[str]) -> dict[str, str]:
    """Return the column of each label's score: its own name, or ``score_`` and the name.

    The prefix is for names that a data base takes for another column's (case, blanks, form of
    characters aside), and for those that begin as the columns of smoothed or corrected scores do.

    Example:
        >>> score_columns(("calm", "Status"))
        {'calm': 'calm', 'Status': 'score_Status'}
    """
    taken = {_folded(name) for name in _RESERVED}
    columns = {}
    for label in labels:
        name = label
        while (folded := _folded(name)) in taken or folded.startswith((_SMOOTHED, _CORRECTED)):
            name = f"score_{name}"
        taken.add(folded)
        columns[label] = name
    return columns


def table_columns(
    labels: Sequence[str] = EMOTIONS, *, smoothed: bool = False, corrected: bool = False
) -> tuple[str, ...]:
    """Return the columns of a table of results for a model's labels; see `TABLE_COLUMNS`.

    The labels' are those of `score_columns`. ``smoothed`` adds those of a video:
    ``smoothed_emotion``, ``smoothed_confidence``, then ``smoothed_`` and each label's column;
    ``corrected`` those of a baseline, which begin with ``corrected_``. `LAST_COLUMNS` come last.
    """
    scores = score_columns(labels).values()
    more = [
        prefix + name
        for prefix, is_there in ((_SMOOTHED, smoothed), (_CORRECTED, corrected))
        for name in (("emotion", "confidence", *scores) if is_there else ())
    ]
    return (*_FACE_COLUMNS, *scores, *more, *LAST_COLUMNS)


def result_rows(
    result: Result,
    labels: Sequence[str] = EMOTIONS,
    *,
    smoothed: bool = False,
    corrected: bool = False,
) -> list[dict[str, Any]]:
    """Return the table rows of a result: one a face, one with empty fields where there is none.

    Keys and their order are those of `table_columns`, which says what the arguments mean; None
    where a value is missing.
    """
    written = result.to_dict()
    image = {key: written[key] for key in ("source", "frame", "time_s", "status")}
    image["error"] = written.get("error")
    names = table_columns(labels, smoothed=smoothed, corrected=corrected)
    empty = {**dict.fromkeys(names), **image}
    columns = score_columns(labels)
    rows = []
    for face, found in zip(written["faces"], result.faces, strict=True):
        row = {**empty, **{key: face[key] for key in _FACE_COLUMNS if key in face}, **face["box"]}
        row.update((name, face["scores"].get(label)) for label, name in columns.items())
        row["flags"] = ";".join(face["quality"]["flags"])
        row["valence"] = None if found.valence is None else round(found.valence, SCORE_DIGITS)
        for prefix, is_there in ((_SMOOTHED, smoothed), (_CORRECTED, corrected)):
            if is_there and (other := face.get(prefix[:-1])):
                row.update((prefix + key, other[key]) for key in ("emotion", "confidence"))
                scores = other["scores"]
                row.update((prefix + name, scores.get(label)) for label, name in columns.items())
        rows.append(row)
    return rows or [empty]


TEXT_COLUMNS = (
    *("source", "status", "emotion", "smoothed_emotion", "corrected_emotion"),
    *("error", "flags"),
)
"""Text columns of a table."""

_PANDAS_TYPES = {
    **dict.fromkeys(TEXT_COLUMNS, "string"),
    **dict.fromkeys(("frame", "face_id", "track_id", "x", "y", "w", "h"), "Int64"),
    "uncertain": "boolean",
}


def to_pandas(results: Viewable | Iterable[Viewable]) -> pd.DataFrame:
    """Return results as a pandas data frame: the table that `mien predict` writes as CSV.

    Args:
        results: a result, or several, as `analyze`, `analyze_result`, `analyze_many` and
            `analyze_video` give them.

    Returns:
        One row a face, one row where there is none, with the columns of `TABLE_COLUMNS`; for a
        video also those of the smoothed and, with a baseline, of the corrected scores. What is
        missing is NA.

    Raises:
        MissingExtra: if pandas is not installed.
        UsageError: if something else is in the list.
    """
    found = [one._own_result for one in _each(results)]
    faces = list(chain.from_iterable(result.faces for result in found))
    own = bool(found) and found[0].model.labels == "own"
    labels = tuple(faces[0].scores) if faces else (() if own else EMOTIONS)
    scores = {
        "smoothed": any(result.frame is not None for result in found),
        "corrected": any(face.corrected is not None for face in faces),
    }
    rows = chain.from_iterable(result_rows(one, labels, **scores) for one in found)
    texts = [
        {
            key: escape_surrogates(cell) if isinstance(cell, str) else cell
            for key, cell in row.items()
        }
        for row in rows
    ]
    return data_frame(texts, table_columns(labels, **scores), _PANDAS_TYPES)


def _each(results: Any) -> Iterable[Viewable]:
    if isinstance(results, Viewable):
        return [results]
    listed = list(results)
    for one in listed:
        if not isinstance(one, Viewable):
            raise UsageError(
                "expected results as analyze, analyze_many or analyze_video give them, "
                f"got {type(one).__name__}"
            )
    return listed


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


# ---------------------------------------------------------------- forms of other tools
# The values are mien's own: calibrated scores, boxes of its detectors.
def to_deepface(result: Result) -> list[dict[str, Any]]:
    """Return a result as deepface 0.0.103's ``DeepFace.analyze(image, actions=["emotion"])`` does.

    One dictionary a face: ``emotion`` (scores times 100, in its order), ``dominant_emotion``,
    ``region`` (``x``, ``y``, ``w``, ``h``, and both eyes, None since results hold none) and
    ``face_confidence`` (two decimals). Empty where there is no face; deepface raises there.
    """
    return [
        {
            "emotion": {name: 100.0 * score for name, score in _fer2013_order(face.scores)},
            "dominant_emotion": face.emotion,
            "region": {**face.box.to_dict(), "left_eye": None, "right_eye": None},
            "face_confidence": round(float(face.face_confidence), 2),
        }
        for face in result.faces
    ]


def to_fer(result: Result) -> list[dict[str, Any]]:
    """Return a result as fer 25.10's ``FER().detect_emotions(image)`` does.

    One dictionary a face: ``box`` ([x, y, w, h]) and ``emotions`` (scores rounded to two decimals,
    in its order). Empty where there is no face, as there.
    """
    return [
        {
            "box": list(face.box.to_dict().values()),
            "emotions": {name: round(score, 2) for name, score in _fer2013_order(face.scores)},
        }
        for face in result.faces
    ]


COMPAT_FORMATS: Mapping[str, Callable[[Result], list[dict[str, Any]]]] = {
    "deepface": to_deepface,
    "fer": to_fer,
}
"""The tools whose form a result can take, by the name of their package."""


def _fer2013_order(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return scores in the challenge's order, as both tools do; a model's own classes follow."""
    names = [name for name in FER2013_CSV_ORDER if name in scores]
    names += [name for name in scores if name not in names]
    return [(name, float(scores[name])) for name in names]
