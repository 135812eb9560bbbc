"""Kernels of groups that are solved one after the other: rows where they lie, others on copies.

Plain Python, rebuilt by :mod:`proxlab.backends.compiling`.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from proxlab.backends.kernel_records import Data, Elements, Found, Kept, Lying, Request, Scratch, Shrink
from proxlab.backends.one_group import APART, BAD, explained, solve_one, write
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import FIRST, KEEPS, is_valid, scaled_metric
from proxlab.choose import CONVERGED, UNSHRUNK, ZERO
from proxlab.powers import PRODUCT_HIGH, PRODUCT_LOW
from proxlab.scalar import INF, fabs

# Set by the target: the kernel that Python calls, and what makes its arguments of their parts.
kernel: Any = None
grouped: Any = None


def call_grouped(*parts: Any) -> Any:
    """Call the kernel with the parts of its records."""
    return kernel(*grouped(parts))


def solve_rows(
    data: Data, n: int, begin: int, finish: int, request: Request, out: GroupResults, apart: Any,
    room: Scratch,
) -> int:  # fmt: skip
    """Solve the contiguous groups ``begin … finish - 1`` of ``n`` elements, one after the other.

    Those that spread too far are marked in ``apart`` and left alone. Returns the first invalid group, or -1.
    """
    (steps, weights), _, pieces, limits = request
    for g in range(begin, finish):
        o = g * n
        e: Any = Elements(data.x, data.d, o, n)
        if KEEPS:
            room.ratio[0] = INF  # nothing is kept yet
            e = Kept(data.x, data.d, o, n, room.x, room.ratio)
        solved = solve_one(e, one_of(steps, g), one_of(weights, g), pieces, limits, room)
        found = solved.found
        if found.status == BAD:
            return g
        if found.status == APART:
            apart[g] = True
            continue
        if solved.scaled:
            # Of x itself: scaling may have lost elements far below the largest.
            for i in range(n):
                room.x[i] = data.x[o + i]
            write(solved.e, room.x, found.r, found.tau, math.ldexp(1.0, solved.ex))
            for i in range(n):
                data.z[o + i] = room.x[i]
        else:
            write(e, data.z, found.r, found.tau, 1.0)
        if limits.explain:
            explained(out, g, found, found.status, solved.ex)
    return -1


def one_of(numbers: Any, g: int) -> float:
    """Return the number of group ``g``, or the one for all."""
    return numbers[g if len(numbers) > 1 else 0]


def solve_gathered(
    data: Data, layout: Lying, begin: int, finish: int, request: Request, out: GroupResults, apart: Any,
    room: Scratch,
) -> int:  # fmt: skip
    """Solve the groups ``begin … finish - 1`` (of ``chosen``, if there are any) on copies in float64.

    Groups that spread too far are marked in ``apart`` and left alone. The scratch is that of the largest
    group. Returns the first invalid group, or -1.
    """
    (steps, weights), shrink, pieces, limits = request
    shrinks = shrink.threshold > 0.0 or shrink.nonnegative
    n = layout.shape[1] * layout.shape[3]
    shrunk = False
    for k in range(begin, finish):
        g = layout.chosen[k] if len(layout.chosen) else k
        if len(layout.indptr):
            n = layout.indptr[g + 1] - layout.indptr[g]
        found, status, ex = Found(0.0, 0.0, 0.0, 0.0, ZERO, 0, 0), ZERO, 0
        if n > 0:
            step, weight = one_of(steps, g), one_of(weights, g)
            gather(data.x, room.x, g, layout, n)
            gather_metric(data, room, g, layout, n)
            e = Elements(room.read_x, room.read_d, FIRST, n)
            if shrinks:
                if not is_valid(e):
                    return g
                shrunk = shrink_group(room.x, room.d, n, step, shrink)
            solved = solve_one(e, step, weight, pieces, limits, room)
            found, ex = solved.found, solved.ex
            status = found.status
            if status == BAD:
                return g
            if status == APART:
                apart[g] = True
                continue
            if solved.scaled:
                # The point itself once more: scaling may have lost elements far below the largest.
                gather(data.x, room.x, g, layout, n)
                if shrinks:
                    gather_metric(data, room, g, layout, n)
                    shrink_group(room.x, room.d, n, step, shrink)
                    for i in range(n):
                        room.d[i] = scaled_metric(room.d[i], solved.ed)
            write(e, room.x, found.r, found.tau, math.ldexp(1.0, ex))
            scatter(room.x, data.z, g, layout, n)
            if shrunk and status == UNSHRUNK:
                status = CONVERGED
        if limits.explain:
            explained(out, g, found, status, ex)
    return -1


def shrink_all(data: Data, begin: int, finish: int, steps: Any, shrink: Shrink) -> int:
    """Apply the elementwise part to ``begin … finish - 1``; returns the first invalid element, or -1."""
    for i in range(begin, finish):
        v = np.float64(data.x[i])
        di = np.float64(data.d[i if data.dense else 0])
        if not (di > 0.0 and di < INF and fabs(v) < INF):
            return i
        size = fabs(v)
        if shrink.threshold > 0.0:
            size -= quotient(one_of(steps, i), shrink.threshold, di)
        size = 0.0 if size < 0.0 else size
        data.z[i] = size if v > 0.0 else (0.0 if shrink.nonnegative else 0.0 - size)
    return -1


def shrink_group(x: Any, d: Any, n: int, step: float, shrink: Shrink) -> bool:
    """Apply the elementwise part in place; returns whether any element changed."""
    changed = False
    for i in range(n):
        v = x[i]
        if shrink.threshold > 0.0:
            size = fabs(v) - quotient(step, shrink.threshold, d[i])
            v = 0.0 if size <= 0.0 else (size if v > 0.0 else -size)
        v = 0.0 if shrink.nonnegative and v < 0.0 else v
        changed |= v != x[i]
        x[i] = v
    return changed


def quotient(first: float, second: float, d: float) -> float:
    """Return ``first·second/d``, whose product may leave the range."""
    p = first * second
    if PRODUCT_LOW < p < PRODUCT_HIGH:
        return p / d
    f, i = math.frexp(first)
    g, j = math.frexp(second)
    h, k = math.frexp(d)
    return math.ldexp(f * g / h, min(max(i + j - k, -4000), 4000))


def locate(g: int, shape: Any) -> int:
    """Return where group ``g`` begins; ``shape`` as in :class:`Lying`."""
    return (g // shape[2]) * shape[1] * shape[2] * shape[3] + (g % shape[2]) * shape[3]


def gather(source: Any, scratch: Any, g: int, layout: Lying, n: int) -> None:
    """Copy a group to ``scratch``: by index where there are offsets, else the segments of a regular group."""
    shape = layout.shape
    if len(layout.indptr):
        first = layout.indptr[g]
        for j in range(n):
            scratch[j] = source[layout.indices[first + j]]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = source[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            scratch[k * run + j] = segment[j]


def scatter(scratch: Any, out: Any, g: int, layout: Lying, n: int) -> None:
    """Undo :func:`gather`."""
    shape = layout.shape
    if len(layout.indptr):
        first = layout.indptr[g]
        for j in range(n):
            out[layout.indices[first + j]] = scratch[j]
        return
    begin, stride, run = locate(g, shape), shape[2] * shape[3], shape[3]
    for k in range(shape[1]):
        segment = out[begin + k * stride : begin + k * stride + run]
        for j in range(run):
            segment[j] = scratch[k * run + j]


def gather_metric(data: Data, room: Scratch, g: int, layout: Lying, n: int) -> None:
    """Copy a group's metric to the scratch."""
    if data.dense:
        gather(data.d, room.d, g, layout, n)
    else:
        for j in range(n):
            room.d[j] = data.d[0]
