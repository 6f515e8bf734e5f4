"""The device's views against those of NumPy and OpenCV, and the laws that both keep."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_maker import make_tiny_split
from mien.training.recipe import AugmentationSettings

torch = pytest.importorskip("torch")

from lab.gpu import views  # noqa: E402
from lab.gpu.views import Random, augment, mixup  # noqa: E402

CPU = torch.device("cpu")
FACES = make_tiny_split("train", per_class=6).images
NONE: dict[str, Any] = {
    item.name: 0.0
    for item in fields(AugmentationSettings)
    if item.name not in ("enabled", "mix_probability", "plain_epochs")
}
OFF = AugmentationSettings(**NONE)
ALL = replace(AugmentationSettings(), downscale=0.4, jpeg=0.4, blur=0.4, equalize=0.4, erasing=0.5)


def on_device(faces: npt.NDArray[np.uint8]) -> Any:
    return torch.from_numpy(faces.copy())


def changed(what: AugmentationSettings, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return the faces changed, (N, 48, 48)."""
    answer = augment(on_device(FACES), what, Random(CPU, seed))
    assert answer.shape == (len(FACES), 1, 48, 48)
    return np.asarray(answer[:, 0].numpy())


# ---------------------------------------------------------------- exactly as elsewhere
def test_nothing_changes_where_all_is_off() -> None:
    assert np.array_equal(changed(OFF), FACES)
    assert np.array_equal(changed(replace(ALL, enabled=False)), FACES)


def test_a_flip_is_a_mirror_image() -> None:
    assert np.array_equal(changed(replace(OFF, flip=1.0)), FACES[:, :, ::-1])


def test_some_are_flipped_and_some_are_not() -> None:
    half = changed(replace(OFF, flip=0.5))
    flipped = [np.array_equal(one, face[:, ::-1]) for one, face in zip(half, FACES, strict=True)]
    same = [np.array_equal(one, face) for one, face in zip(half, FACES, strict=True)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 0 < sum(flipped) < len(FACES)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_equalisation_is_opencvs(seed: int) -> None:
    random = np.random.default_rng(seed)
    low, high = sorted(random.integers(0, 256, 2))
    face = random.integers(low, high + 1, (48, 48)).astype(np.uint8)
    ours = views._equalize(on_device(face[None, None]).float())[0, 0].numpy()
    assert np.abs(ours - cv2.equalizeHist(face)).max() <= 1  # where it rounds a half
    assert (ours == cv2.equalizeHist(face)).mean() > 0.99


def test_a_face_of_one_grey_stays_as_it_is() -> None:
    face = np.full((1, 1, 48, 48), 77, np.uint8)
    assert (views._equalize(on_device(face).float()) == 77).all()


@pytest.mark.parametrize("sigma", [0.4, 0.8, 1.2])
def test_a_blur_is_opencvs(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(CPU, 0)
    monkeypatch.setattr(rng, "uniform", lambda count, *_: torch.full((count,), sigma))
    ours = views._blur(on_device(FACES[:, None]).float(), rng)[:, 0].numpy()
    theirs = np.stack([cv2.GaussianBlur(face, (0, 0), sigma) for face in FACES])
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("quality", [15, 40, 80])
def test_coding_is_nearly_opencvs(quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(CPU, 0)
    monkeypatch.setattr(rng, "uniform", lambda count, *_: torch.full((count,), quality + 0.5))
    ours = views._jpeg(on_device(FACES[:, None]).float(), rng)[:, 0].numpy()
    theirs = np.stack([coded_by_opencv(face, quality) for face in FACES])
    # Decoders round cosines differently; what was lost is the same.
    assert np.abs(ours - theirs).mean() < 0.5
    assert np.abs(theirs.astype(float) - FACES).mean() > 2


def coded_by_opencv(face: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[Any]:
    _, data = cv2.imencode(".jpg", face, (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    return decoded


# ---------------------------------------------------------------- laws
@given(st.integers(0, 2**63 - 1))
@settings(max_examples=20, deadline=None)
def test_views_are_whole_greys_and_the_same_for_the_same_seed(seed: int) -> None:
    view = changed(ALL, seed)
    assert view.min() >= 0
    assert view.max() <= 255
    assert np.array_equal(view, np.rint(view))
    assert np.array_equal(view, changed(ALL, seed))


def test_another_seed_gives_other_views() -> None:
    assert (changed(ALL, 1) != changed(ALL, 2)).any(axis=(1, 2)).all()


def test_the_faces_themselves_stay_as_they_are() -> None:
    faces = on_device(FACES)
    augment(faces, ALL, Random(CPU, 0))
    assert np.array_equal(faces.numpy(), FACES)


def test_each_change_happens_to_as_many_as_the_recipe_says() -> None:
    faces = torch.from_numpy(np.repeat(FACES[:1], 4000, axis=0))
    for name in ("equalize", "blur", "downscale", "jpeg", "erasing"):
        view = augment(faces, AugmentationSettings(**{**NONE, name: 0.3}), Random(CPU, 5))
        share = float((view[:, 0] != faces).flatten(1).any(1).float().mean())
        assert share == pytest.approx(0.3, abs=0.03), name


def test_a_shift_moves_by_no_more_than_the_recipe_says() -> None:
    face = np.zeros((1, 48, 48), np.uint8)
    face[0, 20:28, 20:28] = 200
    many = torch.from_numpy(np.repeat(face, 300, axis=0))
    moved = augment(many, replace(OFF, shift=0.1), Random(CPU, 1))[:, 0].numpy()
    places = np.arange(48)
    total = moved.sum(axis=(1, 2))
    for axis in (1, 2):
        centre = (moved.sum(axis=3 - axis) * places).sum(axis=1) / total - 23.5
        assert np.abs(centre).max() <= 4.8 + 0.2
        assert np.abs(centre).max() > 3.5


def test_erasing_leaves_one_grey_in_a_rectangle() -> None:
    view = changed(replace(OFF, erasing=1.0))
    for one, face in zip(view, FACES, strict=True):
        rows, columns = np.nonzero(one != face)
        inside = one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        grey = one[rows[0], columns[0]]
        assert (inside == grey).mean() == 1
        assert 0.005 < inside.size / face.size < 0.3


def test_sharp_views_are_the_same_without_blur_downscale_and_jpeg() -> None:
    both = augment(on_device(FACES), ALL, Random(CPU, 4), sharp=True)
    assert both.shape == (len(FACES), 2, 48, 48)
    assert np.array_equal(both[:, 0].numpy(), changed(ALL, 4))
    poor = (both[:, 0] != both[:, 1]).flatten(1).any(1).float().mean()
    assert float(poor) == pytest.approx(1 - 0.6**3, abs=0.15)
    kind = replace(ALL, blur=0.0, downscale=0.0, jpeg=0.0)
    alike = augment(on_device(FACES), kind, Random(CPU, 4), sharp=True)
    assert torch.equal(alike[:, 0], alike[:, 1])


def test_sharp_views_without_augmentation_are_the_faces() -> None:
    both = augment(on_device(FACES), replace(ALL, enabled=False), Random(CPU, 4), sharp=True)
    assert np.array_equal(both.numpy(), np.stack([FACES, FACES], 1))


# ---------------------------------------------------------------- mixing
def mixes(alpha: float, probability: float) -> tuple[Any, Any, Any, Any]:
    faces = on_device(FACES[:, None]).float()
    targets = torch.eye(len(FACES))
    how = replace(OFF, mixup=alpha, mix_probability=probability)
    return faces, targets, *mixup(faces, targets, how, Random(CPU, 3))


def test_a_mixture_is_of_two_faces_in_the_shares_of_its_targets() -> None:
    faces, _, views_, targets = mixes(0.8, 1.0)
    assert torch.allclose(targets.sum(1), torch.ones(len(faces)))
    assert int((targets > 0).sum(1).max()) == 2
    expected = torch.einsum("nm,mchw->nchw", targets, faces)
    assert float((views_ - expected).abs().max()) <= 0.51
    assert len(set(targets.max(1).values.tolist())) > 20  # a share for each face


def test_nobody_is_mixed_without_mixup_or_at_a_probability_of_zero() -> None:
    for alpha, probability in ((0.0, 1.0), (0.5, 0.0)):
        faces, targets, views_, aims = mixes(alpha, probability)
        assert torch.equal(views_, faces)
        assert torch.equal(aims, targets)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_the_beta_distribution_and_the_seeds_alone(alpha: float) -> None:
    shares = Random(CPU, 7).beta(20_000, alpha)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.01)
    # The variance of Beta(a, a) is 1 / (8 a + 4).
    assert float(shares.var()) == pytest.approx(1 / (8 * alpha + 4), rel=0.03)
    assert torch.equal(shares, Random(CPU, 7).beta(20_000, alpha))
