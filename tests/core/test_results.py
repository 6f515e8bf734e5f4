from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.results import (
    LAST_COLUMNS,
    SCORE_DIGITS,
    TABLE_COLUMNS,
    Box,
    Face,
    ModelInfo,
    Quality,
    Result,
    Smoothed,
    result_rows,
    score_columns,
    table_columns,
)
from mien.video.summary import comparison_columns, event_columns

MODEL = ModelInfo("mien-b0", "1.0.0", "ab" * 32)
SCORES = dict(zip(EMOTIONS, (0.01, 0.0, 0.0, 0.91, 0.04, 0.02, 0.02), strict=True))

boxes = st.builds(
    Box,
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(1, 5000),
    st.integers(1, 5000),
)


@st.composite
def scores(draw: st.DrawFn) -> dict[str, float]:
    weights = draw(
        st.lists(st.floats(0, 1), min_size=7, max_size=7).filter(lambda some: sum(some) > 0.01)
    )
    return {name: weight / sum(weights) for name, weight in zip(EMOTIONS, weights, strict=True)}


def _face(**changes: Any) -> Face:
    known: dict[str, Any] = {
        "face_id": 0,
        "box": Box(10, 20, 64, 64),
        "face_confidence": 0.98,
        "emotion": "happy",
        "confidence": 0.91,
        "uncertain": False,
        "scores": SCORES,
        "quality": Quality(64, 0.1),
    }
    return Face(**{**known, **changes})


def _result(**changes: Any) -> Result:
    known: dict[str, Any] = {
        "source": "a.jpg",
        "status": "ok",
        "model": MODEL,
        "width": 640,
        "height": 480,
        "faces": (_face(),),
    }
    return Result(**{**known, **changes})


def _read_face(scores: Mapping[str, float]) -> Face:
    emotion = max(scores, key=lambda name: scores[name])
    return _face(scores=scores, emotion=emotion, confidence=scores[emotion])


def test_json_is_the_contract() -> None:
    written = json.dumps(_result().to_dict())
    assert written == (
        '{"schema": "mien/1", "source": "a.jpg", "frame": null, "time_s": null, "status": "ok", '
        '"width": 640, "height": 480, "faces": [{"face_id": 0, "track_id": null, '
        '"box": {"x": 10, "y": 20, "w": 64, "h": 64}, "face_confidence": 0.98, '
        '"emotion": "happy", "confidence": 0.91, "uncertain": false, '
        '"scores": {"angry": 0.01, "disgust": 0.0, "fear": 0.0, "happy": 0.91, "neutral": 0.04, '
        '"sad": 0.02, "surprise": 0.02}, '
        '"quality": {"size_px": 64, "blur": 0.1, "flags": []}}], '
        '"model": {"name": "mien-b0", "version": "1.0.0", "sha256": "' + "ab" * 32 + '"}}'
    )


def test_a_failure_has_an_error_and_no_size() -> None:
    failed = _result(status="unreadable", faces=(), width=None, height=None, error="not an image")
    written = failed.to_dict()
    assert written["error"] == "not an image"
    assert written["width"] is None
    assert written["faces"] == []


def test_frame_has_index_and_time() -> None:
    written = _result(frame=3, time_s=0.12).to_dict()
    assert (written["frame"], written["time_s"]) == (3, 0.12)


@given(scores())
def test_scores_survive_rounding(scores: dict[str, float]) -> None:
    written = json.loads(json.dumps(_read_face(scores).to_dict()))
    assert list(written["scores"]) == list(EMOTIONS)
    assert abs(sum(written["scores"].values()) - 1) < 1e-3
    assert written["confidence"] == written["scores"][written["emotion"]]
    assert written["confidence"] == max(written["scores"].values())
    assert all(0 <= score <= 1 for score in written["scores"].values())


@given(scores())
def test_row_matches_json(scores: dict[str, float]) -> None:
    result = _result(faces=(_read_face(scores), _face(face_id=1, track_id=7)))
    rows = result_rows(result)
    assert [tuple(row) for row in rows] == [TABLE_COLUMNS] * 2
    for row, face in zip(rows, result.to_dict()["faces"], strict=True):
        assert {name: row[name] for name in EMOTIONS} == face["scores"]
        assert {side: row[side] for side in "xywh"} == face["box"]
        assert row["emotion"] == face["emotion"]
        assert row["status"] == "ok"
    assert rows[1]["track_id"] == 7


def test_an_image_without_faces_has_one_row() -> None:
    (row,) = result_rows(_result(status="no_face", faces=()))
    assert tuple(row) == TABLE_COLUMNS
    assert (row["source"], row["status"]) == ("a.jpg", "no_face")
    assert all(row[name] is None for name in ("face_id", "x", "emotion", "uncertain", "happy"))


def test_columns_are_the_contract() -> None:
    assert ",".join(TABLE_COLUMNS) == (
        "source,frame,time_s,face_id,track_id,status,x,y,w,h,face_confidence,emotion,confidence,"
        "uncertain,angry,disgust,fear,happy,neutral,sad,surprise,error,flags,valence"
    )


def test_last_columns() -> None:
    scores = dict.fromkeys(EMOTIONS, 0.0) | {"happy": 0.5, "sad": 0.3, "fear": 0.2}
    quality = Quality(30, 0.9, ("small", "blurred"))
    face = _face(scores=scores, emotion="happy", confidence=0.5, quality=quality)
    (row,) = result_rows(_result(faces=(face,)))
    assert [row[name] for name in LAST_COLUMNS] == [None, "small;blurred", 0.2]
    assert face.valence == pytest.approx(0.2)
    certain = dict.fromkeys(EMOTIONS, 0.0)
    for emotion, valence in (("happy", 1.0), ("angry", -1.0), ("neutral", 0.0), ("surprise", 0.0)):
        shown = _face(scores=certain | {emotion: 1.0}, emotion=emotion, confidence=1.0)
        assert shown.valence == valence
    own = _face(scores={"happy": 0.7, "tense": 0.3}, emotion="happy", confidence=0.7)
    assert own.valence is None
    (failed,) = result_rows(_result(status="unreadable", faces=(), error="a.jpg: no such file"))
    assert [failed[name] for name in LAST_COLUMNS] == ["a.jpg: no such file", None, None]


def test_own_classes_are_columns() -> None:
    face = _face(scores={"calm": 0.7, "tense": 0.3}, emotion="calm", confidence=0.7)
    (row,) = result_rows(_result(faces=(face,)), labels=("calm", "tense"))
    assert tuple(row) == table_columns(("calm", "tense"))
    assert row["tense"] == 0.3


@pytest.mark.parametrize(
    "labels",
    [
        ("status", "uncertain", "x"),
        ("Status", " EMOTION ", "\uff58"),
        ("error", "flags", "valence", "labels", "time_s", "track_id", "truth", "right"),
        ("happy", "smoothed_happy", "smoothed_emotion", "SMOOTHED_x"),
        ("status", "score_status", "score_score_status"),
        ("calm", "Calm", "CALM "),
    ],
)
def test_clashing_class_names_are_prefixed(labels: tuple[str, ...]) -> None:
    shares = {name: 1 / len(labels) for name in labels}
    smoothed = Smoothed(labels[0], shares[labels[0]], shares)
    face = _face(scores=shares, emotion=labels[0], confidence=shares[labels[0]], smoothed=smoothed)
    columns = table_columns(labels, smoothed=True)
    as_data_bases_see_them = {
        unicodedata.normalize("NFKC", name).strip().lower() for name in columns
    }
    assert len(as_data_bases_see_them) == len(columns) == 14 + len(labels) + 2 + len(labels) + 3
    (row,) = result_rows(_result(faces=(face,)), labels, smoothed=True)
    assert tuple(row) == columns
    assert (row["status"], row["x"], row["uncertain"]) == ("ok", face.box.x, face.uncertain)
    assert [row[score_columns(labels)[name]] for name in labels] == [
        round(share, SCORE_DIGITS) for share in shares.values()
    ]
    (plain,) = result_rows(_result(faces=(face,)), labels)
    assert tuple(plain) == (*columns[: 14 + len(labels)], *LAST_COLUMNS)


def test_classes_named_like_totals_keep_their_columns_apart() -> None:
    labels = ("frames", "seconds", "people", "label", "start_s", "end_s", "calm", "share_calm")
    for columns in (
        comparison_columns(labels, corrected=True),
        event_columns(labels, corrected=True),
    ):
        assert len(set(columns)) == len(columns)


def test_other_class_names_are_unchanged() -> None:
    assert score_columns(EMOTIONS) == {name: name for name in EMOTIONS}
    assert score_columns(("calm", "tense, or not")) == {
        "calm": "calm",
        "tense, or not": "tense, or not",
    }


@given(boxes)
def test_box_corners(box: Box) -> None:
    left, top, right, bottom = box.xyxy
    assert (right - left, bottom - top) == (box.w, box.h)
    assert box.area == box.w * box.h


@given(boxes, boxes)
def test_overlap_is_symmetric_and_in_0_1(one: Box, other: Box) -> None:
    overlap = one.overlap(other)
    assert overlap == other.overlap(one)
    assert 0 <= overlap <= 1
    assert (overlap == 1) == (one == other)


def test_overlap_of_halves() -> None:
    assert Box(0, 0, 10, 10).overlap(Box(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert Box(0, 0, 10, 10).overlap(Box(10, 0, 10, 10)) == 0


@pytest.mark.parametrize(
    "sides", [(-1, 0, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0), (0.5, 0, 1, 1), (True, 0, 1, 1)]
)
def test_invalid_box_is_rejected(sides: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match="expected box"):
        Box(*sides)


@pytest.mark.parametrize(
    "changes",
    [
        {"face_id": -1},
        {"track_id": -1},
        {"face_confidence": 1.1},
        {"face_confidence": float("nan")},
        {"scores": {**SCORES, "sad": 0.5}},
        {"scores": {**SCORES, "sad": -0.02, "neutral": 0.08}},
        {"emotion": "bored"},
        {"emotion": "sad", "confidence": 0.02},
        {"confidence": 0.5},
    ],
)
def test_invalid_face_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        _face(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "fine"},
        {"status": "no_face"},
        {"faces": ()},
        {"error": "but it is ok"},
        {"status": "unreadable", "faces": ()},
        {"status": "unreadable", "faces": (), "error": ""},
        {"width": None},
        {"width": 0},
        {"frame": -1},
        {"time_s": float("inf")},
    ],
)
def test_invalid_result_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        _result(**changes)


@pytest.mark.parametrize(
    ("size", "blur", "flags"), [(0, 0.1, ()), (10, 1.5, ()), (10, 0.1, ("ugly",))]
)
def test_invalid_quality_is_rejected(size: int, blur: float, flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Quality(size, blur, flags)


def test_smoothed_scores_only_in_videos() -> None:
    smoothed = Smoothed("happy", 0.91, SCORES)
    written = _face(track_id=2, smoothed=smoothed).to_dict()
    assert written["smoothed"] == {"emotion": "happy", "confidence": 0.91, "scores": SCORES}
    assert "smoothed" not in _face().to_dict()


def test_a_video_has_columns_for_smoothed_scores() -> None:
    columns = table_columns(smoothed=True)
    assert columns[:21] + columns[-3:] == TABLE_COLUMNS
    assert columns[21:24] == ("smoothed_emotion", "smoothed_confidence", "smoothed_angry")
    face = _face(smoothed=Smoothed("happy", 0.91, SCORES))
    for shown in (_result(faces=(face,)), _result(), _result(status="no_face", faces=())):
        (row,) = result_rows(shown, smoothed=True)
        assert tuple(row) == columns
        expected = 0.91 if shown.faces and shown.faces[0].smoothed else None
        assert row["smoothed_happy"] == expected


def test_invalid_smoothed_scores_are_rejected() -> None:
    with pytest.raises(UsageError, match="likeliest"):
        Smoothed("sad", SCORES["sad"], SCORES)
