"""Groups whose numbers spread too far for float64, one by one in decimal arithmetic without a range.

Where the metric of a group, on the elements that are not zero, spreads over more than some 250 decades in
units of the group, no scaling by powers of two keeps every ``d_i x_i``. What the other forms find to be such
(``apart``) is solved here: by the same theory (docs: the mathematics, §3),
exact to far below rounding, whatever the root finder. It takes some milliseconds a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from proxlab.arguments import Problem
from proxlab.bounds import UNIT
from proxlab.penalties import Penalty
from proxlab.penalties.equations import Clipped, Radial
from proxlab.rootfinders import Status
from proxlab.types import Array

__all__ = ["DecimalSolution", "replaced", "solve_group", "solve_groups"]

#: What is left of them next to the zero threshold, where as many as ``FINE`` has cancel, is more than enough.
DIGITS = 130
#: Bound of relative errors.
FINE = Decimal(10) ** -60
#: As the other forms have it: objectives that are the same within the rounding of float64.
SAME = Decimal(8.0 * UNIT)
#: Relative error of the entries of a table.
ROUNDED = Decimal(8.0 * UNIT)
MAX_EVALUATIONS = 2000
ZERO, ONE = Decimal(0), Decimal(1)


class DecimalSolution(NamedTuple):
    """The solution of a group, as that of a row in :class:`proxlab.backends.array_api.RowSolution`."""

    z: list[float]
    radius: float
    lower: float
    upper: float
    status: int
    iterations: int
    evaluations: int


@dataclass
class _Candidate:
    """A local minimiser: its radius, the ``tau`` that leads to it, bounds of the radius, its objective."""

    r: Decimal
    tau: Decimal
    lower: Decimal
    upper: Decimal
    objective: Decimal
    whole: bool = False


def solve_group(
    penalty: Penalty, x: Sequence[float], d: Sequence[float], step: float, weight: float
) -> DecimalSolution:
    """Solve ``min_z weight·h(z) + ‖z - x‖²_D / (2 step)`` for one group: the global minimiser.

    Parameters
    ----------
    penalty : Penalty
        A radial one, or the ℓ∞ norm.
    x, d : sequence of float
    step, weight : float
    """
    with localcontext(Context(prec=DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        # By a unary plus, rounded: the digits of a float are up to 767.
        metric = [+Decimal(v) for v in d]
        eta, strength = +Decimal(step), +Decimal(step) * Decimal(weight)
        size = [abs(+Decimal(v)) for v in x]
        equation = penalty.equation
        if isinstance(equation, Clipped):
            return _clipped(x, size, metric, strength * Decimal(equation.lam))
        assert isinstance(equation, Radial)
        kept = [v if u > 0 or not penalty.nonnegative else ZERO for u, v in zip(x, size, strict=True)]
        if penalty.threshold > 0:
            cut = eta * Decimal(penalty.threshold)
            kept = [max(v - cut / w, ZERO) for v, w in zip(kept, metric, strict=True)]
        table = [tuple(+Decimal(v) for v in piece) for piece in equation.table]
        return _Group(kept, metric, strength, table).solve(x, kept != size)


def solve_groups(p: Problem, groups: Iterable[int]) -> Iterator[tuple[int, Any, DecimalSolution]]:
    """Solve some groups of a problem; yields the number of each, where its elements are, and its solution."""
    flat = p.xp.reshape(p.x, (-1,)), p.xp.reshape(p.full_metric(), (-1,))
    steps, weights = p.group_steps(), p.group_weights()
    indptr, indices = p.layout.csr()
    for g in groups:
        chosen = indices[indptr[g] : indptr[g + 1]]
        x, d = ([float(a[int(i)]) for i in chosen] for a in flat)
        yield int(g), chosen, solve_group(p.penalty, x, d, float(steps[int(g)]), float(weights[int(g)]))


def replaced(p: Problem, apart: Array, arrays: Sequence[Array]) -> tuple[Array, ...]:
    """Return ``z`` and what explains it, of the array form, with the groups ``apart`` solved."""
    xp, device = p.xp, array_api_compat.device(p.x)
    groups = [g for g in range(p.layout.n_groups) if bool(apart[g])]
    where = [np.zeros(math.prod(a.shape), np.bool_) for a in arrays]
    values = [np.zeros(len(w)) for w in where]
    for g, chosen, found in solve_groups(p, groups):
        places: list[Any] = [chosen, *[g] * 6]
        results: tuple[Any, ...] = found
        for k, (place, value) in enumerate(zip(places, results, strict=True)):
            where[k][place], values[k][place] = True, value

    def mended(a: Array, w: Any, v: Any) -> Array:
        mask, new = (xp.reshape(xp.asarray(b, device=device), a.shape) for b in (w, v))
        return xp.where(mask, xp.astype(new, a.dtype), a)

    return tuple(mended(a, w, v) for a, w, v in zip(arrays, where, values, strict=True))


class _Group:
    """A group after the elementwise part of its penalty, of which only elements that are not zero count."""

    def __init__(
        self, size: list[Decimal], d: list[Decimal], eta: Decimal, table: list[tuple[Decimal, ...]]
    ) -> None:
        self.whole = list(zip(size, d, strict=True))
        self.parts = [(v, w) for v, w in self.whole if v > 0]
        self.starts = [start for start, *_ in table]
        self.slopes = [(eta * a, eta * c) for _, _, a, c in table]
        self.jump = eta * table[0][1]
        self.reach = _norm(v for v, _ in self.parts)
        self.evaluations = 0
        self.unknown = False  # whether a search ended before it found a crossing or none

    def solve(self, x: Sequence[float], shrunk: bool) -> DecimalSolution:
        """Compare all local minimisers; ``shrunk`` tells whether the elementwise part changed anything."""
        found = self.candidates() if self.parts else [_Candidate(ZERO, ONE, ZERO, ZERO, ZERO)]
        best, tied = found[0], []
        for c in found[1:]:
            if abs(c.objective - best.objective) <= SAME * (c.objective + best.objective):
                tied.append(c)
            elif c.objective < best.objective:
                best, tied = c, []
        lower = min(c.lower for c in (best, *tied))
        upper = max(c.upper for c in (best, *tied))
        status = Status.ZERO if best.r == 0 else Status.CONVERGED
        if best.whole and not shrunk:
            status = Status.UNSHRUNK
        if tied:
            status = Status.TIE
        if self.unknown:
            lower, upper, status = ZERO, self.reach, Status.MAX_ITERATIONS
        z = [
            math.copysign(float(v if best.whole else v * w * best.r / (w * best.r + best.tau)), u)
            if best.r > 0 and v > 0
            else 0.0
            for u, (v, w) in zip(x, self.whole, strict=True)
        ]
        return DecimalSolution(
            z, float(best.r), _below(lower), _above(upper), int(status), self.evaluations, self.evaluations
        )

    def candidates(self) -> list[_Candidate]:
        """Return all local minimisers, by length: zero, up-crossings, kinks between, and the point itself."""
        bb, tau0 = sum(((v * w) ** 2 for v, w in self.parts), ZERO), self.slopes[0][0]
        falls = bb - tau0 * tau0 > FINE * bb
        resting = self.jump > 0 or not falls
        found = [_Candidate(ZERO, ONE, ZERO, ZERO, self.objective(ZERO, ONE))] if resting else []
        # η p where the piece begins; whether f < 0 where the piece before ends.
        height, before = self.jump, False
        ends = [*self.starts[1:], 2 * self.reach]
        for k, (start, end, (a, c)) in enumerate(zip(self.starts, ends, self.slopes, strict=True)):
            if start > self.reach:
                break
            here, far = end > self.reach, min(end, self.reach)
            if k > 0:
                last, (last_a, last_c) = self.starts[k - 1], self.slopes[k - 1]
                height += max((start - last) * (last_a - last_c * (last + start) / 2), ZERO)
            low = falls if k == 0 else self.excess(start, max(a - c * start, ZERO)) > 0
            if k > 0 and before and not low:
                tau_low = max(self.slopes[k - 1][0] - self.slopes[k - 1][1] * start, ZERO)
                tau_high = max(a - c * start, ZERO)
                found.append(self.candidate(start, self.slope_at(start, tau_low, tau_high), height))
                found[-1].lower, found[-1].upper = start * (1 - ROUNDED), start * (1 + ROUNDED)
            if a == 0 and c == 0:
                before = True
                if here:
                    found.append(self.candidate(self.reach, ZERO, height))
                continue
            before = not here and self.excess(far, max(a - c * far, ZERO)) > 0
            if not low:
                continue
            on = partial(self.radius_on, start, far, sure=here or not before)
            r = on(a, c)
            if r is not None:
                rise = (r - start) * (a - c * (start + r) / 2)
                one = self.candidate(r, max(a - c * r, ZERO), height + rise)
                if c != 0:
                    # The entries of the table are rounded, and a larger tau has a smaller radius.
                    more, less = abs(a) * ROUNDED, abs(c) * ROUNDED
                    one.lower = (on(a + more, c - less) or start) * (1 - FINE)
                    one.upper = (on(a - more, c + less) or far) * (1 + FINE)
                found.append(one)
        return found

    def candidate(self, r: Decimal, tau: Decimal, value: Decimal) -> _Candidate:
        """Return the point of the path at ``(r, tau)``, given ``η p(r)``."""
        return _Candidate(r, tau, *_around(r), value + self.objective(r, tau), whole=tau == 0)

    def objective(self, r: Decimal, tau: Decimal) -> Decimal:
        """Return ``‖z - x‖²_D / 2`` at a point of the path."""
        if tau == 0:
            return ZERO
        return sum((w * (v * tau / (w * r + tau)) ** 2 for v, w in self.parts), ZERO) / 2

    def excess(self, r: Decimal, tau: Decimal) -> Decimal:
        """Return ``S - 1``, which has the sign of ``-f``."""
        self.evaluations += 1
        return sum(((v * w / (w * r + tau)) ** 2 for v, w in self.parts), ZERO) - 1

    def radius_on(
        self, start: Decimal, far: Decimal, a: Decimal, c: Decimal, *, sure: bool
    ) -> Decimal | None:
        """Return the up-crossing on a piece, left of which ``f < 0``."""
        if start == 0 and a == 0:
            # g is a ray from the origin.
            r = _norm(v * w / (w - c) for v, w in self.parts)
            return r if r <= far else None

        def sums(r: Decimal) -> tuple[Decimal, Decimal]:
            tau = max(a - c * r, ZERO)
            return self.sums((v * w, w * r + tau, w - c) for v, w in self.parts)

        return self.crossing(sums, start, far, sure=sure)

    def slope_at(self, r: Decimal, low: Decimal, high: Decimal) -> Decimal:
        """Return the ``tau`` between two at which the path has the radius ``r``."""

        def sums(tau: Decimal) -> tuple[Decimal, Decimal]:
            return self.sums((v * w, w * r + tau, ONE) for v, w in self.parts)

        at = self.crossing(sums, low, high, sure=True)
        assert at is not None, "f crosses zero between the two"
        return at

    def sums(self, terms: Any) -> tuple[Decimal, Decimal]:
        """Return ``S = Σ u²`` and ``Σ u² e`` for ``u = b/y``, ``e = y'/y``."""
        self.evaluations += 1
        s = s1 = ZERO
        for b, y, rate in terms:
            square = (b / y) ** 2
            s += square
            s1 += square * rate / y
        return s, s1

    def crossing(
        self, sums: Callable[[Decimal], tuple[Decimal, Decimal]], low: Decimal, high: Decimal, *, sure: bool
    ) -> Decimal | None:
        """Find where the concave ``f`` crosses zero upwards on ``[low, high]``; ``f(low) < 0``.

        Tangents bound it from both sides; while these are far apart, the next point is in the middle of
        their exponents. ``sure`` tells whether ``f(high) >= 0``.
        """
        at = low
        for _ in range(MAX_EVALUATIONS):
            s, s1 = sums(at)
            if s <= 1:
                if at - low <= FINE * at:
                    return at
                high, sure = at, True
            elif s1 > 0:
                ahead = _tangent(at, s, s1)
                if ahead - at <= FINE * at or (sure and ahead >= high):
                    return ahead
                low = ahead
            elif sure:
                # Up to rounding f is zero from here to there.
                return high
            elif s1 == 0:
                return None
            else:
                high = _tangent(at, s, s1)
            if low >= high:
                return None
            # Within a factor of two Newton's method is quick.
            at = low if sure and high <= 2 * low else (low * high).sqrt()
        self.unknown = True
        return None


def _tangent(at: Decimal, s: Decimal, s1: Decimal) -> Decimal:
    """Return where the tangent of ``g = S^(-1/2)`` reaches 1."""
    return at + s * (s.sqrt() - 1) / s1


def _clipped(x: Sequence[float], size: list[Decimal], d: list[Decimal], strength: Decimal) -> DecimalSolution:
    """Solve a group for the ℓ∞ norm: ``Σ d (|x| - t)₊ = strength``, by the elements in order."""
    ordered = sorted(zip(size, d, strict=True), reverse=True)
    total = sum((v * w for v, w in ordered), ZERO)
    top = ordered[0][0]
    if top == 0 or total - strength <= FINE * total:
        return DecimalSolution([0.0] * len(x), 0.0, 0.0, 0.0, int(Status.ZERO), 0, 1)
    slope = mass = t = ZERO
    for (v, w), (after, _) in pairwise([*ordered, (ZERO, ONE)]):
        slope, mass = slope + w, mass + v * w
        t = (mass - strength) / slope
        if t >= after:
            break
    status = Status.UNSHRUNK if strength == 0 else Status.CONVERGED
    lower, upper = _around(t)
    z = [math.copysign(float(min(v, t)), u) for u, v in zip(x, size, strict=True)]
    return DecimalSolution(z, float(t), _below(lower), _above(upper), int(status), 0, 1)


def _norm(values: Any) -> Decimal:
    return sum((v * v for v in values), ZERO).sqrt()


def _around(r: Decimal) -> tuple[Decimal, Decimal]:
    return r * (1 - FINE), r * (1 + FINE)


def _below(r: Decimal) -> float:
    """Return the greatest float that is not above a number ``>= 0``."""
    v = float(r)
    return v if Decimal(v) <= r else math.nextafter(v, 0.0)


def _above(r: Decimal) -> float:
    """Return the least float that is not below a number ``>= 0``."""
    v = float(r)
    return v if Decimal(v) >= r else math.nextafter(v, math.inf)
