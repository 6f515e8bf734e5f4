"""What a value in a recipe has to be, in code and in words, and the check of a whole table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mien.core.errors import UsageError

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value can be used, and what was expected instead, in words."""

PROBABILITY: Rule = (lambda value: 0 <= value <= 1, "a probability, from 0 to 1")
BELOW_ONE: Rule = (lambda value: 0 <= value < 1, "at least 0 and below 1")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "0 or more")
ABOVE_ZERO: Rule = (lambda value: 0 < value < math.inf, "above 0")
AT_LEAST_ONE: Rule = (lambda value: value >= 1, "at least 1")


def one_of(*names: str) -> Rule:
    """Return the rule that a value is one of these names."""
    return (lambda value: value in names), f"one of {', '.join(names)}"


def each(rule: Rule) -> Rule:
    """Return the rule that a rule holds for each of several values, or there is none."""
    holds, expected = rule
    return (lambda values: all(holds(value) for value in values)), f"each {expected}"


def check(section: str, settings: Any, rules: Mapping[str, Rule]) -> None:
    """Check one table of a recipe.

    Args:
        section: the table's name, for the message.
        settings: has an attribute for each key of the rules.
        rules: by key, in the order in which they are checked.

    Raises:
        UsageError: at the first value that cannot be used.
    """
    for key, (holds, expected) in rules.items():
        value = getattr(settings, key)
        if not holds(value):
            raise UsageError(f"{section}.{key} = {value!r}: expected {expected}")
