"""Cached logits: read back as written, and refused where they are of something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.core.errors import InputError
from mien.training.teacher_logits import LogitCache, images_digest, rounded
from mien.training.teachers import Teacher
from mien.training.views import ViewName
from training_maker import tiny_config

SPLIT = make_tiny_split("train")
FACES = SPLIT.images
VIEW = ViewName(2, mixed=False)
TEACHER = Teacher("outputs/wise", Path("outputs/wise/best.keras"), "a" * 64)
ABSENT = Teacher("elsewhere/wise")
LOGITS = rounded(np.random.default_rng(0).normal(3, 4, (len(FACES), 7)).astype(np.float32))


def cache(folder: Path, **changes: Any) -> LogitCache:
    config = tiny_config(distill_views=3, distill_cache=str(folder), **changes)
    return LogitCache(folder, config, images_digest(FACES), len(FACES))


@pytest.fixture
def filled(tmp_path: Path) -> LogitCache:
    made = cache(tmp_path)
    made.write(TEACHER, VIEW, FACES, LOGITS)
    return made


def test_logits_are_kept_in_half_precision_about_a_mean_of_zero() -> None:
    logits = np.random.default_rng(1).normal(40, 5, (50, 7)).astype(np.float32)
    kept = rounded(logits)
    assert kept.dtype == np.float16
    centred = logits - logits.mean(axis=1, keepdims=True)
    assert np.abs(kept.astype(np.float32) - centred).max() < 0.01


def test_what_was_written_is_read_also_where_the_teacher_is_not(filled: LogitCache) -> None:
    for teacher in (TEACHER, ABSENT):
        assert filled.has(teacher, VIEW)
        assert np.array_equal(filled.read(teacher, VIEW, FACES), LOGITS)
        assert filled.digest(teacher, VIEW) == "a" * 64
    path = filled.path(TEACHER, VIEW)
    assert path.name.startswith("wise-")
    assert path.name.endswith("-view002.npz")


def test_a_view_costs_little_more_than_its_numbers(tmp_path: Path) -> None:
    faces = np.zeros((4000, 48, 48), np.uint8)
    made = LogitCache(tmp_path, tiny_config(distill_views=3), images_digest(faces), 4000)
    made.write(TEACHER, VIEW, faces, np.zeros((4000, 7), np.float16))
    assert made.path(TEACHER, VIEW).stat().st_size < 4000 * 14 + 6000


@pytest.mark.parametrize(
    "changes",
    [
        {"training_seed": 8},
        {"augmentation_rotation": 1.0},
        {"augmentation_enabled": False},
        {"distill_sharp": True},
    ],
)
def test_what_changes_the_pixels_has_files_of_its_own(
    filled: LogitCache, changes: dict[str, Any]
) -> None:
    assert not cache(filled.folder, **changes).has(TEACHER, VIEW)


@pytest.mark.parametrize(
    "changes",
    [
        {"training_batch_size": 4},
        {"training_epochs": 50},
        {"augmentation_plain_epochs": 9},
        {"augmentation_mixup": 0.3},
        {"distill_temperature": 4.0},
    ],
)
def test_what_does_not_change_them_shares_the_files(
    filled: LogitCache, changes: dict[str, Any]
) -> None:
    other = cache(filled.folder, **changes)
    assert np.array_equal(other.read(TEACHER, VIEW, FACES), LOGITS)


def test_mixing_is_part_of_what_a_mixed_view_is(tmp_path: Path) -> None:
    paths = {
        cache(tmp_path, augmentation_mixup=alpha).path(TEACHER, ViewName(2, mixed=True))
        for alpha in (0.2, 0.3)
    }
    assert len(paths) == 2


def test_other_images_have_files_of_their_own(filled: LogitCache) -> None:
    images = images_digest(FACES[::-1])
    other = LogitCache(filled.folder, filled.config, images, len(FACES))
    assert not other.has(TEACHER, VIEW)


def test_the_logits_of_another_network_of_that_name_are_refused(filled: LogitCache) -> None:
    other = Teacher(TEACHER.source, TEACHER.file, "b" * 64)
    with pytest.raises(InputError, match=r"computed with another network than outputs/wise/best"):
        filled.read(other, VIEW, FACES)


def test_a_file_under_another_views_name_is_refused(filled: LogitCache) -> None:
    other = ViewName(1, mixed=False)
    shutil.copy(filled.path(TEACHER, VIEW), filled.path(TEACHER, other))
    with pytest.raises(InputError, match="view than its name says: delete it"):
        filled.read(TEACHER, other, FACES)


def test_other_pixels_than_the_teacher_saw_are_refused(filled: LogitCache) -> None:
    for faces in (FACES[:, :, ::-1], np.roll(FACES, 3, axis=1), FACES // 2):
        with pytest.raises(InputError, match="is of other pixels than view002 has here"):
            filled.read(TEACHER, VIEW, faces)


def test_greys_that_another_processor_rounds_otherwise_are_not(filled: LogitCache) -> None:
    faces = FACES.copy()
    faces[:, ::7, ::5] ^= 1
    assert np.array_equal(filled.read(TEACHER, VIEW, faces), LOGITS)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def reshape(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "logits": arrays["logits"][:-1]})


def spoil(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "logits": np.full_like(arrays["logits"], np.nan)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is damaged: delete it"),
        (lambda path: path.write_bytes(b"not a file of arrays"), "is damaged: delete it"),
        (reshape, r"holds float16 \(27, 7\): expected float16 \(28, 7\)"),
        (spoil, "holds what is not a number"),
        (Path.unlink, "is missing: compute it with mien train --teacher-logits"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    filled: LogitCache, damage: Callable[[Path], Any], message: str
) -> None:
    damage(filled.path(TEACHER, VIEW))
    with pytest.raises(InputError, match=message) as caught:
        filled.read(TEACHER, VIEW, FACES)
    assert "\n" not in str(caught.value)
