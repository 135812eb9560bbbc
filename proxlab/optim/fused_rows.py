"""Scalar source of the fused pass over contiguous groups, one after the other while they are in the cache."""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.column_kernels import Zero
from proxlab.optim.fused_elements import UINT, Step, Tensor, blend, formed, propose, shrunk, terms
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
from proxlab.scalar import any_order

#: Terms that are summed in the data's precision before the sum goes over to float64.
STRIP = np.uint64(1024)
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


@any_order
def sum_update(t: Tensor, step: Step, o: int, n: int, x: Any, d: Any, p: int) -> Any:
    """Update state, form point and metric at ``p``, and sum ``b²``, ``b² d``, ``x²``, ``d x²``, ``w²``."""
    zero = step.one - step.one
    bb, bbd, xx, xb, ww = zero, zero, zero, zero, zero
    for i in range(n):
        k = o + i
        v = t.w[k]
        xi, di = propose(t, k, step)
        x[p + i] = xi
        d[p + i] = di
        b = xi * di
        s = b * b
        bb += s
        bbd += s * di
        xx += xi * xi
        xb += xi * b
        ww += v * v
    return bb, bbd, xx, xb, ww


@any_order
def sum_at(x: Any, d: Any, p: int, n: int, ratio: float, one: float) -> Any:
    """Sum an element's terms at a ratio."""
    zero = one - one
    s, s1, s2 = zero, zero, zero
    for i in range(n):
        a, b, c = terms(x[p + i], d[p + i], ratio, one)
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


def cast(value: float, buffer: Any) -> float:
    """Return a number in the data's precision."""
    buffer[0] = value
    return buffer[0]


def rows(
    t: Tensor, step: Step, numbers: Numbers, weights: Any, begin: int, finish: int, room: RowRoom
) -> Any:
    """Step with the groups ``begin … finish - 1``.

    The weights of groups that are left to the general solver stay. Returns the next group, which is
    ``finish`` unless there is no room for more of them, and how many were left.
    """
    x, d, hard, part = room
    n, one = UINT(t.shape[3]), step.one
    count = 0
    for number in range(begin, finish):
        o, p = UINT(number) * n, UINT(count) * n
        bb, bbd, xx, xb, ww = 0.0, 0.0, 0.0, 0.0, 0.0
        for at in range(FIRST, n, STRIP):
            t0, t1, t2, t3, t4 = sum_update(t, step, o + at, min(STRIP, n - at), x, d, p + at)
            bb, bbd, xx, xb, ww = bb + t0, bbd + t1, xx + t2, xb + t3, ww + t4
        eta = numbers.step * weights[number if len(weights) > 1 else 0]
        zero = Zero(bb, bbd, xx, xb)
        group = open_group(zero, first_radius(ww, numbers.table), eta, numbers)
        for _ in range(PASSES):
            if group.state != OPEN:
                break
            ratio = ratio_of(group, eta, numbers)
            if ratio == 0.0:
                break
            v, ve, vee = 0.0, 0.0, 0.0
            for at in range(FIRST, n, STRIP):
                t0, t1, t2 = sum_at(x, d, p + at, min(STRIP, n - at), cast(ratio, part), one)
                v, ve, vee = v + t0, ve + t1, vee + t2
            group = advance(group, v, ve, vee, zero, eta, numbers)
        ratio, rest, state = quotient(group, eta, numbers)
        if state == DONE:
            write_group(t, step, o, n, x, d, p, cast(ratio, part), cast(rest, part))
        else:
            hard[count] = number
            count += 1
            if count == len(hard):
                return number + 1, count
    return finish, count


@any_order
def tell_row(t: Tensor, step: Step, o: int, n: int) -> Any:
    """Sum over the point of ``n`` elements from ``o`` on (:func:`~proxlab.optim.group_sums.sum_terms`)."""
    bb, xb, xx, alive, bad = 0.0, 0.0, 0.0, 0, 0
    for i in range(n):
        _, x, d = formed(t, o + i, step)
        s = sum_terms(np.float64(x), np.float64(d))
        bb, xb, xx, alive, bad = bb + s[0], xb + s[1], xx + s[2], alive + s[3], bad + s[4]
    return bb, xb, xx, alive, bad


def tell_rows(t: Tensor, step: Step, begin: int, finish: int, place: int, found: Any) -> None:
    """Sum over the groups ``begin … finish - 1``, of which the first of all is column ``place``."""
    n = UINT(t.shape[3])
    for number in range(begin, finish):
        bb, xb, xx, alive, bad = tell_row(t, step, UINT(number) * n, n)
        k = place + number
        found[0, k], found[1, k], found[2, k], found[3, k], found[4, k] = bb, xb, xx, alive, bad
