from __future__ import annotations

import inspect

import pytest

from mien.core import errors


def _all() -> dict[str, type[errors.MienError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.MienError)
    }


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MienError", 1),
        ("UsageError", 2),
        ("MissingExtra", 2),
        ("InputError", 3),
        ("UnreadableImage", 3),
        ("DataError", 3),
        ("NoFaceError", 4),
        ("ModelError", 5),
        ("OutputError", 1),
        ("TrainingDiverged", 1),
    ],
)
def test_exit_codes_are_the_contract(name: str, code: int) -> None:
    assert _all()[name].exit_code == code


def test_the_drawn_tree_names_every_error() -> None:
    tree = errors.__doc__ or ""
    assert [name for name in _all() if f"{name} " not in tree] == []


def test_a_missing_extra_says_what_to_install() -> None:
    error = errors.MissingExtra("train", "mien train")
    assert "mien train" in str(error)
    assert "pip install 'mien[train]'" in str(error)
