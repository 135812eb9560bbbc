"""The search of a root, once for every target: ``begin``, ``ask`` and ``advance`` while open, ``finish``.

What is known is a :class:`Search`, which says at which radius the sums are asked for; a step takes them in.
It is written in the operations of :mod:`proxlab.scalar`, without ``if``, and runs on numbers, compiled for a
group, and over arrays with a group a row. The loop is the target's::

    search = begin(task, task.at, sums(task.at), 0)
    if NEEDS_BRACKET:
        search = bracketed(search, sums(task.far), task)
        while search.code == SEEKING:
            search = seek(search, sums(search.r), task)
    while search.code == OPEN:
        search = ask(search, task)
        search = advance(search, sums(search.r), task)
    root = finish(search, task, explain)
"""

from __future__ import annotations

import math
from typing import NamedTuple

from proxlab.bounds import UNIT
from proxlab.equations import RADIAL, Sums, Task
from proxlab.rootfinders import Newton
from proxlab.scalar import NAN, fabs, filled, fmax, fmin, where
from proxlab.types import Array

__all__ = ["Root", "Search", "advance", "ask", "begin", "bracketed", "final_step", "finish", "noise", "seek"]

#: Where a search stands: it asks for the sums at ``r``, between the ends of the bracket or to find one; it is
#: as exact as was asked for; there is no root; it has spent its iterations; it has, and found no bracket.
OPEN, SEEKING, DONE, NONE, SPENT, UNKNOWN = range(6)
#: Steps below this share of the radius are rounding; the ends of an enclosure are off by that much at most.
RESOLVED, OUTWARDS = 4.0 * UNIT, 32.0 * UNIT

# Set by the target: the equation, and the root finder's proposal and whether it takes both ends of a bracket.
residual, pace, enclose, SMOOTH = RADIAL
propose, NEEDS_BRACKET = Newton.propose, Newton.needs_bracket


class Point(NamedTuple):
    """The function at a radius: its value, its slope and ``-f''``."""

    r: Array
    f: Array
    slope: Array
    bend: Array


class Search(NamedTuple):
    """What is known of a root.

    Attributes
    ----------
    r : array
        Where the sums were taken last, or are asked for.
    f, slope, bend : array
        The function, its slope and ``-f''`` where the sums were taken last; while a bracket is looked for, at
        ``lo``.
    lo, f_lo, hi, f_hi : array
        The bracket, and the function's values there; NaN where it has not been evaluated.
    fall : array
        While a bracket is looked for, the slope at ``hi``.
    sure_lo, sure_hi : array
        The bracket, where signs count only beyond rounding.
    best, f_best : array
        Where the function is nearest to zero, and its value.
    sums : Sums
        The sums there.
    memory : tuple of array
        The root finder's five numbers.
    code : array
        Where the search stands.
    iterations, evaluations : array
    """

    r: Array
    f: Array
    slope: Array
    bend: Array
    lo: Array
    f_lo: Array
    hi: Array
    f_hi: Array
    fall: Array
    sure_lo: Array
    sure_hi: Array
    best: Array
    f_best: Array
    sums: Sums
    memory: tuple[Array, ...]
    code: Array
    iterations: Array
    evaluations: Array


class Root(NamedTuple):
    """What a search found.

    Attributes
    ----------
    exists : array of bool
        Whether there is a root, or may be one.
    r, lower, upper : array
        The radius and an enclosure.
    converged : array of bool
        Whether it is as exact as was asked for.
    unknown : array of bool
        Whether the search ended before it found a root or that there is none.
    iterations, evaluations : array
    """

    exists: Array
    r: Array
    lower: Array
    upper: Array
    converged: Array
    unknown: Array
    iterations: Array
    evaluations: Array


def noise(size: float) -> float:
    """Return below what a residual of so many terms is rounding."""
    return (8.0 + 2.0 * math.sqrt(size)) * UNIT


def point_at(r: Array, sums: Sums) -> Point:
    """Return the function at a radius from the sums there."""
    f, slope, bend = residual(sums.s, sums.s1, sums.s2)
    return Point(r, f, slope, bend)


def begin(task: Task, r: Array, sums: Sums, spent: Array) -> Search:
    """Take in the sums at the first radius, which is ``task.at``, or beyond it and nearer to the root.

    ``spent`` are the evaluations that it took to get there; they count as iterations.
    """
    here = point_at(r, sums)
    f = here.f
    ahead = r > task.at
    if SMOOTH or NEEDS_BRACKET:
        over, left = ahead & (f >= 0), task.at
    else:
        # Next to a kink it may be far above zero where it should not be yet.
        over, left = f >= 0, where(ahead, task.at, task.floor)
    nan = filled(f, NAN)
    lo, f_lo = where(over, left, r), where(over, nan, f)
    hi, f_hi = where(over, r, task.far), where(over, f, nan)
    sure_lo = where(ahead & (f < -2.0 * task.delta), r, task.floor)
    sure_hi = where(over & (f > 2.0 * task.delta), r, task.far)
    memory = (nan, nan, nan, nan, nan)
    return Search(
        r, f, here.slope, here.bend, lo, f_lo, hi, f_hi, nan, sure_lo, sure_hi, r, f, sums, memory,
        standing(task, here, lo, hi, spent), spent, spent + 1,
    )  # fmt: skip


def bracketed(search: Search, sums: Sums, task: Task) -> Search:
    """Take in the sums at the far end; where ``f`` may be below zero there too, a bracket is looked for."""
    right = point_at(task.far, sums)
    left = Point(search.r, search.f, search.slope, search.bend)
    return between(search, left, search.sums, right, (right.f < 0) & (left.f < 0) & task.doubtful, task)


def seek(search: Search, sums: Sums, task: Task) -> Search:
    """Take in the sums between two points below zero, between the zeros of whose tangents the root is."""
    new, old = point_at(search.r, sums), search.sums
    past = (new.f >= 0) | (new.slope <= 0)
    return between(
        search,
        either(past, Point(search.lo, search.f, search.slope, search.bend), new),
        Sums(where(past, old.s, sums.s), where(past, old.s1, sums.s1), where(past, old.s2, sums.s2)),
        either(past, new, Point(search.hi, search.f_hi, search.fall, new.bend)),
        (new.f < 0) | (new.f != new.f),
        task,
    )


def either(condition: Array, yes: Point, no: Point) -> Point:
    """Select between points."""
    return Point(
        where(condition, yes.r, no.r), where(condition, yes.f, no.f),
        where(condition, yes.slope, no.slope), where(condition, yes.bend, no.bend),
    )  # fmt: skip


def between(search: Search, left: Point, sums: Sums, right: Point, seeking: Array, task: Task) -> Search:
    """Ask for the point between the zeros of two tangents, or go on with the bracket that there is.

    The sums are those at the left end.
    """
    one = filled(left.f, 1.0)
    rise, fall = left.slope, right.slope
    start = left.r - left.f / where(rise > 0, rise, one)
    end = right.r - right.f / where(fall < 0, fall, -one)
    evaluations = search.evaluations + 1
    none = (fall >= 0) | (rise <= 0) | (start >= end)
    code = where(none, filled(evaluations, NONE), filled(evaluations, SEEKING))
    # The first two were those at the ends.
    code = where(evaluations - 2 >= task.most, filled(evaluations, UNKNOWN), code)
    going = standing(task, left, left.r, right.r, search.iterations)
    return Search(
        where(seeking, 0.5 * (start + end), left.r), left.f, rise, left.bend, left.r, left.f, right.r,
        right.f, fall, search.sure_lo, search.sure_hi, left.r, left.f, sums, search.memory,
        where(seeking, code, going), search.iterations, evaluations,
    )  # fmt: skip


def ask(search: Search, task: Task) -> Search:
    """Ask for the sums at the next radius: that of the root finder, or within the bracket."""
    r, f, slope, lo, hi = search.r, search.f, search.slope, search.lo, search.hi
    m0, m1, m2, m3, m4 = search.memory
    safe = where(slope == 0, filled(f, 1.0), slope)
    new, m0, m1, m2, m3, m4 = propose(
        r, f, safe, search.bend, lo, search.f_lo, hi, search.f_hi, m0, m1, m2, m3, m4
    )
    middle = lo + 0.5 * (hi - lo)
    if NEEDS_BRACKET:
        edge = fmin(0.5 * tolerance(task, r), 0.25 * (hi - lo))
        new = where((new >= lo) & (new <= hi), fmin(fmax(new, lo + edge), hi - edge), middle)
    else:
        # Where there may be no root, a point beyond the zero of the tangent would tell nothing: what is below
        # zero there may lie on either side of a root.
        new = where((f < 0) & (hi == task.far) & task.doubtful, fmin(new, r - f / safe), new)
        # The far end may be nearer than where the search would go.
        beyond = where((f < 0) & (hi == task.far), hi, middle)
        new = where(new > hi, beyond, where(new >= lo, new, middle))
        if not SMOOTH:
            # Next to a kink a step may be next to nothing, and the root far away.
            new = where(f < 0, fmax(new, fmin(r * (1.0 + RESOLVED), hi)), new)
    memory = (m0 * 1.0, m1 * 1.0, m2 * 1.0, m3 * 1.0, m4 * 1.0)  # numbers, whatever the root finder returns
    return Search(
        new, f, slope, search.bend, lo, search.f_lo, hi, search.f_hi, search.fall, search.sure_lo,
        search.sure_hi, search.best, search.f_best, search.sums, memory, search.code, search.iterations,
        search.evaluations,
    )  # fmt: skip


def advance(search: Search, sums: Sums, task: Task) -> Search:
    """Take in the sums at the radius that was asked for."""
    r, old = search.r, search.sums
    here = point_at(r, sums)
    f = here.f
    below = f < 0
    better = fabs(f) <= fabs(search.f_best)
    lo, hi = where(below, r, search.lo), where(below, search.hi, r)
    iterations = search.iterations + 1
    return Search(
        r,
        f,
        here.slope,
        here.bend,
        lo,
        where(below, f, search.f_lo),
        hi,
        where(below, search.f_hi, f),
        search.fall,
        where(f < -2.0 * task.delta, r, search.sure_lo),
        where(f > 2.0 * task.delta, r, search.sure_hi),
        where(better, r, search.best),
        where(better, f, search.f_best),
        Sums(where(better, sums.s, old.s), where(better, sums.s1, old.s1), where(better, sums.s2, old.s2)),
        search.memory,
        standing(task, here, lo, hi, iterations),
        iterations,
        search.evaluations + 1,
    )


def tolerance(task: Task, r: Array) -> Array:
    """Return how far from the root a radius may be."""
    return fmax(fmin(task.atol + task.rtol * r, task.cap * r), RESOLVED * r)


def standing(task: Task, here: Point, lo: Array, hi: Array, iterations: Array) -> Array:
    """Return where a search stands, from the function at the last radius and the bracket."""
    r, f, slope = here.r, here.f, here.slope
    if NEEDS_BRACKET:
        stop = (hi - lo <= tolerance(task, r)) | (f == 0)
        code = where(stop, filled(iterations, DONE), filled(iterations, OPEN))
    else:
        rising = where(slope > 0, slope, filled(f, 1.0))
        step = f / rising
        stop, resolved = fabs(f) <= task.noise, fabs(step) <= RESOLVED * r
        if not SMOOTH:
            stop = stop | (resolved & (f >= 0)) | (hi - lo <= 2.0 * RESOLVED * r)
        if SMOOTH:
            stop = stop | resolved
            _, error = final_step(r, f, rising, here.bend, pace(r, task))
            stop = stop | (error <= tolerance(task, r))
        code = where(stop, filled(iterations, DONE), filled(iterations, OPEN))
        lost = (f < 0) & ((slope <= 0) | (r - step > task.far)) & task.doubtful
        code = where(lost, filled(iterations, NONE), code)
    return where(iterations >= task.most, filled(iterations, SPENT), code)


def final_step(r: Array, f: Array, slope: Array, bend: Array, m: Array) -> tuple[Array, Array]:
    """Return the zero of the osculating hyperbola (Halley 1694) and an estimate of its error.

    The third sum comes with every evaluation, so the last step is of third order whatever the root finder.
    For the Newton step ``h``, let ``q = bend·h/slope``; with ``m ≥ |(d_i - shift)/y_i|`` the third derivative
    is of the order of ``(q/h + m)·bend``, so that the error is of the order of ``q h (q + m h)``, while
    ``m h`` is small. A bend out of range is not used.
    """
    step = f / slope
    h = fabs(step)
    q = bend * h / slope
    k = m * h
    usable = (bend < 1e300) & (k <= 0.25)
    error = where(usable, 2.0 * q * h * fmin(q + 4.0 * k, h * 0.0 + 1.0), h)
    curved = where(bend < 1e300, bend, h * 0.0)
    return r - f / (slope + 0.5 * f * curved / slope), error


def finish(search: Search, task: Task, explain: bool) -> Root:
    """Return the root; its enclosure is of what is proved if it is to be explained, else what signs tell."""
    best = search.best
    done = search.code == DONE
    unknown = search.code == UNKNOWN
    root = best
    if not NEEDS_BRACKET:
        f, slope, bend = residual(search.sums.s, search.sums.s1, search.sums.s2)
        rising = slope > 0
        final, _ = final_step(best, f, where(rising, slope, filled(f, 1.0)), bend, f * 0.0)
        root = where(done & rising, final, best)
    root = fmin(fmax(root, search.sure_lo), search.sure_hi)
    lower, upper = search.sure_lo, search.sure_hi
    if explain:
        near, beyond = enclose(best, search.sums, task)
        # By what rounding the ends costs, and the radius at which tau is exact (bounds.ROUNDING).
        lower = fmin(fmax(near, lower) * (1.0 - OUTWARDS), root)
        upper = fmax(fmin(beyond, upper) * (1.0 + OUTWARDS), root)
    # Where the sums left the range of float64, or no bracket was found, only the first bounds are known.
    known = (lower <= root) & (root <= upper) & (search.code != UNKNOWN)
    return Root(
        (search.code != NONE) & (search.code != UNKNOWN),
        where(known, root, task.floor),
        where(known, lower, task.floor),
        where(known, upper, task.far),
        done & known,
        unknown,
        search.iterations,
        search.evaluations,
    )
