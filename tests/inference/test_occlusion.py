from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mien.inference.occlusion import covered_faces, occlusion_maps, patch_line

FACES = np.random.default_rng(1).integers(0, 256, (4, 48, 48)).astype(np.uint8)


class TwoPlaces:
    """A stand-in for a classifier: one pixel speaks for the first class, another against it."""

    spoken_for, spoken_against = (10, 30), (40, 5)

    def classify(self, faces: npt.NDArray[np.uint8], *, batch_size: int) -> Any:
        del batch_size
        value = faces[:, 10, 30].astype(np.float32) - faces[:, 40, 5]
        return np.stack([value, -value], axis=1) / 255


def test_every_pixel_is_covered_by_patches_that_weigh_the_same() -> None:
    line = patch_line()
    assert line.shape == (14, 48)
    np.testing.assert_allclose(line.sum(axis=0), 1, atol=1e-6)
    assert set((line > 0).sum(axis=0)) == {3}
    covered = covered_faces(FACES[0])
    assert covered.shape == (196, 48, 48)
    changed = covered != FACES[0]
    assert changed.any(axis=(1, 2)).all()
    assert changed.sum(axis=(1, 2)).max() <= 144
    grey = round(float(FACES[0].mean()))
    assert set(np.unique(covered[changed])) == {grey}


def test_a_map_says_how_much_is_lost_and_what_is_won_is_below_0() -> None:
    face = np.full((1, 48, 48), 100, np.uint8)
    face[0][TwoPlaces.spoken_for] = face[0][TwoPlaces.spoken_against] = 250
    classifier: Any = TwoPlaces()
    scores = classifier.classify(face, batch_size=8)
    first, second = (
        occlusion_maps(classifier, face, np.array([index]), scores, 8)[0] for index in (0, 1)
    )
    assert first.dtype == np.float32
    for place in (TwoPlaces.spoken_for, TwoPlaces.spoken_against):
        assert abs(first[place]) > 0.5 * abs(first).max()
    assert first[TwoPlaces.spoken_for] > 0 > first[TwoPlaces.spoken_against]
    np.testing.assert_allclose(second, -first, atol=1e-6)
    # A pixel is covered by no patch that begins further away than a patch is long.
    assert not first[23:28, 12:18].any()


def test_each_face_has_the_map_of_its_own_class() -> None:
    classifier: Any = TwoPlaces()
    scores = classifier.classify(FACES, batch_size=8)
    together = occlusion_maps(classifier, FACES, np.array([0, 1, 1, 0]), scores, 8)
    for number, index in enumerate([0, 1, 1, 0]):
        one = slice(number, number + 1)
        alone = occlusion_maps(classifier, FACES[one], np.array([index]), scores[one], 8)
        np.testing.assert_array_equal(together[one], alone)
    assert occlusion_maps(classifier, FACES[:0], np.zeros(0, int), scores[:0], 8).shape[0] == 0
