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
    add1,
    add3,
    add7,
    all_terms,
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


def square_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's ``x²``; here and in what follows the metric is in the place of the gradient."""
    return (t.w[k] * t.w[k],)


def terms_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's terms at zero and at the ratio."""
    return all_terms(t.w[k], t.g[k], ratio, step.one)


def ratio_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's terms at the ratio."""
    return terms(t.w[k], t.g[k], ratio, step.one)


def write_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Write an element's ``z = x q/(q + rest)``."""
    t.w[k] = shrunk(t.w[k], t.g[k], ratio, rest)
    return ()


pass_squares, pass_terms, pass_ratio, pass_write = (
    pass_of(stream_of(square_side, add1, 1), 1, 0), pass_of(stream_of(terms_side, add7, 7), 7, 0),
    pass_of(stream_of(ratio_side, add3, 3), 3, 4), pass_of(stream_of(write_side, add0, 0), 0, 0),
)  # fmt: skip


def lay(a: Any, o: Any, n: Any, count: int, side: Any) -> None:
    """Lay ``count`` groups of ``n`` elements, from ``o`` on, side by side."""
    for j in range(UINT(count)):
        for k in range(n):
            side[k * WIDE + j] = a[o + j * n + k]


def lift(side: Any, a: Any, o: Any, n: Any, count: int) -> None:
    """Undo :func:`lay`."""
    for j in range(UINT(count)):
        for k in range(n):
            a[o + j * n + k] = side[k * WIDE + j]


def solve_side(
    t: Tensor, step: Step, numbers: Numbers, weights: Any, first: int, count: int, room: ColumnRoom
) -> int:
    """Step with ``count`` groups; returns how many are left to the general solver, with their point."""
    n, tile = UINT(t.shape[3]), room.tile
    o = UINT(first) * n
    x, d, point, metric = tile[:ROOM], tile[ROOM : 2 * ROOM], tile[2 * ROOM : 3 * ROOM], tile[3 * ROOM :]
    side = Tensor(point, metric, (), (1, t.shape[3], SIDE, 1, 1))
    block = block_in(room.values, 0, count, room.values[SQUARES])
    lay(t.w, o, n, count, point)
    for j in range(count):
        block.ratio[j] = 0.0
        block.sums[0, j] = 0.0
    pass_squares(side, step, block, room)
    for j in range(count):
        block.squares[j] = block.sums[0, j]
    begin_groups(block, weights[first : first + count] if len(weights) > 1 else weights, numbers)
    # Where they lie: written at distances, what is updated would be no vectors.
    update(t, step, o, n * UINT(count), x, d, UINT(0))
    lay(x, UINT(0), n, count, point)
    lay(d, UINT(0), n, count, metric)
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
    lift(point, t.w, o, n, count)
    return left
