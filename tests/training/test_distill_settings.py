from __future__ import annotations

from typing import Any

import pytest

from mien.core.errors import UsageError
from mien.training.distill_settings import DistillSettings


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 0.0), ("weight", 1.1), ("views", -1), ("votes", -0.1)]
)
def test_a_value_that_cannot_be_used_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"distill\.{key} = {value}: expected"):
        DistillSettings(**{key: value})


@pytest.mark.parametrize("teachers", [("runs/a", "old/a"), ("runs/a", "/"), ("a", "a")])
def test_teachers_whose_logits_would_have_one_name_are_refused(teachers: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"distill\.teachers = .* different names"):
        DistillSettings(teachers=teachers)
    assert DistillSettings(teachers=("runs/a", "runs/b")).teachers == ("runs/a", "runs/b")


def test_a_cache_without_views_that_come_again_is_refused() -> None:
    with pytest.raises(UsageError, match=r"distill\.cache needs views that come again"):
        DistillSettings(cache="logits")
    assert DistillSettings(cache="logits", views=30).views == 30
