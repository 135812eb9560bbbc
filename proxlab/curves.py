"""The path of a group under a curved slope, and what its intervals hold, once for every target.

Along ``z(μ) = D x/(d + μ)`` the radius is ``r = ‖z‖``, and there ``F(r) = η p(r) + q(r)``, ``q(r)`` the least
``‖z - x‖²_D/2`` at the radius, has the slope ``F' = τ(r) - T(r)``: ``τ = η p'``, and ``T = μ r`` decreases
and is convex (docs: the mathematics, §9). One pass over a group at a ``μ`` gives a point of the graph of
``T``, its tangent there and ``q``. Between two such points ``T`` lies above both tangents and below the
chord, and ``τ`` is evaluated where it is wanted, without a pass. That tells of an interval of radii

* that ``F`` falls or rises on all of it, so that no minimiser is inside;
* that ``F`` is above what some point is known to cost, by the integrals of the two bounds of ``T``;
* or, where ``F`` falls at its left end and rises at its right one, between which radii the minimiser lies:
  where ``τ`` crosses the tangents, and where it crosses the chord.

An interval is judged by these steps; the loops between them are the target's::

    view = compare(sense, left, right, best, price)
    while …: near, far = nearer(sense, chord, near, far, price)  # where a slope that is convex is least
    view = without_dips(sense, view, left, right, least, price)
    plan = approach(sense, view, left, right, least)
    start, _ = … crossed(…), is_wide(…), narrow(…)                 # where τ crosses the tangents
    plan = begun(sense, plan, start, price)
    _, end = …                                                   # where it crosses the chord
    verdict = judged(sense, view, plan, end, left, right, tolerance, loose)

All errors of rounding are on the safe side, so that the solver and the certificate are one search. Written
in the operations of :mod:`proxlab.scalar`, without ``if`` on what differs between groups.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from proxlab.bounds import UNIT, rounding
from proxlab.choose import CONVERGED, MAX_ITERATIONS, TIE, UNSHRUNK, ZERO, Answer
from proxlab.scalar import INF, fabs, filled, fmax, fmin, no, sqrt, where
from proxlab.types import Array

__all__ = [
    "CHORD_SHARE",
    "LEAST_STEPS",
    "LOOSE",
    "MAX_EVALUATIONS",
    "MAX_STEPS",
    "OWN_ROUNDINGS",
    "SMALLEST",
    "TANGENT_SHARE",
    "UNDERFLOW",
    "Approach",
    "Best",
    "Bracket",
    "Ends",
    "Held",
    "Line",
    "Price",
    "Sense",
    "Verdict",
    "View",
    "along",
    "approach",
    "begun",
    "cheapest",
    "compare",
    "cost",
    "cost_next_to",
    "crossed",
    "dearest",
    "errors",
    "is_wide",
    "judged",
    "least_at",
    "middle",
    "most_passes",
    "narrow",
    "near_zero",
    "nearer",
    "none_yet",
    "offer",
    "on_curve",
    "origin",
    "polished",
    "same_share",
    "settle",
    "start_at",
    "visited",
    "within",
    "without_dips",
]

#: Roundings that a slope, a curvature and a value are good for.
OWN_ROUNDINGS = 64
#: What a slope or a value may lose to underflow, in scaled units.
UNDERFLOW = 2.0**-350
#: Width of an enclosure, relatively, within which one crossing of tangents may be all that is wanted.
LOOSE = 2.0**-26
#: Radii below this share of ``max|x|`` are not resolved.
SMALLEST = 2.0**-900
#: Evaluations of a group, at most; how many more iterations a slope has of which only its sense is known.
MAX_EVALUATIONS, PATIENCE = 400, 4
#: Scalar steps of a root on one interval; those that may be Newton's; halvings where only a rough place is
#: wanted.
MAX_STEPS, NEWTON_STEPS, LEAST_STEPS = 80, 20, 20


#: How near to where a tangent crosses the slope is looked for, and to where a chord does, in shares of the
#: distance.
TANGENT_SHARE, CHORD_SHARE = 2.0**-24, 2.0**-6


class Ends(NamedTuple):
    """One end of intervals: arrays of one shape.

    ``r, t, kappa, q`` belong to a point of the path: its radius, ``T`` and ``-T'`` there, and ``q``. ``at``
    is where the interval ends, which may be inside; ``tau, turn, value`` are ``τ``, ``τ'`` and ``η p``
    there, and ``sign`` is that of ``F'``, 0 where rounding hides it.
    """

    r: Array
    t: Array
    kappa: Array
    q: Array
    at: Array
    tau: Array
    turn: Array
    value: Array
    sign: Array


class Price(NamedTuple):
    """What makes ``τ``, ``τ'`` and ``η p`` of a penalty's functions: factors, as the target has them.

    ``length`` makes a radius one of the data; slopes, curvatures and values are multiplied by the others.
    """

    length: Any
    slope: Any
    turn: Any
    value: Any


class Sense(NamedTuple):
    """What is known of a penalty and of rounding.

    Attributes
    ----------
    functions : object
        What the target evaluates ``τ``, ``τ'`` and ``η p`` by, at radii and a :class:`Price`.
    falls, bends : bool
        Whether the slope falls, and does so as a convex function.
    eps, own : float
        Relative errors: of what a pass returns, and of slopes, curvatures and values.
    """

    functions: Any
    falls: bool
    bends: bool
    eps: float
    own: float


class Line(NamedTuple):
    """A bound of ``F'``: that of ``τ``, ``weight τ(r) + lost``, less a line for ``T``.

    The line is ``t - kappa (r - start)``, less what rounding leaves open of it, a share ``eps`` of its parts.
    """

    weight: Array
    lost: Array
    start: Array
    t: Array
    kappa: Array
    eps: Array


class View(NamedTuple):
    """What two points of the path say of the interval between.

    Attributes
    ----------
    chord, on_left, on_right : Line
        A lower bound of ``F'``, by the chord, and two upper ones, by the tangents.
    cross, at_lo, at_hi, at_cross : array
        Where the tangents cross, and the upper bound at the ends and there.
    meet : array
        Where two lower bounds of ``q`` do.
    floor : array
        A lower bound of what counts of ``F``.
    dead : array of bool
        Whether no minimiser that counts is inside.
    """

    chord: Line
    on_left: Line
    on_right: Line
    cross: Array
    at_lo: Array
    at_hi: Array
    at_cross: Array
    meet: Array
    floor: Array
    dead: Array


class Approach(NamedTuple):
    """Where to look in an interval.

    Attributes
    ----------
    line : Line
        The upper bound of ``F'`` that is followed up, ``on`` which rows, between ``a`` and ``b``.
    a, b, on : array
    holds, raises : array of bool
        Whether there is a minimiser; whether it lies right of where that bound crosses zero.
    low : array
        What it lies right of.
    look, towards : array
        A radius near to it, and ``τ`` there.
    """

    line: Line
    a: Array
    b: Array
    on: Array
    holds: Array
    raises: Array
    low: Array
    look: Array
    towards: Array


class Bracket(NamedTuple):
    """Ends with ``f(a) < 0 <= f(b)`` of a bound ``f`` of ``F'``, ``f(b)``, and where that is narrowed."""

    a: Array
    b: Array
    fb: Array
    going: Array


class Verdict(NamedTuple):
    """What is known of intervals.

    ``open`` says which have to be divided, ``kept`` which are known well enough; the others hold no
    minimiser. ``floor`` is a lower bound of what counts of ``F`` there, ``low, high`` enclose the
    minimisers, and ``mu`` says where to look next.
    """

    open: Array
    kept: Array
    floor: Array
    low: Array
    high: Array
    mu: Array


class Held(NamedTuple):
    """What an interval holds, where it ``exists``: a minimiser other than zero where ``r > 0``.

    Its radius, what it costs, and its enclosure.
    """

    exists: Array
    r: Array
    objective: Array
    low: Array
    high: Array


class Best(NamedTuple):
    """The best minimiser so far.

    Attributes
    ----------
    r, objective, lower, upper : array
        Its radius, 0 for zero, what it costs, and an enclosure.
    tie : array of bool
        Whether another one is as good.
    least, most : array
        Bounds of all that may be the best.
    """

    r: Array
    objective: Array
    lower: Array
    upper: Array
    tie: Array
    least: Array
    most: Array


def most_passes(falls: bool, bends: bool, iterations: int) -> int:
    """Return how often a group is passed over at most, where a root finder may take so many iterations."""
    return min(iterations * (PATIENCE if falls and not bends else 1), MAX_EVALUATIONS)


def same_share(height: int) -> float:
    """Return the share of their sum that objectives differ by and are the same, for sums of a height."""
    return (8.0 + 2.0 * math.sqrt(height)) * UNIT


def errors(height: int) -> tuple[float, float]:
    """Return relative errors: of what a pass with sums of a height returns, and of a penalty's functions."""
    return rounding(2 * height + 80), rounding(OWN_ROUNDINGS)


# ----------------------------------------------------------------------------------------------------
# The words of a target: the penalty's functions.


def slope(functions: Any, r: Array, price: Price) -> Array:
    """Return ``τ``."""
    return functions.slope(r, price)


def turn(functions: Any, r: Array, price: Price) -> Array:
    """Return ``τ'``, ``r > 0``."""
    return functions.turn(r, price)


def value(functions: Any, r: Array, price: Price) -> Array:
    """Return ``η p``."""
    return functions.value(r, price)


# ----------------------------------------------------------------------------------------------------
# Points of the path.


def visited(
    sense: Sense, mu: Array, unit: Array, vv: Array, w: Array, wd: Array, moved: Array, price: Price
) -> Ends:  # fmt: skip
    """Return a point of the path from the sums of a pass at ``μ > 0``.

    Parameters
    ----------
    mu, unit : array
        ``μ``, and the unit of ``v``.
    vv, w, wd, moved : array
        Sums of ``v²``, of ``w = v²/(d + μ)``, of ``w d`` and of ``d (x - z)²``, where ``v = unit z``.
    """
    long = sqrt(vv)
    r, t = long / unit, long * (mu / unit)
    kappa = wd / where(w > 0, w, filled(w, 1.0))
    tau, bend, p = on_curve(sense, r, price)
    end = Ends(r, t, kappa, 0.5 * moved, r, tau, bend, p, r * 0.0)
    error = doubt_at(sense, end)
    one = filled(r, 1.0)
    sign = where(tau - t > error, one, where(t - tau > error, -one, r * 0.0))
    return Ends(r, t, kappa, 0.5 * moved, r, tau, bend, p, sign)


def on_curve(sense: Sense, r: Array, price: Price) -> tuple[Array, Array, Array]:
    """Return ``τ``, ``τ'`` and ``η p`` at radii; for 0, somewhere."""
    f, safe = sense.functions, where(r > 0, r, filled(r, 1.0))
    return slope(f, safe, price), turn(f, safe, price), value(f, safe, price)


def doubt_at(sense: Sense, end: Ends) -> Array:
    """Return what rounding leaves open about ``F'`` at the point of an end."""
    inside, zero = end.at > 0, end.r * 0.0
    tau, bend = where(inside, end.tau, zero), where(inside, end.turn, zero)
    return sense.own * tau + sense.eps * (fabs(bend) * end.r + end.t + end.kappa * end.r) + UNDERFLOW


def origin(
    sense: Sense, norm: Array, kappa: Array, q: Array, first: Array, bend: Array, margin: Array
) -> Ends:  # fmt: skip
    """Return the end at zero.

    Parameters
    ----------
    norm, kappa, q : array
        ``‖b‖``, ``-T'`` there, and ``q(0)``.
    first, bend, margin : array
        ``τ`` and ``τ'`` there, and ``f`` of the tangent at zero, whose sign is exact.
    """
    zero, one = norm * 0.0, filled(norm, 1.0)
    known = fabs(first) < INF
    # The slope at zero is what the penalty returns, for the solver; within rounding of that for a proof.
    sure = fabs(margin) * norm > sense.own * first + sense.eps * norm + UNDERFLOW
    sign = where(margin >= 0, one, -one)
    bend = where(known, bend, filled(norm, -INF))
    return Ends(zero, norm, kappa, q, zero, first, bend, zero, where(known & no(sure), zero, sign))


def start_at(sense: Sense, end: Ends, start: Array, price: Price) -> Ends:
    """Return the end at zero, moved to where the interval starts."""
    tau, bend, p = on_curve(sense, start, price)
    moved = start > 0
    return Ends(
        end.r, end.t, end.kappa, end.q, start, where(moved, tau, end.tau), where(moved, bend, end.turn),
        where(moved, p, end.value), end.sign,
    )  # fmt: skip


def within(new: Ends, left: Ends, right: Ends) -> Ends:
    """Return a new point as an end of the two parts of an interval, whose ends may lie inside."""
    early, late = new.r <= left.at, new.r >= right.at
    return Ends(
        new.r, new.t, new.kappa, new.q,
        where(early, left.at, where(late, right.at, new.at)),
        where(early, left.tau, where(late, right.tau, new.tau)),
        where(early, left.turn, where(late, right.turn, new.turn)),
        where(early, left.value, where(late, right.value, new.value)),
        where(early, left.sign, where(late, right.sign, new.sign)),
    )  # fmt: skip


def cost(sense: Sense, end: Ends) -> Array:
    """Return what a point costs at most."""
    most = end.value * (1.0 + sense.own) + UNDERFLOW + end.q + sense.eps * end.r * end.tau
    return most * (1.0 + 2.0 * sense.eps)


def cost_next_to(end: Ends, r: Array) -> Array:
    """Return ``F`` at a radius next to that of a point, up to the third power of how far it is."""
    off, bend = r - end.r, end.turn + end.kappa
    bend = where(fabs(bend) < INF, bend, off * 0.0)
    return end.value + end.q + off * ((end.tau - end.t) + 0.5 * off * bend)


def dearest(sense: Sense, first: Ends, last: Ends) -> Array:
    """Return what the better one of zero and the point itself costs at most."""
    return fmin(first.q, last.value * (1.0 + sense.own) + UNDERFLOW) * (1.0 + 2.0 * sense.eps)


def polished(end: Ends, low: Array, high: Array) -> Array:
    """Return the root of ``F'`` between two radii without bounds of rounding: a step of Newton's."""
    bend = end.turn + end.kappa
    r = end.r + (end.t - end.tau) / where(bend > 0, bend, filled(bend, 1.0))
    r = where((bend > 0) & (fabs(r) < INF), r, 0.5 * (low + high))
    return fmin(fmax(r, low), high)


# ----------------------------------------------------------------------------------------------------
# Bounds on an interval.


def line_at(line: Line, r: Array) -> Array:
    """Return what a line says of ``T``."""
    off = r - line.start
    share = line.eps * (line.t + line.kappa * (fabs(off) + line.start))
    return line.t - line.kappa * off - share


def along(sense: Sense, line: Line, r: Array, price: Price) -> Array:
    """Return a bound of ``F'`` at radii."""
    return slope(sense.functions, r, price) * line.weight + line.lost - line_at(line, r)


def tangent(sense: Sense, end: Ends) -> Line:
    """Return the upper bound by the tangent at an end."""
    zero, one = end.r * 0.0, filled(end.r, 1.0)
    return Line(one + sense.own, zero + UNDERFLOW, end.r, end.t, end.kappa, one * sense.eps)


def by_right(sense: Sense, right: Ends, r: Array) -> Array:
    """Return a lower bound of ``q`` by the tangent at the right end."""
    h = right.r - r
    q = right.q + right.t * h + 0.5 * right.kappa * h * h
    return q - 4.0 * sense.eps * (q + (right.t + right.kappa * fabs(h)) * right.r)


def by_left(sense: Sense, left: Ends, chord: Array, r: Array) -> Array:
    """Return a lower bound of ``q`` by the chord from the left end."""
    h = r - left.r
    taken = left.t * h - 0.5 * chord * h * h
    return left.q - taken - 4.0 * sense.eps * (left.q + left.t * (h + left.r))


def lowest(fall: Array, bend: Array, width: Array) -> Array:
    """Return where ``fall h + bend h²/2`` is least, up to a width."""
    bent = bend > 0
    h = where(bent, -fall / where(bent, bend, filled(bend, 1.0)), where(fall < 0, width, width * 0.0))
    return fmin(fmax(h, width * 0.0), width)


def meeting(left: Ends, right: Ends, chord: Array) -> Array:
    """Return about where the two lower bounds of ``q`` meet, that from the right rising past the other."""
    lo, hi, one = left.at, right.at, filled(left.at, 1.0)
    w = right.r - left.r
    c0 = right.q + right.t * w + 0.5 * right.kappa * w * w - left.q
    c1 = left.t - right.t - right.kappa * w
    c2 = 0.5 * (right.kappa - chord)
    under = c1 * c1 - 4.0 * c2 * c0
    divisor = c1 + sqrt(where(under > 0, under, w * 0.0))
    r = left.r - 2.0 * c0 / where(divisor > 0, divisor, one)
    r = where((divisor > 0) & (r > lo) & (r < hi), r, 0.5 * (lo + hi))
    return fmin(fmax(r, lo), hi)


def compare(sense: Sense, left: Ends, right: Ends, best: Array, price: Price) -> View:
    """Say what two points of the path tell of the interval between; some point costs ``best`` at most."""
    eps, own, f = sense.eps, sense.own, sense.functions
    lo, hi = left.at, right.at
    zero, one = lo * 0.0, filled(lo, 1.0)
    width = right.r - left.r
    chord = where(width > 0, (left.t - right.t) / where(width > 0, width, one), zero)
    slack = eps * (left.t + right.t + chord * (left.r + right.r))
    chordal = Line(one - own, -UNDERFLOW - slack, left.r, left.t, chord, zero)
    on_left, on_right = tangent(sense, left), tangent(sense, right)

    gap = left.kappa - right.kappa
    drop = left.t + left.kappa * left.r - right.t - right.kappa * right.r
    cross = where(gap > 0, drop / where(gap > 0, gap, one), 0.5 * (lo + hi))
    cross = fmin(fmax(where(fabs(cross) < INF, cross, lo), lo), hi)
    price_there = slope(f, cross, price) * (one + own) + UNDERFLOW
    at_cross = price_there - fmin(line_at(on_left, cross), line_at(on_right, cross))
    at_lo, at_hi = along(sense, on_left, lo, price), along(sense, on_right, hi, price)

    empty = hi <= lo
    if sense.bends:
        falls = (at_lo < 0) & (at_hi < 0) & (at_cross < 0)
        # A curvature beyond the range, of a slope within it, says nothing.
        bows = (right.turn > -INF) & (right.turn * (1.0 - own) + left.kappa * (1.0 + eps) < 0)
        dead = empty | falls | bows
    elif sense.falls:
        rises = right.tau * (1.0 - own) - UNDERFLOW > left.t - chord * (lo - left.r) + slack
        falls = left.tau * (1.0 + own) + UNDERFLOW < line_at(on_right, hi)
        dead = empty | rises | falls
    else:
        dead = empty | (along(sense, chordal, lo, price) > 0) | (at_hi < 0)

    # A convex p lies above its tangent, another one above its chord.
    mean = where(empty, zero, (right.value - left.value) / where(empty, one, hi - lo))
    if not sense.falls:
        mean = left.tau
    steep = where(lo > 0, left.tau * lo, zero) + right.tau * hi
    slip = own * (left.value + right.value) + eps * steep + UNDERFLOW
    # Linear and a quadratic, by either bound of q.
    h = lowest(mean - right.t - right.kappa * (right.r - lo), right.kappa, hi - lo)
    least_right = left.value + mean * h + by_right(sense, right, lo + h) - slip
    h = lowest(mean - left.t + chord * (lo - left.r), chord, hi - lo)
    least_left = left.value + mean * h + by_left(sense, left, chord, lo + h) - slip
    floor = fmax(least_right, least_left)
    meet = meeting(left, right, chord)
    if sense.bends:
        # Where F still falls at the right end, both bounds are least at an end of each part.
        low_there = fmax(by_left(sense, left, chord, meet), by_right(sense, right, meet))
        here = value(f, meet, price) * (1.0 - own) + low_there - slip
        first = left.value * (1.0 - own) + by_left(sense, left, chord, lo) - slip
        sharp = fmin(here, where(left.sign > 0, filled(lo, INF), first))
        ends = (right.sign < 0) & (right.at == right.r)
        floor = fmax(floor, where(ends, sharp, filled(lo, -INF)))
    sound = (least_right == least_right) & (least_left == least_left) & (floor == floor)
    floor = where(sound, floor, filled(lo, -INF))
    return View(
        chordal, on_left, on_right, cross, at_lo, at_hi, at_cross, meet, floor, dead | (floor > best)
    )  # fmt: skip


def steepens(sense: Sense, chord: Array, r: Array, price: Price) -> Array:
    """Return how fast ``τ`` rises against a chord that falls by so much."""
    return turn(sense.functions, where(r > 0, r, filled(r, 1.0)), price) + chord


def nearer(sense: Sense, chord: Array, near: Array, far: Array, price: Price) -> tuple[Array, Array]:
    """Halve an interval around where a convex ``τ`` is least against the chord, where ``τ' = -chord``."""
    half = middle(near, far)
    before = steepens(sense, chord, half, price) < 0
    return where(before, half, near), where(before, far, half)


def least_at(
    sense: Sense, chord: Array, near: Array, far: Array, lo: Array, hi: Array, price: Price
) -> Array:  # fmt: skip
    """Return about where that is, after halvings; else an end."""
    first = (lo > 0) & (steepens(sense, chord, lo, price) >= 0)
    last = steepens(sense, chord, hi, price) <= 0
    return where(first, lo, where(last, hi, middle(near, far)))


def without_dips(sense: Sense, view: View, left: Ends, right: Ends, least: Array, price: Price) -> View:
    """Say whether a convex ``τ`` is above the chord, by its tangent about where it is least against it."""
    lo, hi, chord = left.at, right.at, view.chord.kappa
    there = turn(sense.functions, where(least > 0, least, filled(lo, 1.0)), price)
    there = where(least > 0, there, left.turn)
    tilt, doubt = there + chord, sense.own * (fabs(there) + chord)
    none = least * 0.0
    dip = fmax(tilt + doubt, none) * (least - lo) + fmax(doubt - tilt, none) * (hi - least)
    dead = view.dead | (along(sense, view.chord, least, price) - dip > 0)
    return View(
        view.chord, view.on_left, view.on_right, view.cross, view.at_lo, view.at_hi, view.at_cross,
        view.meet, view.floor, dead,
    )  # fmt: skip


def approach(sense: Sense, view: View, left: Ends, right: Ends, least: Array) -> Approach:
    """Say which bound of ``F'`` leads to a minimiser, or towards where it may be."""
    lo, hi, chord, alive = left.at, right.at, view.chord.kappa, no(view.dead)
    holds = alive & (left.sign <= 0) & (right.sign >= 0)
    look = where((left.sign > 0) & (right.sign > 0), least, view.meet)
    below = fmax(left.t - left.kappa * (look - left.r), right.t + right.kappa * (right.r - look))
    towards = 0.5 * (left.t - chord * (look - left.r)) + 0.5 * below
    raises = holds & (view.at_lo < 0)
    if sense.bends or not sense.falls:
        first = view.at_cross < 0
        a, b = where(first, view.cross, lo), where(first, hi, view.cross)
        old, new = view.on_left, view.on_right
        line = Line(
            old.weight, old.lost, where(first, new.start, old.start), where(first, new.t, old.t),
            where(first, new.kappa, old.kappa), old.eps,
        )  # fmt: skip
        # Elsewhere, where the tangents say that F falls.
        on = raises | (alive & no(holds) & first & (right.sign > 0))
        return Approach(line, a, b, on, holds, raises, lo, look, towards)
    # Without a proof, where the tangent on the left says that it is.
    never = lo < 0
    return Approach(view.on_left, lo, hi, raises, holds, never, lo, look, towards)


def begun(sense: Sense, plan: Approach, hi: Array, start: Array, price: Price) -> Approach:
    """Take in where the bound crosses zero; ``hi`` is where the interval ends."""
    found = plan.on & (start > plan.low)
    if not (sense.bends or not sense.falls):
        found = found & (start < hi)
    there = slope(sense.functions, where(found, start, filled(hi, 1.0)), price)
    return Approach(
        plan.line, plan.a, plan.b, plan.on, plan.holds, plan.raises,
        where(plan.raises, start, plan.low), where(found, start, plan.look),
        where(found, there, plan.towards),
    )  # fmt: skip


def judged(
    sense: Sense, view: View, plan: Approach, high: Array, left: Ends, right: Ends, tolerance: Array,
    loose: Array,
) -> Verdict:  # fmt: skip
    """Say what is known of an interval whose minimiser, if there is one, lies between ``plan.low, high``.

    Parameters
    ----------
    tolerance, loose : array
        Relative error of the middle, and width, at which an enclosure of a minimiser is good enough.
    """
    lo, hi, one = left.at, right.at, filled(left.at, 1.0)
    width, wide = right.r - left.r, high - plan.low
    good = plan.holds & (wide <= fmax(tolerance, loose) * high)
    if sense.bends or not sense.falls:
        # How far the crossing of the tangents may be off, of how far that of the chord is.
        off = where(view.at_cross < 0, right.r - plan.low, plan.low - left.r) / where(width > 0, width, one)
        good = good & (wide * fmin(off, one) <= tolerance * high)
    # Where F' stays within rounding, there is nothing to find.
    bend = fmax(fabs(left.turn + right.kappa), fabs(right.turn + left.kappa))
    doubt = fmin(doubt_at(sense, left), doubt_at(sense, right))
    alive = no(view.dead)
    flat = (bend < INF) & (bend * wide <= 8.0 * doubt)
    kept = alive & (good | flat | (hi - lo <= 16.0 * UNIT * hi))
    # A look at an end, but for rounding, would be one at nothing: half way is the next.
    look, least = plan.look, 64.0 * sense.eps * hi
    new = (look - lo > least) & (hi - look > least)
    mu = where(new, plan.towards / where(look > 0, look, one), -one)
    mu = mu_between(mu, left, right)
    return Verdict(alive & no(kept), kept, view.floor, plan.low, high, mu)


def mu_between(mu: Array, left: Ends, right: Ends) -> Array:
    """Return a ``μ`` that lies strictly between those of two ends."""
    one = filled(mu, 1.0)
    most = where(left.r > 0, left.t / where(left.r > 0, left.r, one), filled(mu, INF))
    least = right.t / where(right.r > 0, right.r, one)
    # In the middle of the radii, as if T were its chord.
    half = 0.5 * (left.t + right.t) / where(right.r > 0, 0.5 * (left.r + right.r), one)
    return where((mu > least) & (mu < most), mu, where(half > 0, half, one))


def middle(a: Array, b: Array) -> Array:
    """Halve intervals, in the exponent while the ends are far apart."""
    root = sqrt(fmax(a, filled(a, SMALLEST))) * sqrt(b)
    return where((b > 4.0 * a) & (root > a) & (root < b), root, a + 0.5 * (b - a))


# ----------------------------------------------------------------------------------------------------
# Where a bound of F' crosses zero: Newton's method from the right, where a convex bound keeps it, and from
# the left what it comes to next.


def crossed(sense: Sense, line: Line, a: Array, b: Array, price: Price) -> Bracket:
    """Return the bracket of the crossing of a bound between two radii, where there is one."""
    fb = along(sense, line, b, price)
    start = where(a > 0, a, filled(a, SMALLEST))
    fa = along(sense, line, start, price)
    going = (fa < 0) & (fb >= 0)
    # Newton's method from the left, where it is convex, goes beyond it.
    rise = turn(sense.functions, start, price) + line.kappa
    spot = start - fa / where(rise > 0, rise, filled(a, 1.0))
    use = going & (rise > 0) & (spot > start) & (spot < b)
    spot = where(use, spot, b)
    there = along(sense, line, spot, price)
    left, right = use & (there < 0), use & (there >= 0)
    # Where the bound is negative all along, nothing is beyond.
    never = where((fa < 0) & (fb < 0), b, a)
    return Bracket(where(left, spot, never), where(right, spot, b), where(right, there, fb), going)


def is_wide(bracket: Bracket, base: Array, share: float) -> Array:
    """Return whether a bracket is wider than a share of its distance to ``base``."""
    a, b = bracket.a, bracket.b
    return bracket.going & (b - a > fmax(4.0 * UNIT * b, share * fabs(b - base)))


def narrow(sense: Sense, bracket: Bracket, line: Line, done: int, price: Price) -> Bracket:
    """Narrow a bracket where it is ``going``; ``done`` steps are made."""
    a, b, fb, going = bracket.a, bracket.b, bracket.fb, bracket.going
    f, one = sense.functions, filled(a, 1.0)
    rise = turn(f, b, price) + line.kappa
    ahead = b - fb / where(rise > 0, rise, one)
    # Rounding may put it next to a, or a next to the root.
    use = (rise > 0) & (ahead > a - 8.0 * UNIT * b) & (ahead < b) & (done < NEWTON_STEPS)
    spot = where(going, where(use, fmax(ahead, a + 3.0 * UNIT * b), middle(a, b)), one)
    there = along(sense, line, spot, price)
    right = going & (there >= 0)
    a, b, fb = where(going & no(right), spot, a), where(right, spot, b), where(right, there, fb)
    # A little left of where Newton's method goes from there, but for the slope, which is hardly another one.
    spot = b - 2.0 * (fb / where(rise > 0, rise, one)) - 2.0 * UNIT * b
    use = going & (rise > 0) & (spot > a) & (spot < b)
    spot = where(use, spot, one)
    there = along(sense, line, spot, price)
    right = use & (there >= 0)
    return Bracket(where(use & (there < 0), spot, a), where(right, spot, b), where(right, there, fb), going)


# ----------------------------------------------------------------------------------------------------
# The best of what a search leaves. The candidates of proxlab.choose come by length, each on a piece of its
# own; intervals come in any order, and what two that touch enclose is one minimiser.


def none_yet(rests: Array, active: Array, q: Array, reach: Array) -> Best:
    """Return the best before any interval: zero, where it ``rests``, at the cost ``q``."""
    zero, never = reach * 0.0, reach < 0
    rests = rests & active
    objective = where(active & no(rests), filled(reach, INF), q)
    return Best(zero, objective, zero, zero, never, where(rests, zero, reach), zero)


def near_zero(first: Ends, excess: Array) -> Array:
    """Return the zero of the tangent at zero, where ``‖b‖`` exceeds the slope by so much."""
    bend = first.kappa + first.turn
    return excess / where(bend > 0, bend, excess + 1.0)


def cheapest(rests: Array, near: Array, polish: Array, low: Array, high: Array) -> Array:
    """Return the radius that stands for an interval: polished, if it does not begin at zero.

    Next to zero where it is the limit of rounding that is the zero of the tangent there, or zero itself.
    """
    return where(low > 0, polish, where(rests, low * 0.0, fmin(near, high)))


def offer(sense: Sense, best: Best, held: Held, rests: Array, share: float) -> Best:
    """Compare the minimiser of an interval, where there is one, with the best so far.

    Parameters
    ----------
    rests : array of bool
        Whether zero is a local minimiser.
    share : float
        Objectives that differ by less than this share of their sum are the same.
    """
    exists, r, objective, low, high = held
    upper = where(exists & rests & (low == 0) & (best.r == 0), fmax(best.upper, high), best.upper)
    least = where(exists, fmin(best.least, low), best.least)
    most = where(exists, fmax(best.most, high), best.most)
    exists = exists & (r > 0)
    # What two intervals that touch enclose is one.
    slack = 1.0 + 64.0 * sense.eps
    touches = exists & (best.r > 0) & (low <= upper * slack) & (high * slack >= best.lower)
    both = exists & (fabs(best.objective) < INF)
    apart = where(both, objective - best.objective, filled(r, 1.0))
    total = where(both, objective + best.objective, r * 0.0)
    same = both & no(touches) & (fabs(apart) <= share * total)
    wins = exists & ((same & (r < best.r)) | (no(same) & (objective < best.objective)))
    union = touches | same
    lower = where(union, fmin(best.lower, low), where(wins, low, best.lower))
    upper = where(union, fmax(upper, high), where(wins, high, upper))
    tie = (best.tie & no(wins & no(union))) | same
    return Best(
        where(wins, r, best.r), where(wins, objective, best.objective), lower, upper, tie, least, most
    )  # fmt: skip


def settle(best: Best, tau: Array, lost: Array, none: Array, widen: float) -> Answer:
    """Return the answer; what is ``lost`` has the bounds of all that may be. ``none`` is a zero count."""
    r, inside = best.r, best.r > 0
    tau = where(inside, tau, filled(tau, 1.0))
    status = where(inside, filled(none, CONVERGED), filled(none, ZERO))
    status = where(inside & (tau == 0), filled(none, UNSHRUNK), status)
    status = where(best.tie, filled(none, TIE), status)
    status = where(lost, filled(none, MAX_ITERATIONS), status)
    lower, upper = where(lost, best.least, best.lower), where(lost, best.most, best.upper)
    return Answer(r, tau, fmin(lower / widen, r), fmax(upper * widen, r), status)
