from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import UsageError
from mien.evaluation.intervals import wilson_interval


@given(st.integers(1, 5000), st.data())
def test_a_wilson_interval_holds_its_share_and_lies_within_zero_and_one(
    count: int, data: st.DataObject
) -> None:
    correct = data.draw(st.integers(0, count))
    interval = wilson_interval(correct, count)
    assert 0 <= interval.low <= correct / count <= interval.high <= 1
    mirrored = wilson_interval(count - correct, count)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)


def test_a_wilson_interval_as_published() -> None:
    # Newcombe 1998, table I, method 3: 81/263 gives 0.2553 to 0.3662; 0/20 gives 0 to 0.1611.
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    assert round(wilson_interval(0, 20).high, 4) == 0.1611
    with pytest.raises(UsageError):
        wilson_interval(0, 0)
    with pytest.raises(UsageError):
        wilson_interval(3, 2)
