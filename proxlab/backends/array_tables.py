"""Any admissible table of pieces over any array namespace: the prox, by all its candidates.

A local minimiser of ``F(r) = η p(r) + q(r)`` lies at zero, where ``g(r) = G(r, η p'(r))`` crosses 1 upwards
on a piece (at most once each, since ``g`` is concave there), or at a kink where the slope jumps up over
``T(r)``: ``G(r, η p'(r-)) < 1 <= G(r, η p'(r+))`` (docs: the mathematics, §3). At such a kink ``r`` is known
and ``tau``, with ``G(r, tau) = 1``, is what has to be found. The least objective wins.

The forms of table that proxlab's own penalties have, which compiled kernels know, do not come here: of one
root at most before the flat end, they need no sums at the ends of pieces, and what they sum may be that of
groups in parts (:mod:`proxlab.backends.array_api`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxlab import choose
from proxlab.backends.array_api import RowSolution, nothing, scale, shrunk
from proxlab.backends.array_search import find_root
from proxlab.backends.enclosed_root import Slopes, scaled_pieces, tau_at
from proxlab.backends.ranges import METRIC_CAP
from proxlab.backends.scaled_rows import ScaledRows, exact_margin, prepare, row_sum
from proxlab.bounds import UNIT, bracket, evaluation, rounding, steepest
from proxlab.choose import GIVEN, RIVAL_RTOL, Candidate, Group, Limits, Segment
from proxlab.equations import Equation, Sums, Task, radial
from proxlab.linker import module_over_arrays, over_arrays
from proxlab.penalties.base import row_max
from proxlab.penalties.tables import Table
from proxlab.powers import times_power
from proxlab.rootfinders import RootFinder, Status
from proxlab.scalar import filled, fmax, fmin, sqrt, where
from proxlab.search import Root, noise
from proxlab.types import Array

__all__ = ["heights", "table_rows"]

#: Metrics beyond this, in the scale of the problem, do not shrink their elements.
STIFF = 2.0**500
#: Exponents of the metric, in units of the group, between which every element counts as it should.
COUNTED = -400.0, 400.0


# The secular equation of any piece, in ``r``: the slope may begin below zero, the metric's range is known.


def piece_pace(r: Array, task: Task) -> Array:
    """Bound how fast a term changes."""
    tau = fmax(task.a - task.c * r, r * 0.0)
    return fmax(steepest(task.dmin, r, tau, task.c), steepest(task.dmax, r, tau, task.c))


def enclose_piece(r: Array, sums: Sums, task: Task) -> tuple[Array, Array]:
    """Enclose the root; the slope is a difference, whatever the sign of the shift."""
    s, s1, s2 = sums
    c = task.c
    most = fmax(c, c * 0.0) / (task.dmin * r + fmax(task.a - c * r, r * 0.0))
    b1 = where(c > 0, (sqrt(s * s2) + 2.0 * most * s) * (1.0 + 1e-9), s1)
    off = rounding(task.size + radial.CURVED[0]) * s
    slack = rounding(task.size + radial.CURVED[1]) * b1
    low, high = bracket(evaluation(r, s, s1, b1, off, slack, piece_pace(r, task)), c, task.far)
    # Tau is exact at a radius that differs by so much.
    return low * (1.0 - 1e-14), fmin(high * (1.0 + 1e-14), task.far)


# The same equation at a fixed radius, in ``tau``: its roles are swapped, and ``dmin`` is the least ``d r``.


def slope_pace(tau: Array, task: Task) -> Array:
    """Bound how fast a term changes."""
    return (1.0 + 1e-14) / (tau + task.dmin)


def enclose_slope(tau: Array, sums: Sums, task: Task) -> tuple[Array, Array]:
    """Enclose the root."""
    s, s1, _ = sums
    off = rounding(task.size + radial.FLAT[0]) * s
    slack = rounding(task.size + radial.FLAT[1]) * s1
    m = slope_pace(tau, task)
    return bracket(evaluation(tau, s, s1, s1, off, slack, m), filled(tau, 0.0), task.far)


PIECE = Equation(radial.residual, piece_pace, enclose_piece, smooth=True)
SLOPE = Equation(radial.residual, slope_pace, enclose_slope, smooth=True)


class Where(NamedTuple):
    """Bounds of a root, where to begin, and whether there may be none: as in a task of an equation."""

    floor: Array
    at: Array
    far: Array
    doubtful: Array


@dataclass
class RowPath:
    """An equation of every row, its sums, and its task but for where to look for a root, and how exactly."""

    xp: Any
    equation: Equation
    sums: Callable[[Array], Sums]
    task: Task

    def evaluate(self, r: Array) -> tuple[Array, Array, Array, Sums]:
        """Return ``f``, its slope, its bend and the sums."""
        sums = self.sums(r)
        return (*over_arrays(self.equation.residual, self.xp)(*sums), sums)

    def enclose(self, r: Array, sums: Sums, far: Array) -> tuple[Array, Array]:
        """Enclose the root from the sums at ``r``."""
        enclose = over_arrays(self.equation.enclose, self.xp)
        low, high = enclose(r, sums, self.task._replace(far=far))
        return low, high

    def find(self, finder: RootFinder, place: Where, active: Array, limits: Limits, cap: float) -> Root:
        """Find the root in the active rows; ``cap`` is that of the task."""
        task = self.task._replace(
            floor=place.floor, at=self.xp.minimum(place.at, place.far), far=place.far,
            doubtful=place.doubtful, rtol=limits.rtol, atol=limits.atol,
            cap=self.task.a * 0.0 + cap, most=limits.most,
        )  # fmt: skip
        return find_root(self.xp, finder, self.equation, self.sums, task, active)


class Side(NamedTuple):
    """One side of where two pieces meet: its equation and piece, and ``f`` and the sums there."""

    eq: RowPath
    piece: Slopes
    f: Array
    sums: Sums


class TableRows:
    """Rows in scaled units, and the equations whose roots are candidates."""

    def __init__(self, xp: Any, p: ScaledRows) -> None:
        self.xp, self.p, self.n = xp, p, p.x.shape[1]
        self.d = xp.minimum(p.d, xp.full_like(p.d, STIFF))
        self.b = p.size * self.d
        self.dmin, self.dmax = -row_max(xp, -self.d), row_max(xp, self.d)
        self.zero = xp.zeros_like(p.step)
        self.one = xp.ones_like(p.step)
        self.terms = over_arrays(radial.terms, xp)

    def along_radius(self, q: Slopes) -> RowPath:
        """The secular equation of a piece, in ``r``."""
        xp = self.xp

        def sums(r: Array) -> Sums:
            tau = tau_at(xp, r, q)
            return self._sums(self.terms(self.b, self.d, r[:, None], tau[:, None], q.shift[:, None]))

        task = self._task(q.alpha, q.shift, radial.CURVED[0], self.dmin, self.dmax)
        return RowPath(xp, PIECE, sums, task)

    def along_slope(self, r: Array) -> RowPath:
        """``G(r, tau) = 1`` at a fixed radius, in ``tau``: the same equation with its roles swapped."""
        xp = self.xp
        grown, ones = self.d * r[:, None], xp.ones_like(self.d)

        def sums(tau: Array) -> Sums:
            return self._sums(
                self.terms(self.b, ones, tau[:, None], grown, xp.zeros_like(self.zero)[:, None])
            )

        return RowPath(
            xp, SLOPE, sums, self._task(self.zero, self.zero, radial.FLAT[0], self.dmin * r, self.dmax * r)
        )

    def _task(self, a: Array, c: Array, roundings: float, dmin: Array, dmax: Array) -> Task:
        zero, n = self.zero, float(self.n)
        delta = rounding(n + roundings)
        return Task(a, c, zero, zero, zero, zero > 0, 0.0, zero, zero, n, noise(n), delta, dmin, dmax, 0)

    def _sums(self, terms: tuple[Array, ...]) -> Sums:
        s, s1, s2 = (self.xp.sum(t, axis=1) for t in terms)
        return Sums(self.xp.where(s > 0, s, self.one), s1, s2)

    def cost(self, pieces: tuple[Slopes, ...], starts: list[Array], r: Array, tau: Array) -> Array:
        """Return ``η p(‖z‖) + ‖z - x‖²_D/2`` at a point ``z ≠ 0`` of the path; ``‖z‖`` is ``r`` at a root.

        Near one the objective of a point is off by the square of the error, but ``p(r)`` by the error itself.
        """
        xp, value = self.xp, self.zero
        norm, moved = self.at_point(xp.where(r > 0, r, self.one), tau)
        for q, height in zip(pieces, starts, strict=True):
            rise = (norm - q.start) * (q.alpha - 0.5 * q.shift * (norm + q.start))
            value = xp.where(norm >= q.start, height + rise, value)
        return value + moved

    def at_point(self, r: Array, tau: Array) -> tuple[Array, Array]:
        """Return ``‖z‖`` and ``‖z - x‖²_D/2`` at the point of the path that a radius and ``tau`` name."""
        xp, grown = self.xp, self.d * r[:, None]
        whole = grown + tau[:, None]
        norm = xp.sqrt(row_sum(xp, (self.p.size * (grown / whole)) ** 2))
        return norm, 0.5 * row_sum(xp, self.d * (self.p.size * (tau[:, None] / whole)) ** 2)


def heights(xp: Any, p: ScaledRows, table: Table, pieces: tuple[Slopes, ...]) -> list[Array]:
    """Return ``η p`` where each piece starts, in scaled units: the jump at zero, and what the slopes add.

    Not the values that the table gives: those are the same but for rounding, and may leave the range.
    """
    total = [p.coefficient(xp, table[0].value, 1, 2)]
    for q in pieces[:-1]:
        rise = (q.end - q.start) * (q.alpha - 0.5 * q.shift * (q.start + q.end))
        total.append(total[-1] + xp.maximum(rise, xp.zeros_like(rise)))
    return total


def zero_test(rows: TableRows, first: Slopes, raw: float) -> Array:
    """Return ``f = G(0, tau) - 1`` for ``b ≠ 0``, its sign exact to far below rounding."""
    xp, p, on = rows.xp, rows.p, module_over_arrays(choose, rows.xp)
    bb = row_sum(xp, rows.b * rows.b)
    norm = xp.sqrt(xp.where(bb > 0, bb, rows.one))
    f, _ = on.residual_at_zero(first.alpha, norm, rows.n)
    near = (bb > 0) & on.is_close(f, first.alpha, rows.n)
    if raw > 0 and bool(xp.any(near)):
        near, margin = exact_margin(xp, p, rows.d, raw, near)
        f = xp.where(near, on.sharpened(margin, first.alpha, bb, norm, rows.n)[0], f)
    return f


def table_rows(
    xp: Any, x: Array, d: Array, step: Array, weight: Array, table: Table, finder: RootFinder, rtol: float
) -> RowSolution:
    """Solve ``min_z weight·p(‖z‖) + ‖z - x‖²_D / (2 step)`` for every row: the global minimiser.

    Parameters
    ----------
    x, d : array of shape (rows, n), float64
    step, weight : array of shape (rows,), float64
    table : tuple of Piece
        Any admissible one.
    finder : RootFinder
    rtol : float
        Relative tolerance of the radius.
    """
    n = x.shape[1]
    count = xp.zeros_like(xp.astype(step, xp.int64))
    if n == 0:
        return nothing(xp, x, step)
    units = scale(xp, x, d, *COUNTED)
    # The metric of an element that is zero does not matter, and may be beyond all bounds.
    unit = times_power(xp, xp.ones_like(step), xp.clip(units.ed, -1000.0, 1000.0))
    d = xp.where(x == 0, unit[:, None], d)
    p = prepare(xp, xp.zeros_like(x), x, d, step, weight, 0.0, False)
    rows, pieces = TableRows(xp, p), scaled_pieces(xp, p, table)
    starts = heights(xp, p, table, pieces)
    zero, one = rows.zero, rows.one
    reach = xp.sqrt(row_sum(xp, p.size * p.size))
    nonzero = reach > 0
    free = weight == 0  # no penalty
    active = nonzero & ~free
    no = xp.zeros_like(active)

    f0 = zero_test(rows, pieces[0], table[0].a)
    resting = active & ((f0 >= 0) | (starts[0] > 0))
    # Zero, where it is a local minimiser, and where there is nothing to choose.
    group = Group(float(n), noise(n), reach, reach, xp.where(resting | ~active, one, -one), zero)
    at_zero = xp.where(resting, 0.5 * row_sum(xp, rows.d * p.size**2), xp.full_like(zero, math.inf))
    on_rows = module_over_arrays(choose, xp)
    best: choose.Choice = on_rows.at_zero(group, at_zero, count)
    limits = Limits(rtol, times_power(xp, zero + finder.atol, -p.ex), finder.max_iterations, True)
    iterations, evaluations = count, count
    before: Side | None = None  # the piece before, at its end

    for k, (piece, q) in enumerate(zip(table, pieces, strict=True)):
        start = xp.where(xp.isfinite(q.start), q.start, zero)
        on = active & (q.start <= reach)
        here = q.end > reach
        far = xp.where(on, xp.minimum(q.end, reach), one)
        flat = piece.a == 0.0 and piece.c == 0.0
        eq, part = rows.along_radius(q), Segment(start, q.end, q.alpha, q.shift, starts[k])
        spot = xp.where(on & (start > 0), start, one)
        if k == 0:
            left, slope = f0, _slope_at_zero(rows, q)
        else:
            left, slope, _, sums = eq.evaluate(spot)
            # A start that vanishes in the row's scale.
            norm = xp.sqrt(row_sum(xp, rows.b * rows.b))
            left = xp.where(start > 0, left, q.alpha / xp.where(active, norm, one) - 1.0)
            slope = xp.where(start > 0, slope, _slope_at_zero(rows, q))
            evaluations = evaluations + xp.astype(on, xp.int64)
            assert before is not None
            kink, root = _kink(rows, before, Side(eq, q, left, sums), on & (start > 0), spot, finder, rtol)
            iterations, evaluations = iterations + root.iterations, evaluations + root.evaluations
            cost = rows.cost(pieces, starts, kink.r, kink.tau)
            best = on_rows.offer(best, kink, part, best.objective, cost)
        if flat:
            whole = on_rows.whole(group, part)
            whole = whole._replace(exists=on & whole.exists)
            best = on_rows.offer(best, whole, part, best.objective, starts[k])
        right, fall, _, sums = eq.evaluate(far)
        if not flat:
            evaluations = evaluations + xp.astype(on & ~here, xp.int64)
            # At its own radius the group is above 1, whatever the rounding.
            above = here | (right >= 0)
            at = xp.where(slope > 0, start - left / xp.where(slope > 0, slope, one), start)
            # Below 1 at both ends it may be above 1 between the zeros of the tangents there.
            last = far - right / xp.where(fall < 0, fall, -one)
            humped = (q.shift > 0) & (slope > 0) & (fall < 0) & (at < last)
            search = on & (left < 0) & (above | humped)
            limit = xp.where(here, far * (1.0 + (n + GIVEN) * UNIT), far)
            begin = xp.maximum(at, start) if k else at
            place = Where(
                start * (1.0 - 1e-14), xp.where(search, begin, one), xp.where(search, limit, one), ~above
            )
            root = eq.find(finder, place, search, limits, RIVAL_RTOL)
            iterations, evaluations = iterations + root.iterations, evaluations + root.evaluations
            c = on_rows.met(no, root, part)
            cost = rows.cost(pieces, starts, c.r, c.tau)
            best = on_rows.offer(best, c, part, best.objective, cost)
        before = Side(eq, q, right, sums)

    r, tau, lower, upper, status = on_rows.settle(best)
    unshrunk = nonzero & (free | ((r > 0) & (tau == 0)))
    status = xp.where(free & nonzero, count + int(Status.UNSHRUNK), status)
    z = xp.where(unshrunk[:, None], x, shrunk(xp, x, rows.d, r, tau))
    whole = on_rows.whole(group, best.part)
    r, lower, upper = (
        times_power(xp, xp.where(free & nonzero, a, b), p.ex)
        for a, b in ((whole.r, r), (whole.lower, lower), (whole.upper, upper))
    )
    return RowSolution(z, r, lower, upper, status, iterations, evaluations, units.apart)


def _slope_at_zero(rows: TableRows, q: Slopes) -> Array:
    """Return ``g'(0)``; where ``tau`` is zero there, an upper bound of the slope of the ray that ``g`` is."""
    xp, b = rows.xp, rows.b
    bb = row_sum(xp, b * b)
    safe = xp.where(bb > 0, bb, rows.one)
    return (row_sum(xp, b * b * rows.d) - q.shift * bb) / (safe * xp.sqrt(safe))


def _kink(
    rows: TableRows,
    before: Side,
    after: Side,
    on: Array,
    r: Array,
    finder: RootFinder,
    rtol: float,
) -> tuple[Candidate, Root]:
    """Return the candidate at a radius where two pieces meet and ``f`` jumps over zero, and its ``tau``."""
    xp, zero, one = rows.xp, rows.zero, rows.one
    exists = on & (before.f < 0) & (after.f >= 0)
    low, high = (tau_at(xp, r, side.piece) for side in (before, after))
    low, high = xp.where(exists, low, zero), xp.where(exists, xp.maximum(low, high), one)
    eq = rows.along_slope(r)
    # What is resolved in z, where tau itself is next to nothing; good enough to compare.
    rtol = min(rtol, RIVAL_RTOL)
    limits = Limits(rtol, rtol * rows.dmin * r, finder.max_iterations, True)
    root = eq.find(finder, Where(low, low, high, ~exists), exists, limits, METRIC_CAP)
    # Where rounding hides on which side of the kink the root is, it is near.
    sure = before.eq.task.delta * 2.0
    lower = xp.where(before.f < -sure, r, xp.minimum(r, before.eq.enclose(r, before.sums, r)[0]))
    upper = xp.where(after.f > sure, r, xp.maximum(r, after.eq.enclose(r, after.sums, 2.0 * r)[1]))
    tau = xp.minimum(xp.maximum(root.r, low), high)
    r, tau = xp.where(exists, r, zero), xp.where(exists, tau, one)
    kind = int(Status.CONVERGED)
    return Candidate(exists, root.unknown, r, tau, lower, upper, root.converged, kind), root
