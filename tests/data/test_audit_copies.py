from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import DataError, UsageError
from mien.data import audit
from mien.data.audit import blank_mask, find_near_pairs, group_copies


def noise(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 48, 48)).astype(np.uint8)


def smooth(count: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return images of four blocks, many of which are alike."""
    coarse = np.random.default_rng(seed).normal(128, 40, (count, 2, 2)).clip(0, 255)
    return np.kron(coarse, np.ones((24, 24))).astype(np.uint8)


def mixed(seed: int) -> npt.NDArray[np.uint8]:
    """Return noise images, and mixtures of each with other noise."""
    base = noise(40, seed).astype(float) - 128
    share = np.random.default_rng(seed).uniform(0, 1, (40, 1, 1))
    again = base + share * (noise(40, seed + 1).astype(float) - 128)
    return np.clip(128 + np.concatenate([base, again]) / 2, 0, 255).astype(np.uint8)


def all_cosines(images: npt.NDArray[np.uint8]) -> dict[tuple[int, int], float]:
    """Return the cosine of every pair by brute force, from the definition."""

    def vectors(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        pooled = images.astype(float).reshape(-1, 24, 2, 24, 2).mean((2, 4)).reshape(-1, 24 * 24)
        centred = pooled - pooled.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return np.asarray(centred / np.maximum(length, 1e-9))

    plain = vectors(images)
    cosines = np.maximum(plain @ plain.T, plain @ vectors(images[:, :, ::-1]).T)
    return {pair: float(cosines[pair]) for pair in combinations(range(len(images)), 2)}


def test_identical_images_share_the_index_of_the_first() -> None:
    images = noise(5)
    images[3] = images[1]
    images[4] = images[1]
    assert group_copies(images).tolist() == [0, 1, 2, 1, 1]


def test_images_of_almost_one_grey_value_are_blank() -> None:
    images = noise(4)
    images[0] = 0
    images[1] = 100 + images[1] % 3
    assert blank_mask(images).tolist() == [True, True, False, False]


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.8, 0.9, 0.95]))
def test_the_search_finds_exactly_the_pairs_of_brute_force(seed: int, threshold: float) -> None:
    images = np.concatenate([smooth(16, seed), mixed(seed)])
    found = find_near_pairs(images, threshold=threshold)
    pairs = dict(
        zip(
            zip(found.first.tolist(), found.second.tolist(), strict=True),
            found.cosine.tolist(),
            strict=True,
        )
    )
    # What lies within rounding of the threshold may fall either way.
    cosines = all_cosines(images)
    sure = {pair: cosine for pair, cosine in cosines.items() if cosine >= threshold + 1e-4}
    possible = {pair for pair, cosine in cosines.items() if cosine >= threshold - 1e-4}
    assert sure, "there is something to find"
    assert set(sure) <= set(pairs) <= possible
    assert all(abs(pairs[pair] - cosine) < 1e-4 for pair, cosine in sure.items())


def test_the_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth(60, seed=3)
    whole = find_near_pairs(images)
    monkeypatch.setattr(audit, "_ROWS", 7)
    monkeypatch.setattr(audit, "_COLUMNS", 11)
    parts = find_near_pairs(images)
    assert len(whole) > 20
    assert np.array_equal(whole.first, parts.first)
    assert np.array_equal(whole.second, parts.second)


def test_brightness_contrast_and_mirroring_do_not_hide_a_copy() -> None:
    images = noise(6)
    images[3] = images[0] // 2 + 90
    images[4] = images[1][:, ::-1]
    found = find_near_pairs(images)
    pairs = sorted(
        zip(found.first.tolist(), found.second.tolist(), found.flipped.tolist(), strict=True)
    )
    assert pairs == [(0, 3, False), (1, 4, True)]


def test_blank_images_have_no_near_copies() -> None:
    images = noise(4)
    images[1:] = np.array([0, 77, 255], np.uint8)[:, None, None]
    assert len(find_near_pairs(images)) == 0


def test_no_images_have_no_pairs() -> None:
    assert len(find_near_pairs(noise(0))) == 0


@pytest.mark.parametrize("threshold", [0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"from 0\.8 to 1"):
        find_near_pairs(noise(2), threshold=threshold)


def test_too_many_near_copies_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "_MOST_PAIRS", 100)
    frames = np.repeat(noise(1), 30, axis=0)
    frames[:, 0, 0] = np.arange(30)
    with pytest.raises(DataError, match="raise --near-threshold"):
        find_near_pairs(frames)
