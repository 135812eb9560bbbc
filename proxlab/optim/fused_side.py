"""Scalar source of the fused pass over short contiguous groups: laid side by side, they are solved together.

One after the other, a group of few elements costs little but the decisions about it.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.optim.fused_blocks import (
    SQUARES,
    advance_groups,
    aim_groups,
    begin_groups,
    block_in,
    close_groups,
    open_groups,
)
from proxlab.optim.fused_columns import (
    ColumnRoom,
    add0,
    add3,
    add_rows,
    joined,
    measured,
    pass_of,
    stream_of,
)
from proxlab.optim.fused_elements import UINT, Step, Tensor, shrunk, terms
from proxlab.optim.fused_groups import PASSES, Numbers
from proxlab.optim.fused_rows import update

#: Elements of a group at most, and groups that are laid side by side.
SHORT, SIDE = 25, 128
#: Room of as many groups.
ROOM = SHORT * SIDE
WIDE = np.uint64(SIDE)


def terms_rows(t: Tensor, step: Step, base: int, rows: int, n: int, room: ColumnRoom) -> None:
    """Add the terms of rows at zero and at the ratio; the metric is in the tile."""
    add_rows(t, step, base, 0, rows, UINT(3 * ROOM), WIDE, n, room)


def ratio_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's terms at the ratio; here and below the metric is in the place of the gradient."""
    return terms(t.w[k], t.g[k], ratio, rest, step.one)


def write_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Write an element's ``z = x q/(q + rest)``."""
    t.w[k] = shrunk(t.w[k], t.g[k], ratio, rest)
    return ()


pass_terms, pass_ratio, pass_write = (
    pass_of(terms_rows, 7, 0), pass_of(stream_of(ratio_side, add3, 3), 3, 4),
    pass_of(stream_of(write_side, add0, 0), 0, 0),
)  # fmt: skip


def lay(
    t: Tensor, o: Any, n: Any, count: int, x: Any, d: Any, point: Any, metric: Any, zero: float, squares: Any
) -> None:
    """Lay point and metric of ``count`` groups of ``n`` elements side by side, and measure their weights.

    The weights of the groups follow one another from ``o`` on.
    """
    for j in range(UINT(count)):
        total = zero
        for k in range(n):
            i = j * n + k
            point[k * WIDE + j] = x[i]
            metric[k * WIDE + j] = d[i]
            total = joined(total, measured(t.w[o + i]))
        squares[j] = total


def lift(side: Any, x: Any, n: Any, count: int, w: Any, o: Any) -> None:
    """Write what lies side by side to the weights, from ``o`` on.

    By way of ``x``, which to the compiler might be ``side``: else it would gather vectors, at twice the cost.
    """
    for j in range(UINT(count)):
        for k in range(n):
            x[j * n + k] = side[k * WIDE + j]
    for i in range(n * UINT(count)):
        w[o + i] = x[i]


def solve_side(
    t: Tensor, step: Step, numbers: Numbers, weights: Any, first: int, count: int, room: ColumnRoom
) -> int:
    """Step with ``count`` groups; returns how many are left to the general solver, with their point."""
    n, tile = UINT(t.shape[3]), room.tile
    o = UINT(first) * n
    x, d, point, metric = tile[:ROOM], tile[ROOM : 2 * ROOM], tile[2 * ROOM : 3 * ROOM], tile[3 * ROOM :]
    side = Tensor(point, metric, (), (1, t.shape[3], SIDE, 1, 1))
    block = block_in(room.values, 0, count, room.values[SQUARES])
    # Where they lie: written at distances, what is updated would be no vectors.
    update(t, step, o, n * UINT(count), x, d, UINT(0))
    lay(t, o, n, count, x, d, point, metric, step.one - step.one, block.squares)
    begin_groups(block, weights[first : first + count] if len(weights) > 1 else weights, numbers)
    pass_terms(side, step, block, room)
    active = open_groups(block, numbers)
    for _ in range(PASSES):
        if active == 0:
            break
        if aim_groups(block, numbers) > 0:
            pass_ratio(side, step, block, room)
        active = advance_groups(block, numbers)
    left = close_groups(block, numbers, room.hard)
    for j in range(left):
        room.hard[j] += first
    pass_write(side, step, block, room)
    lift(point, x, n, count, t.w, o)
    return left
