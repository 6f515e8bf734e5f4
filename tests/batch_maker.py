"""Comparison of results from different engines."""

from __future__ import annotations

from typing import Any


def alike(one: Any, other: Any) -> bool:
    """Return True if two JSON results are the same up to the last digits of scores.

    A network's last digits depend on how many faces go through it together.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    return bool(one == other)
