"""The sample picture: means of typical faces, laid out for detectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from data_maker import make_tiny_split
from lab.sample_faces import Layout, lay_out, prototypes, write_sample
from mien.core.errors import DataError, UsageError
from mien.core.images import load_image
from mien.inference.detectors import load_detector

SAMPLE = Path(__file__).resolve().parent.parent.parent / "images" / "sample.png"


def standardised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    flat = values.reshape(len(values), -1).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(centred / centred.std(axis=1, keepdims=True), np.float64)


def test_each_face_is_most_like_its_own_emotion() -> None:
    split = make_tiny_split("train", per_class=12)
    faces = prototypes(split.images, split.labels, count=8)
    assert faces.shape == (7, 48, 48)
    both = np.concatenate([split.images, split.images[:, :, ::-1]])
    labels = np.concatenate([split.labels, split.labels])
    likeness = standardised(faces) @ standardised(both).T
    assert labels[likeness.argmax(axis=1)].tolist() == list(range(7))


def test_faces_are_standardised_whatever_the_contrast_of_the_images() -> None:
    split = make_tiny_split("train", per_class=6)
    faint = (100 + split.images.astype(np.int64) // 3).astype(np.uint8)
    for images in (split.images, faint):
        faces = prototypes(images, split.labels, count=4)
        assert np.all(np.abs(faces.mean(axis=(1, 2)) - 128) < 12)
        assert np.all(faces.std(axis=(1, 2)) > 30)


def test_a_single_odd_image_does_not_show_in_the_mean() -> None:
    split = make_tiny_split("train", per_class=12)
    images = split.images.copy()
    images[0] = np.random.default_rng(0).integers(0, 256, (48, 48)).astype(np.uint8)
    before = prototypes(split.images, split.labels, count=6)[0].astype(int)
    after = prototypes(images, split.labels, count=6)[0].astype(int)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def test_with_a_model_only_its_most_confident_readings_are_averaged() -> None:
    split = make_tiny_split("train", per_class=12)
    images = split.images.copy()
    disgust = np.flatnonzero(split.labels == 1)
    upright, overturned = disgust[:6], disgust[6:]
    images[overturned] = images[overturned, ::-1]  # The bright disc is now above, not below.
    for sure, bright_above in ((upright, False), (overturned, True)):
        probabilities = np.full((len(images), 7), 1 / 7)
        probabilities[sure] = [0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]
        face = prototypes(images, split.labels, probabilities=probabilities, count=1)[1]
        assert (face[:24].mean() > face[24:].mean()) == bright_above


def test_blank_images_are_left_out_and_an_emotion_of_blanks_is_refused() -> None:
    split = make_tiny_split("train", per_class=4)
    images = split.images.copy()
    images[0] = 0
    assert prototypes(images, split.labels, count=3)[0].std() > 30
    images[:4] = 255
    with pytest.raises(DataError, match="angry"):
        prototypes(images, split.labels)


def test_invalid_arguments_are_refused() -> None:
    split = make_tiny_split("train", per_class=1)
    with pytest.raises(UsageError, match="1 face or more"):
        prototypes(split.images, split.labels, count=0)
    with pytest.raises(UsageError, match="probabilities"):
        prototypes(split.images, split.labels, probabilities=np.ones((7, 6)))


def test_the_canvas_holds_all_faces_apart_from_each_other() -> None:
    layout = Layout(side=96, aside=30, gap=20, feather=0, columns=4, background=0)
    canvas = lay_out(np.full((7, 48, 48), 200, np.uint8), layout)
    assert canvas.shape == (2 * 116 + 20, 4 * 126 + 20)
    assert (canvas == 200).sum() == 7 * 96 * 96
    assert set(np.unique(canvas)) == {0, 200}
    # The three of the second row are centred: as much background on both sides.
    columns = np.flatnonzero((canvas[136:] == 200).any(axis=0))
    assert columns[0] - 20 == canvas.shape[1] - 30 - columns[-1] - 1


def test_borders_fade_into_the_background(tmp_path: Path) -> None:
    canvas = lay_out(np.full((1, 48, 48), 200, np.uint8), Layout(columns=1))
    middle = canvas[canvas.shape[0] // 2]
    assert np.all(np.abs(np.diff(middle.astype(int))) < 12)
    write_sample(canvas, tmp_path / "new" / "sample.png")
    with Image.open(tmp_path / "new" / "sample.png") as image:
        np.testing.assert_array_equal(np.asarray(image), canvas)


@pytest.mark.parametrize("name", ["libface", "haar", "yunet"])
def test_every_detector_finds_the_seven_faces_of_the_sample(
    name: str, request: pytest.FixtureRequest
) -> None:
    if not SAMPLE.is_file():
        pytest.skip("the sample picture comes with the released model")
    weights = None
    if name == "yunet":
        shared: Path = request.getfixturevalue("shared")
        weights = next((shared / "models").glob("*yunet*.onnx"))
    assert SAMPLE.stat().st_size < 300_000
    detections = load_detector(name, weights=weights).detect(load_image(SAMPLE))
    assert len(detections) == 7
