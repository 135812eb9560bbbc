"""Passes over groups across the rows of a matrix, such as its columns: sums for each group, and results.

Whole rows are streamed, with accumulators for each column. Plain Python, compiled with
:mod:`proxlab.backends.column_kernels`.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.kernel_records import Data
from proxlab.backends.ranges import NARROW_HIGH
from proxlab.scalar import any_order, fabs, fmin

#: Columns of a block, and the distance of their accumulators: constant, and no power of two.
BLOCK, PITCH = 1024, 1040
#: Numbers that a block's sums and ratios take, and the sums of strips and their errors.
SCRATCH = 13 * PITCH
#: Rows that are summed one after the other: rounding grows with their number, not with that of the strips.
STRIP = 256


class ColumnBlock(NamedTuple):
    """A block of neighbouring groups: where it begins, its rows and their distance, groups, columns of each.

    ``offset`` is the number of the first group.
    """

    base: int
    rows: int
    stride: int
    groups: int
    run: int
    offset: int


# An element's terms of four sums are in the precision of ``x``, ``d``, ``ratio``, ``one`` and ``zero``.


@any_order
def start_terms(x: Any, d: Any, ratio: Any, one: Any, zero: Any) -> Any:
    """Return an element's terms of ``Σ b²``, ``Σ b² d``, ``Σ x²``, ``Σ d x²``."""
    b = d * x
    s = b * b
    return s, s * d, x * x, x * b


@any_order
def ratio_terms(x: Any, d: Any, ratio: Any, one: Any, zero: Any) -> Any:
    """Return the terms of ``Σ z²``, ``Σ z² e``, ``Σ z² e²``; ``e = d ratio/(d ratio + 1)``, ``z = x e``."""
    y = d * ratio
    e = y / (y + one)
    z = x * e
    s = z * z
    t = s * e
    return s, t, t * e, zero


@any_order
def exact_terms(x: float, d: float, ratio: float, one: float, zero: float) -> Any:
    """Return what :func:`ratio_terms` does, and the term of ``Σ z (x - z) = ratio Σ d (x - z)²``."""
    y = fmin(d * ratio, NARROW_HIGH)
    e = y / (y + 1.0)
    z = x * e
    s = z * z
    t = s * e
    return s, t, t * e, z * (x - z)


def fraction(y: float) -> float:
    """Return ``y/(y + 1)``; 1 for infinity."""
    y = fmin(y, NARROW_HIGH)
    return y / (y + 1.0)


@any_order
def add_size_row(x: Any, o: int, w: int, acc: Any) -> None:
    """Add the magnitudes of one row to the columns'."""
    x = x[o : o + w]
    for j in range(w):
        acc[j] += fabs(np.float64(x[j]))


def write_row(x: Any, d: Any, z: Any, o: int, w: int, acc: Any) -> None:
    """Write one row of ``z = x d ratio / (d ratio + 1)``."""
    x, d, z = x[o : o + w], d[o : o + w], z[o : o + w]
    for j in range(w):
        z[j] = np.float64(x[j]) * fraction(np.float64(d[j]) * acc[j + 4 * PITCH])


def fold(columns: Any, groups: int, run: int) -> None:
    """Add the columns of each group, in each of the four sums; that of group ``g`` lands in column ``g``."""
    if run == 1:
        return
    for k in range(4):
        for g in range(groups):
            total = 0.0
            for t in range(run):
                total += columns[k * PITCH + g * run + t]
            columns[k * PITCH + g] = total


def clear(acc: Any, block: ColumnBlock) -> None:
    """Set the columns' sums to zero, and those of the strips where there are several."""
    w = block.groups * block.run
    if block.rows > STRIP:
        acc[: 4 * PITCH] = 0.0
        acc[5 * PITCH :] = 0.0
    else:
        for k in range(4):
            acc[k * PITCH : k * PITCH + w] = 0.0


def end_strip(acc: Any, rows: int, last: bool) -> None:
    """Add a strip's sums to those of the strips (Kahan 1965), and take these after the last one."""
    if rows > STRIP:
        strips, errors = acc[5 * PITCH : 9 * PITCH], acc[9 * PITCH :]
        for j in range(4 * PITCH):
            part = acc[j] - errors[j]
            total = strips[j] + part
            errors[j] = (total - strips[j]) - part
            strips[j] = total
            acc[j] = total if last else total - total


def pass_of(terms: Any, checked: bool, *, four: bool) -> Any:
    """Return a pass that sums such terms, in the precision of ``acc``: all four, or the first three.

    The columns' ratios stand behind their four sums. If ``checked``, it tells whether a metric is invalid.
    """

    @any_order
    def add_four(x: Any, d: Any, o: int, stride: int, w: int, acc: Any) -> bool:
        """Add four rows' terms."""
        number = acc.dtype.type
        one, zero = number(1.0), number(0.0)
        t, u, v = o + stride, o + 2 * stride, o + 3 * stride
        x0, x1, x2, x3 = x[o : o + w], x[t : t + w], x[u : u + w], x[v : v + w]
        d0, d1, d2, d3 = d[o : o + w], d[t : t + w], d[u : u + w], d[v : v + w]
        bad = False
        for j in range(w):
            ratio = acc[j + 4 * PITCH]
            p0, q0, s0, t0 = terms(number(x0[j]), number(d0[j]), ratio, one, zero)
            p1, q1, s1, t1 = terms(number(x1[j]), number(d1[j]), ratio, one, zero)
            p2, q2, s2, t2 = terms(number(x2[j]), number(d2[j]), ratio, one, zero)
            p3, q3, s3, t3 = terms(number(x3[j]), number(d3[j]), ratio, one, zero)
            acc[j] += (p0 + p1) + (p2 + p3)
            acc[j + PITCH] += (q0 + q1) + (q2 + q3)
            acc[j + 2 * PITCH] += (s0 + s1) + (s2 + s3)
            if four:
                acc[j + 3 * PITCH] += (t0 + t1) + (t2 + t3)
            if checked:
                bad |= not ((d0[j] > 0.0) & (d1[j] > 0.0) & (d2[j] > 0.0) & (d3[j] > 0.0))
        return bad

    @any_order
    def add_one(x: Any, d: Any, o: int, w: int, acc: Any) -> bool:
        """Add one row's terms."""
        number = acc.dtype.type
        one, zero = number(1.0), number(0.0)
        x, d = x[o : o + w], d[o : o + w]
        bad = False
        for j in range(w):
            p, q, s, t = terms(number(x[j]), number(d[j]), acc[j + 4 * PITCH], one, zero)
            acc[j] += p
            acc[j + PITCH] += q
            acc[j + 2 * PITCH] += s
            if four:
                acc[j + 3 * PITCH] += t
            if checked:
                bad |= not (d[j] > 0.0)
        return bad

    def pass_over(data: Data, block: ColumnBlock, acc: Any) -> bool:
        """Sum the terms of all elements, for each group."""
        x, d, o, stride = data.x, data.d, block.base, block.stride
        clear(acc, block)
        bad, w = False, block.groups * block.run
        for first in range(0, block.rows, STRIP):
            last = min(first + STRIP, block.rows)
            whole = last - (last - first) % 4
            for i in range(first, whole, 4):
                bad |= add_four(x, d, o + i * stride, stride, w, acc)
            for i in range(whole, last):
                bad |= add_one(x, d, o + i * stride, w, acc)
            end_strip(acc, block.rows, last == block.rows)
        fold(acc, block.groups, block.run)
        return bad

    return pass_over


#: At zero; at the groups' ratios, in single precision; at them, and for the comparison with other minimisers.
pass_start, pass_ratio = pass_of(start_terms, True, four=True), pass_of(ratio_terms, False, four=False)
pass_exact, pass_rivals = (pass_of(exact_terms, False, four=four) for four in (False, True))


def spread(ratio: Any, block: ColumnBlock, acc: Any) -> None:
    """Put each group's ratio behind the sums of its columns."""
    if block.run == 1:
        for k in range(block.groups):
            acc[4 * PITCH + k] = ratio[k]
    else:
        for k in range(block.groups):
            for t in range(block.run):
                acc[4 * PITCH + k * block.run + t] = ratio[k]
