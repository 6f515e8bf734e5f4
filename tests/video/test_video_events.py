from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS, valence
from mien.core.errors import InputError
from mien.video.charts import draw_comparison
from mien.video.summary import EventTable, Marker, comparison_columns, event_columns, read_markers
from mien.video.tracker import Baseline
from video_results import face, result


def test_markers_are_read_in_any_order_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeffLabel;start;End;source\nthe joke;0:01;1:02:03.5;a.mp4\n;2;3;\n")
    joke, other = read_markers(path)
    assert joke == Marker(1.0, 3723.5, "the joke", "a.mp4")
    assert other == Marker(2.0, 3.0, "", None)
    assert [joke.applies_to(one) for one in ("a.mp4", "deep/a.mp4", "b.mp4")] == [True, True, False]
    assert other.applies_to("b.mp4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "start is missing"),
        ("start,end\n1,2\n", "label is missing"),
        ("start,end,label\n", "contains no events"),
        ("start,end,label\n0,1,a\nsoon,2,b\n", "line 3: expected a time"),
        ("start,end,label\n2,1,a\n", "line 2: expected an end after the start"),
        ("start,end,label\n2\n", "line 2: expected a time"),
    ],
)
def test_what_is_no_table_of_events_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_markers(path)


def test_a_missing_file_of_markers_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_markers(tmp_path / "none.csv")


def test_an_event_has_each_persons_means_and_shares() -> None:
    markers = [Marker(0.0, 1.0, "calm"), Marker(1.0, 2.0, "joke"), Marker(8.0, 9.0, "late")]
    table = EventTable(markers, EMOTIONS)
    for number in range(20):
        people = [face(0, "happy" if number >= 15 else "neutral", 0.7)]
        if number < 5:
            people.append(face(1, "angry", 0.4))
        table.add(result(number, *people))
    rows = table.rows()
    assert [(row["label"], row["track_id"], row["frames"]) for row in rows] == [
        ("calm", 0, 10),
        ("calm", 1, 5),
        ("joke", 0, 10),
        ("late", None, 0),
    ]
    calm, angry, joke, late = rows
    assert [row["seconds"] for row in rows] == pytest.approx([1.0, 0.5, 1.0, 0.0])
    assert (calm["share_neutral"], angry["share_angry"]) == (1.0, 1.0)
    assert joke["share_happy"] == pytest.approx(0.5)
    assert joke["happy"] == pytest.approx((0.7 + 0.05) / 2)
    assert joke["valence"] == pytest.approx(0.375 - 0.05)
    assert angry["valence"] == pytest.approx(0.1 - 0.4)
    assert late["valence"] is None
    assert ["source", *joke] == event_columns(EMOTIONS, corrected=False)


def test_frames_count_as_long_as_they_are_shown() -> None:
    table = EventTable([Marker(0.0, 10.0, "all")], EMOTIONS, gap_s=1.0)
    for moment, emotion in ((0.0, "happy"), (0.25, "sad"), (4.0, "fear")):
        table.add(replace(result(0, face(0, emotion)), time_s=moment))
    (row,) = table.rows()
    assert row["seconds"] == pytest.approx(0.25 + 1.0 + 1.0)
    assert row["share_happy"] == pytest.approx(0.25 / 2.25, abs=1e-6)


def test_corrected_scores_have_columns_of_their_own() -> None:
    baseline = Baseline(EMOTIONS, 0.0, 0.5)
    table = EventTable([Marker(0.0, 1.0, "all")], EMOTIONS)
    for number in range(10):
        for one in baseline.add(result(number, face(0, "sad", 0.5))):
            table.add(one)
    (row,) = table.rows(corrected=True)
    assert (row["share_sad"], row["corrected_share_neutral"]) == (1.0, 1.0)
    assert row["valence"] < -0.3
    assert row["corrected_valence"] == pytest.approx(0.0, abs=1e-6)
    assert ["source", *row] == event_columns(EMOTIONS, corrected=True)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"happy": 1.0, "angry": 0.0, "disgust": 0.0, "fear": 0.0, "sad": 0.0}, 1.0),
        ({"happy": 0.1, "angry": 0.0, "disgust": 0.0, "fear": 0.9, "sad": 0.0}, -0.8),
        ({"happy": 0.5, "angry": 0.5}, None),
    ],
)
def test_valence(scores: dict[str, float], expected: float | None) -> None:
    found = valence(scores)
    assert found == expected or found == pytest.approx(expected)


def test_a_comparison_draws_a_lane_for_each_video() -> None:
    rows = []
    for name, emotion in (("a.mp4", "happy"), ("b.mp4", "angry"), ("none.mp4", None)):
        table = EventTable([Marker(0.0, 9.0, "")], EMOTIONS, by_person=False)
        for number in range(4):
            table.add(result(number, *([face(0, emotion, 0.9)] if emotion else [])))
        people = 1 if emotion else 0
        rows.append({**table.rows()[0], "source": name, "people": people, "frames": 4})
    assert set(comparison_columns(EMOTIONS, corrected=False)) <= set(rows[0])
    picture = np.asarray(draw_comparison(rows, EMOTIONS))
    assert picture.shape[1] == 1600
    happy, angry, nobody = (picture[128 + 76 * lane + 4, 700] for lane in range(3))
    assert tuple(happy) != tuple(angry)
    assert tuple(nobody) == (240, 242, 244)
