"""Scalar source of the compiled kernel for groups across the rows of a matrix, such as its columns.

The groups of a block are searched together: a pass over its rows (:mod:`proxlab.backends.column_sums`) costs
as much for a few groups as for all.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.column_sums import (
    PITCH,
    ColumnBlock,
    add_size_row,
    fold,
    pass_exact,
    pass_ratio,
    pass_rivals,
    pass_start,
    spread,
    write_row,
)
from proxlab.backends.kernel_records import Data, Request
from proxlab.backends.kernels import one_of
from proxlab.backends.one_group import (
    NARROW_PASSES,
    NARROW_ROUNDINGS,
    NARROW_UNIT,
    from_ratio,
    narrow_step,
    third_order,
)
from proxlab.backends.ranges import NARROW_HIGH, NARROW_LOW, SAFE_HIGH, SAFE_LOW
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import NARROW
from proxlab.bounds import UNIT, bracket, evaluation, rounding
from proxlab.choose import AT_ZERO, CONVERGED, GIVEN, UNSHRUNK, ZERO, Limits
from proxlab.equations import Equation, Sums, Task
from proxlab.equations.radial import ANY_PACE, residual, rise, roundings
from proxlab.scalar import INF, fabs, fmax, fmin, sqrt
from proxlab.search import DONE, NONE, ask, begin, final_step, finish, noise

#: States of a group: to be searched, near enough for exact passes, solved; left to be solved alone, out of
#: the range of plain sums, and without squares.
ACTIVE, NEAR, SOLVED, HARD, UNSAFE, EMPTY = range(6)
#: While more than one group of so many is open, another pass is worth it.
MANY = 32
#: Coefficients that need no scaling.
PLAIN_LOW, PLAIN_HIGH = 1e-100, 1e100
#: Roundings of two objectives, beside those of the sums.
CLOSE = 120.0


class Blocks(NamedTuple):
    """Which blocks to solve: those from ``begin`` to ``finish``, of so many groups each.

    ``shape`` holds the sizes of outer kept, reduced, inner kept and inner reduced axes.
    """

    shape: Any
    size: int
    begin: int
    finish: int


class Zero(NamedTuple):
    """Sums at zero: ``Σ b²``, ``Σ b² d``, ``Σ x²``, ``Σ d x²``."""

    bb: float
    bbd: float
    xx: float
    xb: float


class First(NamedTuple):
    """The first piece of the slope, ``a - c r`` up to ``end``, and the penalty next to zero.

    ``flat_end`` tells whether the rest is flat, and ``only_flat`` whether all is.
    """

    a: float
    c: float
    end: float
    jump: float
    flat_end: bool
    only_flat: bool


class Columns(NamedTuple):
    """What is kept of each group of a block, in arrays.

    Attributes
    ----------
    r : array
        The radius.
    a, c : array
        The slope ``a - c r``, times the step.
    start, far : array
        Bounds of the root.
    norm, reach : array
        ``‖b‖`` and ``‖x‖``.
    flat : array
        The penalty, times the step, where it is flat.
    ratio : array
        ``r/tau``, at which the sums are taken.
    code, spent : array of int
        Its state, and the passes that it took part in.
    """

    r: Any
    a: Any
    c: Any
    start: Any
    far: Any
    norm: Any
    reach: Any
    flat: Any
    ratio: Any
    code: Any
    spent: Any


class Room(NamedTuple):
    """Scratch of a block.

    Four sums and the ratios, ``PITCH`` apart, in double precision and in that of the data; and what is kept
    of each group.
    """

    acc: Any
    early: Any
    columns: Columns


# ----------------------------------------------------------------------------------------------------
# The search, for each group of a block. A pass reads all of them, and all that is kept of a group from pass
# to pass is its radius: the search begins anew there, between what is known from the sums at zero.


def propose_third(
    r: float, f: float, slope: float, bend: float, lo: float, f_lo: float, hi: float, f_hi: float,
    m0: float, m1: float, m2: float, m3: float, m4: float,
) -> Any:  # fmt: skip
    """Take a step of third order, at most twice Newton's: a pass is dear."""
    final, _ = final_step(r, f, slope, bend, 0.0)
    return third_order(r, f / slope, final), m0, m1, m2, m3, m4


def pace_ratio(r: float, task: Task) -> float:
    """Bound how fast a term changes at ``r > 0``, by quotients that are known already."""
    tau = task.a - task.c * r
    return fmax(1.0 / r, task.c / tau) if tau > 0.0 else ANY_PACE


def enclose_ratio(r: float, sums: Sums, task: Task) -> Any:
    """Enclose the root, as for other radial sums, from sums that :func:`from_ratio` made.

    The terms of its differences are at most thrice ``B₁``.
    """
    s, s1, s2 = sums
    m, c, size = pace_ratio(r, task), task.c, task.size
    b1 = (sqrt(s * fmax(s2, 0.0)) + 2.0 * m * s) * (1.0 + 1e-9) if c > 0.0 else s1
    off, slack = rounding(size + roundings(c, 0)) * s, 3.0 * rounding(size + roundings(c, 1)) * b1
    limit = task.far * (1.0 + (size + GIVEN) * UNIT)
    return bracket(evaluation(r, s, s1, b1, off, slack, m), c, limit)


#: The secular equation, with sums that are made of those in the ratio.
RATIO = Equation(residual, pace_ratio, enclose_ratio, smooth=True)


def aim(block: ColumnBlock, columns: Columns, acc: Any) -> int:
    """Set the ratios of the groups that are searched, behind their sums; returns how many are."""
    code, r, a, c, ratio = columns.code, columns.r, columns.a, columns.c, columns.ratio
    active = 0
    for k in range(block.groups):
        active += code[k] == ACTIVE
    for k in range(block.groups):
        ratio[k] = r[k] / (a[k] - c[k] * r[k]) if code[k] == ACTIVE else 0.0
    spread(ratio, block, acc)
    return active


def first_piece(pieces: Any) -> First:
    """Return what is read of the table, once for all groups."""
    a, c, count = pieces[0, 2], pieces[0, 3], pieces.shape[0]
    flat_end = count == 2 and pieces[1, 2] == 0.0 and pieces[1, 3] == 0.0
    end = pieces[1, 0] if count > 1 else INF
    return First(a, c, end, pieces[0, 1], flat_end, a == 0.0 and c == 0.0)


def zero_sums(acc: Any, k: int) -> Zero:
    """Return the sums at zero of group ``k``."""
    return Zero(
        np.float64(acc[k]), np.float64(acc[k + PITCH]), np.float64(acc[k + 2 * PITCH]),
        np.float64(acc[k + 3 * PITCH]),
    )  # fmt: skip


def open_column(
    first: First, eta: float, sums: Zero, k: int, columns: Columns, doubt: float, low: float, high: float
) -> int:
    """Decide from the sums at zero about group ``k``; returns its code.

    Squares are safe between ``low`` and ``high``; ``doubt`` is the relative error of the sums, and more.
    """
    bb, bbd, xx, xb = sums
    end, flat_end, only_flat = first.end, first.flat_end, first.only_flat
    norm, reach, a, c = sqrt(bb), sqrt(xx), eta * first.a, eta * first.c
    columns.a[k], columns.c[k], columns.norm[k], columns.reach[k] = a, c, norm, reach
    columns.r[k], columns.start[k], columns.far[k], columns.spent[k] = 0.0, 0.0, 0.0, 0
    flat = rise(end, 0.0, end, a, c) if flat_end else eta * first.jump
    columns.flat[k] = flat
    if xx == 0.0:
        # An infinite metric leaves no zero.
        return EMPTY if bb == 0.0 else HARD
    beyond = reach > end
    f0 = 1.0 if first.jump > 0.0 else (a - norm) / norm
    safe = low < bb < high and low < bbd < high and low < xx < high
    safe = safe and low < xb < high and (PLAIN_LOW < a < PLAIN_HIGH or only_flat)
    if not (safe and fabs(c) < PLAIN_HIGH):
        return UNSAFE
    if fabs(f0) <= doubt or (beyond and not flat_end) or fabs(reach - end) <= doubt * reach:
        return HARD
    if only_flat and f0 < 0.0:
        # No penalty at all.
        return keep_point(columns, k)
    if f0 >= 0.0:
        if beyond or only_flat:
            # Zero against the point itself.
            keep, drop = flat, 0.5 * xb
            if not fabs(keep - drop) > doubt * (keep + drop):
                return HARD
            if keep < drop:
                return keep_point(columns, k)
        return SOLVED
    limit = fmin(reach, end)
    slope = (bbd - c * bb) / (bb * norm)
    steep = slope + doubt * (bbd + fabs(c) * bb) / (bb * norm)
    if steep <= 0.0 or (-f0 - doubt) > limit * steep:
        # No minimiser inside: the point itself, or too close to tell.
        return keep_point(columns, k) if beyond else HARD
    columns.start[k] = fmin((-f0 - doubt) / steep, limit)
    columns.r[k], columns.far[k] = columns.start[k], limit
    return ACTIVE


def keep_point(columns: Columns, k: int) -> int:
    """Let group ``k`` be the point itself; returns its code."""
    columns.r[k], columns.a[k], columns.c[k] = columns.reach[k], 0.0, 0.0
    return SOLVED


def sums_of(acc: Any, k: int, columns: Columns) -> Sums:
    """Return the secular sums of group ``k`` at its radius, from those in the ratio."""
    r, a, c = columns.r[k], columns.a[k], columns.c[k]
    v, ve, vee = np.float64(acc[k]), np.float64(acc[k + PITCH]), np.float64(acc[k + 2 * PITCH])
    return from_ratio(v, ve, vee, r, a - c * r, c)


def task_of(k: int, columns: Columns, end: float, size: float, quiet: float, limits: Limits) -> Task:
    """Return what is looked for in group ``k``."""
    c, far = columns.c[k], columns.far[k]
    return Task(
        columns.a[k], c, 0.0, columns.start[k], far, far == end, limits.rtol, 0.0, 1.0, size, quiet,
        rounding(size + roundings(c, 0)), 0.0, 0.0, limits.most,
    )  # fmt: skip


def step_early(acc: Any, k: int, columns: Columns, task: Task) -> int:
    """Go on from sums in single precision; returns the group's code, which tells whether it is near."""
    r, enough = task.at, True
    if NARROW_LOW < acc[k] < NARROW_HIGH:
        v, ve, vee = np.float64(acc[k]), np.float64(acc[k + PITCH]), np.float64(acc[k + 2 * PITCH])
        r, enough = narrow_step(v, ve, vee, columns.r[k], task)
    columns.r[k] = r
    return NEAR if enough else ACTIVE


def step_exact(
    acc: Any, k: int, columns: Columns, task: Task, end: float, limits: Limits, g: int, out: GroupResults
) -> int:
    """Go on from exact sums; returns the group's code. The answer is in ``columns``, explained in ``out``."""
    r, sums = columns.r[k], sums_of(acc, k, columns)
    known = begin(task, r, sums, 0)
    if known.code == NONE or known.slope <= 0.0:
        # Below zero with a tangent that ends beyond the piece, or falling already at the start (a lower
        # bound): no root on the piece, and z = x where the rest is flat.
        if known.f < -task.noise and task.doubtful and (known.slope > 0.0 or r == task.at):
            return keep_point(columns, k)
        if known.slope <= 0.0 and r > task.at:
            columns.r[k] = task.at
            return ACTIVE
        return HARD
    if known.code != DONE:
        columns.r[k] = ask(known, task).r
        return ACTIVE
    root = finish(known, task, limits.explain)
    columns.r[k] = root.r
    if task.doubtful:
        code = against_point(acc, k, columns, task, end, r, sums, root.r)
        if code != SOLVED or columns.a[k] == 0.0:
            return code
    if limits.explain:
        out.lower[g], out.upper[g] = root.lower, root.upper
    return SOLVED


def against_point(
    acc: Any, k: int, columns: Columns, task: Task, end: float, at: float, sums: Sums, root: float
) -> int:
    """Compare a root, from the sums at ``at`` near it, with the point itself; returns the group's code.

    At the point z of the path, whose length is not ``at``, the objective is an upper bound of that at the
    root; its dual, at the same multiplier, is a lower bound at ``at``, from which the objective falls to the
    root at a rate between those of its two parts.
    """
    a, c, ratio, flat = task.a, task.c, columns.ratio[k], columns.flat[k]
    f, slope, bend = residual(sums.s, sums.s1, sums.s2)
    _, error = final_step(at, f, slope, bend, pace_ratio(at, task))
    moved = 0.5 * acc[k + 3 * PITCH] / ratio
    value = rise(at * sqrt(sums.s), 0.0, end, a, c) + moved
    least = rise(at, 0.0, end, a, c) + moved + 0.5 * (a - c * at) * at * (sums.s - 1.0)
    gain = fmax(a, columns.norm[k]) * (fabs(root - at) + error)
    blur = rounding(task.size + CLOSE) * (value + flat + 0.5 * acc[k] / ratio)
    if least - gain - blur > flat:
        return keep_point(columns, k)
    if value + blur < flat:
        return SOLVED
    # Too close to tell; or not near enough yet.
    return HARD if gain <= blur else ACTIVE


def solve_columns(
    data: Data, blocks: Blocks, request: Request, hard: Any, out: GroupResults, room: Room
) -> int:
    """Solve some blocks of neighbouring groups, a block at once, by Newton's method.

    Groups that need more than the first piece of the slope and a flat end, or more than ``limits.most``
    passes, or that are out of the range of plain sums, are marked in ``hard`` and left alone. A pass sums in
    the ratio ``r/tau``, one number a column; for float32 data, the first passes do so in single precision,
    which decides nothing that is closer than its rounding. Returns the first invalid block, or -1.
    """
    rows, inner, run, per_block = blocks.shape[1], blocks.shape[2], blocks.shape[3], blocks.size
    across = (inner + per_block - 1) // per_block
    first, limits = first_piece(request.pieces), request.limits
    for number in range(blocks.begin, blocks.finish):
        column = (number % across) * per_block
        outer = number // across
        block = ColumnBlock(
            outer * rows * inner * run + column * run, rows, inner * run, min(per_block, inner - column), run,
            outer * inner + column,
        )  # fmt: skip
        if open_block(data, block, request, first, room):
            return number
        search_block(data, block, first, limits, out, room)
        write_block(data, block, limits, hard, out, room)
    return -1


def open_block(data: Data, block: ColumnBlock, request: Request, first: First, room: Room) -> bool:
    """Decide from the sums at zero, in single precision first where that may be enough.

    Returns whether a metric is invalid.
    """
    acc, early, columns = room
    steps, size = request.steps, float(block.rows * block.run)
    narrow = NARROW and not request.limits.explain
    while True:
        doubt, low, high = 4.0 * rounding(size + AT_ZERO), SAFE_LOW, SAFE_HIGH
        if narrow:
            # Rows are added in fours.
            doubt = 4.0 * (0.25 * block.rows + block.run + NARROW_ROUNDINGS) * NARROW_UNIT
            low, high = NARROW_LOW, NARROW_HIGH
            bad = pass_start(data, block, early)
        else:
            bad = pass_start(data, block, acc)
        if bad:
            return True
        unsafe, empty = 0, 0
        for k in range(block.groups):
            g = block.offset + k
            eta = one_of(steps.steps, g) * one_of(steps.weights, g)
            sums = zero_sums(early, k) if narrow else zero_sums(acc, k)
            code = open_column(first, eta, sums, k, columns, doubt, low, high)
            unsafe += code == UNSAFE
            empty += code == EMPTY
            columns.code[k] = HARD if code == UNSAFE else code
        if not (narrow and unsafe > 0):
            break
        narrow = False
    if empty > 0:
        # Zero throughout, or too small to be squared?
        acc[:PITCH] = 0.0
        for i in range(block.rows):
            add_size_row(data.x, block.base + i * block.stride, block.groups * block.run, acc)
        fold(acc, block.groups, block.run)
        for k in range(block.groups):
            if columns.code[k] == EMPTY:
                columns.code[k] = SOLVED if acc[k] == 0.0 else HARD
    return False


def search_block(
    data: Data, block: ColumnBlock, first: First, limits: Limits, out: GroupResults, room: Room
) -> None:
    """Take passes until few groups are left: one costs as much for a few groups as for all."""
    acc, early, columns = room
    size = float(block.rows * block.run)
    end = first.end
    few, quiet = block.groups // MANY, noise(size)
    code = columns.code
    if NARROW:
        for _ in range(NARROW_PASSES):
            if aim(block, columns, early) <= few:
                break
            pass_ratio(data, block, early)
            for k in range(block.groups):
                if code[k] == ACTIVE:
                    columns.spent[k] += limits.explain
                    code[k] = step_early(early, k, columns, task_of(k, columns, end, size, quiet, limits))
        for k in range(block.groups):
            if code[k] == NEAR:
                code[k] = ACTIVE
    for passes in range(limits.most):
        # The last few are cheaper one by one.
        if aim(block, columns, acc) <= (few if passes > 0 else 0):
            break
        if end < INF:
            pass_rivals(data, block, acc)
        else:
            pass_exact(data, block, acc)
        for k in range(block.groups):
            if code[k] == ACTIVE:
                columns.spent[k] += limits.explain
                task = task_of(k, columns, end, size, quiet, limits)
                code[k] = step_exact(acc, k, columns, task, end, limits, block.offset + k, out)


def write_block(
    data: Data, block: ColumnBlock, limits: Limits, hard: Any, out: GroupResults, room: Room
) -> None:
    """Write the points of the groups that are solved, mark the others, and explain."""
    acc, _, columns = room
    code, r, a, c, ratio = columns.code, columns.r, columns.a, columns.c, columns.ratio
    for k in range(block.groups):
        if code[k] != SOLVED:
            hard[block.offset + k] = True
            r[k], a[k], c[k] = 1.0, 0.0, 0.0  # leaves z = x, which may be the same array
    for k in range(block.groups):
        ratio[k] = r[k] / (fmax(a[k] - c[k] * r[k], 0.0) if r[k] > 0.0 else 1.0)
    if limits.explain:
        off = GIVEN * float(block.rows * block.run) * UNIT
        for k in range(block.groups):
            g = block.offset + k
            if code[k] == SOLVED:
                out.radius[g] = r[k]
                out.evaluations[g] = columns.spent[k]
                out.iterations[g] = max(columns.spent[k] - 1, 0)
                out.status[g] = ZERO if r[k] == 0.0 else (CONVERGED if ratio[k] < INF else UNSHRUNK)
                if out.status[g] != CONVERGED:
                    out.lower[g], out.upper[g] = r[k] * (1.0 - off), r[k] * (1.0 + off)
    spread(columns.ratio, block, acc)
    for i in range(block.rows):
        write_row(data.x, data.d, data.z, block.base + i * block.stride, block.groups * block.run, acc)
