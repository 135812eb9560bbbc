"""Scalar source of the fused pass over contiguous groups, one after the other while they are in the cache."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.column_kernels import Zero
from proxlab.optim.fused_elements import (
    UINT,
    Step,
    Tensor,
    blend,
    formed,
    propose,
    shrunk,
    terms,
    terms_at_zero,
)
from proxlab.optim.fused_groups import (
    DONE,
    OPEN,
    PASSES,
    Numbers,
    advance,
    first_radius,
    open_group,
    quotient,
    ratio_of,
)
from proxlab.optim.group_sums import sum_terms
from proxlab.scalar import any_order, fabs

#: Terms that are summed in the data's precision before the sum goes over to float64.
STRIP = np.uint64(1024)
#: Elements of neighbouring groups that are updated together, if there are several groups of so few: for each
#: alone, the compiler would look anew at where arrays lie.
TOGETHER = 512
FIRST: Any = np.uint64(0)


class RowRoom(NamedTuple):
    """Scratch of a thread.

    Attributes
    ----------
    x, d : array
        Point and metric of a group; of those that are left to the general solver, one after the other.
    hard : array of int
        The numbers of these.
    part : array
        A number in the data's precision.
    """

    x: Any
    d: Any
    hard: Any
    part: Any


def updating(t: Tensor, step: Step, k: int, x: Any, d: Any, q: int) -> Any:
    """Update an element, whose point and metric go to ``q``; returns its weight before, and these."""
    v = t.w[k]
    x[q], d[q] = propose(t, k, step)
    return v, x[q], d[q]


def updated(t: Tensor, step: Step, k: int, x: Any, d: Any, q: int) -> Any:
    """Return what :func:`updating` did of an element that is updated."""
    return t.w[k], x[q], d[q]


def sum_of(element: Any) -> Any:
    """Return a sum of the terms at zero of ``n`` elements from ``o`` on, whose points lie from ``p`` on."""

    @any_order
    def sum_zero(t: Tensor, step: Step, o: int, n: int, x: Any, d: Any, p: int) -> Any:
        zero = step.one - step.one
        bb, bbd, xx, xb, ww = zero, zero, zero, zero, zero
        for i in range(n):
            v, xi, di = element(t, step, o + i, x, d, p + i)
            a0, a1, a2, a3 = terms_at_zero(xi, di)
            bb += a0
            bbd += a1
            xx += a2
            xb += a3
            ww += v * v
        return bb, bbd, xx, xb, ww

    return sum_zero


#: Sums of ``b²``, ``b² d``, ``x²``, ``d x²``, ``w²``: with the update, and after it.
sum_updating, sum_updated = sum_of(updating), sum_of(updated)


def update(t: Tensor, step: Step, o: int, n: int, x: Any, d: Any, p: int) -> None:
    """Update ``n`` elements from ``o`` on, whose points go to ``p`` and on."""
    for i in range(n):
        updating(t, step, o + i, x, d, p + i)


@any_order
def sum_at(x: Any, d: Any, p: int, n: int, ratio: float, above: float, one: float) -> Any:
    """Sum an element's terms at a ratio."""
    zero = one - one
    s, s1, s2 = zero, zero, zero
    for i in range(n):
        a, b, c = terms(x[p + i], d[p + i], ratio, above, one)
        s += a
        s1 += b
        s2 += c
    return s, s1, s2


@any_order
def write_group(
    t: Tensor, step: Step, o: int, n: int, x: Any, d: Any, p: int, ratio: float, rest: float
) -> None:
    """Write ``z = x q/(q + rest)``."""
    for i in range(n):
        t.w[o + i] = blend(t.w[o + i], shrunk(x[p + i], d[p + i], ratio, rest), step.keep, step.one)


def is_zero(w: Any, o: int, n: int, one: float) -> bool:
    """Return whether ``n`` elements are zero."""
    some = False
    for i in range(n):
        some |= w[o + i] != one - one
    return not some


def row_radius(ww: float, table: Any) -> float:
    """Return where the radius of a contiguous group is first looked for."""
    return first_radius(ww, table)


def topped(
    zero: Zero, eta: float, x: Any, d: Any, p: int, n: int, numbers: Numbers, part: Any, one: float
) -> Zero:
    """Return the sums at zero with what else is to be known of ``n`` elements from ``p`` on: nothing."""
    return zero


def cast(value: float, buffer: Any) -> float:
    """Return a number in the data's precision."""
    buffer[0] = value
    return buffer[0]


def last_of(ve: float, vee: float, above: float) -> float:
    """Return what the last of the sums tells, beside the second and the level above which it is."""
    return vee


def sum_row(x: Any, d: Any, p: int, n: int, ratio: float, above: float, part: Any, one: float) -> Any:
    """As :func:`sum_at`, in float64."""
    v, ve, vee = 0.0, 0.0, 0.0
    for at in range(FIRST, n, STRIP):
        m: Any = min(STRIP, n - at)
        t0, t1, t2 = sum_at(x, d, p + at, m, cast(ratio, part), cast(above, part), one)
        v, ve, vee = v + t0, ve + t1, vee + t2
    return v, ve, last_of(ve, vee, above)


def rows(
    t: Tensor, step: Step, numbers: Numbers, weights: Any, gone: Any, begin: int, finish: int, room: RowRoom
) -> Any:
    """Step with the groups ``begin … finish - 1``.

    The weights of groups that are left to the general solver stay, and their point and metric lie one after
    the other. Returns the next group, which is ``finish`` unless there is no room for more of them, and how
    many were left.
    """
    n, count = t.shape[3], 0
    most = max(1, min(TOGETHER // n, len(room.hard)))
    for first in range(begin, finish, most):
        last = min(first + most, finish)
        if count + last - first > len(room.hard):
            return first, count
        here = UINT(count) * UINT(n)
        if most > 1:
            update(t, step, UINT(first) * UINT(n), UINT((last - first) * n), room.x, room.d, here)
        for number in range(first, last):
            eta = numbers.step * weights[number if len(weights) > 1 else 0]
            p = here + UINT((number - first) * n)
            if solve_row(t, step, numbers, eta, number, p, most > 1, room):
                continue
            if gone[number]:
                zero = step.one - step.one
                write_group(t, step, UINT(number) * n, n, room.x, room.d, p, zero, step.one)
            else:
                keep_row(room, here + UINT((number - first) * n), count, n)
                room.hard[count] = number
                count += 1
    return finish, count


def keep_row(room: RowRoom, p: int, count: int, n: int) -> None:
    """Move point and metric of a group at ``p`` behind those of ``count`` others."""
    q = UINT(count) * UINT(n)
    if q != p:
        for i in range(UINT(n)):
            room.x[q + i] = room.x[p + i]
            room.d[q + i] = room.d[p + i]


def solve_row(
    t: Tensor, step: Step, numbers: Numbers, eta: float, number: int, p: int, is_updated: bool, room: RowRoom
) -> bool:
    """Step with one group; returns whether it is done.

    Its point and metric lie at ``p``, where it is updated, or come to lie there.
    """
    x, d, _, part = room
    n, one = UINT(t.shape[3]), step.one
    o = UINT(number) * n
    bb, bbd, xx, xb, ww = 0.0, 0.0, 0.0, 0.0, 0.0
    for at in range(FIRST, n, STRIP):
        m = min(STRIP, n - at)
        if is_updated:
            t0, t1, t2, t3, t4 = sum_updated(t, step, o + at, m, x, d, p + at)
        else:
            t0, t1, t2, t3, t4 = sum_updating(t, step, o + at, m, x, d, p + at)
        bb, bbd, xx, xb, ww = bb + t0, bbd + t1, xx + t2, xb + t3, ww + t4
    zero = topped(Zero(bb, bbd, xx, xb), eta, x, d, p, n, numbers, part, one)
    group = open_group(zero, row_radius(ww, numbers.table), eta, numbers)
    for _ in range(PASSES):
        if group.state != OPEN:
            break
        ratio = ratio_of(group, eta, numbers)
        if ratio == 0.0:
            break
        v, ve, vee = sum_row(x, d, p, n, ratio, group.hi, part, one)
        group = advance(group, v, ve, vee, zero, eta, numbers)
    ratio, rest, state = quotient(group, eta, numbers)
    # A group that was zero and stays so is not written.
    if state == DONE and not (ratio == 0.0 and ww == 0.0 and is_zero(t.w, o, n, one)):
        write_group(t, step, o, n, x, d, p, cast(ratio, part), cast(rest, part))
    return state == DONE


@any_order
def form_points(t: Tensor, step: Step, o: int, n: int, x: Any, d: Any) -> Any:
    """Form point and metric of ``n`` elements from ``o`` on; nothing changes.

    Returns how many metrics are not above 0, and NaN if the square of a gradient is not finite.
    """
    zero = step.one - step.one
    bad, invalid = zero, zero
    for i in range(n):
        _, x[i], d[i] = formed(t, o + i, step)
        bad += not d[i] > zero
        invalid += zero * (t.g[o + i] * t.g[o + i])
    return bad, invalid


@any_order
def tell_row(x: Any, d: Any, p: int, n: int) -> Any:
    """Sum over a point of ``n`` elements from ``p`` on.

    Returns a number above 0 if one of them is not zero, and the sums of
    :func:`~proxlab.optim.group_sums.sum_terms`.
    """
    alive, bb, xb, xx = 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        v = np.float64(x[p + i])
        s = sum_terms(v, np.float64(d[p + i]))
        alive, bb, xb, xx = alive + fabs(v), bb + s[0], xb + s[1], xx + s[2]
    return alive, bb, xb, xx


@any_order
def norm_row(x: Any, d: Any, p: int, n: int) -> Any:
    """As :func:`tell_row`, the first of the sums alone: all that a convex penalty asks for."""
    alive, bb = 0.0, 0.0
    for i in range(n):
        v = np.float64(x[p + i])
        alive, bb = alive + fabs(v), bb + sum_terms(v, np.float64(d[p + i]))[0]
    return alive, bb, 0.0, 0.0


def tell_rows(t: Tensor, step: Step, begin: int, finish: int, place: int, room: RowRoom, found: Any) -> bool:
    """Sum over the groups ``begin … finish - 1``, of which the first of all is column ``place``.

    Returns whether the squares of their gradients are finite. Bad metrics count for the first of some groups.
    """
    n, x, d, wrong = UINT(t.shape[3]), room.x, room.d, 0.0
    most = max(1, int(STRIP) // t.shape[3])
    for s in range(len(found)):
        found[s, place + begin : place + finish] = 0.0
    for first in range(begin, finish, most):
        last = min(first + most, finish)
        here, o = UINT(last - first) * n, UINT(first) * n
        for at in range(FIRST, here, STRIP):
            m: Any = min(STRIP, here - at)
            bad, invalid = form_points(t, step, o + at, m, x, d)
            found[1, place + first] += bad
            wrong += invalid
            # A part of a group, or whole ones.
            length = min(m, n)
            for j in range(last - first):
                k = place + first + j
                alive, bb, xb, xx = tell_row(x, d, UINT(j) * n, length)
                found[0, k] += alive
                found[2, k] += bb
                found[3, k] += xb
                found[4, k] += xx
    return wrong == 0.0
