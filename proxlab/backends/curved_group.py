"""One group under a curved slope, compiled: passes over its elements, the intervals, and the best of them.

Plain Python, rebuilt by :mod:`proxlab.backends.numba_curved`. What an interval holds is judged in
:mod:`proxlab.curves`; the vectorised form in :mod:`proxlab.backends.curved_search` is the specification.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from typing import Any, NamedTuple

from proxlab.backends.kernel_records import Elements, Found, Scale
from proxlab.backends.kernels import one_of
from proxlab.backends.one_group import explained
from proxlab.backends.records import GroupResults
from proxlab.backends.sums import FIRST, exponent, sum_moved, sum_near, sum_path, sum_start, zero_margin
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
    crossed,
    dearest,
    is_wide,
    judged,
    least_at,
    middle,
    narrow,
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
from proxlab.powers import PRODUCT_HIGH, PRODUCT_LOW
from proxlab.scalar import INF, fabs, fmax, fmin, sqrt

__all__ = [
    "COLUMNS",
    "CurvedRequest",
    "CurvedRoom",
    "CurvedRows",
    "Functions",
    "KnownCurve",
    "Precision",
    "solve_curves",
]

#: Elements and metric of a group, in its units, lie within so many powers of two; others are left alone, as
#: are groups whose prices are not within the other.
NEAR, PRICED = 2.0**150, 2.0**400
#: A slope at zero within which and its inverse it may be compared beyond rounding.
PRECISE = 2.0**200
#: Where the numbers of an interval are in its row: those of its ends, and of what is known of it.
AT_RIGHT = len(Ends._fields)
AT_OPEN, AT_KEPT, AT_FLOOR, AT_LOW, AT_HIGH, AT_MU = range(2 * AT_RIGHT, 2 * AT_RIGHT + len(Verdict._fields))
COLUMNS = AT_MU + 1


class CurvedRows(NamedTuple):
    """Groups of ``n`` elements one after the other: point, metric and result."""

    x: Any
    d: Any
    z: Any
    n: int


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


class CurvedRoom(NamedTuple):
    """Room for the elements of a group that are not zero, and for a row for each interval."""

    x: Any
    d: Any
    read_x: Any
    read_d: Any
    table: Any


class CurvedGroup(NamedTuple):
    """A group in its units: its elements, which are ``strip`` by ``strip``, and the penalty's price."""

    e: Elements
    strip: int
    sense: Sense
    price: Price


class Taken(NamedTuple):
    """How many elements are not zero, the units of ``x`` and ``d``, and whether all is in range."""

    size: int
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


# ----------------------------------------------------------------------------------------------------
# Passes: strips of elements first, so that rounding grows with the root of their number.


def part_of(e: Elements, first: int, strip: int) -> Elements:
    """Return a strip of the elements."""
    return Elements(e.x, e.d, e.o + first, min(strip, e.n - first))


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


def cost_at(g: CurvedGroup, r: float) -> float:
    """Return ``F`` at the point of the path that a radius ``r > 0`` and its ``τ`` name."""
    tau = slope(g.sense.functions, r, g.price)
    moved, kept = 0.0, 0.0
    for first in range(0, g.e.n, g.strip):
        m, k = sum_moved(part_of(g.e, first, g.strip), r, tau)
        moved += m
        kept += k
    return value(g.sense.functions, sqrt(kept), g.price) + 0.5 * moved


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
    if sense.bends and not view.dead:
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
    if slope(sense.functions, hi, price) >= level:
        return hi
    for _ in range(LEAST_STEPS):
        half = middle(lo, hi)
        if slope(sense.functions, half, price) >= level:
            lo = half
        else:
            hi = half
    return lo


def divide(
    g: CurvedGroup, first: Ends, whole: Ends, tolerance: float, loose: float, most: int, table: Any
) -> Divided:
    """Divide the radii, at most so often, until what is left is known well enough: intervals in ``table``."""
    sense, price = g.sense, g.price
    first = start_at(sense, first, resting(sense, first, whole, price), price)
    best = dearest(sense, first, whole)
    put(table, 0, first, whole, judge(sense, first, whole, best, tolerance, loose, price))
    count, lost, evaluations = 1, True, 0
    for _ in range(most):
        k = widest(table, count, best)
        if k < 0:
            lost = False
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


def take(rows: CurvedRows, o: int, nonnegative: bool, room: CurvedRoom) -> Taken:
    """Copy the elements of a group that are not zero, their sizes, in units in which rounding is small."""
    n = rows.n
    reach, small, low, high, product, valid = 0.0, INF, INF, 0.0, 0.0, 0.0
    for i in range(n):
        x, d = rows.x[o + i], rows.d[o + i]
        valid += 0.0 * x + 0.0 * d
        size = fabs(x) if x > 0.0 or not nonnegative else 0.0
        if size > 0.0:
            reach, small = fmax(size, reach), fmin(size, small)
            low, high, product = fmin(d, low), fmax(d, high), fmax(size * d, product)
    if reach == 0.0 and valid == 0.0:
        return Taken(0, 0, 0, True)
    if not (valid == 0.0 and 1.0 / PRICED < reach < PRICED and PRODUCT_LOW < product < PRODUCT_HIGH):
        return Taken(0, 0, 0, False)
    ex = exponent(reach)
    ed = exponent(product) - ex
    unit = math.ldexp(1.0, -ed)
    if not (small * NEAR >= reach and low * NEAR * unit >= 1.0 and high * unit <= NEAR and low > 0.0):
        return Taken(0, 0, 0, False)
    count, scale = 0, math.ldexp(1.0, -ex)
    for i in range(n):
        x = rows.x[o + i]
        if x > 0.0 or (x < 0.0 and not nonnegative):
            room.x[count] = fabs(x) * scale
            room.d[count] = rows.d[o + i] * unit
            count += 1
    return Taken(count, ex, ed, True)


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


def price_of(known: KnownCurve, eta: float, taken: Taken) -> Price:
    """Return a penalty's price for a group, ``eta`` its step times its weight."""
    strength, ex, ed = eta * known.strength, taken.ex, taken.ed
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
        part = part_of(g.e, first, g.strip)
        start, (b, a) = sum_start(part), sum_near(part)
        bb += start.bb
        bbd += start.bbd
        xx += start.xx
        bx += b
        across += a
    return bb, bbd, xx, bx, across


def solve_curve(
    rows: CurvedRows, o: int, step: float, weight: float, request: CurvedRequest, room: CurvedRoom
) -> Any:
    """Solve the group that begins at ``o``; returns it, and its units, which say whether it was solved."""
    known, precision, limits = request.known, request.precision, request.limits
    none = Found(0.0, 1.0, 0.0, 0.0, ZERO, 0, 0)
    taken = take(rows, o, known.nonnegative, room)
    if not taken.fits or taken.size == 0:
        return none, taken
    price = price_of(known, step * weight, taken)
    if not is_priced(price, step * weight, known.strength):
        return none, Taken(taken.size, taken.ex, taken.ed, False)
    sense = Sense(known.functions, known.falls, known.bends, precision.eps, precision.own)
    e = Elements(room.read_x, room.read_d, FIRST, taken.size)
    g = CurvedGroup(e, precision.strip, sense, price)
    bb, bbd, xx, bx, across = end_sums(g)
    norm, reach = sqrt(bb), sqrt(xx)
    tau = slope(known.functions, 0.0, price)
    margin = margin_at_zero(g, known, bb, norm, tau, Scale(step, weight, taken.ex, taken.ed), rows.n)
    first = origin(sense, norm, bbd / bb, 0.5 * bx, tau, turn(known.functions, 0.0, price), margin)
    tau, bend, p = on_curve(sense, reach, price)
    whole = Ends(reach, 0.0, xx / across, 0.0, reach, tau, bend, p, 1.0)
    tolerance = fmax(limits.rtol + math.ldexp(limits.atol, -taken.ex) / reach, 8.0 * UNIT)
    left = divide(g, first, whole, tolerance, fmax(tolerance, LOOSE), limits.most, room.table)
    rests, near = margin >= 0.0, near_zero(first, fmax(-margin * norm, 0.0))
    best = none_yet(rests, True, first.q, reach)
    best = choose_best(g, best, left, room.table, near, rests, precision.share)
    tau = slope(known.functions, best.r if best.r > 0.0 else 1.0, price)
    answer, count = settle(best, tau, left.lost, ZERO, precision.widen), left.evaluations
    return Found(answer.r, answer.tau, answer.lower, answer.upper, answer.status, count, count), taken


def near_zero(first: Ends, excess: float) -> float:
    """Return the zero of the tangent at zero, where ``‖b‖`` exceeds the slope by so much."""
    bend = first.kappa + first.turn
    return excess / (bend if bend > 0.0 else excess + 1.0)


def choose_best(
    g: CurvedGroup, best: Best, left: Divided, table: Any, near: float, rests: bool, share: float
) -> Best:
    """Compare what the intervals that are left hold."""
    for k in range(left.intervals):
        if (table[k, AT_OPEN] > 0.0 or table[k, AT_KEPT] > 0.0) and table[k, AT_FLOOR] <= left.best:
            low, high, polish = table[k, AT_LOW], table[k, AT_HIGH], 0.0
            if low > 0.0:
                mu = slope(g.sense.functions, low, g.price) / low
                polish = polished(visit(g, mu), low, high)
            r = cheapest(rests, near, polish, low, high)
            objective = cost_at(g, r) if r > 0.0 else INF
            best = offer(g.sense, best, Held(True, r, objective, low, high), rests, share)
    return best


def write_curve(rows: CurvedRows, o: int, nonnegative: bool, r: float, tau: float, unit: float) -> None:
    """Write ``z = x d r/(d r + tau)``, the metric in a unit."""
    for i in range(rows.n):
        x, z = rows.x[o + i], 0.0
        if r > 0.0 and (x > 0.0 or (x < 0.0 and not nonnegative)):
            grown = rows.d[o + i] * unit * r
            z = x * (grown / (grown + tau))
        rows.z[o + i] = z


def solve_curves(
    rows: CurvedRows,
    begins: int,
    ends: int,
    request: CurvedRequest,
    out: GroupResults,
    left: Any,
    room: CurvedRoom,
) -> int:
    """Solve the groups ``begins … ends - 1``, one after the other.

    Those that spread too far, or whose price does, are marked in ``left`` and left alone. Returns -1.
    """
    nonnegative = request.known.nonnegative
    for k in range(begins, ends):
        found, taken = solve_curve(
            rows, k * rows.n, one_of(request.steps, k), one_of(request.weights, k), request, room
        )
        left[k] = not taken.fits
        if taken.fits:
            write_curve(rows, k * rows.n, nonnegative, found.r, found.tau, math.ldexp(1.0, -taken.ed))
            explained(out, k, found, found.status, taken.ex)
    return -1
