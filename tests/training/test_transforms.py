from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_maker import make_tiny_split
from mien.training.data import BatchSource, TrainingData
from mien.training.recipe import AugmentationSettings
from mien.training.transforms import Batch, View, augment_faces, mix_batch
from training_maker import BATCH, tiny_config

Faces = npt.NDArray[np.uint8]

OFF = AugmentationSettings(
    flip=0.0,
    rotation=0.0,
    shift=0.0,
    scale=0.0,
    brightness=0.0,
    contrast=0.0,
    equalize=0.0,
    blur=0.0,
    erasing=0.0,
)


def noise(count: int = 40, *, seed: int = 0) -> Faces:
    """Smooth random pictures: coarse noise, enlarged, in the middle of the range."""
    coarse = np.random.default_rng(seed).integers(60, 196, (count, 12, 12))
    return np.kron(coarse, np.ones((4, 4))).astype(np.uint8)


def changed(*, seed: int = 1, faces: Faces | None = None, **switched_on: Any) -> Faces:
    settings = dataclasses.replace(OFF, **switched_on)
    source = noise() if faces is None else faces
    return augment_faces(source.copy(), settings, np.random.default_rng(seed))


def disc(row: float, column: float, radius: float = 5.0) -> Faces:
    """One bright disc on grey, forty times."""
    rows, columns = np.mgrid[0:48, 0:48]
    inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return np.repeat(np.where(inside, 200, 50).astype(np.uint8)[None], 40, axis=0)


def centres(faces: Faces) -> npt.NDArray[np.float64]:
    """Row and column of the bright disc's centre, (N, 2)."""
    light = faces.astype(np.float64) - 50
    places = np.moveaxis(np.mgrid[0:48, 0:48], 0, -1).astype(np.float64)
    moments = (light[..., None] * places).sum(axis=(1, 2))
    return np.asarray(moments / light.sum(axis=(1, 2))[:, None], np.float64)


def areas(faces: Faces) -> npt.NDArray[np.float64]:
    return np.asarray((faces > 125).sum(axis=(1, 2)), np.float64)


def test_without_augmentation_nothing_changes() -> None:
    assert np.array_equal(changed(), noise())


def test_the_main_switch_wins_over_all_others() -> None:
    settings = AugmentationSettings(enabled=False, mixup=1.0, mix_probability=1.0)
    random = np.random.default_rng(0)
    assert np.array_equal(augment_faces(noise(), settings, random), noise())
    assert mix_batch(batch(), settings, random) == batch()


def test_flip_mirrors_the_given_share() -> None:
    faces = changed(flip=0.5)
    mirrored = np.array(
        [np.array_equal(a, b[:, ::-1]) for a, b in zip(faces, noise(), strict=True)]
    )
    same = np.array([np.array_equal(a, b) for a, b in zip(faces, noise(), strict=True)])
    assert np.all(mirrored ^ same)
    assert 10 < mirrored.sum() < 30
    assert np.array_equal(changed(flip=1.0), noise()[:, :, ::-1])


def test_shift_moves_within_its_share_of_the_side() -> None:
    moves = centres(changed(faces=disc(24, 24), shift=0.1)) - centres(disc(24, 24))
    assert np.abs(moves).max() <= 4.8 + 0.1
    assert np.abs(moves).max(axis=0).min() > 3
    assert moves.min() < -2 < 2 < moves.max()


def test_rotation_turns_round_the_middle_within_its_angle() -> None:
    turned = centres(changed(faces=disc(24, 40), rotation=20.0)) - 23.5
    angles = np.rad2deg(np.arctan2(turned[:, 0], turned[:, 1]))
    assert np.abs(angles - angles.mean()).max() < 20.5
    assert angles.max() > 12
    assert angles.min() < -12
    # The distance to the middle stays.
    assert np.allclose(np.hypot(*turned.T), 16.5, atol=0.4)


def test_scale_changes_the_size_within_its_share() -> None:
    ratios = areas(changed(faces=disc(23.5, 23.5, 10), scale=0.3)) / areas(disc(23.5, 23.5, 10))[0]
    assert 0.7**2 - 0.06 < ratios.min() < 0.7
    assert 1.4 < ratios.max() < 1.3**2 + 0.06
    assert np.abs(centres(changed(faces=disc(23.5, 23.5, 10), scale=0.3)) - 23.5).max() < 0.3


def test_brightness_shifts_all_pixels_of_a_face_alike() -> None:
    shifts = changed(brightness=0.2).astype(int) - noise()
    assert np.ptp(shifts, axis=(1, 2)).max() == 0
    assert -51 <= shifts.min() < -30
    assert 30 < shifts.max() <= 51


def test_contrast_keeps_the_mean_and_stretches_within_its_share() -> None:
    before, after = noise().astype(float), changed(contrast=0.4).astype(float)
    assert np.allclose(after.mean(axis=(1, 2)), before.mean(axis=(1, 2)), atol=1.0)
    ratios = after.std(axis=(1, 2)) / before.std(axis=(1, 2))
    assert 0.58 < ratios.min() < 0.75
    assert 1.25 < ratios.max() < 1.42


def test_equalize_spreads_the_greys_of_the_given_share() -> None:
    dull = (noise() // 4 + 100).astype(np.uint8)
    spread = np.ptp(changed(faces=dull, equalize=0.5), axis=(1, 2)) > 200
    assert 10 < spread.sum() < 30
    assert np.all(np.ptp(changed(faces=dull, equalize=1.0), axis=(1, 2)) > 200)


def test_blur_smooths_the_given_share() -> None:
    def edges(faces: Faces) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(np.diff(faces.astype(float), axis=2)).max(axis=(1, 2)))

    smoothed = edges(changed(blur=0.5)) < edges(noise())
    assert 10 < smoothed.sum() < 30
    assert np.all(edges(changed(blur=1.0)) < edges(noise()))


def test_erasing_fills_one_rectangle_with_one_grey() -> None:
    faces, erased = changed(erasing=1.0), 0
    for face, before in zip(faces, noise(), strict=True):
        rows, columns = np.nonzero(face != before)
        box = face[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert len(np.unique(box)) == 1
        erased += box.size
    assert 0.02 < erased / faces.size < 0.2
    half = (changed(erasing=0.5) != noise()).any(axis=(1, 2)).sum()
    assert 10 < half < 30


@pytest.mark.parametrize(
    "key",
    ["flip", "rotation", "shift", "scale", "brightness", "contrast", "equalize", "blur", "erasing"],
)
def test_each_key_alone_has_an_effect(key: str) -> None:
    value: Any = 20.0 if key == "rotation" else 0.5
    assert not np.array_equal(changed(**{key: value}), noise())


def test_the_source_is_not_changed() -> None:
    faces = noise()
    augment_faces(faces, AugmentationSettings(), np.random.default_rng(0))
    assert np.array_equal(faces, noise())


def test_no_faces_give_no_faces() -> None:
    assert changed(faces=noise(0), flip=1.0, erasing=1.0).shape == (0, 48, 48)


strengths = st.builds(
    AugmentationSettings,
    **dict.fromkeys(("flip", "equalize", "blur", "erasing"), st.floats(0, 1)),
    rotation=st.floats(0, 180),
    shift=st.floats(0, 1),
    scale=st.floats(0, 0.9),
    brightness=st.floats(0, 2),
    contrast=st.floats(0, 2),
)


@settings(max_examples=40)
@given(strengths, st.integers(0, 2**32), st.integers(1, 6))
def test_the_same_generator_gives_the_same_faces(
    strength: AugmentationSettings, seed: int, count: int
) -> None:
    first, second = (
        augment_faces(noise(count), strength, np.random.default_rng(seed)) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert first.shape == (count, 48, 48)
    assert first.dtype == np.uint8


def test_another_seed_gives_other_faces() -> None:
    assert not np.array_equal(changed(seed=1, rotation=9.0), changed(seed=2, rotation=9.0))


# ---------------------------------------------------------------- mixing
class Comparable(Batch):
    """A batch that can be compared."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("faces", "targets", "weights")
        )


def batch(count: int = 7) -> Comparable:
    """Face number i is all of grey 10 i, of class i and weight i + 1."""
    numbers = np.arange(count, dtype=np.float32)
    faces = np.broadcast_to(10 * numbers[:, None, None, None], (count, 48, 48, 1)).copy()
    return Comparable(faces=faces, targets=np.eye(7, dtype=np.float32)[:count], weights=numbers + 1)


def mixing(**keys: Any) -> AugmentationSettings:
    return dataclasses.replace(OFF, **{"mix_probability": 1.0, **keys})


def mixed(seed: int = 0, **keys: Any) -> Batch:
    return mix_batch(batch(), mixing(**keys), np.random.default_rng(seed))


def test_mixup_mixes_faces_targets_and_weights_by_one_share() -> None:
    result = mixed(mixup=1.0)
    numbers = np.arange(7)
    assert result != batch()
    assert np.allclose(result.targets.sum(axis=1), 1)
    # A face is as grey as its target says, and each face is even.
    assert np.allclose(result.faces[:, 0, 0, 0], 10 * result.targets @ numbers, atol=1e-3)
    assert np.ptp(result.faces, axis=(1, 2)).max() < 1e-3
    assert np.allclose(result.weights, result.targets @ (numbers + 1), atol=1e-4)
    shares = result.targets.max(axis=1)
    assert len(np.unique(np.round(shares[shares < 0.999], 5))) == 1


def test_cutmix_pastes_the_share_of_the_targets() -> None:
    result = mixed(cutmix=1.0)
    assert result != batch()
    for number, (face, target) in enumerate(zip(result.faces, result.targets, strict=True)):
        kept = np.mean(face == 10 * number)
        assert np.isclose(kept, target[number], atol=1e-5)
        assert len(np.unique(face)) <= 2
    assert np.allclose(result.weights, result.targets @ np.arange(1, 8), atol=1e-4)


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_an_alpha_of_zero_is_off(key: str) -> None:
    off: Any = {key: 0.0}
    assert mixed(**off) == batch()


def test_the_share_of_mixed_batches_is_that_of_the_recipe() -> None:
    settings = mixing(mixup=1.0, mix_probability=0.3)
    hits = sum(
        batch() != mix_batch(batch(), settings, np.random.default_rng(seed)) for seed in range(200)
    )
    assert 35 < hits < 85


def test_with_mixup_and_cutmix_either_is_drawn() -> None:
    pasted = [np.ptp(mixed(seed, mixup=1.0, cutmix=1.0).faces, axis=(1, 2)).max() > 0.1
              for seed in range(40)]  # fmt: skip
    assert 5 < sum(pasted) < 35


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.floats(0.05, 5), st.booleans())
def test_mixing_keeps_sums_and_shapes(seed: int, alpha: float, cut: bool) -> None:
    keys = {"cutmix" if cut else "mixup": alpha}
    result = mixed(seed, **keys)
    assert result.faces.shape == (7, 48, 48, 1)
    assert all(
        getattr(result, name).dtype == np.float32 for name in ("faces", "targets", "weights")
    )
    assert np.allclose(result.targets.sum(axis=1), 1, atol=1e-5)
    assert result.targets.min() >= 0
    # Classes are as common after as before: each face is partner once.
    assert np.allclose(result.targets.sum(axis=0), 1, atol=1e-5)
    assert Comparable(**vars(result)) == mixed(seed, **keys)


def test_downscaling_removes_detail_and_keeps_the_mean() -> None:
    before = np.random.default_rng(3).integers(40, 216, (40, 48, 48)).astype(np.uint8)
    after = changed(faces=before, downscale=1.0)
    assert after.std(axis=(1, 2)).max() < before.std(axis=(1, 2)).min()
    assert after.mean() == pytest.approx(before.mean(), abs=1)


def test_jpeg_changes_every_pixel_a_little() -> None:
    before = noise()
    after = changed(faces=before, jpeg=1.0)
    error = np.abs(after.astype(float) - before).mean(axis=(1, 2))
    assert np.all(error > 0)
    assert error.mean() < 12


def test_degradations_have_their_probability() -> None:
    after = changed(faces=noise(400), jpeg=0.25)
    share = np.any(after != noise(400), axis=(1, 2)).mean()
    assert share == pytest.approx(0.25, abs=0.08)


LOSSES = ("blur", "downscale", "jpeg")


def test_sharp_omits_only_what_removes_detail() -> None:
    halves: dict[str, Any] = dict.fromkeys(LOSSES, 0.5)
    nothing: dict[str, Any] = dict.fromkeys(LOSSES, 1e-9)
    settings = AugmentationSettings(**halves, contrast=0.0, brightness=0.0)
    lossless = dataclasses.replace(settings, **nothing)
    faces = noise(60)
    sharp = augment_faces(faces, settings, np.random.default_rng(4), sharp=True)
    # The same chance: the probabilities alone tell the two apart.
    assert np.array_equal(sharp, augment_faces(faces, lossless, np.random.default_rng(4)))
    lossy = augment_faces(faces, settings, np.random.default_rng(4))
    untouched = np.all(lossy == sharp, axis=(1, 2)).mean()
    assert untouched == pytest.approx(0.5**3, abs=0.12)


# ---------------------------------------------------------------- views
MIXED: dict[str, Any] = {
    "augmentation_mixup": 0.4,
    "augmentation_cutmix": 0.5,
    "augmentation_mix_probability": 1.0,
    "augmentation_plain_epochs": 1,
    "training_head_epochs": 1,
    "training_epochs": 4,
    "distill_views": 2,
}
SPLIT = make_tiny_split("train", per_class=12)


def source(**changes: Any) -> BatchSource:
    return BatchSource(TrainingData(SPLIT, SPLIT), tiny_config(**changes))


def view(number: int = 0, shows_mixed: bool = True, **changes: Any) -> Any:
    config = tiny_config(**{**MIXED, **changes})
    return source(**{**MIXED, **changes}).dataset.render_view(config, View(number, shows_mixed))


def test_views_follow_the_epochs_and_their_mixing() -> None:
    config = tiny_config(**MIXED)
    names = [View.of_epoch(config, epoch) for epoch in range(5)]
    assert names == [View(number, number_of < 4) for number_of, number in enumerate([0, 1] * 2)
                     ] + [View(0, False)]  # fmt: skip
    assert View.all_of(config) == [View(0, True), View(1, True), View(0, False)]
    assert [str(name) for name in View.all_of(config)] == [
        "view000-mixed",
        "view001-mixed",
        "view000",
    ]
    unmixed = {**MIXED, "augmentation_mixup": 0.0, "augmentation_cutmix": 0.0}
    assert View.all_of(tiny_config(**unmixed)) == [View(0, False), View(1, False)]


def test_a_view_is_the_same_for_any_batch_size_and_number_of_epochs() -> None:
    first = view()
    again = view(training_batch_size=5, training_epochs=9, distill_views=7)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.targets, again.targets)
    assert first.images.dtype == np.uint8
    for other in (view(1), view(shows_mixed=False), view(training_seed=9)):
        assert not np.array_equal(first.images, other.images)


def test_a_plain_view_is_the_mixed_one_before_mixing() -> None:
    plain = view(shows_mixed=False)
    assert np.array_equal(plain.targets, np.eye(7)[SPLIT.labels])
    unmixed = view(augmentation_mix_probability=0.0)
    assert np.array_equal(plain.images, unmixed.images)


def test_mixed_targets_are_shares_of_the_own_label_and_another() -> None:
    targets = view(augmentation_cutmix=0.0).targets
    assert np.allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert np.count_nonzero(targets, axis=1).max() == 2
    assert np.count_nonzero(targets > 0, axis=1).mean() > 1.5
    assert np.all(targets[np.arange(len(SPLIT)), SPLIT.labels] > 0)


def rows_of(batches: list[Batch]) -> list[bytes]:
    return [
        face.tobytes() + target.tobytes()
        for batch in batches
        for face, target in zip(batch.faces, batch.targets, strict=True)
    ]


def test_epochs_have_each_image_of_their_view_once_in_different_orders() -> None:
    made = source(**MIXED)
    shown = [list(made.epoch(epoch)) for epoch in range(4)]
    whole = view()
    known = {
        face[..., None].astype(np.float32).tobytes() + target.tobytes()
        for face, target in zip(whole.images, whole.targets, strict=True)
    }
    seen = [rows_of(batches) for batches in shown]
    assert set(seen[0]) <= known
    assert set(seen[2]) <= known
    assert len(set(seen[0])) == len(seen[0]) == made.steps * BATCH
    assert seen[0] != seen[2]
    assert not set(seen[1]) & known


def test_a_resumed_epoch_continues_with_the_same_batches() -> None:
    whole = rows_of(list(source(**MIXED).epoch(3)))
    rest = rows_of(list(source(**MIXED).epoch(3, 4)))
    assert rest == whole[4 * BATCH :]


@pytest.mark.parametrize("epoch", [0, 4])
def test_without_views_batches_are_augmented_anew(epoch: int) -> None:
    made = source(**{**MIXED, "distill_views": 0})
    order = np.random.default_rng([3, 1, epoch]).permutation(len(SPLIT))
    for step, batch in enumerate(made.epoch(epoch)):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        random = np.random.default_rng([3, 2, epoch, step])
        settings = tiny_config(**MIXED).augmentation
        faces = augment_faces(SPLIT.images[chosen], settings, random)[..., None].astype(np.float32)
        targets = np.eye(7, dtype=np.float32)[SPLIT.labels[chosen]]
        expected = Batch(faces, targets, np.ones(BATCH, np.float32))
        if epoch < 4:
            expected = mix_batch(expected, settings, random)
        assert np.array_equal(batch.faces, expected.faces)
        assert np.array_equal(batch.targets, expected.targets)
        assert batch.soft_targets is batch.votes is None


def test_sharp_teachers_get_a_view_before_degradation() -> None:
    losses: dict[str, Any] = {f"augmentation_{key}": 1.0 for key in ("blur", "downscale", "jpeg")}
    same = view(**losses)
    assert same.sharp is None
    assert same.teacher_images is same.images
    for shows_mixed in (True, False):
        made = view(shows_mixed=shows_mixed, distill_sharp=True, **losses)
        plain = view(shows_mixed=shows_mixed, **losses)
        # The student sees the same as without, and both are mixed alike.
        assert np.array_equal(made.images, plain.images)
        assert np.array_equal(made.targets, plain.targets)
        without: dict[str, Any] = dict.fromkeys(losses, 1e-9)
        assert np.array_equal(made.teacher_images, view(shows_mixed=shows_mixed, **without).images)
        assert not np.array_equal(made.teacher_images, made.images)
