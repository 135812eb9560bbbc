"""Scalar source of the fused pass over groups across the rows of a tensor, in blocks of neighbouring columns.

The point is written to the weights, and the metric is formed anew from the state: nothing is kept for each
element, and every pass streams through whole rows.

A column's sums are added in an order that its rows alone decide: vectors are made of neighbours, and their
number decides nothing. Parts of a tensor in several processes have the sums of the whole.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.optim.fused_blocks import Block
from proxlab.optim.fused_elements import (
    UINT,
    Step,
    Tensor,
    formed,
    metric,
    propose,
    read,
    shrunk,
    terms,
    terms_at_zero,
)
from proxlab.optim.group_sums import sum_terms
from proxlab.scalar import any_order

#: Rows, or sums of four rows, that are added up in the data's precision before the sum goes over to float64.
ROWS = 16
#: Columns of a block at most: where a row of a tensor is no longer, the tensor is streamed without gaps.
BLOCK = 8192
#: The distance of a column's accumulators: constant, and no power of two.
PITCH = np.uint64(8208)
PITCH2, PITCH3, PITCH4, PITCH5, PITCH6, PITCH7 = (np.uint64(k * 8208) for k in range(2, 8))
#: The metric of the rows of a tile; behind it stand as many points.
TILE = PITCH4
#: While more than one group of so many is open, a pass over a block costs less than one over each of them.
MANY = 32


class ColumnRoom(NamedTuple):
    """Scratch of a thread: numbers of each column, ``PITCH`` apart, and of each group, a row for each.

    Attributes
    ----------
    hard : array of int
        The numbers of groups that are left to the general solver.
    part, total : array
        Sums of some rows in the data's precision, behind which stand ratio and rest; sums of all in float64.
    tile : array
        The metric of some rows, of four at least, and as many points.
    values : array of shape (ROWS_OF_BLOCK, PITCH)
        The numbers of a :class:`~proxlab.optim.fused_blocks.Block`.
    """

    hard: Any
    part: Any
    total: Any
    tile: Any
    values: Any


# ----------------------------------------------------------------------------------------------------
# Passes. An element's terms, and how they are added to the sums of its column.


def measured(v: float) -> float:
    """Return the square of a weight."""
    return v * v


def joined(a: float, b: float) -> float:
    """Return the sum of what weights measure."""
    return a + b


def square_term(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return what an element's weight measures, or NaN if the square of its gradient is not finite."""
    zero = step.one - step.one
    return (measured(t.w[k]) + zero * (t.g[k] * t.g[k]),)


def write_term(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Write an element's ``z = x q/(q + rest)``."""
    t.w[k] = shrunk(t.w[k], metric(read(t.slots, k), step.c, step.one), ratio, rest)
    return ()


def ratio_terms(t: Tensor, step: Step, k: int, ratio: float, rest: float) -> Any:
    """Return an element's terms at the ratio."""
    return column_terms(t.w[k], metric(read(t.slots, k), step.c, step.one), ratio, step.one)


def column_terms(x: float, d: float, ratio: float, one: float) -> Any:
    """Return an element's terms at the ratio."""
    return terms(x, d, ratio, one, one)


def all_terms(x: float, d: float, ratio: float, one: float) -> Any:
    """Return an element's terms at zero and at the ratio."""
    a0, a1, a2, a3 = terms_at_zero(x, d)
    s0, s1, s2 = column_terms(x, d, ratio, one)
    return a0, a1, a2, a3, s0, s1, s2


def plus7(a: Any, b: Any) -> Any:
    """Return the sums of seven terms."""
    return (
        a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6],
    )  # fmt: skip


def add0(part: Any, i: int, s: Any) -> None:
    """Add to no sums."""


def add1(part: Any, i: int, s: Any) -> None:
    """Add to what weights measure."""
    part[i] = joined(part[i], s[0])


def third(a: float, s: Any) -> float:
    """Return the third of the sums at a ratio, with that of an element's terms."""
    return a + s[2]


def add3(part: Any, i: int, s: Any) -> None:
    """Add to three sums."""
    part[i] += s[0]
    part[i + PITCH] += s[1]
    part[i + PITCH2] = third(part[i + PITCH2], s)


def add7(part: Any, i: int, s: Any) -> None:
    """Add to seven sums."""
    part[i] += s[0]
    part[i + PITCH] += s[1]
    part[i + PITCH2] += s[2]
    part[i + PITCH3] += s[3]
    part[i + PITCH4] += s[4]
    part[i + PITCH5] += s[5]
    part[i + PITCH6] += s[6]


def add_part(part: Any, total: Any, n: int, count: int) -> None:
    """Move sums over to float64."""
    for k in range(UINT(count)):
        base = k * PITCH
        for i in range(n):
            total[base + i] += part[base + i]
            part[base + i] = part[base + i] - part[base + i]


@any_order
def sum_of(total: Any, o: int, n: int) -> float:
    """Return the sum of ``n`` columns."""
    t = total[o] - total[o]
    for i in range(n):
        t += total[o + i]
    return t


def clear(sums: Any, n: int, count: int) -> None:
    """Set ``count`` sums of ``n`` columns to zero."""
    for k in range(UINT(count)):
        sums[k * PITCH : k * PITCH + n] = 0.0


def fold(total: Any, s: int, beside: int, width: int, sums: Any, k: int) -> None:
    """Add the columns of each of the groups that lie side by side to its sum, that of the first at ``k``."""
    base = s * np.int64(PITCH)
    if width == 1:
        for i in range(UINT(beside)):
            sums[UINT(k) + i] += total[UINT(base) + i]
        return
    for j in range(beside):
        sums[k + j] += sum_of(total, UINT(base + j * width), UINT(width))


def fold_all(total: Any, count: int, block: Block, first: int, beside: int, width: int, k: int) -> None:
    """Add ``count`` sums of columns to those of their groups, from the row ``first`` of the block's on."""
    for s in range(count):
        fold(total, s, beside, width, block.sums[first + s], k)


def spread(numbers: Any, k: int, beside: int, width: int, part: Any, o: Any) -> None:
    """Give each column the number of its group."""
    if width == 1:
        for i in range(UINT(beside)):
            part[i + o] = numbers[UINT(k) + i]
        return
    for j in range(beside):
        for i in range(UINT(j * width), UINT(j * width + width)):
            part[i + o] = numbers[k + j]


def side_by_side(shape: Any, group: int, most: int) -> int:
    """Return how many groups, from one on, are taken at once: their rows lie side by side."""
    if shape[4] > 1:
        return 1
    return min(most, shape[2] - group % shape[2], BLOCK // shape[3])


def place(shape: Any, group: int) -> Any:
    """Return where a group begins."""
    stride = shape[2] * shape[3]
    return UINT((group // shape[2]) * shape[1] * stride + (group % shape[2]) * shape[3])


def row(shape: Any, i: int) -> Any:
    """Return how far behind the beginning of a group its row ``i`` begins."""
    if shape[4] == 1:
        return UINT(i * shape[2] * shape[3])
    return UINT((i // shape[4]) * shape[2] * shape[3] + (i % shape[4]) * (shape[3] // shape[4]))


def stream_of(elements: Any, add: Any, count: int) -> Any:
    """Return what adds the terms of elements to ``count`` sums, row by row."""
    at = np.uint64(count) * PITCH
    behind = np.uint64(count + 1) * PITCH

    def add_row(t: Tensor, step: Step, o: int, n: int, part: Any) -> None:
        for i in range(n):
            add(part, i, elements(t, step, o + i, part[i + at], part[i + behind]))

    def stream(t: Tensor, step: Step, base: int, rows: int, n: int, room: ColumnRoom) -> None:
        for i in range(rows):
            add_row(t, step, base + row(t.shape, i), n, room.part)
            if i % ROWS == ROWS - 1:
                add_part(room.part, room.total, n, count)

    return stream


def update_row(t: Tensor, step: Step, o: int, n: int, tile: Any, place: Any) -> None:
    """Update a row, whose point goes to ``w`` and whose metric to the tile."""
    for i in range(n):
        x, d = propose(t, o + i, step)
        t.w[o + i] = x
        tile[place + i] = d


def add_updated(w: Any, o: int, place: Any, n: int, room: ColumnRoom, one: float) -> None:
    """Add the terms of a row whose metric is in the tile."""
    part, tile = room.part, room.tile
    for i in range(n):
        add7(part, i, all_terms(w[o + i], tile[place + i], part[i + PITCH7], one))


def add_four(w: Any, rows: Any, place: Any, pitch: Any, n: int, room: ColumnRoom, one: float) -> None:
    """Add the terms of four rows."""
    part, tile = room.part, room.tile
    o, p, q, r = rows
    second, third, last = place + pitch, place + pitch + pitch, place + pitch + pitch + pitch
    for i in range(n):
        ratio = part[i + PITCH7]
        # What is read might be a sum, to the compiler: nothing is, between the sums' reading and writing.
        a = all_terms(w[o + i], tile[place + i], ratio, one)
        b = all_terms(w[p + i], tile[second + i], ratio, one)
        c = all_terms(w[q + i], tile[third + i], ratio, one)
        d = all_terms(w[r + i], tile[last + i], ratio, one)
        add7(part, i, plus7(plus7(a, b), plus7(c, d)))


def add_rows(
    t: Tensor, step: Step, base: int, first: int, last: int, place: Any, pitch: Any, n: int, room: ColumnRoom
) -> None:
    """Add the terms of the rows ``first … last - 1``, whose metric lies in the tile from ``place`` on."""
    shape = t.shape
    whole = last - (last - first) % 4
    for i in range(first, whole, 4):
        o, p = base + row(shape, i), base + row(shape, i + 1)
        q, r = base + row(shape, i + 2), base + row(shape, i + 3)
        add_four(t.w, (o, p, q, r), place + UINT(i - first) * pitch, pitch, n, room, step.one)
        if i % (4 * ROWS) == 4 * ROWS - 4:
            add_part(room.part, room.total, n, 7)
    for i in range(whole, last):
        add_updated(t.w, base + row(shape, i), place + UINT(i - first) * pitch, n, room, step.one)


def rows_in_tile(pitch: Any) -> int:
    """Return how many rows the half of a tile holds, ``pitch`` apart."""
    return int(TILE) // (int(pitch) * 4) * 4


def update_rows(t: Tensor, step: Step, base: int, rows: int, n: int, room: ColumnRoom) -> None:
    """Update as many rows as the tile holds, and then add their terms.

    One loop that does both is slower: it reads and writes the sums for each row, and memory waits meanwhile.
    """
    # Rows of the tile are apart as sums are: by no power of two.
    shape, tile, pitch = t.shape, room.tile, UINT(n) + UINT(16)
    most = rows_in_tile(pitch)
    for first in range(0, rows, most):
        last = min(first + most, rows)
        for i in range(first, last):
            update_row(t, step, base + row(shape, i), n, tile, UINT(i - first) * pitch)
        add_rows(t, step, base, first, last, UINT(0), pitch, n, room)


def form_row(t: Tensor, step: Step, o: int, n: int, room: ColumnRoom, place: Any) -> None:
    """Form the points of a row, which go to the tile with their metric, and add what its weights measure."""
    part, tile = room.part, room.tile
    for i in range(n):
        add1(part, i, square_term(t, step, o + i, step.one, step.one))
        _, x, d = formed(t, o + i, step)
        tile[place + i] = d
        tile[place + i + TILE] = x


def count_four(tile: Any, place: Any, pitch: Any, n: int, part: Any, one: float) -> None:
    """Count, as one of four rows of the tile, what is not zero, and metrics that are not above 0."""
    zero = one - one
    p, q, r, s = place, place + pitch, place + pitch + pitch, place + pitch + pitch + pitch
    for i in range(n):
        u, v, x, y = tile[p + i + TILE], tile[q + i + TILE], tile[r + i + TILE], tile[s + i + TILE]
        part[i + PITCH] += (u != zero) | (v != zero) | (x != zero) | (y != zero)
        a, b, c, d = tile[p + i], tile[q + i], tile[r + i], tile[s + i]
        part[i + PITCH2] += (not a > zero) | (not b > zero) | (not c > zero) | (not d > zero)


def told(tile: Any, k: Any) -> Any:
    """Return the terms of a point in the tile (:func:`~proxlab.optim.group_sums.sum_terms`), in float64."""
    return sum_terms(np.float64(tile[k + TILE]), np.float64(tile[k]))


def tell_four(tile: Any, place: Any, pitch: Any, n: int, total: Any) -> None:
    """Add the terms of four rows of the tile, behind what their weights measure and what is counted."""
    p, q, r, s = place, place + pitch, place + pitch + pitch, place + pitch + pitch + pitch
    for i in range(n):
        a, b, c, d = told(tile, p + i), told(tile, q + i), told(tile, r + i), told(tile, s + i)
        total[i + PITCH3] += (a[0] + b[0]) + (c[0] + d[0])
        total[i + PITCH4] += (a[1] + b[1]) + (c[1] + d[1])
        total[i + PITCH5] += (a[2] + b[2]) + (c[2] + d[2])


def norm_four(tile: Any, place: Any, pitch: Any, n: int, total: Any) -> None:
    """As :func:`tell_four`, the first of the terms alone: all that a convex penalty asks for."""
    p, q, r, s = place, place + pitch, place + pitch + pitch, place + pitch + pitch + pitch
    for i in range(n):
        a, b, c, d = told(tile, p + i), told(tile, q + i), told(tile, r + i), told(tile, s + i)
        total[i + PITCH3] += (a[0] + b[0]) + (c[0] + d[0])


def tell_rows(t: Tensor, step: Step, base: int, rows: int, n: int, room: ColumnRoom) -> None:
    """Form as many points as the tile holds, and then add their terms; nothing changes."""
    shape, tile, total, pitch = t.shape, room.tile, room.total, UINT(n) + UINT(16)
    most = rows_in_tile(pitch)
    for first in range(0, rows, most):
        last = min(first + most, rows)
        for i in range(first, last):
            form_row(t, step, base + row(shape, i), n, room, UINT(i - first) * pitch)
            if i % ROWS == ROWS - 1:
                add_part(room.part, total, n, 1)
        # Rows that are missing from the last four are zero, of metric one.
        for i in range(last, first + (last - first + 3) // 4 * 4):
            o = UINT(i - first) * pitch
            tile[o : o + n] = step.one
            tile[o + TILE : o + TILE + n] = step.one - step.one
        for i in range(first, last, 4):
            count_four(tile, UINT(i - first) * pitch, pitch, n, room.part, step.one)
            tell_four(tile, UINT(i - first) * pitch, pitch, n, total)


def pass_of(take_rows: Any, count: int, first: int) -> Any:
    """Return a pass over what a tensor has of the groups of a block.

    Parameters
    ----------
    take_rows : callable
        Goes through the rows of neighbouring groups and adds their terms to ``count`` sums.
    count, first : int
        The first of these is row ``first`` of the block's sums; where there are none, elements read the rest.
    """
    at = np.uint64(count) * PITCH
    behind = np.uint64(count + 1) * PITCH

    def pass_over(t: Tensor, step: Step, block: Block, room: ColumnRoom) -> None:
        shape, part, total = t.shape, room.part, room.total
        rows, width, k = shape[1] * shape[4], shape[3] // shape[4], block.begin
        while k < block.end:
            m = side_by_side(shape, block.first + k, block.end - k)
            n, base = UINT(m * width), place(shape, block.first + k)
            clear(part, n, count)
            clear(total, n, count)
            spread(block.ratio, k, m, width, part, at)
            if count == 0:
                spread(block.rest, k, m, width, part, behind)
            take_rows(t, step, base, rows, n, room)
            add_part(part, total, n, count)
            fold_all(total, count, block, first, m, width, k)
            k += m

    return pass_over


#: Before the step, of the weights and of its point; with the update; at the groups' ratios; of the result.
pass_squares, pass_tell, pass_update, pass_ratio, pass_write = (
    pass_of(stream_of(square_term, add1, 1), 1, 0), pass_of(tell_rows, 6, 0), pass_of(update_rows, 7, 0),
    pass_of(stream_of(ratio_terms, add3, 3), 3, 4), pass_of(stream_of(write_term, add0, 0), 0, 0),
)  # fmt: skip
