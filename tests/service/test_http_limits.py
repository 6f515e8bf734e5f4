from __future__ import annotations

import importlib.util

import pytest

from mien.core.errors import MissingExtra, UsageError
from mien.core.images import MAX_PIXELS
from mien.service import require_app

pytest.importorskip("fastapi")

from mien.service import Limits, default_workers


def test_the_defaults_are_usable() -> None:
    assert Limits().workers == default_workers() >= 1
    assert Limits(max_pixels=MAX_PIXELS).max_pixels == MAX_PIXELS


@pytest.mark.parametrize(
    "changed",
    [
        {"max_bytes": 0},
        {"max_bytes": 10**10},
        {"max_pixels": MAX_PIXELS + 1},
        {"workers": 0},
        {"max_waiting": -1},
        {"upload_seconds": 0},
        {"upload_seconds": float("nan")},
        {"analysis_seconds": -1},
        {"max_connections": 0},
    ],
)
def test_limits_out_of_range_are_refused(changed: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"^expected .* got "):
        Limits(**changed)  # type: ignore[arg-type]


def test_missing_packages_are_reported_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"^mien serve needs .*: pip install 'mien\[app\]'$"):
        require_app("mien serve")
