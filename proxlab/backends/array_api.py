"""The vectorised form over any array namespace: the specification that compiled kernels are tested against.

Groups are rows of a matrix; every step acts on all rows at once, in float64, on data scaled by powers of two
(exact) so that squares stay in range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat

from proxlab import bounds, secular
from proxlab.backends.build import over_arrays
from proxlab.bounds import ROUNDING, UNIT, rounding
from proxlab.double_double import MARGIN_UNIT, square, two_product, two_sum
from proxlab.groups import Array
from proxlab.penalties.base import Piece
from proxlab.powers import (
    coefficient,
    downwards,
    exponent,
    factors,
    quotient,
    times_power,
    upwards,
)
from proxlab.rootfinders import RootFinder, Status
from proxlab.secular import NEGLIGIBLE, RIVAL_RTOL

__all__ = ["RowSolution", "linf_rows", "radial_rows", "shrink"]

#: Coefficients of an equation of scale 1 mean the same beyond this; so do metrics, where the element is zero.
MOST = 2.0**900
#: Exponents of the metric, in units of the group, between which every element counts as it should.
APART_LOW, APART_HIGH = -900.0, 800.0
#: The exponent of a product ``d r`` at a root that loses nothing is greater.
FAINT = -900.0
#: The exponent of where a piece begins, in units of the group, that squares stay in range at is greater.
START_LOW = -400.0


@dataclass
class RowSolution:
    """The solution of every row; see :class:`proxlab.prox.Solution`. Rows ``apart`` have none, since they
    spread too far.
    """

    z: Array
    radius: Array
    lower: Array
    upper: Array
    status: Array
    iterations: Array
    evaluations: Array
    apart: Array


def shrink(xp: Any, x: Array, step: Array, d: Array, threshold: float, nonnegative: bool) -> Array:
    """Apply the elementwise part: ``sign(x) max(|x| - step·threshold/d, 0)``, at least 0 if asked."""
    if threshold > 0:
        size = xp.abs(x) - quotient(xp, step, threshold, d)
        x = xp.where(size > 0, xp.sign(x) * size, xp.zeros_like(x))
    if nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
    return x


def row_max(xp: Any, rows: Array) -> Array:
    """Return the largest element of each row; 0 for rows without elements."""
    return xp.max(rows, axis=1) if rows.shape[1] else xp.sum(rows, axis=1)


# ----------------------------------------------------------------------------------------------------
# The zero test, exact to far below rounding: sums in double-double arithmetic.


def zero_margin(xp: Any, x: Array, d: Array, strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖² - (strength·Π factors)²`` per row, to about twice the working precision."""
    h, e = _sum(*square(*two_product(x, d)))
    ph, pl = square(*_product(strength, factors))
    s, t = two_sum(h, -ph)
    return s + (t + (e - pl))


def linf_margin(xp: Any, x: Array, d: Array, strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖₁ - strength·Π factors`` per row, to about twice the working precision."""
    h, e = _sum(*two_product(xp.abs(x), d))
    ph, pl = _product(strength, factors)
    s, t = two_sum(h, -ph)
    return s + (t + (e - pl))


def _sum(h: Array, e: Array) -> tuple[Array, Array]:
    """Add the double-doubles of each row, in pairs."""
    xp = array_api_compat.array_namespace(h)
    while h.shape[1] > 1:
        if h.shape[1] % 2:
            zero = xp.zeros_like(h[:, :1])
            h, e = xp.concat([h, zero], axis=1), xp.concat([e, zero], axis=1)
        half = h.shape[1] // 2
        s, t = two_sum(h[:, :half], h[:, half:])
        h, e = two_sum(s, t + e[:, :half] + e[:, half:])
    return h[:, 0], e[:, 0]


def _product(strength: Array, factors: tuple[Array, ...]) -> tuple[Array, Array]:
    high, low = strength, 0.0 * strength
    for factor in factors:
        p, q = two_product(high, factor)
        high, low = two_sum(p, q + low * factor)
    return high, low


# ----------------------------------------------------------------------------------------------------
# The driver.


@dataclass
class Equation:
    """A scalar equation per row, as the driver needs it.

    ``evaluate(r)`` returns ``(f, slope, bend, sums)``, where ``bend`` means something if the equation is
    ``smooth``, and ``f + 1`` has a relative error of at most ``delta``; ``enclose(r, sums, far)`` encloses
    the root from one evaluation; ``pace(r)`` bounds how fast a term changes, relative to itself.
    """

    evaluate: Callable[[Array], tuple[Array, Array, Array, tuple[Array, ...]]]
    enclose: Callable[[Array, tuple[Array, ...], Array], tuple[Array, Array]]
    pace: Callable[[Array], Array]
    size: int
    delta: float
    smooth: bool = True


@dataclass
class Root:
    """Result of :func:`find_root`, per row; ``unknown`` where it ended before it found one or none."""

    exists: Array
    r: Array
    lower: Array
    upper: Array
    converged: Array
    iterations: Array
    evaluations: Array
    unknown: Array


def find_root(
    xp: Any,
    finder: RootFinder,
    eq: Equation,
    floor: Array,
    at: Array,
    far: Array,
    sure: Array,
    active: Array,
    rtol: float,
    atol: Array,
    cap: Array,
) -> Root:
    """Find the up-crossing of ``f`` on ``[at, far]`` in the active rows.

    Parameters
    ----------
    floor, far : array
        Bounds of the root, if there is one, rounding included.
    at : array
        Where to start: a lower bound of the root up to rounding, so that ``f <= 0``.
    sure : array of bool
        Whether ``f(far) >= 0`` is known, so that the root exists.
    active : array of bool
        The rows to solve.
    rtol, atol, cap : float, array, array
        The tolerance of a root ``r`` is ``atol + rtol·r``, and at most ``cap·r``.
    """
    propose = over_arrays(type(finder).propose, xp)
    final_step = over_arrays(secular.final_step, xp)
    noise = (8.0 + 2.0 * math.sqrt(eq.size)) * UNIT
    nan = xp.full_like(at, math.nan)
    zero = xp.zeros_like(at)
    none = xp.zeros_like(active)
    at = xp.minimum(at, far)

    f, slope, bend, sums = eq.evaluate(at)
    evaluations = xp.astype(active, xp.int64)
    iterations = xp.zeros_like(evaluations)
    lo, f_lo, s_lo = at, f, slope
    hi, f_hi = far, nan
    exists, unknown = active, none
    if finder.needs_bracket:
        f_hi, s_hi, _, _ = eq.evaluate(far)
        evaluations = evaluations + xp.astype(active, xp.int64)
        # Where the far end lies below zero too, look for a point above zero between the zeros of the two
        # tangents.
        seeking = active & (f_hi < 0) & (f < 0) & ~sure
        for _ in range(finder.max_iterations):
            left = lo - f_lo / xp.where(s_lo > 0, s_lo, xp.ones_like(s_lo))
            right = hi - f_hi / xp.where(s_hi < 0, s_hi, -xp.ones_like(s_hi))
            lost = seeking & ((s_hi >= 0) | (s_lo <= 0) | (left >= right))
            exists = exists & ~lost
            seeking = seeking & ~lost
            if not xp.any(seeking):
                break
            mid = xp.where(seeking, 0.5 * (left + right), lo)
            f_mid, s_mid, _, _ = eq.evaluate(mid)
            evaluations = evaluations + xp.astype(seeking, xp.int64)
            to_hi = seeking & ((f_mid >= 0) | (s_mid <= 0))
            to_lo = seeking & ~to_hi
            hi, f_hi, s_hi = (xp.where(to_hi, n, o) for n, o in ((mid, hi), (f_mid, f_hi), (s_mid, s_hi)))
            lo, f_lo, s_lo = (xp.where(to_lo, n, o) for n, o in ((mid, lo), (f_mid, f_lo), (s_mid, s_lo)))
            seeking = seeking & ~(f_mid >= 0)
        exists, unknown = exists & ~seeking, seeking
        f, slope, bend, sums = eq.evaluate(lo)
    if not (eq.smooth or finder.needs_bracket):
        # Next to a kink, where it is much above zero at once.
        beyond = f >= 0
        lo, f_lo = xp.where(beyond, floor, lo), xp.where(beyond, nan, f_lo)
        hi, f_hi = xp.where(beyond, at, hi), xp.where(beyond, f, f_hi)
        r = xp.where(beyond, at, lo)
    else:
        r = lo
    best, f_best, best_sums = r, f, sums
    sure_lo, sure_hi = floor, far
    memory = [nan] * 5
    running = exists
    done = none
    for _ in range(finder.max_iterations):
        # Stop?
        tolerance = xp.maximum(xp.minimum(atol + rtol * r, cap * r), 4.0 * UNIT * r)
        if finder.needs_bracket:
            stop = (hi - lo <= tolerance) | (f == 0)
        else:
            _, error = final_step(r, f, xp.where(slope > 0, slope, xp.ones_like(slope)), bend, eq.pace(r))
            step = f / xp.where(slope > 0, slope, xp.ones_like(slope))
            lost = running & (f < 0) & ((slope <= 0) | (r - step > far)) & ~sure
            exists = exists & ~lost
            running = running & ~lost
            stop = (
                (error <= tolerance) & eq.smooth
                | (xp.abs(f) <= noise)
                | (xp.abs(step) <= 4.0 * UNIT * xp.abs(r)) & (eq.smooth | (f >= 0))
                | (hi - lo <= 8.0 * UNIT * xp.abs(r)) & (not eq.smooth)
            )
        done = done | (running & stop)
        running = running & ~stop
        if not xp.any(running):
            break
        # Propose, keep inside the bracket, evaluate.
        safe_slope = xp.where(slope == 0, xp.ones_like(slope), slope)
        try:
            new, m0, m1, m2, m3, m4 = propose(r, f, safe_slope, bend, lo, f_lo, hi, f_hi, *memory)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"root_finder: {type(finder).__name__}.propose does not run over arrays: {error}; write it "
                "without if, with the operations of proxlab.scalar, and let it return six numbers"
            ) from error
        memory = [m0, m1, m2, m3, m4]
        middle = lo + 0.5 * (hi - lo)
        if finder.needs_bracket:
            edge = xp.minimum(0.5 * tolerance, 0.25 * (hi - lo))
            new = xp.where(
                (new >= lo) & (new <= hi), xp.minimum(xp.maximum(new, lo + edge), hi - edge), middle
            )
        else:
            new = xp.where(
                new > hi, xp.where((f < 0) & (hi == far), hi, middle), xp.where(new >= lo, new, middle)
            )
            if not eq.smooth:
                # Next to a kink: a step may be next to nothing, and the root far away.
                least = xp.minimum(r * (1.0 + 4.0 * UNIT), hi)
                new = xp.where(f < 0, xp.maximum(new, least), new)
        r = xp.where(running, new, r)
        f, slope, bend, sums = eq.evaluate(r)
        iterations = iterations + xp.astype(running, xp.int64)
        evaluations = evaluations + xp.astype(running, xp.int64)
        below = running & (f < 0)
        above = running & (f >= 0)
        lo, f_lo = xp.where(below, r, lo), xp.where(below, f, f_lo)
        hi, f_hi = xp.where(above, r, hi), xp.where(above, f, f_hi)
        sure_lo = xp.where(running & (f < -2.0 * eq.delta), r, sure_lo)
        sure_hi = xp.where(running & (f > 2.0 * eq.delta), r, sure_hi)
        better = running & (xp.abs(f) <= xp.abs(f_best))
        best, f_best = xp.where(better, r, best), xp.where(better, f, f_best)
        best_sums = tuple(xp.where(better, n, o) for n, o in zip(sums, best_sums, strict=True))
    lower, upper = eq.enclose(best, best_sums, far)
    root = best
    if not finder.needs_bracket:
        f, slope, bend, _ = eq.evaluate(best)
        rising = slope > 0
        final, _ = final_step(best, f, xp.where(rising, slope, xp.ones_like(slope)), bend, zero)
        root = xp.where(done & rising, final, best)
    root = xp.minimum(xp.maximum(root, sure_lo), sure_hi)
    # Outwards by what rounding the ends costs, and the radius at which tau is exact (see bounds.ROUNDING).
    lower = xp.minimum(xp.maximum(lower, sure_lo) * (1.0 - 32.0 * UNIT), root)
    upper = xp.maximum(xp.minimum(upper, sure_hi) * (1.0 + 32.0 * UNIT), root)
    # Where the sums left the range of float64 nothing is known but the a priori bounds.
    lost = ~((lower <= root) & (root <= upper))
    root, lower, upper = (xp.where(lost, a, b) for a, b in ((at, root), (floor, lower), (far, upper)))
    done = done & ~lost
    r = xp.where(exists, root, zero)
    return Root(exists, r, lower, upper, done | ~active, iterations, evaluations, unknown)


# ----------------------------------------------------------------------------------------------------
# Radial penalties.


@dataclass
class Scaled:
    """Rows in units in which ``max|x|`` and ``max|b|`` are about 1: ``2^ex`` and ``2^ed``.

    ``apart`` tells where elements are lost that may count; ``low`` is the exponent of the least metric of an
    element that is not zero.
    """

    x: Array
    d: Array
    b: Array
    ex: Array
    ed: Array
    apart: Array
    low: Array

    def faint(self, xp: Any, r: Array, tau: Array) -> Array:
        """Return where some ``d r`` may be lost at a root."""
        return (r > 0) & (tau > 0) & (exponent(xp, r) + self.low < FAINT)


def scale(xp: Any, x: Array, d: Array, least: float = APART_LOW, most: float = APART_HIGH) -> Scaled:
    """Scale rows by powers of two.

    The metric's unit is that of the products: elements of it that meet no ``x`` may be beyond all bounds.
    Those that meet one count as they should while their exponent is between ``least`` and ``most``.
    """
    size, own = xp.abs(x), exponent(xp, d)
    ex = exponent(xp, row_max(xp, size))
    products = xp.where(size > 0, exponent(xp, size) + own, xp.full_like(size, -math.inf))
    eb = row_max(xp, products)
    ed = xp.where(xp.isfinite(eb), eb - ex, exponent(xp, row_max(xp, d)))
    off = xp.where(size > 0, own - ed[:, None], xp.zeros_like(own))
    apart = xp.any((off <= least) | (off >= most), axis=1)
    x = times_power(xp, x, -ex)
    # Where the point is zero the metric does not matter, and may be beyond all bounds.
    d = xp.where(size > 0, xp.minimum(times_power(xp, d, -ed), xp.full_like(d, MOST)), xp.ones_like(d))
    low = xp.where(size > 0, own - ed[:, None], xp.full_like(own, math.inf))
    return Scaled(x, d, x * d, ex, ed, apart, -row_max(xp, -low))


def radial_rows(
    xp: Any,
    x: Array,
    d: Array,
    step: Array,
    weight: Array,
    pieces: tuple[Piece, ...],
    finder: RootFinder,
    rtol: float,
) -> RowSolution:
    """Solve ``min_z weight·p(‖z‖) + ‖z - x‖²_D / (2 step)`` for every row: the global minimiser.

    Parameters
    ----------
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    pieces : tuple of Piece
    finder : RootFinder
    rtol : float
        Relative tolerance of the radius.
    """
    n = x.shape[1]
    zero = xp.sum(x, axis=1) * 0.0 if n == 0 else xp.zeros_like(step)
    count = xp.zeros_like(xp.astype(step, xp.int64))
    if n == 0:
        return RowSolution(x, zero, zero, zero, count + int(Status.ZERO), count, count, count > 0)
    terms, residual_ = over_arrays(secular.terms, xp), over_arrays(secular.residual, xp)
    bracket, fraction = over_arrays(bounds.bracket, xp), over_arrays(secular.shrunk_fraction, xp)
    rise = over_arrays(secular.rise, xp)
    big = xp.full_like(zero, MOST)
    p = scale(xp, x, d)

    def scaled(value: float, powers_of_x: float) -> Array:
        """Return a coefficient in scaled units; at the cap the group is zero, or the piece out of reach."""
        return coefficient(xp, step, weight, value, -(p.ed + powers_of_x * p.ex), MOST)

    bb = xp.sum(p.b * p.b, axis=1)
    bbd = xp.sum(p.b * p.b * p.d, axis=1)
    xx = xp.sum(p.x * p.x, axis=1)
    norm, reach = xp.sqrt(bb), xp.sqrt(xx)
    nonzero = bb > 0
    ones = xp.ones_like(zero)
    safe_bb, safe_norm = xp.where(nonzero, bb, ones), xp.where(nonzero, norm, ones)
    dmax = row_max(xp, p.d)

    # The zero test: F'(0+) >= 0.
    first = pieces[0]
    tau0 = scaled(first.a, 1.0)
    f0 = (tau0 - safe_norm) / safe_norm
    # Relative error of the zero of the tangent at zero.
    trust = 2.0 * rounding(n + 24) / xp.maximum(xp.abs(f0), xp.full_like(f0, UNIT))
    if first.value > 0:
        f0 = ones
    else:
        near = nonzero & (xp.abs(f0) <= 4.0 * rounding(n + 24)) & (tau0 > 1e-100)
        if xp.any(near):
            s, w, a, e = factors(xp, step, weight, first.a)
            w = times_power(xp, w, xp.where(near, e - p.ed - p.ex, zero))
            margin = zero_margin(xp, p.x, p.d, xp.full_like(step, a), (s, w))
            margin = xp.where(xp.abs(margin) > (n + 16.0) * MARGIN_UNIT * bb, margin, zero)
            f0 = xp.where(near, -margin / (safe_norm * (safe_norm + tau0)), f0)
            trust = xp.where(near, 4.0 * rounding(n + 24) + zero, trust)
    zero_stable = (f0 >= 0) | ~nonzero

    best_r, best_tau = zero, tau0
    lower, upper = zero, zero
    status = count + int(Status.ZERO)
    iterations, evaluations = count, count
    converged = xp.ones_like(zero_stable)
    # Whether the choice does not hang on a root that was not found well enough; else, or in a tie, where the
    # radii of those that were not chosen may be.
    settled, least, most = converged, xp.full_like(zero, math.inf), zero
    found = zero_stable
    objective = xp.where(zero_stable, 0.5 * xp.sum(p.x * p.b, axis=1), xp.full_like(zero, math.inf))
    tie = xp.zeros_like(found)
    previous_low = xp.zeros_like(found)  # the piece before ended with f < 0
    starts = [times_power(xp, zero + piece.start, -p.ex) for piece in pieces]
    ends = [*starts[1:], xp.full_like(zero, math.inf)]
    # p where the piece begins; where that is no number, what the pieces before add up to.
    height = scaled(first.value, 2.0)
    slope_a = curve = zero

    for k, piece in enumerate(pieces):
        rho, end = starts[k], ends[k]
        if k > 0:
            height = height + rise(rho, starts[k - 1], rho, slope_a, curve)
            if 1e-290 < piece.value < 1e290:
                height = scaled(piece.value, 2.0)
        on = nonzero & (rho <= reach)
        here = end > reach  # the group's own radius lies on this piece
        slope_a, curve = scaled(piece.a, 1.0), scaled(piece.c, 0.0)
        if piece.a == 0.0 and piece.c == 0.0:
            exists, r, tau = on & here, reach, zero
            low, high, ok = reach * (1.0 - 4e-16 * n), reach * (1.0 + 4e-16 * n), xp.ones_like(on)
            kind = int(Status.UNSHRUNK)
            previous_low = xp.ones_like(found)
        else:

            def tau_at(r: Array, a: Array = slope_a, c: Array = curve) -> Array:
                return xp.maximum(a - c * r, zero)

            def evaluate(r: Array, c: Array = curve, tau_at: Callable[[Array], Array] = tau_at) -> Any:
                s, s1, s2 = terms(p.b, p.d, r[:, None], tau_at(r)[:, None], c[:, None])
                sums = (xp.sum(s, axis=1), xp.sum(s1, axis=1), xp.sum(s2, axis=1))
                sums = (xp.where(sums[0] > 0, sums[0], ones), sums[1], sums[2])
                return (*residual_(*sums), sums)

            def pace(r: Array, c: Array = curve, tau_at: Callable[[Array], Array] = tau_at) -> Any:
                tau = tau_at(r)
                safe_tau = xp.where(tau > 0, tau, ones)
                steepest = xp.where(r > 0, 1.0 / xp.where(r > 0, r, ones), (dmax + xp.abs(c)) / safe_tau)
                falling = xp.where(tau > 0, c / safe_tau, big)
                return xp.where(c > 0, xp.maximum(steepest, falling), steepest)

            def enclosure(
                r: Array,
                sums: tuple[Array, ...],
                far: Array,
                c: Array = curve,
                k: tuple[int, int, int] = ROUNDING[piece.c > 0],
                pace: Callable[[Array], Array] = pace,
            ) -> Any:
                s, s1, s2 = sums
                m = pace(r)
                # Σ u² (d + |c|)/y, exactly S₁ where c <= 0.
                b1 = xp.where(c > 0, (xp.sqrt(s * s2) + 2.0 * m * s) * (1.0 + 1e-9), s1)
                noise, slack = rounding(n + k[0]) * s, rounding(n + k[1]) * b1
                return bracket(r, s - 1.0 - noise, s - 1.0 + noise, s1, slack, m, b1 + slack, c, far)

            eq = Equation(evaluate, enclosure, pace, n, rounding(n + ROUNDING[piece.c > 0][0]))
            if k == 0:
                f_at = f0
                slope0 = (bbd - curve * bb) / (safe_bb * safe_norm)
                tangent = -f0 / xp.where(slope0 > 0, slope0, ones)
                rising = slope0 > 0
                at = xp.where(f0 < 0, tangent, zero)
            else:
                at = rho + zero
                f_at, s_at, _, _ = evaluate(at)
                evaluations = evaluations + xp.astype(on, xp.int64)
                rising = s_at > 0
                at = xp.where(rising & (f_at < 0), rho - f_at / xp.where(rising, s_at, ones), at)
            knot = on & (f_at >= 0) & previous_low if k > 0 else xp.zeros_like(on)
            sure = here & (tau_at(reach) >= 0)
            limit = xp.minimum(end, reach) * (1.0 + (n + 8.0) * UNIT)
            search = on & (f_at < 0) & rising & ((at <= limit) | sure)
            # Where candidates will be compared, the root must be good enough to compare.
            contested = found | ~here
            cap = xp.where(contested, zero + RIVAL_RTOL, zero + 1.0)
            absolute = times_power(xp, finder.atol + zero, -p.ex)
            floor = rho + zero
            if k == 0:
                floor = xp.where(f0 < 0, xp.minimum(tangent * xp.maximum(1.0 - trust, zero), limit), zero)
            root = find_root(xp, finder, eq, floor, at, limit, sure, search, rtol, absolute, cap)
            iterations, evaluations = iterations + root.iterations, evaluations + root.evaluations
            exists = root.exists | knot
            r = xp.where(knot, rho + zero, root.r)
            tau = tau_at(r)
            low = xp.where(knot, r * (1.0 - 8.0 * UNIT), root.lower)
            high = xp.where(knot, r * (1.0 + 8.0 * UNIT), root.upper)
            ok = root.converged | knot
            kind = int(Status.CONVERGED)
            settled = settled & ~root.unknown
            least = xp.where(root.unknown, xp.minimum(least, floor), least)
            most = xp.where(root.unknown, xp.maximum(most, limit), most)
            previous_low = on & (f_at < 0) & ~exists
        # Compare with the best so far.
        weighted = p.d * r[:, None]
        w = p.x / (weighted + tau[:, None] + xp.where(r > 0, zero, ones)[:, None])
        moved = 0.5 * xp.sum(p.d * (w * tau[:, None]) ** 2, axis=1)
        kept = xp.sqrt(xp.sum((w * weighted) ** 2, axis=1))
        value = height + rise(kept, rho, end, slope_a, curve) + moved
        value = xp.where(exists, value, xp.full_like(zero, math.inf))
        both = exists & found
        margin = 8.0 * UNIT * xp.where(both, value + objective, zero)
        same = both & (xp.abs(xp.where(both, value - objective, ones)) <= margin)
        wins = exists & (~found | ((value < objective) & ~same))
        tie = (tie & ~wins) | same
        # The loser's objective is an upper bound of that at its exact root.
        unsure = both & ~xp.where(wins, converged, ok)
        settled = settled & ~unsure
        least = xp.where(same | unsure, xp.minimum(least, xp.minimum(low, lower)), least)
        most = xp.where(same | unsure, xp.maximum(most, xp.maximum(high, upper)), most)
        best_r, best_tau = xp.where(wins, r, best_r), xp.where(wins, tau, best_tau)
        lower, upper = xp.where(wins, low, lower), xp.where(wins, high, upper)
        objective = xp.where(wins, value, objective)
        status = xp.where(wins, count + kind, status)
        converged = xp.where(wins, ok, converged)
        found = found | exists
    unshrunk = (status == int(Status.UNSHRUNK)) | ((status == int(Status.CONVERGED)) & (best_tau == 0))
    status = xp.where(unshrunk, count + int(Status.UNSHRUNK), status)
    status = xp.where(tie, count + int(Status.TIE), status)
    status = xp.where(converged & settled, status, count + int(Status.MAX_ITERATIONS))
    lower = xp.where(tie | ~settled, xp.minimum(lower, least), lower)
    upper = xp.where(tie | ~settled, xp.maximum(upper, most), upper)
    positive = best_r > 0
    share = fraction(p.d, xp.where(positive, best_r, ones)[:, None], best_tau[:, None])
    z = xp.where(positive[:, None], x * share, xp.zeros_like(x))
    z = xp.where((positive & (best_tau == 0))[:, None], x, z)
    radius, lower, upper = (
        times_power(xp, best_r, p.ex),
        downwards(xp, lower, p.ex),
        upwards(xp, upper, p.ex),
    )
    apart = p.apart | p.faint(xp, best_r, best_tau)
    for piece in pieces[1:]:
        apart = apart | (math.frexp(piece.start)[1] - 1.0 - p.ex < START_LOW)
    return RowSolution(z, radius, lower, upper, status, iterations, evaluations, apart)


# ----------------------------------------------------------------------------------------------------
# The ℓ∞ norm.


def linf_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, lam: float, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve ``min_z lam·weight·‖z‖_∞ + ‖z - x‖²_D / (2 step)`` for every row.

    The radius solves ``f(t) = 1 - Σ d (|x| - t)₊ / strength = 0``: concave, increasing, piecewise linear.
    """
    n = x.shape[1]
    count = xp.zeros_like(xp.astype(step, xp.int64))
    zero, ones = xp.zeros_like(step), xp.ones_like(step)
    if n == 0:
        return RowSolution(x, zero, zero, zero, count + int(Status.ZERO), count, count, count > 0)
    p = scale(xp, x, d)
    size = xp.abs(p.x)
    top = row_max(xp, size)
    tau = coefficient(xp, step, weight, lam, -(p.ed + p.ex), MOST)
    free = tau < NEGLIGIBLE
    safe_tau = xp.where(free, ones, tau)
    total = xp.sum(xp.abs(p.b), axis=1)

    def evaluate(t: Array) -> Any:
        over = size > t[:, None]
        none = xp.zeros_like(size)
        f = 1.0 - xp.sum(xp.where(over, p.d * (size - t[:, None]), none), axis=1) / safe_tau
        slope = xp.sum(xp.where(over, p.d, none), axis=1) / safe_tau
        return f, slope, zero, (f, slope)

    delta = rounding(n + 24)

    def enclose(t: Array, sums: tuple[Array, ...], far: Array) -> tuple[Array, Array]:
        f, slope = sums
        noise = delta * (2.0 + xp.abs(f))
        rising = slope > 0
        lower = xp.where(rising, t - (f + noise) / xp.where(rising, slope * (1 - 4 * delta), ones), zero)
        # The chord to (max|x|, 1) lies below f.
        chord = t + (noise - f) * (top - t) / xp.maximum(1.0 - f, xp.full_like(f, 1e-300))
        return xp.maximum(lower, zero), xp.minimum(xp.where(f < noise, chord, t), far)

    over = total - tau
    near = (xp.abs(over) <= 4.0 * delta * total) & (tau > 1e-100)
    if xp.any(near):
        s, w, fraction, e = factors(xp, step, weight, lam)
        w = times_power(xp, w, xp.where(near, e - p.ed - p.ex, zero))
        margin = linf_margin(xp, p.x, p.d, xp.full_like(step, fraction), (s, w))
        margin = xp.where(xp.abs(margin) > (n + 16.0) * MARGIN_UNIT * total, margin, zero)
        over = xp.where(near, margin, over)
    is_zero = (over <= 0) | (top == 0)
    search = ~is_zero & ~free
    slope0 = xp.sum(p.d * xp.astype(size > 0, p.d.dtype), axis=1) / safe_tau
    at = xp.where(search, over / safe_tau / xp.where(slope0 > 0, slope0, ones), zero)
    eq = Equation(evaluate, enclose, lambda t: zero, n, delta, smooth=False)
    floor = at * (
        1.0
        - xp.where(near, 4.0, xp.maximum(2.0 / xp.maximum(xp.abs(over) / safe_tau, zero + UNIT), 2.0 + zero))
        * rounding(n + 24)
    )
    root = find_root(
        xp,
        finder,
        eq,
        xp.maximum(floor, zero),
        at,
        top,
        search,
        search,
        rtol,
        times_power(xp, finder.atol + zero, -p.ex),
        ones,
    )
    t = xp.where(free, top, xp.where(is_zero, zero, root.r))
    lower = xp.where(search, root.lower, xp.where((weight > 0) & (lam > 0), t * (1.0 - 8.0 * UNIT), t))
    upper = xp.where(search, root.upper, t)
    radius = times_power(xp, t, p.ex)
    clipped = xp.minimum(xp.abs(x), radius[:, None])
    z = xp.where(free[:, None], x, xp.sign(x) * clipped)
    status = xp.where(is_zero, count + int(Status.ZERO), count + int(Status.CONVERGED))
    status = xp.where(free & ~is_zero, count + int(Status.UNSHRUNK), status)
    status = xp.where(root.converged, status, count + int(Status.MAX_ITERATIONS))
    lower, upper = downwards(xp, lower, p.ex), upwards(xp, upper, p.ex)
    apart = p.apart | (search & ~xp.isfinite(slope0))
    return RowSolution(z, radius, lower, upper, status, root.iterations, root.evaluations, apart)
