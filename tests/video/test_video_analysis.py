from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot

import mien
from mien.api import Recognizer
from mien.core.errors import InputError, UsageError
from mien.core.results import Result
from mien.inference.classifier import Classifier
from mien.inference.detectors import Detection, NoDetector
from mien.video.analysis import analyze_frames
from mien.video.frames import BrokenVideo, VideoFrame, Window
from video_maker import Picture, even_times, write_video

pytest.importorskip("av")


def _giver(picture: Picture) -> Callable[[], Picture]:
    return lambda: picture


def two_people(number: int) -> Picture:
    """One person who walks to the right, and one in frames 10 to 24."""
    picture = np.full((96, 192, 3), 120, np.uint8)
    picture[20:52, 8 + 3 * number : 40 + 3 * number] = (220, 30, 30)
    if 10 <= number < 25:
        picture[60:92, 150:182] = (200, 60, 60)
    return picture


def blinking(number: int) -> Picture:
    """One person in every second block of five frames."""
    picture = np.full((96, 128, 3), 120, np.uint8)
    if number // 5 % 2 == 0:
        picture[20:60, 20:60] = (220, 30, 30)
    return picture


def test_people_keep_their_track_ids(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "two.mp4"
    write_video(path, even_times(30), draw=two_people)
    results = list(red_recognizer.analyze_video(path))
    assert [result.frame for result in results] == list(range(30))
    assert [result.time_s for result in results] == pytest.approx(even_times(30))
    for number, result in enumerate(results):
        ids = [face.track_id for face in result.faces]
        assert ids == ([0, 1] if 10 <= number < 25 else [0])
        assert all(face.smoothed is not None for face in result.faces)


def test_results_summarize_the_whole_video(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "two.mp4"
    write_video(path, even_times(30), draw=two_people)
    results = list(red_recognizer.analyze_video(path))
    video = red_recognizer.analyze_video(path)
    assert next(video) == results[0]
    assert [person.frames for person in video.people()] == [30, 15]
    assert list(video) == []
    picture = video.timeline()
    assert np.asarray(picture).std() > 0
    assert picture.height > red_recognizer.analyze_video(path, end=0.2).timeline().height
    first, second = video.plot()
    assert [first.get_ylabel(), second.get_ylabel()] == ["#0", "#1"]
    assert len(first.collections) == len(red_recognizer.labels)
    pyplot.close("all")
    table = red_recognizer.analyze_video(path).to_pandas()
    assert table.equals(mien.to_pandas(results))
    assert len(table) == 45
    with pytest.raises(UsageError, match=r"call to_pandas\(\) first"):
        video.to_pandas()
    begun = red_recognizer.analyze_video(path)
    next(begun)
    begun.close()
    assert list(begun) == []


def test_baseline_and_markers(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "two.mp4"
    write_video(path, even_times(30), draw=two_people)
    plain = list(red_recognizer.analyze_video(path))
    markers = [(0.0, 0.4, "before"), (0.4, 1.2, "after")]
    video = red_recognizer.analyze_video(path, baseline=(0, 0.3), markers=markers)
    results = list(video)
    assert [result.frame for result in results] == [result.frame for result in plain]
    corrected = [(f.track_id, f.corrected is not None) for r in results for f in r.faces]
    assert {number for number, is_there in corrected if is_there} == {0}
    table = mien.to_pandas(results)
    assert table["corrected_neutral"].notna().sum() == 30
    rows = video.events()
    assert [(row["label"], row["track_id"]) for row in rows] == [
        ("before", 0),
        ("after", 0),
        ("after", 1),
    ]
    assert rows[0]["source"] == str(path)
    assert rows[0]["seconds"] == pytest.approx(0.4)
    assert rows[0]["corrected_neutral"] is not None
    file = tmp_path / "markers.csv"
    file.write_text("start,end,label\n0,0.4,before\n0.4,1.2,after\n")
    video = red_recognizer.analyze_video(path, baseline=(0, 0.3), markers=file)
    assert next(video) == results[0]
    assert video.events() == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": (5, 0)}, "expected baseline as"),
        ({"baseline": 5}, "expected baseline as"),
        ({"markers": [(2, 1, "back")]}, "expected events as"),
        ({"markers": [("a", "b")]}, "expected events as"),
    ],
)
def test_invalid_baselines_and_markers_are_refused(
    options: dict[str, Any], message: str, red_recognizer: Recognizer
) -> None:
    with pytest.raises(UsageError, match=message):
        red_recognizer.analyze_video("clip.mp4", **options)


def test_without_markers_there_are_no_events(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "two.mp4"
    write_video(path, even_times(5), draw=two_people)
    with pytest.raises(UsageError, match="markers="):
        red_recognizer.analyze_video(path).events()


def test_frames_without_a_face_have_a_result(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "blink.mp4"
    write_video(path, even_times(20), draw=blinking)
    statuses = [result.status for result in red_recognizer.analyze_video(str(path))]
    assert statuses == (["ok"] * 5 + ["no_face"] * 5) * 2


def test_every_start_and_end_select_frames(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "blink.mp4"
    write_video(path, even_times(50), draw=blinking)
    results = red_recognizer.analyze_video(path, every=0.2, start=0.4, end=1.4)
    assert [result.frame for result in results] == [10, 15, 20, 25, 30]


def test_smoothing_can_be_disabled(tmp_path: Path, red_recognizer: Recognizer) -> None:
    path = tmp_path / "two.mp4"
    write_video(path, even_times(12), draw=two_people)
    for smooth_s in (0.0, 1.0):
        results = list(red_recognizer.analyze_video(path, smooth_s=smooth_s))
        faces = [face for result in results for face in result.faces if face.smoothed]
        same = [face.smoothed is not None and face.smoothed.scores == face.scores for face in faces]
        assert all(same) == (smooth_s == 0)


def test_a_broken_video_ends_with_an_unreadable_result(
    tmp_path: Path, red_recognizer: Recognizer
) -> None:
    path = tmp_path / "cut.mkv"
    write_video(path, even_times(60), draw=two_people)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    results = list(red_recognizer.analyze_video(path))
    assert {result.status for result in results[:-1]} == {"ok"}
    last = results[-1]
    assert (last.status, last.frame, last.time_s) == ("unreadable", None, results[-2].time_s)
    assert last.error is not None
    assert "cut or damaged" in last.error


def test_errors_are_raised_at_the_first_frame(tmp_path: Path, red_recognizer: Recognizer) -> None:
    with pytest.raises(InputError, match="no such file"):
        next(red_recognizer.analyze_video(tmp_path / "none.mp4"))
    with pytest.raises(InputError, match="the video's name is empty: give a file"):
        next(red_recognizer.analyze_video(""))
    with pytest.raises(UsageError, match="every"):
        red_recognizer.analyze_video(tmp_path / "none.mp4", every=-1)


def test_people_get_new_track_ids_after_a_cut(red_recognizer: Recognizer) -> None:
    def frames() -> Iterator[VideoFrame]:
        for number in range(10):
            picture = np.full((96, 128, 3), 60 if number < 5 else 230, np.uint8)
            picture[20:60, 20:60] = (220, 30, 30)
            yield VideoFrame(number, number / 25, _giver(picture))

    found = [moment.result for moment in analyze_frames(red_recognizer, frames(), "film")]
    ids = [result.faces[0].track_id for result in found if result is not None]
    assert ids == [0] * 5 + [1] * 5


def test_one_frame_is_in_memory_at_a_time(red_recognizer: Recognizer) -> None:
    alive: list[weakref.ref[Picture]] = []

    def frames() -> Iterator[VideoFrame]:
        for number in range(40):
            picture = two_people(number % 20)
            alive.append(weakref.ref(picture))
            yield VideoFrame(number, number / 25, _giver(picture))

    most, results = 0, []
    for moment in analyze_frames(red_recognizer, frames(), "film"):
        assert isinstance(moment.result, Result)
        results.append(moment.result)
        del moment
        most = max(most, sum(picture() is not None for picture in alive))
    assert len(results) == 40
    assert most <= 3


@pytest.mark.parametrize("every", [None, 0.2])
def test_threads_return_the_same_results_in_bounded_memory(
    red_recognizer: Recognizer, every: float | None
) -> None:
    alive: list[weakref.ref[Picture]] = []
    held: list[int] = []
    window = Window(every=every)

    def frames() -> Iterator[VideoFrame]:
        for number in range(120):
            picture = two_people(number % 40)
            alive.append(weakref.ref(picture))
            yield VideoFrame(number, number / 25, _giver(picture), 96 * 192)

    def read(readers: int) -> list[Result]:
        results = []
        for moment in analyze_frames(
            red_recognizer, frames(), "film", window=window, threads=readers
        ):
            assert moment.frame is not None
            if moment.result is not None:
                results.append(moment.result)
            del moment
            held.append(sum(picture() is not None for picture in alive))
        return results

    one, two = read(0), read(2)
    assert [_fields(result) for result in one] == [_fields(result) for result in two]
    for result, same in zip(one, two, strict=True):
        for face, other in zip(result.faces, same.faces, strict=True):
            assert dict(face.scores) == pytest.approx(dict(other.scores), abs=1e-6)
    assert max(held) <= 5 * 8  # chunks: one returned, three analyzed, one being filled


def _fields(result: Result) -> tuple[object, ...]:
    faces = [(face.box, face.track_id, face.quality) for face in result.faces]
    return result.frame, result.time_s, result.status, faces


def test_results_before_an_error_are_returned_first(red_recognizer: Recognizer) -> None:
    def frames(error: InputError) -> Iterator[VideoFrame]:
        for number in range(20):
            yield VideoFrame(number, number / 25, _giver(two_people(number)))
        raise error

    moments = list(
        analyze_frames(red_recognizer, frames(BrokenVideo("cut", 0.8)), "film", threads=2)
    )
    statuses = [moment.result.status for moment in moments if moment.result is not None]
    assert statuses == ["ok"] * 20 + ["unreadable"]
    reading = analyze_frames(red_recognizer, frames(InputError("odd")), "film", threads=2)
    assert [next(reading).frame is not None for _ in range(20)] == [True] * 20
    with pytest.raises(InputError, match="odd"):
        next(reading)


def test_closing_does_not_wait_for_pending_chunks(tiny_model: Path) -> None:
    looked_at = []

    class Counting(NoDetector):
        def detect(self, image: Picture) -> list[Detection]:
            looked_at.append(image)
            return super().detect(image)

    def frames() -> Iterator[VideoFrame]:
        for number in range(1000):
            yield VideoFrame(number, number / 25, _giver(two_people(3)))

    recognizer = Recognizer(Classifier.open(tiny_model), Counting())
    reading = analyze_frames(recognizer, frames(), "film", threads=2)
    next(reading)
    reading.close()
    assert len(looked_at) <= 4 * 8
    assert not [one for one in threading.enumerate() if one.name.startswith("mien-video")]


@pytest.mark.slow
def test_the_shared_clip_turns_from_serious_to_happy(shared: Path) -> None:
    results = list(mien.load(threads=1).analyze_video(shared / "photos" / "clip.mp4", every=0.2))
    assert [result.frame for result in results] == list(range(0, 115, 5))
    faces = [result.faces[0] for result in results]
    assert {len(result.faces) for result in results} == {1}
    assert {face.track_id for face in faces} == {0}
    smoothed = [face.smoothed.emotion for face in faces if face.smoothed is not None]
    assert smoothed[-8:] == ["happy"] * 8
    # She smiles in the first picture, is serious until 1.2 s, and smiles on and off until 2.4 s.
    assert "happy" not in smoothed[3:7]
    happy = [emotion == "happy" for emotion in smoothed[3:]]
    assert sum(one != other for one, other in pairwise(happy)) <= 3
