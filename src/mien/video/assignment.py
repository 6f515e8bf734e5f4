"""Pairs two groups so that the pairs cost least together."""

from __future__ import annotations

import math
from collections.abc import Sequence


def assign(costs: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Pair rows with columns: as many allowed pairs as can be, and of those the cheapest together.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant, 1987): the cube of
    the number of faces, which is next to nothing for those that fit into a picture.

    Args:
        costs: a row each; 0 or more, infinity where a pair is not allowed.

    Returns:
        (row, column) of each pair, by rows.
    """
    rows, columns = len(costs), len(costs[0]) if costs else 0
    if not rows or not columns:
        return []
    allowed = [cost for row in costs for cost in row if math.isfinite(cost)]
    # Dearer than all allowed pairs together, so that a pair is never given up to save a little.
    barred = 1.0 + sum(allowed)
    # Each row has a column to itself that means "stays alone".
    square = [[cost if math.isfinite(cost) else 2 * barred for cost in row] for row in costs]
    square = [row + [barred] * rows for row in square]
    chosen = _cheapest(square)
    return [
        (row, column)
        for row, column in enumerate(chosen)
        if column < columns and math.isfinite(costs[row][column])
    ]


def _cheapest(costs: list[list[float]]) -> list[int]:
    """Return each row's column; there are at least as many columns as rows."""
    rows, columns = len(costs), len(costs[0])
    row_price, column_price = [0.0] * rows, [0.0] * columns
    owner: list[int | None] = [None] * columns
    for start in range(rows):
        reach = [math.inf] * columns
        came_from: list[int | None] = [None] * columns
        done = [False] * columns
        row, column, length = start, None, 0.0
        visited = {start: 0.0}
        while True:
            for other in range(columns):
                if not done[other]:
                    step = length + costs[row][other] - row_price[row] - column_price[other]
                    if step < reach[other]:
                        reach[other], came_from[other] = step, column
            column = min((each for each in range(columns) if not done[each]), key=reach.__getitem__)
            length, done[column] = reach[column], True
            taken = owner[column]
            if taken is None:
                break
            row = taken
            visited[row] = length
        for each, at in visited.items():
            row_price[each] += length - at
        for each in range(columns):
            if done[each]:
                column_price[each] -= length - reach[each]
        end: int | None = column
        while end is not None:  # hand the columns along the path on, from its end to its start
            before = came_from[end]
            owner[end] = start if before is None else owner[before]
            end = before
    chosen = [0] * rows
    for column, taken in enumerate(owner):
        if taken is not None:
            chosen[taken] = column
    return chosen
