"""One group under a curved slope, compiled: passes over its elements, the intervals, and the best of them.

Plain Python, rebuilt by :mod:`proxlab.backends.numba_curved`. What an interval holds is judged in
:mod:`proxlab.curves`; the vectorised form in :mod:`proxlab.backends.curved_search` is the specification.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.kernel_records import Found, Scale
from proxlab.backends.kernels import one_of
from proxlab.backends.one_group import explained
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import exponent, span, sum_ends, sum_path, zero_margin
from proxlab.bounds import UNIT
from proxlab.choose import ZERO, Limits, is_close, residual_at_zero, sharpened
from proxlab.curves import (
    CHORD_SHARE,
    LEAST_STEPS,
    LOOSE,
    MAX_STEPS,
    SMALLEST,
    TANGENT_SHARE,
    Best,
    Bracket,
    Ends,
    Held,
    Line,
    Price,
    Sense,
    Verdict,
    along,
    approach,
    begun,
    cheapest,
    compare,
    cost,
    cost_next_to,
    crossed,
    dearest,
    is_wide,
    judged,
    least_at,
    middle,
    narrow,
    near_zero,
    nearer,
    none_yet,
    offer,
    on_curve,
    origin,
    polished,
    settle,
    start_at,
    visited,
    within,
    without_dips,
)
from proxlab.scalar import INF, any_order, fabs, fmax, fmin, power, sqrt

__all__ = [
    "COLUMNS",
    "CurvedRequest",
    "CurvedRows",
    "Functions",
    "KnownCurve",
    "Precision",
    "solve_curves",
]

#: The metric of a group lies within so many powers of two, and its largest point and metric within so many of
#: 1; other groups are left alone, as are those whose prices are not within the last.
SPREAD, REACH, PRICED = 200, 400, 2.0**400
#: A slope at zero within which and its inverse it may be compared beyond rounding.
PRECISE = 2.0**200
#: Where the numbers of an interval are in its row: those of its ends, and of what is known of it.
AT_RIGHT = len(Ends._fields)
AT_OPEN, AT_KEPT, AT_FLOOR, AT_LOW, AT_HIGH, AT_MU = range(2 * AT_RIGHT, 2 * AT_RIGHT + len(Verdict._fields))
COLUMNS = AT_MU + 1
#: At most, points that are visited before the radii are divided, and steps on a tangent; and the share of the
#: way after which one is enough.
MOST_FOLLOWED, TANGENT_STEPS, ENOUGH = 8, 20, 2.0**-8
#: Relatively: a step that ends next to a minimiser, how far left of it, and within what a step of Newton's
#: method leaves no more than rounding.
CLOSE_BY, SHIFT, NEXT_TO = 2.0**-16, 2.0**-30, 2.0**-28
#: By how much less than a guess says a slope is taken to be great enough.
SHORT_OF = 2.0**-6


class CurvedRows(NamedTuple):
    """Groups of ``n`` elements one after the other: point, metric and result.

    Attributes
    ----------
    x, d, z : array of float32 or float64
    x_bits, d_bits : array of int32 or int64
        The same memory as ``x`` and ``d``: of numbers above zero the greater one has the greater bits.
    magnitude, infinity : int
        The bits but for the sign, and those of infinity.
    shift, bias : int
        Bits behind the exponent, and what is added to it.
    n : int
    """

    x: Any
    d: Any
    z: Any
    x_bits: Any
    d_bits: Any
    magnitude: int
    infinity: int
    shift: int
    bias: int
    n: int


class CurvedElements(NamedTuple):
    """The ``n`` elements of a group from ``o`` on, a point at least ``least``, and factors to its units."""

    x: Any
    d: Any
    o: Any
    n: int
    least: float
    by_x: float
    by_d: float


class Functions(NamedTuple):
    """Where the functions of a penalty are, and the numbers that it has of its own."""

    value: int
    slope: int
    curvature: int
    own: int


class KnownCurve(NamedTuple):
    """A penalty: its functions but for a strength, what is known of its slope, and that at zero."""

    functions: Functions
    falls: bool
    bends: bool
    nonnegative: bool
    strength: float
    first: float


class Precision(NamedTuple):
    """Rounding of groups of a size, as :mod:`proxlab.curves` has it; sums are of ``strip`` elements first."""

    eps: float
    own: float
    share: float
    widen: float
    strip: int


class CurvedRequest(NamedTuple):
    """What is to be solved, and how."""

    steps: Any
    weights: Any
    known: KnownCurve
    precision: Precision
    limits: Limits


class CurvedGroup(NamedTuple):
    """A group in its units: :class:`CurvedElements`, added up ``strip`` by ``strip``, and what it costs."""

    e: Any
    strip: int
    sense: Sense
    price: Price


class Surveyed(NamedTuple):
    """Whether a group's numbers are valid, whether its point is zero, its units, and whether it fits them."""

    valid: bool
    zero: bool
    ex: int
    ed: int
    fits: bool


class Divided(NamedTuple):
    """What a search leaves: how many intervals, whether passes ran out, and what some point costs."""

    intervals: int
    lost: bool
    best: float
    evaluations: int


# ----------------------------------------------------------------------------------------------------
# The words of the target.


def call(function: Any, own: Any, r: float) -> float:
    """Call a function of a penalty."""
    return function(own, r)


def method(own: Any, r: float) -> float:
    """Return what a penalty's method does."""
    raise NotImplementedError


def record(own: Any) -> Any:
    """Return a penalty's own numbers under their names."""
    return own


def call_method(own: Any, r: float) -> float:
    """Call a penalty's method with a record of its own numbers: the function that :func:`call` calls."""
    return method(record(own), r)


def priced(function: Any, own: Any, r: float, factor: float) -> float:
    """Return what a function returns, times a factor, and 0 for no number."""
    v = call(function, own, r) * factor
    return v if v == v else 0.0


def slope(functions: Functions, r: float, price: Price) -> float:
    """Return ``τ``."""
    return priced(functions.slope, functions.own, r * price.length, price.slope)


def turn(functions: Functions, r: float, price: Price) -> float:
    """Return ``τ'``."""
    return priced(functions.curvature, functions.own, r * price.length, price.turn)


def value(functions: Functions, r: float, price: Price) -> float:
    """Return ``η p``."""
    if r > 0.0:
        return priced(functions.value, functions.own, r * price.length, price.value)
    return 0.0


def load(e: CurvedElements, i: int) -> Any:
    """Return an element of the point and of the metric, in the group's units."""
    return fmax(np.float64(e.x[i]), e.least) * e.by_x, np.float64(e.d[i]) * e.by_d


# ----------------------------------------------------------------------------------------------------
# Passes: strips of elements first, so that rounding grows with the root of their number.


def part_of(e: CurvedElements, first: int, strip: int) -> Any:
    """Return a strip of the elements."""
    return CurvedElements(e.x, e.d, e.o + first, min(strip, e.n - first), e.least, e.by_x, e.by_d)


def visit(g: CurvedGroup, mu: float) -> Ends:
    """Pass over a group at a ``μ > 0``."""
    # About μ z for a great μ, so that no square is lost; in powers of two, so that nothing is rounded.
    unit = math.ldexp(1.0, max(exponent(mu), 0))
    vv, w, wd, moved = 0.0, 0.0, 0.0, 0.0
    for first in range(0, g.e.n, g.strip):
        a, b, c, m = sum_path(part_of(g.e, first, g.strip), mu, unit)
        vv += a
        w += b
        wd += c
        moved += m
    return visited(g.sense, mu, unit, vv, w, wd, moved, g.price)


# ----------------------------------------------------------------------------------------------------
# Intervals.


def crossing(
    sense: Sense, line: Line, a: float, b: float, base: float, share: float, price: Price
) -> Bracket:
    """Enclose where a bound of ``F'`` crosses zero, up to a share of the distance to ``base``."""
    bracket = crossed(sense, line, a, b, price)
    for done in range(MAX_STEPS):
        if not is_wide(bracket, base, share):
            break
        bracket = narrow(sense, bracket, line, done, price)
    return bracket


def judge(
    sense: Sense, left: Ends, right: Ends, best: float, tolerance: float, loose: float, price: Price
) -> Verdict:
    """Say what is known of an interval."""
    lo, hi = left.at, right.at
    view = compare(sense, left, right, best, price)
    least = hi if sense.falls else lo
    # Where F falls at an end it does not rise all along.
    if sense.bends and not (view.dead or left.sign < 0.0 or right.sign < 0.0):
        chord, near, far = view.chord.kappa, lo, hi
        least = least_at(sense, chord, near, far, lo, hi, price)
        if lo < least < hi:
            for _ in range(LEAST_STEPS):
                near, far = nearer(sense, chord, near, far, price)
            least = middle(near, far)
        view = without_dips(sense, view, left, right, least, price)
    if view.dead:
        return Verdict(False, False, view.floor, lo, hi, 1.0)
    plan = approach(sense, view, left, right, least)
    start, high = plan.a, hi
    if plan.on:
        start = crossing(sense, plan.line, start, plan.b, plan.line.start, TANGENT_SHARE, price).a
    plan = begun(sense, plan, hi, start, price)
    proves = sense.bends or not sense.falls
    if proves and plan.holds and along(sense, view.chord, hi, price) > 0.0:
        high = crossing(sense, view.chord, plan.low, hi, plan.low, CHORD_SHARE, price).b
    return judged(sense, view, plan, high, left, right, tolerance, loose)


def put_end(table: Any, k: int, o: int, end: Ends) -> None:
    """Keep one end of interval ``k``."""
    table[k, o], table[k, o + 1], table[k, o + 2] = end.r, end.t, end.kappa
    table[k, o + 3], table[k, o + 4], table[k, o + 5] = end.q, end.at, end.tau
    table[k, o + 6], table[k, o + 7], table[k, o + 8] = end.turn, end.value, end.sign


def end_of(table: Any, k: int, o: int) -> Ends:
    """Return one end of interval ``k``."""
    return Ends(
        table[k, o], table[k, o + 1], table[k, o + 2], table[k, o + 3], table[k, o + 4], table[k, o + 5],
        table[k, o + 6], table[k, o + 7], table[k, o + 8],
    )  # fmt: skip


def put(table: Any, k: int, left: Ends, right: Ends, v: Verdict) -> None:
    """Keep interval ``k``."""
    put_end(table, k, 0, left)
    put_end(table, k, AT_RIGHT, right)
    table[k, AT_OPEN], table[k, AT_KEPT] = 1.0 if v.open else 0.0, 1.0 if v.kept else 0.0
    table[k, AT_FLOOR], table[k, AT_LOW], table[k, AT_HIGH], table[k, AT_MU] = v.floor, v.low, v.high, v.mu


def widest(table: Any, count: int, best: float) -> int:
    """Return the interval to divide: the open one whose floor is least, or -1."""
    picked, least = -1, INF
    for k in range(count):
        floor = table[k, AT_FLOOR]
        if table[k, AT_OPEN] > 0.0 and floor <= best and (picked < 0 or floor < least):
            picked, least = k, floor
    return picked


def resting(sense: Sense, first: Ends, whole: Ends, price: Price) -> float:
    """Return up to which radius ``τ`` is known to be at least ``T(0)``; 0 where it is nowhere."""
    level = first.t * (1.0 + sense.eps) / (1.0 - sense.own)
    lo, hi = SMALLEST, whole.r
    if not (sense.falls and first.sign > 0.0 and slope(sense.functions, lo, price) >= level):
        return 0.0
    if whole.tau >= level:
        return hi
    # Where a power of the radius would be so great that goes through the slope at the point itself.
    if whole.tau > 0.0 and whole.turn < 0.0:
        guess = (1.0 - SHORT_OF) * hi * power(level / whole.tau, whole.tau / (hi * whole.turn))
        if lo < guess < hi:
            if slope(sense.functions, guess, price) >= level:
                return guess
            hi = guess
    for _ in range(LEAST_STEPS):
        half = middle(lo, hi)
        if slope(sense.functions, half, price) >= level:
            lo = half
        else:
            hi = half
    return lo


def crosses_tangent(sense: Sense, end: Ends, low: float, high: float, price: Price) -> Any:
    """Return about where ``τ`` crosses the tangent of ``T`` at a point, between two radii, and that there."""
    bend = end.turn + end.kappa
    r, off = end.r, end.t - end.tau
    for _ in range(TANGENT_STEPS):
        step = off / (bend if bend > 0.0 else 1.0)
        if not (bend > 0.0 and low < r + step < high):
            break
        r += step
        if fabs(step) <= ENOUGH * fabs(r - end.r):
            break
        off = end.t - end.kappa * (r - end.r) - slope(sense.functions, r, price)
        bend = turn(sense.functions, r, price) + end.kappa
    return r, end.t - end.kappa * (r - end.r)


def follow(g: CurvedGroup, first: Ends, whole: Ends, most: int) -> Any:
    """Go from tangent to tangent, from the point itself to next to a minimiser, where ``F`` still falls.

    Nothing is proved here. Returns the last point where ``F`` does not rise, or ``first``, and the passes.
    """
    before, after, end = first, whole, whole
    for k in range(min(most, MOST_FOLLOWED)):
        r, t = crosses_tangent(g.sense, end, before.r, after.r, g.price)
        if r == end.r and end.sign != 0.0:
            # Where T would be the slope here if it were its chord.
            r = before.r + (before.t - end.tau) * ((after.r - before.r) / (before.t - after.t))
            t = end.tau
        off = fabs(r - end.r)
        last = off <= CLOSE_BY * r
        # From the right, F would hardly rise there, and all that is beyond were hard to tell.
        r = (1.0 - SHIFT) * r if last else r
        if not before.r < r < after.r or (end.sign <= 0.0 and off <= NEXT_TO * r):
            return before, k
        end = visit(g, t / r)
        before, after = (before, end) if end.sign > 0.0 else (end, after)
        if last:
            return before, k + 1
    return before, min(most, MOST_FOLLOWED)


def divide(
    g: CurvedGroup, first: Ends, whole: Ends, tolerance: float, loose: float, most: int, table: Any
) -> Divided:
    """Divide the radii, at most so often, until what is left is known well enough: intervals in ``table``."""
    sense, price = g.sense, g.price
    start = resting(sense, first, whole, price)
    if start > 0.0:
        first = start_at(sense, first, start, price)
    best = dearest(sense, first, whole)
    if first.sign > 0.0 and compare(sense, first, whole, best, price).dead:
        return Divided(0, False, best, 0)
    new, evaluations = first, 0
    if sense.bends or not sense.falls:
        # Elsewhere intervals of any width are hard to tell.
        new, evaluations = follow(g, first, whole, most)
    count, lost, left = 0, True, first
    if new.r > first.r:
        best = fmin(best, cost(sense, new))
        left = within(new, first, whole)
        put(table, 0, first, left, judge(sense, first, left, best, tolerance, loose, price))
        count = 1
    put(table, count, left, whole, judge(sense, left, whole, best, tolerance, loose, price))
    count += 1
    for _ in range(most + 1):
        k = widest(table, count, best)
        if k < 0 or evaluations >= most:
            lost = k >= 0
            break
        left, right = end_of(table, k, 0), end_of(table, k, AT_RIGHT)
        new = visit(g, table[k, AT_MU])
        evaluations += 1
        best = fmin(best, cost(sense, new))
        inside = within(new, left, right)
        for part in range(2):
            a, b = (left, inside) if part == 0 else (inside, right)
            put(table, k if part == 0 else count, a, b, judge(sense, a, b, best, tolerance, loose, price))
        count += 1
    return Divided(count, lost, best, evaluations)


# ----------------------------------------------------------------------------------------------------
# Groups.


@any_order
def survey(rows: CurvedRows, o: int, nonnegative: bool) -> Surveyed:
    """Look for invalid numbers, and for units in which rounding is small, by the bits of the numbers."""
    size, reach, low, high = 0, 0, rows.infinity, 0
    for i in range(np.uint64(o), np.uint64(o + rows.n)):
        x, d = rows.x_bits[i], rows.d_bits[i]
        size, reach = max(x & rows.magnitude, size), max(x, reach)
        low, high = min(d, low), max(d, high)
    valid = size < rows.infinity and low > 0 and high < rows.infinity
    reach = reach if nonnegative else size
    ex = int(reach >> rows.shift) - rows.bias
    least, most = int(low >> rows.shift) - rows.bias, int(high >> rows.shift) - rows.bias
    ed = (least + most) // 2
    fits = abs(ex) < REACH and abs(ed) < REACH and most - least < SPREAD
    return Surveyed(valid, reach == 0, ex, ed, fits)


def margin_at_zero(
    g: CurvedGroup, known: KnownCurve, bb: float, norm: float, first: float, scale: Scale, n: int
) -> float:
    """Return ``f`` of the tangent at zero, its sign exact to far below rounding where that can be told."""
    if not (first < INF and known.first < INF):
        return 1.0
    f, _ = residual_at_zero(first, norm, float(n))
    tame = 1.0 / PRECISE < known.first < PRECISE and 1.0 / PRECISE < g.price.slope / known.strength < PRECISE
    if tame and is_close(f, first, float(n)):
        f, _ = sharpened(zero_margin(g.e, known.first, scale), first, bb, norm, float(n))
    return f


def price_of(known: KnownCurve, eta: float, units: Surveyed) -> Price:
    """Return a penalty's price for a group, ``eta`` its step times its weight."""
    strength, ex, ed = eta * known.strength, units.ex, units.ed
    return Price(
        math.ldexp(1.0, ex),
        math.ldexp(strength, -ed - ex),
        math.ldexp(strength, -ed),
        math.ldexp(strength, -ed - 2 * ex),
    )


def is_priced(price: Price, eta: float, strength: float) -> bool:
    """Return whether all that makes a price is in the range in which rounding is small."""
    found = True
    for p in (price.slope, price.turn, price.value, eta, eta * strength):
        found = found and 1.0 / PRICED < p < PRICED
    return found


def end_sums(g: CurvedGroup) -> Any:
    """Return the sums that the ends of the path need: of ``b²``, ``b² d``, ``x²``, ``b x`` and ``x²/d``."""
    bb, bbd, xx, bx, across = 0.0, 0.0, 0.0, 0.0, 0.0
    for first in range(0, g.e.n, g.strip):
        p, q, s, t, u = sum_ends(part_of(g.e, first, g.strip))
        bb += p
        bbd += q
        xx += s
        bx += t
        across += u
    return bb, bbd, xx, bx, across


def solve_curve(
    e: CurvedElements, units: Surveyed, step: float, weight: float, price: Price, request: CurvedRequest,
    table: Any,
) -> Found:  # fmt: skip
    """Solve a group that is not zero, in its units."""
    known, precision, limits = request.known, request.precision, request.limits
    sense = Sense(known.functions, known.falls, known.bends, precision.eps, precision.own)
    g = CurvedGroup(e, precision.strip, sense, price)
    bb, bbd, xx, bx, across = end_sums(g)
    norm, reach = sqrt(bb), sqrt(xx)
    tau = slope(known.functions, 0.0, price)
    margin = margin_at_zero(g, known, bb, norm, tau, Scale(step, weight, units.ex, units.ed), e.n)
    first = origin(sense, norm, bbd / bb, 0.5 * bx, tau, turn(known.functions, 0.0, price), margin)
    tau, bend, p = on_curve(sense, reach, price)
    whole = Ends(reach, 0.0, xx / across, 0.0, reach, tau, bend, p, 1.0)
    tolerance = fmax(limits.rtol + math.ldexp(limits.atol, -units.ex) / reach, 8.0 * UNIT)
    left = divide(g, first, whole, tolerance, fmax(tolerance, LOOSE), limits.most, table)
    rests, near = margin >= 0.0, near_zero(first, fmax(-margin * norm, 0.0))
    best = none_yet(rests, True, first.q, reach)
    best, polishes = choose_best(g, best, left, table, near, rests, precision.share)
    tau = slope(known.functions, best.r if best.r > 0.0 else 1.0, price)
    answer, count = settle(best, tau, left.lost, ZERO, precision.widen), left.evaluations
    return Found(
        answer.r, answer.tau, answer.lower, answer.upper, answer.status, count, count + polishes
    )  # fmt: skip


def nearest(table: Any, k: int, low: float, high: float) -> Any:
    """Return an end of interval ``k``, and whether what it encloses is next to that."""
    left, right = end_of(table, k, 0), end_of(table, k, AT_RIGHT)
    if high - left.r <= NEXT_TO * low:
        return left, True
    return right, right.r - low <= NEXT_TO * low


def choose_best(
    g: CurvedGroup, best: Best, left: Divided, table: Any, near: float, rests: bool, share: float
) -> Any:
    """Compare what the intervals that are left hold; returns the best, and how many passes that took."""
    passes = 0
    for k in range(left.intervals):
        if (table[k, AT_OPEN] > 0.0 or table[k, AT_KEPT] > 0.0) and table[k, AT_FLOOR] <= left.best:
            low, high = table[k, AT_LOW], table[k, AT_HIGH]
            r, objective = cheapest(rests, near, low, low, high), INF
            if r > 0.0:
                end, next_to = nearest(table, k, low, high)
                if not next_to:
                    end = visit(g, slope(g.sense.functions, r, g.price) / r)
                    passes += 1
                r = polished(end, low, high) if low > 0.0 else r
                objective = cost_next_to(end, r if low > 0.0 else end.r)
            best = offer(g.sense, best, Held(True, r, objective, low, high), rests, share)
    return best, passes


@any_order
def write_curve(e: Any, z: Any, r: float, tau: float) -> None:
    """Write ``z = x d r/(d r + tau)``."""
    for i in span(e, 0, e.n):
        x, d = fmax(np.float64(e.x[i]), e.least), load(e, i)[1]
        grown = d * r
        z[i] = x * (grown / (grown + tau))


def write_zero(rows: CurvedRows, o: int) -> None:
    """Write zeros."""
    for i in range(np.uint64(o), np.uint64(o + rows.n)):
        rows.z[i] = 0.0


def solve_curves(
    rows: CurvedRows, begin: int, finish: int, request: CurvedRequest, out: GroupResults, left: Any,
    table: Any,
) -> int:  # fmt: skip
    """Solve the groups ``begin … finish - 1``, one after the other.

    Those that spread too far, or whose price does, are marked in ``left`` and left alone. Returns the first
    invalid group, or -1.
    """
    known = request.known
    for k in range(begin, finish):
        o, step, weight = k * rows.n, one_of(request.steps, k), one_of(request.weights, k)
        units = survey(rows, o, known.nonnegative)
        if not (units.valid and 0.0 < step < INF):
            return k
        found = Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
        if not units.zero:
            eta = step * weight
            price = price_of(known, eta, units)
            left[k] = not (units.fits and is_priced(price, eta, known.strength))
            if left[k]:
                continue
            least = 0.0 if known.nonnegative else -INF
            by_x, by_d = math.ldexp(1.0, -units.ex), math.ldexp(1.0, -units.ed)
            e = CurvedElements(rows.x, rows.d, o, rows.n, least, by_x, by_d)
            found = solve_curve(e, units, step, weight, price, request, table)
            if found.r > 0.0:
                write_curve(e, rows.z, found.r, found.tau)
        if found.r == 0.0:
            write_zero(rows, o)
        if request.limits.explain:
            explained(out, k, found, found.status, units.ex)
    return -1
