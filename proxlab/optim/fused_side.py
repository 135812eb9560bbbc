"""Scalar source of the fused pass over short contiguous groups: laid side by side, they are solved together.

One after the other, a group of few elements costs little but the decisions about it.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.optim.fused_blocks import (
    SQUARES,
    Block,
    advance_groups,
    aim_groups,
    begin_groups,
    block_in,
    close_groups,
    open_groups,
)
from proxlab.optim.fused_columns import (
    PITCH,
    PITCH7,
    ColumnRoom,
    add0,
    add3,
    add_rows,
    clear,
    column_terms,
    joined,
    measured,
    pass_of,
    stream_of,
)
from proxlab.optim.fused_elements import UINT, Step, Tensor, shrunk
from proxlab.optim.fused_groups import PASSES, Numbers
from proxlab.optim.fused_rows import update

#: Elements of a group at most, and groups that are laid side by side.
SHORT, SIDE = 25, 128
#: Room of as many groups.
ROOM = SHORT * SIDE
WIDE = np.uint64(SIDE)
EIGHT = np.uint64(8)
ZERO: Any = np.uint64(0)


def sum_terms(side: Tensor, step: Step, block: Block, room: ColumnRoom) -> None:
    """Sum the terms of all groups at zero and at their ratios; the metric is in the tile.

    Groups are too short for more than one part of their sums.
    """
    part, n = room.part, UINT(block.end)
    clear(part, n, 7)
    for j in range(n):
        part[j + PITCH7] = block.ratio[j]
    add_rows(side, step, ZERO, 0, side.shape[1], UINT(3 * ROOM), WIDE, n, room)
    for s in range(UINT(7)):
        for j in range(n):
            block.sums[s, j] = part[s * PITCH + j]


def ratio_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's terms at the ratio; here and below the metric is in the place of the gradient."""
    return column_terms(t.w[k], t.g[k], ratio, step.one)


def write_side(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Write an element's ``z = x q/(q + rest)``."""
    t.w[k] = shrunk(t.w[k], t.g[k], ratio, rest)
    return ()


pass_ratio, pass_write = (
    pass_of(stream_of(ratio_side, add3, 3), 3, 4), pass_of(stream_of(write_side, add0, 0), 0, 0)
)  # fmt: skip


def turn(source: Any, o: Any, apart: Any, target: Any, p: Any, far: Any) -> None:
    """Turn eight runs of eight elements, ``apart`` from ``o`` on, into others, ``far`` from ``p`` on."""
    for j in range(EIGHT):
        for k in range(EIGHT):
            target[p + k * far + j] = source[o + j * apart + k]


def transpose(
    source: Any, o: Any, apart: Any, rows: Any, columns: Any, target: Any, p: Any, far: Any
) -> None:
    """Make columns of rows, which begin ``apart`` from ``o`` on, and ``far`` from ``p`` on."""
    wide, long = rows - rows % EIGHT, columns - columns % EIGHT
    for j in range(ZERO, wide, EIGHT):
        for k in range(ZERO, long, EIGHT):
            turn(source, o + j * apart + k, apart, target, p + k * far + j, far)
    for k in range(long, columns):
        for j in range(wide):
            target[p + k * far + j] = source[o + j * apart + k]
    for j in range(wide, rows):
        for k in range(columns):
            target[p + k * far + j] = source[o + j * apart + k]


def measure(side: Any, n: Any, count: int, part: Any, squares: Any) -> None:
    """Measure the weights of ``count`` groups that lie side by side."""
    clear(part, UINT(count), 1)
    for k in range(n):
        for j in range(UINT(count)):
            part[j] = joined(part[j], measured(side[k * WIDE + j]))
    for j in range(UINT(count)):
        squares[j] = part[j]


def solve_side(
    t: Tensor, step: Step, numbers: Numbers, weights: Any, gone: Any, first: int, count: int, room: ColumnRoom
) -> int:
    """Step with ``count`` groups; returns how many are left to the general solver, with their point."""
    n, tile = UINT(t.shape[3]), room.tile
    o = UINT(first) * n
    x, d, point, metric = tile[:ROOM], tile[ROOM : 2 * ROOM], tile[2 * ROOM : 3 * ROOM], tile[3 * ROOM :]
    side = Tensor(point, metric, (), (1, t.shape[3], SIDE, 1, 1))
    block = block_in(room.values, 0, count, room.values[SQUARES], gone)
    many = UINT(count)
    # Where they lie: written at distances, what is updated would be no vectors.
    update(t, step, o, n * many, x, d, ZERO)
    transpose(x, ZERO, n, many, n, point, ZERO, WIDE)
    transpose(d, ZERO, n, many, n, metric, ZERO, WIDE)
    transpose(t.w, o, n, many, n, x, ZERO, WIDE)
    measure(x, n, count, room.part, block.squares)
    begin_groups(block, weights[first : first + count] if len(weights) > 1 else weights, numbers)
    sum_terms(side, step, block, room)
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
    transpose(point, ZERO, WIDE, n, many, t.w, o, n)
    return left
