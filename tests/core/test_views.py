"""Pictures, HTML, charts and data frames of results."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from PIL import Image

import mien
from detector_maker import BrightSpots, bright_scene
from mien.core.display import annotate
from mien.core.errors import MissingExtra, UnreadableImage, UsageError
from mien.core.results import TABLE_COLUMNS, Box, Faces, Result, Results, result_rows, table_columns
from video_results import face as face_of_video
from video_results import result as result_of_video

Pixels = npt.NDArray[np.uint8]
LEFT, RIGHT = Box(20, 30, 50, 50), Box(150, 60, 80, 80)


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> mien.Recognizer:
    return mien.load(tiny_model, detector=BrightSpots())


@pytest.fixture
def scene() -> Pixels:
    return bright_scene(LEFT, RIGHT)


@pytest.fixture
def photo(tmp_path: Path, scene: Pixels) -> Path:
    path = tmp_path / "two <faces>.png"
    Image.fromarray(scene).save(path)
    return path


def _through_pickle(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


def _with_faces(recognizer: mien.Recognizer, scene: Pixels, many: int) -> Result:
    """Return the result of a picture as if its first face were there several times."""
    result = recognizer.analyze_result(scene, color="rgb")
    shown = replace(result, faces=result.faces[:1] * many)
    shown.remember_image(lambda: scene, color="rgb")
    return shown


# --- The lists


def test_faces_are_a_list_with_a_result(recognizer: mien.Recognizer, photo: Path) -> None:
    faces = recognizer.analyze(photo)
    result = recognizer.analyze_result(photo)
    assert faces == list(result.faces)
    assert faces.result == result
    assert faces.to_dict() == result.to_dict()
    assert json.loads(json.dumps(faces.to_dict()["faces"])) == [one.to_dict() for one in faces]
    assert Results([result]).to_dict() == [result.to_dict()]
    assert recognizer.analyze(np.zeros((60, 80), np.uint8)) == []


@pytest.mark.parametrize(
    "away", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy, copy.copy]
)
def test_pickles_and_copies_are_equal_and_viewable(
    recognizer: mien.Recognizer, photo: Path, away: Any
) -> None:
    faces = recognizer.analyze(photo)
    results = recognizer.analyze_many([photo])
    for one in (faces, faces.result, results):
        assert away(one) == one
        assert type(away(one)) is type(one)
    assert away(faces).result == faces.result
    assert away(faces).annotate() == faces.annotate()
    # The picture itself does not travel.
    array = np.asarray(Image.open(photo))
    assert len(pickle.dumps(recognizer.analyze(array, color="rgb"))) < array.nbytes / 10


# --- Pictures


def test_picture_is_loaded_again(recognizer: mien.Recognizer, photo: Path, scene: Pixels) -> None:
    expected = annotate(scene, recognizer.analyze(photo))
    assert recognizer.analyze(photo).annotate() == expected
    assert recognizer.analyze_result(str(photo)).annotate() == expected
    assert recognizer.analyze(scene, color="rgb").annotate() == expected
    turned = scene[:, :, ::-1]
    assert recognizer.analyze(turned, color="bgr").annotate() == expected
    with photo.open("rb") as file:
        assert recognizer.analyze(file).annotate() == expected
    with Image.open(photo) as opened:
        assert recognizer.analyze(opened).annotate() == expected
    assert recognizer.analyze_many([photo, scene], color="rgb")[1].annotate() == expected


def test_results_do_not_keep_pictures_in_memory(
    recognizer: mien.Recognizer, photo: Path, scene: Pixels
) -> None:
    faces = [recognizer.analyze(scene.copy(), color="rgb"), recognizer.analyze(photo.read_bytes())]
    gc.collect()
    for found in faces:
        with pytest.raises(UsageError, match=r"not kept: .*, as in annotate\(image\)"):
            found.annotate()
        assert found.annotate(photo) == annotate(scene, found)
        assert found.annotate(scene[:, :, ::-1], color="bgr") == annotate(scene, found)


def test_other_picture_is_rejected(recognizer: mien.Recognizer, photo: Path) -> None:
    faces = recognizer.analyze(photo)
    with pytest.raises(UsageError, match="expected the picture that was analyzed, 300x200, got"):
        faces.annotate(np.zeros((9, 9), np.uint8))
    photo.unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        faces.annotate()
    missing = recognizer.analyze_result(photo)
    with pytest.raises(UsageError, match=r"no picture to draw on: .*no such file"):
        missing.annotate()
    with pytest.raises(UsageError, match=r"annotate\(frame\)"):
        result_of_video(0, face_of_video(1, "happy")).annotate()


def test_save_uses_the_format_of_the_suffix(
    recognizer: mien.Recognizer, photo: Path, tmp_path: Path
) -> None:
    faces = recognizer.analyze(photo)
    path = faces.save(tmp_path / "new" / "annotated.png")
    with Image.open(path) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(faces.annotate()))
    assert faces.save(str(tmp_path / "small.JPG")).read_bytes().startswith(b"\xff\xd8")
    with pytest.raises(UsageError, match=r"ends in \.png, \.jpg.*got .*a\.gif"):
        faces.save(tmp_path / "a.gif")
    before = photo.read_bytes()
    with pytest.raises(UsageError, match="is the analyzed picture itself"):
        faces.save(photo)
    assert photo.read_bytes() == before


def test_annotate_accepts_the_sources_of_analyze(
    recognizer: mien.Recognizer, photo: Path, scene: Pixels
) -> None:
    result = recognizer.analyze_result(photo)
    expected = mien.annotate(scene, result.faces)
    for image in (photo, str(photo), photo.read_bytes(), Image.open(photo), scene / 255):
        assert mien.annotate(image, result) == expected
    assert mien.annotate(scene[:, :, ::-1], result.faces, color="bgr") == expected
    assert mien.annotate(scene, result, charts=False) != expected


# --- HTML


class _Page(HTMLParser):
    """Collects tags, texts and attributes, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_the_picture_and_each_faces_scores(
    recognizer: mien.Recognizer, photo: Path
) -> None:
    faces = recognizer.analyze(photo)
    page = _Page(faces._repr_html_())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1 + 2  # and each face
    assert all(str(one["src"]).startswith("data:image/jpeg;base64,") for one in images)
    assert {tag for tag, _ in page.tags} == {"div", "img", "span", "b"}
    widths = re.findall(r"width:([\d.]+)%;background", faces._repr_html_())
    expected = [f"{100 * score:.1f}" for face in faces for score in face.scores.values()]
    assert widths == expected
    assert "two <faces>.png · 300x200" in "".join(page.texts)
    assert faces._repr_html_() == faces.result._repr_html_()


def test_a_notebook_aligns_the_bars_of_all_faces(recognizer: mien.Recognizer, photo: Path) -> None:
    columns = re.findall(
        r"grid-template-columns:(minmax[^;\"]+)", recognizer.analyze(photo)._repr_html_()
    )
    assert len(columns) == 2
    assert len(set(columns)) == 1


@pytest.mark.parametrize(("many", "beside"), [(3, True), (4, False)])
def test_many_faces_are_below_the_picture(
    recognizer: mien.Recognizer, scene: Pixels, many: int, beside: bool
) -> None:
    assert (
        "max-width:min(100%,480px)" in _with_faces(recognizer, scene, many)._repr_html_()
    ) == beside


def test_html_without_the_picture(recognizer: mien.Recognizer, photo: Path) -> None:
    faces = recognizer.analyze(photo)
    photo.unlink()
    page = _Page(faces._repr_html_())
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert page.texts.count("happy") == 2
    missing, nobody = recognizer.analyze_many([photo, np.zeros((60, 80), np.uint8)])
    assert any("no such file" in text for text in _Page(missing._repr_html_()).texts)
    assert "no face found" in _Page(nobody._repr_html_()).texts


def test_a_notebook_shows_several_results(recognizer: mien.Recognizer, photo: Path) -> None:
    results = recognizer.analyze_many([photo] * 10)
    texts = _Page(results._repr_html_()).texts
    assert sum("300x200" in text for text in texts) == 8
    assert "and 2 more images" in texts


# --- Charts


def test_a_chart_shows_the_picture_and_the_scores(recognizer: mien.Recognizer, photo: Path) -> None:
    faces = recognizer.analyze(photo)
    axes = faces.plot()
    picture, *charts = axes.figure.axes
    assert picture is axes
    assert len(picture.images) == 1
    widths = [
        [bar.get_width() for bar in chart.patches if isinstance(bar, Rectangle)] for chart in charts
    ]
    assert widths == [list(face.scores.values()) for face in faces]
    nobody = np.zeros((60, 80), np.uint8)
    assert len(recognizer.analyze(nobody).plot(nobody).figure.axes) == 1
    pyplot.close("all")


@pytest.mark.parametrize(
    ("many", "charts", "title"), [(7, 7, "tiny 0.0.1"), (15, 12, " · 3 more faces")]
)
def test_each_of_many_faces_has_a_chart(
    recognizer: mien.Recognizer, scene: Pixels, many: int, charts: int, title: str
) -> None:
    axes = _with_faces(recognizer, scene, many).plot(scene, color="rgb")
    assert len(axes.figure.axes) == 1 + charts
    assert axes.get_title().endswith(title)
    pyplot.close("all")


# --- Data frames


def test_a_data_frame_is_the_table(recognizer: mien.Recognizer, photo: Path) -> None:
    nobody = np.zeros((60, 80), np.uint8)
    results = recognizer.analyze_many([photo, "missing.png", nobody])
    frame = mien.to_pandas(results)
    assert tuple(frame.columns) == TABLE_COLUMNS
    rows = [row for result in results for row in result_rows(result)]
    read = json.loads(frame.to_json(orient="records", double_precision=10))
    assert read == rows
    assert list(frame["status"]) == ["ok", "ok", "unreadable", "no_face"]
    assert frame["x"].sum() == LEFT.x + RIGHT.x
    assert str(frame.dtypes["x"]) == "Int64"
    assert str(frame.dtypes["happy"]) == "float64"
    assert results.to_pandas().equals(frame)
    faces = recognizer.analyze(photo)
    assert faces.to_pandas().equals(frame[:2])
    assert faces.result.to_pandas().equals(mien.to_pandas([faces]))


def test_empty_data_frame_has_columns() -> None:
    assert tuple(mien.to_pandas([]).columns) == TABLE_COLUMNS
    assert len(mien.to_pandas([])) == 0


def test_a_data_frame_of_a_video_has_smoothed_scores() -> None:
    frame = mien.to_pandas(
        [result_of_video(0, face_of_video(1, "happy")), result_of_video(1, step=0.5)]
    )
    assert tuple(frame.columns) == table_columns(smoothed=True)
    assert list(frame["time_s"]) == [0.0, 0.5]


def test_data_frame_rejects_other_types() -> None:
    with pytest.raises(UsageError, match=r"expected results as what analyze, .* got 'photo.jpg'"):
        mien.to_pandas(["photo.jpg"])  # type: ignore[list-item]


@pytest.mark.parametrize("package", ["pandas", "matplotlib"])
def test_missing_packages_say_how_to_install_them(
    recognizer: mien.Recognizer, photo: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    faces = recognizer.analyze(photo)
    with pytest.raises(MissingExtra, match=r"pip install 'mien\[notebook\]'"):
        faces.to_pandas() if package == "pandas" else faces.plot()


def test_faces_are_made_from_a_result(recognizer: mien.Recognizer, photo: Path) -> None:
    result: Result = recognizer.analyze_result(photo)
    assert Faces(result) == list(result.faces)


def test_documented_examples_run(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, recognizer: mien.Recognizer
) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "python.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    photo.rename(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mien, "load", lambda: recognizer)
    exec("".join(blocks), {})
    assert (tmp_path / "annotated.jpg").is_file()
