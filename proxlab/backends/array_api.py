"""The vectorised form over any array namespace: the specification that compiled kernels are tested against.

Groups are rows of a matrix; every step acts on all rows at once, in float64, on data scaled by powers of two
(exact) so that squares stay in range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxlab import choose as shared
from proxlab.backends.array_search import find_root
from proxlab.backends.members import Members, Rows, added
from proxlab.backends.ranges import (
    APART_HIGH,
    APART_LOW,
    FAINT,
    METRIC_CAP,
    START_LOW,
)
from proxlab.bounds import UNIT
from proxlab.choose import GIVEN, Beginning, Group, Limits, Segment
from proxlab.double_double import difference, square, two_product, two_sum
from proxlab.equations import CLIPPED, RADIAL, Sums, clipped, radial
from proxlab.linker import module_over_arrays, over_arrays
from proxlab.namespaces import namespace
from proxlab.penalties.base import Piece, row_max
from proxlab.powers import (
    PRODUCT_HIGH,
    PRODUCT_LOW,
    coefficient,
    downwards,
    exponent,
    factors,
    quotient,
    times_power,
    upwards,
)
from proxlab.rootfinders import RootFinder, Status
from proxlab.search import noise
from proxlab.types import Array

__all__ = ["Radii", "RowSolution", "choose", "linf_rows", "nothing", "radial_rows", "shrink", "shrunk"]


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


def nothing(xp: Any, x: Array, step: Array) -> RowSolution:
    """Return the solution of rows without elements."""
    zero, count = xp.zeros_like(step), xp.zeros_like(xp.astype(step, xp.int64))
    return RowSolution(x, zero, zero, zero, count + int(Status.ZERO), count, count, count > 0)


def shrink(xp: Any, x: Array, step: Array, d: Array, threshold: float, nonnegative: bool) -> Array:
    """Apply the elementwise part: ``sign(x) max(|x| - step·threshold/d, 0)``, at least 0 if asked."""
    if threshold > 0:
        size = xp.abs(x) - quotient(xp, step, threshold, d)
        x = xp.where(size > 0, xp.sign(x) * size, xp.zeros_like(x))
    if nonnegative:
        x = xp.where(x > 0, x, xp.zeros_like(x))
    return x


# ----------------------------------------------------------------------------------------------------
# The zero test, exact to far below rounding: sums in double-double arithmetic.


def zero_margin(xp: Any, x: Array, d: Array, strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖² - (strength·Π factors)²`` per row, to about twice the working precision."""
    return margin_of(added(*square(*two_product(x, d))), strength, factors)


def margin_of(square_of_b: tuple[Array, Array], strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖² - (strength·Π factors)²`` from its first part, as a double-double."""
    return difference(square_of_b, square(*_product(strength, factors)))


def linf_margin(xp: Any, x: Array, d: Array, strength: Array, factors: tuple[Array, ...]) -> Array:
    """Return ``‖D x‖₁ - strength·Π factors`` per row, to about twice the working precision."""
    return difference(added(*two_product(xp.abs(x), d)), _product(strength, factors))


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
    d = xp.where(size > 0, xp.minimum(times_power(xp, d, -ed), xp.full_like(d, METRIC_CAP)), xp.ones_like(d))
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
    if x.shape[1] == 0:
        return nothing(xp, x, step)
    rows = scale(xp, x, d)
    found = choose(xp, rows, step, weight, pieces, finder, rtol)
    z = shrunk(xp, x, rows.d, found.radius, found.tau)
    solution = found.solution(xp, z, rows.ex)
    solution.apart = rows.apart | rows.faint(xp, found.radius, found.tau)
    for piece in pieces[1:]:
        solution.apart = solution.apart | (math.frexp(piece.start)[1] - 1.0 - rows.ex < START_LOW)
    return solution


class Radii(NamedTuple):
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
) -> Radii:
    """Choose the radius of every group: of all minimisers the global one; as :func:`radial_rows`."""
    zero, count = xp.zeros_like(step), xp.zeros_like(xp.astype(step, xp.int64))
    ones, n = xp.ones_like(zero), p.size
    on, equation = module_over_arrays(shared, xp), module_over_arrays(radial, xp)

    def scaled(value: float, powers_of_x: float) -> Array:
        """Return a coefficient in scaled units; at the cap the group is zero, or the piece out of reach."""
        return coefficient(xp, step, weight, value, -(p.ed + powers_of_x * p.ex), METRIC_CAP)

    bb, bbd, xx, xb, dmax = p.begin()
    nonzero = bb > 0
    bb = xp.where(nonzero, bb, ones)
    norm, reach = xp.sqrt(bb), xp.sqrt(xx)
    strength = scaled(pieces[0].a, 1.0)
    f0, trust = on.residual_at_zero(strength, norm, n)
    near = nonzero & on.is_close(f0, strength, n)
    if pieces[0].value > 0:
        f0 = ones
    elif xp.any(near):
        s, w, a, e = factors(xp, step, weight, pieces[0].a)
        w = times_power(xp, w, xp.where(near, e - p.ed - p.ex, zero))
        margin = margin_of(p.exact_square(), xp.full_like(step, a), (s, w))
        sharp, sharp_trust = on.sharpened(margin, strength, bb, norm, n)
        f0, trust = xp.where(near, sharp, f0), xp.where(near, sharp_trust, trust)
    group = Group(float(n), noise(n), norm, reach, xp.where(nonzero, f0, ones), trust)
    limits = Limits(rtol, times_power(xp, finder.atol + zero, -p.ex), finder.max_iterations, True)
    best = on.at_zero(group, 0.5 * xb, count)
    part, below = best.part, nonzero & ~nonzero
    starts = [times_power(xp, zero + piece.start, -p.ex) for piece in pieces]
    ends = [*starts[1:], xp.full_like(zero, math.inf)]
    iterations = evaluations = count
    for k, piece in enumerate(pieces):
        # p where the piece begins; where that is no number, what the pieces before add up to.
        height = part.height + equation.rise(starts[k], part.start, starts[k], part.a, part.c)
        if k == 0 or PRODUCT_LOW < piece.value < PRODUCT_HIGH:
            height = scaled(piece.value, 2.0)
        part = Segment(starts[k], ends[k], scaled(piece.a, 1.0), scaled(piece.c, 0.0), height)
        within = nonzero & (part.start <= reach)
        if piece.a == 0.0 and piece.c == 0.0:
            candidate, below = on.whole(group, part), xp.ones_like(below)
        else:

            def sums(r: Array, a: Array = part.a, c: Array = part.c) -> Sums:
                tau = xp.maximum(a - c * r, zero)
                s, s1, s2 = p.sum(_evaluated, r, tau, c)
                return Sums(xp.where(s > 0, s, ones), s1, s2)

            f, slope = group.f0, (bbd - part.c * bb) / (bb * norm)
            if k > 0:
                f, slope, _ = equation.residual(*sums(part.start))
                evaluations = evaluations + xp.astype(within, xp.int64)
            begins = Beginning(f, slope, k == 0, below, dmax)
            todo = on.plan(best, group, part, begins, limits)
            root = find_root(xp, finder, RADIAL, sums, todo.task, within & todo.search)
            iterations, evaluations = iterations + root.iterations, evaluations + root.evaluations
            candidate, below = on.met(todo.knot, root, part), (f < 0) & ~root.exists
        candidate = candidate._replace(exists=candidate.exists & within)
        value = zero
        # The last one is compared only where there are others.
        if k + 1 < len(pieces) or bool(xp.any(candidate.exists & best.found)):
            r, none = candidate.r, xp.where(candidate.r > 0, zero, ones)
            moved, kept = p.sum(_moved, r, candidate.tau, none)
            value = height + equation.rise(xp.sqrt(kept), part.start, part.end, part.a, part.c) + 0.5 * moved
        best = on.offer(best, candidate, part, best.objective, value)
    answer = on.settle(best)
    return Radii(answer.r, answer.tau, answer.lower, answer.upper, answer.status, iterations, evaluations)


def _evaluated(_: Array, d: Array, b: Array, r: Array, tau: Array, shift: Array) -> tuple[Array, ...]:
    """Terms of the equation's sums; a name that every process knows, as that of the next one."""
    terms = module_over_arrays(radial, namespace(b)).terms
    found: tuple[Array, ...] = terms(b, d, r, tau, shift)
    return found


def _moved(x: Array, d: Array, _: Array, r: Array, tau: Array, none: Array) -> tuple[Array, Array]:
    """Terms of ``‖z - x‖²_D`` and ``‖z‖²`` at the point of a radius; ``none`` is 1 where that is 0."""
    weighted = d * r
    w = x / (weighted + tau + none)
    return d * (w * tau) ** 2, (w * weighted) ** 2


# ----------------------------------------------------------------------------------------------------
# The ℓ∞ norm.


def linf_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, penalty: Any, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve ``min_z lam·weight·‖z‖_∞ + ‖z - x‖²_D / (2 step)`` for every row.

    The radius solves ``f(t) = 1 - Σ d (|x| - t)₊ / strength = 0``: concave, increasing, piecewise linear.
    """
    n, lam = x.shape[1], penalty.equation.lam
    count = xp.zeros_like(xp.astype(step, xp.int64))
    zero, ones = xp.zeros_like(step), xp.ones_like(step)
    if n == 0:
        return nothing(xp, x, step)
    on, p = module_over_arrays(shared, xp), scale(xp, x, d)
    size = xp.abs(p.x)
    top = row_max(xp, size)
    tau = coefficient(xp, step, weight, lam, -(p.ed + p.ex), METRIC_CAP)
    free = tau < clipped.NEGLIGIBLE
    safe_tau = xp.where(free, ones, tau)

    def sums(t: Array) -> Sums:
        over = size > t[:, None]
        none = xp.zeros_like(size)
        s = xp.sum(xp.where(over, p.d * (size - t[:, None]), none), axis=1) / safe_tau
        return Sums(s, xp.sum(xp.where(over, p.d, none), axis=1) / safe_tau, zero)

    start = sums(zero)
    over, trust = on.clipped_at_zero(start.s, n)
    near = on.is_close(over, tau, n)
    if xp.any(near):
        s, w, fraction, e = factors(xp, step, weight, lam)
        w = times_power(xp, w, xp.where(near, e - p.ed - p.ex, zero))
        margin = linf_margin(xp, p.x, p.d, xp.full_like(step, fraction), (s, w))
        sharp, sharp_trust = on.clipped_sharpened(margin, safe_tau, n)
        over, trust = xp.where(near, sharp, over), xp.where(near, sharp_trust, trust)
    is_zero = (over <= 0) | (top == 0)
    search = ~is_zero & ~free
    limits = Limits(rtol, times_power(xp, finder.atol + zero, -p.ex), finder.max_iterations, True)
    group = Group(float(n), noise(n), top, top, xp.where(search, -over, zero), trust)
    root = find_root(xp, finder, CLIPPED, sums, on.clipped_task(group, start.s1, tau, limits), search)
    t = xp.where(free, top, xp.where(is_zero, zero, root.r))
    lower = xp.where(search, root.lower, xp.where((weight > 0) & (lam > 0), t * (1.0 - GIVEN * UNIT), t))
    upper = xp.where(search, root.upper, t)
    radius = times_power(xp, t, p.ex)
    z = xp.where(free[:, None], x, xp.sign(x) * xp.minimum(xp.abs(x), radius[:, None]))
    status = xp.where(is_zero, count + int(Status.ZERO), count + int(Status.CONVERGED))
    status = xp.where(free & ~is_zero, count + int(Status.UNSHRUNK), status)
    status = xp.where(root.converged, status, count + int(Status.MAX_ITERATIONS))
    lower, upper = downwards(xp, lower, p.ex), upwards(xp, upper, p.ex)
    apart = p.apart | (search & ~xp.isfinite(start.s1))
    return RowSolution(z, radius, lower, upper, status, root.iterations, root.evaluations, apart)
