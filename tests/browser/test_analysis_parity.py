"""The page's analysis gives the figures of `mien predict VIDEO`, on the same results of frames."""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from detector_maker import BrightSpots, bright_scene
from mien.api import Recognizer
from mien.core.emotions import EMOTIONS
from mien.core.errors import UsageError
from mien.core.formats import csv_text
from mien.core.results import (
    SCORE_DIGITS,
    Box,
    Face,
    Quality,
    Result,
    result_rows,
    table_columns,
)
from mien.inference.classifier import Classifier
from mien.video.analysis import analyze_frames
from mien.video.frames import BrokenVideo, VideoFrame, Window, format_time, parse_time
from mien.video.summary import EventTable, Marker, Summary, comparison_columns, event_columns
from mien.video.tracker import Baseline, CutDetector, assign, track_memory
from video_results import MODEL

NODE = shutil.which("node")
MIEN_WEB = Path(__file__).resolve().parents[2] / "mien-web"

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node to run the page's analysis")

Picture = npt.NDArray[np.uint8]
Place = tuple[float, float, float]
"""A face's left, top and side, in pixels."""

SIZE = (120, 160)
MARKERS = (
    Marker(0.5, 1.25, 'the "first", loud'),
    Marker(1.0, 3.0, "second"),
    Marker(900.0, 901.0, "long after"),
)


@dataclass(frozen=True)
class Scene:
    """Frames with what was found in each; ``every`` as `analyze_video` has it."""

    frames: Sequence[tuple[VideoFrame, Result]]
    every: float | None = None
    breaks_off: bool = False
    baseline: tuple[float, float] = (0.2, 1.0)


# ---------------------------------------------------------------- scenes
def rounded(face: Face) -> Face:
    """The face as its JSON has it: what the page starts from."""
    scores = {name: round(float(score), SCORE_DIGITS) for name, score in face.scores.items()}
    sure = round(float(face.face_confidence), SCORE_DIGITS)
    top = max(scores, key=scores.__getitem__)
    return replace(face, scores=scores, emotion=top, confidence=scores[top], face_confidence=sure)


def made(
    moments: Iterable[tuple[float, Sequence[Place]]],
    *,
    seed: int,
    picture: Picture | None = None,
    scale: int = 1,
) -> list[tuple[VideoFrame, Result]]:
    """Frames with faces at these places, whose scores wander."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*SIZE, 3), 90, np.uint8) if picture is None else picture
    height, width = SIZE[0] * scale, SIZE[1] * scale
    mood = rng.normal(0, 2, (8, len(EMOTIONS)))
    frames = []
    for number, (time_s, places) in enumerate(moments):
        mood += rng.normal(0, 0.6, mood.shape)
        faces = []
        for index, (x, y, side) in enumerate(places):
            shares = np.exp(mood[index]) / np.exp(mood[index]).sum()
            scores = dict(zip(EMOTIONS, map(float, shares), strict=True))
            top = max(scores, key=scores.__getitem__)
            box = Box(max(0, round(x)), max(0, round(y)), round(side), round(side))
            flags = ("small", "dark") if rng.random() < 0.2 else ()
            face = Face(
                face_id=index,
                box=box,
                face_confidence=1.0 if index == 0 else 0.7654321,
                emotion=top,
                confidence=scores[top],
                uncertain=scores[top] < 0.5,
                scores=scores,
                quality=Quality(round(side), 0.125, flags),
            )
            faces.append(rounded(face))
        status = "ok" if faces else "no_face"
        result = Result("a.mp4", status, MODEL, width, height, tuple(faces))
        frames.append((VideoFrame(number, time_s, lambda: pixels), result))
    return frames


def crossing() -> Iterator[tuple[float, list[Place]]]:
    for number in range(80):
        t = number / 25
        yield t, [(10 + 60 * t, 30, 24), (120 - 60 * t, 44, 26)]


def leaving() -> Iterator[tuple[float, list[Place]]]:
    """One stays, one is away for 0.7 s and for 2 s; the last half second is empty."""
    for number in range(100):
        t = number / 12.5
        away = 1.0 < t < 1.7 or 3.0 < t < 5.0
        places: list[Place] = [(20, 20, 30), *([] if away else [(90, 30, 28)])]
        yield t, [] if t > 7.5 else places


def uneven(seed: int) -> Iterator[tuple[float, list[Place]]]:
    """Steps from a hundredth of a second to three seconds."""
    rng, t = np.random.default_rng(seed), 0.0
    for _ in range(150):
        yield t, [(60 + 5 * math.sin(t), 40, 32)]
        step = rng.choice([0.011, 0.04, 0.0401, 0.3, 0.95, 3.0], p=[0.2, 0.4, 0.2, 0.1, 0.05, 0.05])
        t += float(step)


def rare(seed: int) -> Iterator[tuple[float, list[Place]]]:
    """A frame out of each 1.2 seconds."""
    rng = np.random.default_rng(seed)
    for number in range(40):
        yield (
            round(1.2 * number + float(rng.uniform(0, 0.6)), 4),
            [(60.0, 40.0, 32.0)] if number % 7 else [],
        )


def crowd(seed: int) -> Iterator[tuple[float, list[Place]]]:
    """Six who walk about, hidden now and then, in any order."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 110, (6, 2))
    for number in range(250):
        places = np.clip(places + rng.normal(0, 3, places.shape), 0, 120)
        seen = [(float(x), float(y), 20.0 + who) for who, (x, y) in enumerate(places)]
        shown = [one for one in seen if rng.random() < 0.8]
        yield number / 10, [shown[place] for place in rng.permutation(len(shown))]


def with_cut() -> list[tuple[VideoFrame, Result]]:
    frames = made(((number / 25, [(40, 40, 30)]) for number in range(40)), seed=5)
    bright = np.full((*SIZE, 3), 230, np.uint8)
    return [
        (replace(frame, read=lambda: bright) if frame.number >= 20 else frame, result)
        for frame, result in frames
    ]


def with_other_size() -> list[tuple[VideoFrame, Result]]:
    first = made(((number / 25, [(40, 40, 30)]) for number in range(20)), seed=6)
    large = np.full((SIZE[0] * 2, SIZE[1] * 2, 3), 90, np.uint8)
    moments = ((0.8 + number / 25, [(80.0, 80.0, 60.0)]) for number in range(20))
    return first + made(moments, seed=7, picture=large, scale=2)


def read_by_a_network(tiny_model: Path) -> list[tuple[VideoFrame, Result]]:
    """What a real detector and network give for two squares, one of which is seen for a while."""

    recognizer = Recognizer(Classifier.open(tiny_model), BrightSpots())
    away = [Box(150, 60, 32, 32)]
    pictures = [
        bright_scene(Box(8 + 3 * number, 20, 32, 36), *(away if 10 <= number < 25 else []))
        for number in range(30)
    ]
    results = recognizer.analyze_many(iter(pictures), color="rgb", sources=["a.mp4"] * 30)
    return [
        (
            VideoFrame(number, number / 25, partial(np.copy, pixels)),
            replace(result, faces=tuple(rounded(face) for face in result.faces)),
        )
        for number, (pixels, result) in enumerate(zip(pictures, results, strict=True))
    ]


@pytest.fixture(scope="module")
def scenes(tiny_model: Path) -> dict[str, Scene]:
    return {
        "crossing": Scene(made(crossing(), seed=1)),
        "leaving": Scene(made(leaving(), seed=2)),
        "uneven": Scene(made(uneven(3), seed=3), breaks_off=True),
        "rare": Scene(made(rare(10), seed=10), every=1.2, baseline=(5.0, 12.0)),
        "crowd": Scene(made(crowd(4), seed=4)),
        "cut": Scene(with_cut()),
        "other size": Scene(with_other_size()),
        "read by a network": Scene(read_by_a_network(tiny_model)),
    }


# ---------------------------------------------------------------- figures
def analyzed(scene: Scene) -> list[Result]:
    """What `mien predict VIDEO` has of a scene: numbers and smoothed scores."""

    class Known:
        """Reads each frame as the scene has it."""

        model = MODEL

        def __init__(self) -> None:
            self._results = iter([result for _, result in scene.frames])

        def analyze_many(self, pictures: Iterator[Picture], **_: Any) -> list[Result]:
            return [next(self._results) for _ in pictures]

    def frames() -> Iterator[VideoFrame]:
        yield from (frame for frame, _ in scene.frames)
        if scene.breaks_off:
            raise BrokenVideo("it breaks off", scene.frames[-1][0].time_s)

    window = Window(every=scene.every)
    moments = analyze_frames(cast(Recognizer, Known()), frames(), "a.mp4", window=window)
    return [moment.result for moment in moments if moment.result is not None]


def expected(scene: Scene) -> dict[str, Any]:
    results, gap_s = analyzed(scene), track_memory(scene.every)
    baseline = Baseline(EMOTIONS, *scene.baseline)
    corrected = [one for result in results for one in baseline.add(result)] + baseline.finish()
    summary = Summary(gap_s=gap_s)
    for result in results:
        summary.add(result)
    return {
        "results": [result.to_dict() for result in corrected],
        "csv": csv_of(results, corrected=False),
        "correctedCsv": csv_of(corrected, corrected=True),
        "people": [person.to_dict() for person in summary.people()],
        "events": events_of(results, gap_s, corrected=False),
        "correctedEvents": events_of(corrected, gap_s, corrected=True),
        "comparison": comparison_of(corrected, gap_s, len(summary.people()), summary.frames),
        "whole": table_rows(corrected, [Marker(0.0, math.inf, "")], gap_s, corrected=True),
    }


def csv_of(results: Sequence[Result], *, corrected: bool) -> str:
    rows = [row for one in results for row in result_rows(one, smoothed=True, corrected=corrected)]
    return csv_text(rows, table_columns(smoothed=True, corrected=corrected))


def table_rows(
    results: Sequence[Result],
    markers: Sequence[Marker],
    gap_s: float,
    *,
    corrected: bool,
    by_person: bool = True,
) -> list[dict[str, Any]]:
    table = EventTable(markers, EMOTIONS, gap_s=gap_s, by_person=by_person)
    for result in results:
        table.add(result)
    return table.rows(corrected=corrected)


def events_of(results: Sequence[Result], gap_s: float, *, corrected: bool) -> str:
    rows = table_rows(results, MARKERS, gap_s, corrected=corrected)
    columns = event_columns(EMOTIONS, corrected=corrected)
    return csv_text([{"source": "a.mp4"} | row for row in rows], columns)


def comparison_of(results: Sequence[Result], gap_s: float, people: int, frames: int) -> str:
    whole = [Marker(0.0, math.inf, "")]
    rows = []
    for name, some, counts in (("a.mp4", results, (people, frames)), ("b.mp4", [], (0, 0))):
        (row,) = table_rows(some, whole, gap_s, corrected=True, by_person=False)
        rows.append({**row, "source": name, "people": counts[0], "frames": counts[1]})
    return csv_text(rows, comparison_columns(EMOTIONS, corrected=True))


# ---------------------------------------------------------------- what the page makes of them
VALUES = [
    0.0,
    1.0,
    -0.00000001,
    0.0078125,
    0.0234375,
    -0.0078125,
    1e-6,
    2.5e-5,
    0.1 + 0.2,
    123456.5,
]
TIMES = ["90", "1.5s", "0:61", "1:30", "1:02:03.5", "12:00", "ten", "3599.96"]


def pixels_of(picture: Picture) -> dict[str, Any]:
    height, width = picture.shape[:2]
    rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)])
    return {"width": width, "height": height, "rgba": base64.b64encode(rgba.tobytes()).decode()}


def pictures() -> list[Picture]:
    """Noise whose brightness leaps by about as much as a cut does, of an odd size."""
    rng = np.random.default_rng(8)
    levels = rng.integers(20, 120, 40)
    return [rng.integers(0, 2 * level, (131, 197, 3)).astype(np.uint8) for level in levels]


def cost_tables() -> list[list[list[float]]]:
    rng = np.random.default_rng(9)
    tables = []
    for _ in range(200):
        table = rng.uniform(0, 3, rng.integers(0, 6, 2))
        table[rng.random(table.shape) < 0.4] = math.inf
        tables.append(table.tolist())
    return tables


def scene_request(scene: Scene, results: Sequence[Result]) -> dict[str, Any]:
    """A scene as the page gets it: results as they are found, before anybody is tracked."""
    frames: list[dict[str, Any]] = []
    for (frame, found), result in zip(scene.frames, results, strict=False):
        written = replace(found, frame=result.frame, time_s=result.time_s).to_dict()
        frames.append({"result": written, "pixels": pixels_of(frame.pixels)})
    if scene.breaks_off:
        frames.append({"result": results[-1].to_dict(), "pixels": None})
    markers = [{"start": one.start_s, "end": one.end_s, "label": one.label} for one in MARKERS]
    return {
        "frames": frames,
        "every": scene.every,
        "baseline": scene.baseline,
        "markers": markers,
        "labels": EMOTIONS,
    }


@pytest.fixture(scope="module")
def page(scenes: dict[str, Scene]) -> dict[str, Any]:
    """All figures of `mien-web/analysis`, from one run of Node."""
    cases = {
        "scenes": [scene_request(scene, analyzed(scene)) for scene in scenes.values()],
        "costs": [
            [[None if math.isinf(cost) else cost for cost in row] for row in table]
            for table in cost_tables()
        ],
        "pictures": [pixels_of(picture) for picture in pictures()],
        "values": VALUES,
        "times": TIMES,
    }
    script = Path(__file__).with_name("analysis_figures.mjs")
    done = subprocess.run(
        [str(NODE), str(script), (MIEN_WEB / "src/analysis/index.js").as_uri()],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures | {"scenes": dict(zip(scenes, figures["scenes"], strict=True))}


NAMES = ["crossing", "leaving", "uneven", "rare", "crowd", "cut", "other size", "read by a network"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_gives_the_figures_of_a_video(
    name: str, scenes: dict[str, Scene], page: dict[str, Any]
) -> None:
    scene, found = scenes[name], page["scenes"][name]
    ours = expected(scene)
    assert ids(found["results"]) == ids(ours["results"])
    assert_close(found["results"], ours["results"])
    assert_close(found["saved"], ours["results"])
    peaks = [person.pop("peak") for one in found["people"] for person in one["episodes"]]
    assert [episode["peak"] for episode in found["episodes"]] == peaks
    assert all(0 < peak <= 1 for peak in peaks)
    assert_close(found["people"], ours["people"])
    for table in ("csv", "correctedCsv", "events", "correctedEvents", "comparison"):
        assert found[table] == ours[table]


@pytest.mark.parametrize("name", NAMES)
def test_the_summary_is_the_table_of_an_event_as_long_as_the_video(
    name: str, scenes: dict[str, Scene], page: dict[str, Any]
) -> None:
    rows = expected(scenes[name])["whole"]
    summary = page["scenes"][name]["summary"]
    assert len(rows) == len(summary)
    for row, person in zip(rows, summary, strict=True):
        for key in ("track_id", "seconds", "frames", "valence"):
            assert person[key] == pytest.approx(row[key], abs=1e-6)
        for emotion in EMOTIONS:
            assert person["scores"][emotion] == pytest.approx(row[emotion], abs=1e-6)
            assert person["shares"][emotion] == pytest.approx(row[f"share_{emotion}"], abs=1e-6)
            if row["corrected_valence"] is not None:
                corrected = person["corrected"]["scores"][emotion]
                assert corrected == pytest.approx(row[f"corrected_{emotion}"], abs=1e-6)


def test_scenes_cover_their_cases(scenes: dict[str, Scene]) -> None:
    people = {name: set(ids(expected(scene)["results"])) for name, scene in scenes.items()}
    assert len(people["leaving"]) == 3
    assert len(people["cut"]) == 2
    assert len(people["other size"]) == 1
    assert len(people["crossing"]) == 2


def ids(results: Iterable[dict[str, Any]]) -> list[Any]:
    return [face["track_id"] for result in results for face in result["faces"]]


def assert_close(found: Any, expected: Any) -> None:
    """Check that two values of JSON are the same, to six decimals."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-6)
    else:
        assert found == expected


# ---------------------------------------------------------------- the parts
def test_node_tests_of_the_analysis_pass() -> None:
    tests = sorted(str(path) for path in (MIEN_WEB / "test").glob("analysis*.test.js"))
    done = subprocess.run(
        [str(NODE), "--test", *tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert tests
    assert done.returncode == 0, done.stdout


def test_faces_are_paired_as_in_python(page: dict[str, Any]) -> None:
    pairs = [[list(pair) for pair in assign(table)] for table in cost_tables()]
    assert page["pairs"] == pairs
    assert any(pairs)


def test_cuts_are_found_where_python_finds_them(page: dict[str, Any]) -> None:
    finder = CutDetector()
    cuts = [finder.is_cut(number * 0.1, picture) for number, picture in enumerate(pictures())]
    assert page["cuts"] == cuts
    assert 5 < sum(cuts) < 35


def test_numbers_are_written_as_python_writes_them(page: dict[str, Any]) -> None:
    assert page["csv"] == csv_text(
        [{"value": round(value, SCORE_DIGITS)} for value in VALUES], ["value"]
    )


def test_times_are_read_and_written_as_python_does(page: dict[str, Any]) -> None:
    def shown(text: str) -> str:
        try:
            return format_time(parse_time(text))
        except UsageError as error:
            return str(error).replace("'", '"')

    assert page["times"] == [shown(text) for text in TIMES]
