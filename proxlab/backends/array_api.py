"""The vectorised form over any array namespace: the specification that compiled kernels are tested against.

Groups are rows of a matrix; every step acts on all rows at once, in float64, on data scaled by powers of two
(exact) so that squares stay in range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxlab.backends.array_search import find_root
from proxlab.backends.build import over_arrays
from proxlab.backends.members import MOST, Members, Rows, added
from proxlab.bounds import UNIT, rounding
from proxlab.double_double import MARGIN_UNIT, square, two_product, two_sum
from proxlab.equations import CLIPPED, RADIAL, Sums, Task, clipped, radial
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
from proxlab.search import RIVAL_RTOL, noise

__all__ = ["Choice", "RowSolution", "choose", "linf_rows", "radial_rows", "shrink", "shrunk"]

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
    return margin_of(added(*square(*two_product(x, d))), strength, factors)


def margin_of(square_of_b: tuple[Array, Array], strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖² - (strength·Π factors)²`` from its first part, as a double-double."""
    h, e = square_of_b
    ph, pl = square(*_product(strength, factors))
    s, t = two_sum(h, -ph)
    return s + (t + (e - pl))


def linf_margin(xp: Any, x: Array, d: Array, strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖₁ - strength·Π factors`` per row, to about twice the working precision."""
    h, e = added(*two_product(xp.abs(x), d))
    ph, pl = _product(strength, factors)
    s, t = two_sum(h, -ph)
    return s + (t + (e - pl))


def _product(strength: Array, factors: tuple[Array, ...]) -> tuple[Array, Array]:
    high, low = strength, 0.0 * strength
    for factor in factors:
        p, q = two_product(high, factor)
        high, low = two_sum(p, q + low * factor)
    return high, low


# ----------------------------------------------------------------------------------------------------
# Radial penalties.


@dataclass
class Scaled(Rows):
    """Rows in units in which ``max|x|`` and ``max|b|`` are about 1: ``2^ex`` and ``2^ed``.

    ``apart`` tells where elements are lost that may count; ``low`` is the exponent of the least metric of an
    element that is not zero.
    """

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
    return Scaled(xp, x, d, x * d, ex, ed, apart, -row_max(xp, -low))


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
    count = xp.zeros_like(xp.astype(step, xp.int64))
    if x.shape[1] == 0:
        zero = xp.zeros_like(step)
        return RowSolution(x, zero, zero, zero, count + int(Status.ZERO), count, count, count > 0)
    rows = scale(xp, x, d)
    found = choose(xp, rows, step, weight, pieces, finder, rtol)
    z = shrunk(xp, x, rows.d, found.radius, found.tau)
    solution = found.solution(xp, z, rows.ex)
    solution.apart = rows.apart | rows.faint(xp, found.radius, found.tau)
    for piece in pieces[1:]:
        solution.apart = solution.apart | (math.frexp(piece.start)[1] - 1.0 - rows.ex < START_LOW)
    return solution


class Choice(NamedTuple):
    """The radius of every group, in the units of its members, and the slope there; else as a solution."""

    radius: Array
    tau: Array
    lower: Array
    upper: Array
    status: Array
    iterations: Array
    evaluations: Array

    def solution(self, xp: Any, z: Array, ex: Array) -> RowSolution:
        """Return the solution ``z`` with its radii in the units of the data."""
        radius, lower, upper = (
            times_power(xp, self.radius, ex), downwards(xp, self.lower, ex), upwards(xp, self.upper, ex),
        )  # fmt: skip
        return RowSolution(
            z, radius, lower, upper, self.status, self.iterations, self.evaluations, self.status < 0
        )


def shrunk(xp: Any, x: Array, d: Array, radius: Array, tau: Array) -> Array:
    """Return ``z = x d r / (d r + tau)``: of ``x`` as given, whatever the unit of the rest."""
    fraction = over_arrays(radial.shrunk_fraction, xp)
    positive = radius > 0
    share = fraction(d, xp.where(positive, radius, xp.ones_like(radius))[:, None], tau[:, None])
    z = xp.where(positive[:, None], x * share, xp.zeros_like(x))
    return xp.where((positive & (tau == 0))[:, None], x, z)


def choose(
    xp: Any,
    p: Members,
    step: Array,
    weight: Array,
    pieces: tuple[Piece, ...],
    finder: RootFinder,
    rtol: float,
) -> Choice:
    """Choose the radius of every group: of all minimisers the global one; as :func:`radial_rows`."""
    n = p.size
    zero, count = xp.zeros_like(step), xp.zeros_like(xp.astype(step, xp.int64))
    terms, residual = over_arrays(radial.terms, xp), over_arrays(radial.residual, xp)
    rise, roundings = over_arrays(radial.rise, xp), over_arrays(radial.roundings, xp)

    def scaled(value: float, powers_of_x: float) -> Array:
        """Return a coefficient in scaled units; at the cap the group is zero, or the piece out of reach."""
        return coefficient(xp, step, weight, value, -(p.ed + powers_of_x * p.ex), MOST)

    bb, bbd, xx, xb, dmax = p.begin()
    norm, reach = xp.sqrt(bb), xp.sqrt(xx)
    nonzero = bb > 0
    ones = xp.ones_like(zero)
    safe_bb, safe_norm = xp.where(nonzero, bb, ones), xp.where(nonzero, norm, ones)

    # The zero test: F'(0+) >= 0.
    first = pieces[0]
    tau0 = scaled(first.a, 1.0)
    f0 = (tau0 - safe_norm) / safe_norm
    # Relative error of the zero of the tangent at zero.
    trust = 2.0 * rounding(n + 24.0) / xp.maximum(xp.abs(f0), xp.full_like(f0, UNIT))
    if first.value > 0:
        f0 = ones
    else:
        near = nonzero & (xp.abs(f0) <= 4.0 * rounding(n + 24.0)) & (tau0 > 1e-100)
        if xp.any(near):
            s, w, a, e = factors(xp, step, weight, first.a)
            w = times_power(xp, w, xp.where(near, e - p.ed - p.ex, zero))
            margin = margin_of(p.exact_square(), xp.full_like(step, a), (s, w))
            margin = xp.where(xp.abs(margin) > (n + 16.0) * MARGIN_UNIT * bb, margin, zero)
            f0 = xp.where(near, -margin / (safe_norm * (safe_norm + tau0)), f0)
            trust = xp.where(near, 4.0 * rounding(n + 24.0) + zero, trust)
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
    objective = xp.where(zero_stable, 0.5 * xb, xp.full_like(zero, math.inf))
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

            def sums(r: Array, a: Array = slope_a, c: Array = curve) -> Sums:
                tau = xp.maximum(a - c * r, zero)
                s, s1, s2 = p.sum(lambda _, d, b, r, t, c: terms(b, d, r, t, c), r, tau, c)
                return Sums(xp.where(s > 0, s, ones), s1, s2)

            if k == 0:
                f_at = f0
                slope0 = (bbd - curve * bb) / (safe_bb * safe_norm)
                tangent = -f0 / xp.where(slope0 > 0, slope0, ones)
                rising = slope0 > 0
                at = xp.where(f0 < 0, tangent, zero)
            else:
                at = rho + zero
                f_at, s_at, _ = residual(*sums(at))
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
            task = Task(
                slope_a, curve, floor, xp.minimum(at, limit), limit, ~sure, rtol, absolute, cap, float(n),
                noise(n), rounding(n + roundings(curve, 0)), dmax, dmax, finder.max_iterations,
            )  # fmt: skip
            root = find_root(xp, finder, RADIAL, sums, task, search)
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
        both = exists & found
        value = zero
        # The last one is compared only where there are others.
        if k + 1 < len(pieces) or bool(xp.any(both)):
            moved, kept = p.sum(_moved, r, tau, xp.where(r > 0, zero, ones))
            value = height + rise(xp.sqrt(kept), rho, end, slope_a, curve) + 0.5 * moved
        value = xp.where(exists, value, xp.full_like(zero, math.inf))
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
    return Choice(best_r, best_tau, lower, upper, status, iterations, evaluations)


def _moved(x: Array, d: Array, _: Array, r: Array, tau: Array, none: Array) -> tuple[Array, Array]:
    """Terms of ``‖z - x‖²_D`` and ``‖z‖²`` at the point of a radius; ``none`` is 1 where that is 0."""
    weighted = d * r
    w = x / (weighted + tau + none)
    return d * (w * tau) ** 2, (w * weighted) ** 2


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
    free = tau < clipped.NEGLIGIBLE
    safe_tau = xp.where(free, ones, tau)
    total = xp.sum(xp.abs(p.b), axis=1)

    def sums(t: Array) -> Sums:
        over = size > t[:, None]
        none = xp.zeros_like(size)
        s = xp.sum(xp.where(over, p.d * (size - t[:, None]), none), axis=1) / safe_tau
        return Sums(s, xp.sum(xp.where(over, p.d, none), axis=1) / safe_tau, zero)

    delta = rounding(n + clipped.ROUNDINGS)
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
    trust = xp.maximum(2.0 / xp.maximum(xp.abs(over) / safe_tau, zero + UNIT), zero + 2.0)
    floor = at * (1.0 - xp.where(near, zero + 4.0, trust) * delta)
    task = Task(
        tau, zero, xp.maximum(floor, zero), xp.minimum(at, top), top, zero > 0, rtol,
        times_power(xp, finder.atol + zero, -p.ex), ones, float(n), noise(n), delta, zero, zero,
        finder.max_iterations,
    )  # fmt: skip
    root = find_root(xp, finder, CLIPPED, sums, task, search)
    t = xp.where(free, top, xp.where(is_zero, zero, root.r))
    lower = xp.where(search, root.lower, xp.where((weight > 0) & (lam > 0), t * (1.0 - 8.0 * UNIT), t))
    upper = xp.where(search, root.upper, t)
    radius = times_power(xp, t, p.ex)
    z = xp.where(free[:, None], x, xp.sign(x) * xp.minimum(xp.abs(x), radius[:, None]))
    status = xp.where(is_zero, count + int(Status.ZERO), count + int(Status.CONVERGED))
    status = xp.where(free & ~is_zero, count + int(Status.UNSHRUNK), status)
    status = xp.where(root.converged, status, count + int(Status.MAX_ITERATIONS))
    lower, upper = downwards(xp, lower, p.ex), upwards(xp, upper, p.ex)
    apart = p.apart | (search & ~xp.isfinite(slope0))
    return RowSolution(z, radius, lower, upper, status, root.iterations, root.evaluations, apart)
