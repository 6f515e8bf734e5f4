"""Views that come again: what an image looks like in one depends on seed and number alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.training.augmentation import MixedBatch, augment_faces, mix_batch
from mien.training.batches import BatchSource
from mien.training.views import ViewName, make_view, view_of, views_of
from training_maker import BATCH, tiny_config

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
    return BatchSource(SPLIT, tiny_config(**changes))


def view(number: int = 0, mixed: bool = True, **changes: Any) -> Any:
    made = source(**{**MIXED, **changes})
    return make_view(made.examples(), made.config, ViewName(number, mixed))


def test_views_follow_the_epochs_and_lose_their_mixing_with_them() -> None:
    config = tiny_config(**MIXED)
    names = [view_of(config, epoch) for epoch in range(5)]
    assert names == [ViewName(number, number_of < 4) for number_of, number in enumerate([0, 1] * 2)
                     ] + [ViewName(0, False)]  # fmt: skip
    assert views_of(config) == [ViewName(0, True), ViewName(1, True), ViewName(0, False)]
    assert [str(name) for name in views_of(config)] == ["view000-mixed", "view001-mixed", "view000"]
    assert views_of(tiny_config(**{**MIXED, "augmentation_mixup": 0.0, "augmentation_cutmix": 0.0})
                    ) == [ViewName(0, False), ViewName(1, False)]  # fmt: skip


def test_a_view_is_the_same_for_any_batch_size_and_number_of_epochs() -> None:
    first = view()
    again = view(training_batch_size=5, training_epochs=9, distill_views=7)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.targets, again.targets)
    assert first.images.dtype == np.uint8
    for other in (view(1), view(mixed=False), view(training_seed=9)):
        assert not np.array_equal(first.images, other.images)


def test_a_plain_view_is_the_mixed_one_before_it_was_mixed() -> None:
    plain = view(mixed=False)
    assert np.array_equal(plain.targets, np.eye(7)[SPLIT.labels])
    mixed = view(augmentation_mix_probability=0.0)
    assert np.array_equal(plain.images, mixed.images)


def test_mixed_targets_are_shares_of_two_labels_the_own_one_among_them() -> None:
    targets = view(augmentation_cutmix=0.0).targets
    assert np.allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert np.count_nonzero(targets, axis=1).max() == 2
    assert np.count_nonzero(targets > 0, axis=1).mean() > 1.5
    assert np.all(targets[np.arange(len(SPLIT)), SPLIT.labels] > 0)


def rows(batches: list[MixedBatch]) -> list[bytes]:
    return [
        face.tobytes() + target.tobytes()
        for batch in batches
        for face, target in zip(batch.faces, batch.targets, strict=True)
    ]


def test_epochs_show_their_view_each_image_once_in_an_order_of_their_own() -> None:
    made = source(**MIXED)
    shown = [list(made.epoch(epoch)) for epoch in range(4)]
    whole = view()
    known = {
        face[..., None].astype(np.float32).tobytes() + target.tobytes()
        for face, target in zip(whole.images, whole.targets, strict=True)
    }
    seen = [rows(batches) for batches in shown]
    assert set(seen[0]) <= known
    assert set(seen[2]) <= known
    assert len(set(seen[0])) == len(seen[0]) == made.steps * BATCH
    assert seen[0] != seen[2]
    assert not set(seen[1]) & known


def test_an_epoch_taken_up_in_its_middle_goes_on_with_the_same_batches() -> None:
    whole = rows(list(source(**MIXED).epoch(3)))
    rest = rows(list(source(**MIXED).epoch(3, 4)))
    assert rest == whole[4 * BATCH :]


@pytest.mark.parametrize("epoch", [0, 4])
def test_without_views_batches_are_drawn_as_they_always_were(epoch: int) -> None:
    made = source(**{**MIXED, "distill_views": 0})
    order = np.random.default_rng([3, 1, epoch]).permutation(len(SPLIT))
    for step, batch in enumerate(made.epoch(epoch)):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        random = np.random.default_rng([3, 2, epoch, step])
        settings = made.config.augmentation
        faces = augment_faces(SPLIT.images[chosen], settings, random)[..., None].astype(np.float32)
        targets = np.eye(7, dtype=np.float32)[SPLIT.labels[chosen]]
        expected = MixedBatch(faces, targets, np.ones(BATCH, np.float32))
        if epoch < 4:
            expected = mix_batch(expected, settings, random)
        assert np.array_equal(batch.faces, expected.faces)
        assert np.array_equal(batch.targets, expected.targets)
        assert batch.taught is batch.votes is None


def test_teachers_see_a_view_before_it_lost_detail_where_the_recipe_says_so() -> None:
    losses: dict[str, Any] = {f"augmentation_{key}": 1.0 for key in ("blur", "downscale", "jpeg")}
    same = view(**losses)
    assert same.sharp is None
    assert same.for_teachers is same.images
    for mixed in (True, False):
        made = view(mixed=mixed, distill_sharp=True, **losses)
        plain = view(mixed=mixed, **losses)
        # The student sees the same as without, and both are mixed alike.
        assert np.array_equal(made.images, plain.images)
        assert np.array_equal(made.targets, plain.targets)
        without: dict[str, Any] = dict.fromkeys(losses, 1e-9)
        assert np.array_equal(made.for_teachers, view(mixed=mixed, **without).images)
        assert not np.array_equal(made.for_teachers, made.images)
