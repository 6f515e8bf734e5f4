from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.training.rules import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    PROBABILITY,
    Rule,
    check,
    each,
    one_of,
)


@pytest.mark.parametrize(
    ("rule", "within", "beyond"),
    [
        (PROBABILITY, [0.0, 1.0], [-1e-9, 1 + 1e-9]),
        (BELOW_ONE, [0.0, 0.999], [-1e-9, 1.0]),
        (NOT_NEGATIVE, [0, 1e300], [-1e-9, math.inf]),
        (ABOVE_ZERO, [1e-300, 1e300], [0.0, math.inf]),
        (AT_LEAST_ONE, [1], [0]),
        (one_of("a", "b"), ["a", "b"], ["", "c", "ab"]),
        (each(AT_LEAST_ONE), [(), (1,), (3, 1)], [(0,), (1, 0), (0, 1)]),
    ],
)
def test_a_rule_holds_up_to_its_bounds_and_no_further(
    rule: Rule, within: list[Any], beyond: list[Any]
) -> None:
    holds, _ = rule
    assert [value for value in within if not holds(value)] == []
    assert [value for value in beyond if holds(value)] == []


@pytest.mark.parametrize("rule", [PROBABILITY, BELOW_ONE, NOT_NEGATIVE, ABOVE_ZERO, AT_LEAST_ONE])
def test_what_is_no_number_keeps_to_no_rule(rule: Rule) -> None:
    assert not rule[0](math.nan)
    assert not each(rule)[0]((math.nan,))


@given(st.lists(st.floats()))
def test_each_holds_where_the_rule_holds_for_all(values: list[float]) -> None:
    assert each(PROBABILITY)[0](values) == all(PROBABILITY[0](value) for value in values)


def test_a_refusal_names_the_key_its_value_and_what_was_expected() -> None:
    settings = SimpleNamespace(good=0.5, names="c", rates=(0.1, 2.0))
    check("table", settings, {"good": PROBABILITY})
    with pytest.raises(UsageError) as no:
        check("table", settings, {"good": PROBABILITY, "names": one_of("a", "b")})
    assert str(no.value) == "table.names = 'c': expected one of a, b"
    with pytest.raises(UsageError) as no:
        check("table", settings, {"rates": each(BELOW_ONE), "names": one_of("a", "b")})
    assert str(no.value) == "table.rates = (0.1, 2.0): expected each at least 0 and below 1"
