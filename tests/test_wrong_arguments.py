"""Arguments of the wrong type or value: every public function refuses them in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien
from video_maker import even_times, write_video

LOADED = mien.load(threads=1, detector="none")
PICTURE = np.full((60, 60, 3), 128, np.uint8)
RESULT = LOADED.analyze_result(PICTURE, color="rgb")
FACE = RESULT.faces[0]
CROPS = np.zeros((1, 48, 48), np.uint8)

NUMBERS: tuple[Any, ...] = ("x", [1], {}, object(), b"x", "", np.array([1, 2]), math.nan, 10**400)
TEXTS: tuple[Any, ...] = (-1, 1.5, [1], {}, object(), b"x", np.array([1, 2]))
OBJECTS: tuple[Any, ...] = ("x", -1, 1.5, object(), b"x")
LISTS: tuple[Any, ...] = (-1, 1.5, object(), "x", b"x")
PATHS: tuple[Any, ...] = (-1, 1.5, [1], object(), b"x", "")


def _of(value: object) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]


def _video(**options: Any) -> object:
    return LOADED.analyze_video("missing.mp4", **options)


CALLS: Mapping[str, tuple[Callable[..., object], Mapping[str, Any], Mapping[str, tuple[Any, ...]]]]
CALLS = {
    "load": (
        mien.load,
        {},
        {
            "model": (-1, 1.5, [1], object(), b"x"),
            "detector": (-1, [1], object(), "x", b"x"),
            "threads": (*NUMBERS[:-1], 0, 1.5),
            "min_face": (*NUMBERS[:-1], -1, 1.5),
            "max_faces": (*NUMBERS[:-1], 0, True),
            "align": (*TEXTS, "up"),
            "labels": TEXTS,
        },
    ),
    "Recognizer": (
        mien.Recognizer,
        {"classifier": LOADED.classifier, "detector": LOADED.detector},
        {"classifier": OBJECTS, "detector": OBJECTS, "choice": OBJECTS},
    ),
    "load_detector": (
        mien.load_detector,
        {"name": "haar"},
        {"name": (*TEXTS, "x"), "side": (*NUMBERS[:-1], 0, 1.5), "weights": PATHS},
    ),
    "yunet": (mien.load_detector, {"name": "yunet"}, {"weights": PATHS}),
    "load_image": (
        mien.load_image,
        {"source": PICTURE, "color": "rgb"},
        {"source": TEXTS[:-2], "color": (*TEXTS, "x")},
    ),
    "analyze": (
        LOADED.analyze,
        {"image": PICTURE, "color": "rgb"},
        {"image": TEXTS[:-2], "color": (*TEXTS, "x"), "on_no_face": (*TEXTS, "x")},
    ),
    "analyze_many": (
        LOADED.analyze_many,
        {"images": [PICTURE], "color": "rgb"},
        {
            "images": (*LISTS, PICTURE),
            "color": (*TEXTS, "x"),
            "sources": LISTS,
            "batch_size": (*NUMBERS[:-1], 0, 1.5),
        },
    ),
    "read": (
        LOADED.read,
        {"batches": [LOADED.find(PICTURE, color="rgb")]},
        {"batches": (*LISTS, [1]), "batch_size": (*NUMBERS[:-1], 0, 1.5)},
    ),
    "classify": (
        LOADED.classify,
        {"crops": CROPS},
        {"crops": (*LISTS, ["x"]), "color": (*TEXTS, "x"), "batch_size": (*NUMBERS[:-1], 0)},
    ),
    "explain": (
        LOADED.explain,
        {"image": PICTURE, "color": "rgb", "method": "gradcam"},
        {
            "color": (*TEXTS, "x"),
            "emotion": (*TEXTS, "x"),
            "face_id": (*NUMBERS, -1, 1, 0.0),
            "method": (*TEXTS, "x"),
        },
    ),
    "explain_many": (
        LOADED.explain_many,
        {"images": [PICTURE], "color": "rgb", "method": "gradcam"},
        {"images": (*LISTS, PICTURE), "emotion": (*TEXTS, "x"), "method": (*TEXTS, "x")},
    ),
    "analyze_video": (
        _video,
        {},
        {
            "every": (*NUMBERS, 0, -1, True),
            "start": (*NUMBERS, None, -1),
            "end": (*NUMBERS[:-1], 0),
            "smooth_s": (*NUMBERS, None, -1, math.inf),
            "baseline": (*NUMBERS[:6], 1, (1,), (2, 1), (0, 10**400)),
            "markers": (-1, 1.5, object(), b"x", "", [1], [("a", "b", "c")]),
        },
    ),
    "source of analyze_video": (
        LOADED.analyze_video,
        {},
        {"source": (1.5, True, None, [1], {}, object(), b"x")},
    ),
    "annotate": (
        mien.annotate,
        {"image": PICTURE, "faces": RESULT, "color": "rgb"},
        {"faces": (*OBJECTS, [1], None), "color": (*TEXTS, "x")},
    ),
    "save": (RESULT.save, {"path": "a.png"}, {"path": PATHS, "color": (*TEXTS, "x", "")}),
    "result_rows": (
        mien.result_rows,
        {"result": RESULT},
        {"result": (*OBJECTS, None), "labels": (*LISTS, [1])},
    ),
    "to_pandas": (mien.to_pandas, {}, {"results": (*OBJECTS, None, [1])}),
    "Classifier.open": (
        mien.Classifier.open,
        {},
        {
            "model": (-1, [1], b"x"),
            "threads": (*NUMBERS[:-1], 0),
            "labels": (*LISTS, [1]),
            "reading": TEXTS,
        },
    ),
    "Classifier.classify": (
        LOADED.classifier.classify,
        {"faces": CROPS},
        {"faces": OBJECTS, "batch_size": (*NUMBERS[:-1], 0, 1.5)},
    ),
    "Box": (mien.Box, {"x": 0, "y": 0, "w": 1, "h": 1}, {"x": NUMBERS[:-1], "w": (0, 1.5, True)}),
    "Box.overlap": (FACE.box.overlap, {}, {"other": OBJECTS}),
    "Quality": (mien.Quality, _of(FACE.quality), {"blur": NUMBERS, "flags": (*LISTS, ["x"])}),
    "Face": (
        mien.Face,
        _of(FACE),
        {
            "box": OBJECTS,
            "emotion": TEXTS,
            "confidence": NUMBERS,
            "scores": OBJECTS,
            "quality": OBJECTS,
            "smoothed": OBJECTS,
            "turn": NUMBERS[:-1],
            "corrected": OBJECTS,
        },
    ),
    "Result": (
        mien.Result,
        _of(RESULT),
        {
            "status": (*TEXTS, "x"),
            "model": OBJECTS,
            "faces": (*OBJECTS, None, [1]),
            "time_s": (*NUMBERS[:-1], -1),
            "error": (*TEXTS, "x"),
        },
    ),
    "Faces": (mien.Faces, {}, {"result": OBJECTS}),
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, call in CALLS.items() for option in call[2]]
)
def test_a_wrong_argument_is_a_usage_error_of_one_line(name: str, option: str) -> None:
    function, right, wrong = CALLS[name]
    for value in wrong[option]:
        with pytest.raises(mien.UsageError) as caught:
            function(**{**right, option: value})
        message = str(caught.value)
        assert message.startswith(("expected", "unknown", "no face", "only", "the path")), message
        assert "\n" not in message


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    eight: Any = np.int64(8)
    half: Any = np.float32(0.5)
    assert len(LOADED.classify(CROPS, batch_size=eight)) == 1
    write_video(tmp_path / "clip.mp4", even_times(3))
    assert len(list(LOADED.analyze_video(tmp_path / "clip.mp4", every=half))) == 1


class _Indexed:
    """A list with only __getitem__, such as a data set of PyTorch."""

    def __init__(self, *values: object) -> None:
        self._values = values

    def __getitem__(self, index: int) -> Any:
        return self._values[index]


def test_what_can_be_iterated_over_is_a_list() -> None:
    pictures: Any = _Indexed(PICTURE, PICTURE)
    sources: Any = _Indexed("a", "b")
    results = LOADED.analyze_many(pictures, color="rgb", sources=sources)
    assert [result.source for result in results] == ["a", "b"]
    assert len(LOADED.classify(_Indexed(CROPS[0]))) == 1  # type: ignore[arg-type]
    labels: Any = (label for label in LOADED.labels)
    assert mien.Classifier.open(threads=1, labels=labels).labels == LOADED.labels


def test_a_data_frame_is_made_of_what_can_be_iterated_over() -> None:
    pytest.importorskip("pandas")
    results: Any = _Indexed(RESULT, RESULT)
    assert len(mien.to_pandas(results)) == 2
