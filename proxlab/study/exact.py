"""The weighted prox of one group in ball arithmetic, and the true errors of a candidate.

No solver of proxlab is used: a penalty is its table of slopes, numbers are balls, and a radius is proved by a
change of sign of the secular function between two neighbours of it. On a piece where the slope is ``a - c
r``, the stationary radii solve ``Σ b_i² / (d_i r + η (a - c r))² = 1`` with ``b = D x`` (docs: the
mathematics, §3); at a kink where the slope rises, the knot itself is a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from flint import arb

from proxlab.penalties import Penalty
from proxlab.penalties.equations import Clipped, Curved, GroupEquation, Radial
from proxlab.study.balls import (
    Ball,
    UndecidedError,
    clip,
    compare,
    exponent,
    norm,
    precision,
    root,
    squares,
)
from proxlab.study.exact_curves import Balls, crossings

__all__ = [
    "ExactErrors",
    "ExactGroup",
    "ExactPenalty",
    "ExactPiece",
    "ExactSolution",
    "exact_penalty",
    "solve_group",
]

FloatArray = npt.NDArray[np.float64]

#: Bits beyond the digits that are asked for, and how often the precision is doubled before a group is given
#: up; the last time it covers the exponents of the group too.
_GUARD = 90
_DOUBLINGS = 4
_STEPS = 1000
#: Bits of the square of a product of two floats, and of a sum of many.
_EXACT = 256


class ExactPiece(NamedTuple):
    """``p(r) = value + ∫ (slope - curvature s) ds`` from ``start`` to the next piece."""

    start: Ball
    value: Ball
    slope: Ball
    curvature: Ball

    def slope_at(self, r: Ball) -> Ball:
        """``p'(r)``."""
        return self.slope - self.curvature * r

    def value_at(self, r: Ball) -> Ball:
        """``p(r)``."""
        return self.value + (r - self.start) * (self.slope - self.curvature * (r + self.start) / 2)


@dataclass(frozen=True)
class ExactPenalty:
    """The penalty of one group: ``weight p(‖z‖) + threshold ‖z‖₁``, or ``weight p(max |z|)``.

    Attributes
    ----------
    pieces : tuple of ExactPiece
        From radius 0 upwards.
    threshold : Ball
        Strength of the elementwise part.
    nonnegative : bool
        Whether it is infinite at negative elements.
    largest : bool
        Whether the radius is the largest modulus.
    curve : Curve or None
        The functions of the radius where its slope is a curve; then there are no pieces.
    falls : bool
        Whether a curved slope never rises.
    """

    pieces: tuple[ExactPiece, ...]
    threshold: Ball
    nonnegative: bool
    largest: bool = False
    curve: Any = None
    falls: bool = True

    def around(self, r: Ball) -> list[ExactPiece]:
        """The pieces on which ``r`` is, or may be: two at a knot."""
        found = []
        for k, piece in enumerate(self.pieces):
            last = k + 1 == len(self.pieces)
            if not r < piece.start and (last or not r > self.pieces[k + 1].start):
                found.append(piece)
        return found

    def value(self, r: Ball) -> Ball:
        """``p(r)``; at a knot both pieces agree."""
        if r == 0:
            return arb(0)
        if self.curve is not None:
            return self.curve.value(r)
        values = [piece.value_at(r) for piece in self.around(r)]
        least = values[0]
        for value in values[1:]:
            least = least.min(value)
        return least


def exact_penalty(penalty: Penalty) -> ExactPenalty:
    """Return a penalty as exact numbers, at the present precision.

    Raises
    ------
    TypeError
        If the penalty has neither pieces nor a closed form here.
    """
    equation = penalty.equation
    if type(equation) not in _EQUATIONS:
        raise TypeError(
            f"penalty: the truth is known of radial penalties by their pieces and of GroupLinf, not of "
            f"{type(penalty).__name__}"
        )
    return _EQUATIONS[type(equation)](penalty)


def _number(v: float) -> Ball:
    return arb(float(v))


def _radial(penalty: Any) -> ExactPenalty:
    # Where the pieces of the class are rounded, its parameters are the penalty.
    table = [ExactPiece(*row) for row in penalty._exact_pieces(_number)]
    ends = [piece.start for piece in table[1:]]
    kept = [p for p, end in zip(table, [*ends, arb("inf")], strict=True) if p.start != end]
    return ExactPenalty(tuple(kept), _number(penalty.threshold), bool(penalty.nonnegative))


def _clipped(penalty: Any) -> ExactPenalty:
    piece = ExactPiece(arb(0), arb(0), _number(penalty.equation.lam), arb(0))
    return ExactPenalty((piece,), arb(0), penalty.nonnegative, largest=True)


def _curved(penalty: Any) -> ExactPenalty:
    return ExactPenalty(
        (), arb(0), bool(penalty.nonnegative), curve=penalty.curve(Balls), falls=penalty.slope_falls
    )


_EQUATIONS: dict[type[GroupEquation], Callable[[Any], ExactPenalty]] = {
    Radial: _radial,
    Clipped: _clipped,
    Curved: _curved,
}


class ExactSolution(NamedTuple):
    """The exact prox of a group.

    ``tied`` says that another point cannot be told from it by its objective, ``decided`` is False where no
    precision settled which point it is: ``z`` then encloses all that it may be.
    """

    z: list[Ball]
    radius: Ball
    tied: bool
    decided: bool
    bits: int


class ExactErrors(NamedTuple):
    """True errors of a candidate for one group, as balls."""

    distance: Ball
    metric_distance: Ball
    stationarity: Ball
    gap: Ball


class ExactGroup:
    """The problem of one group, as exact numbers at the present precision."""

    def __init__(
        self,
        x: FloatArray,
        d: FloatArray,
        step: float,
        weight: float,
        penalty: Penalty,
        bits: int,
        spread: int = 0,
    ) -> None:
        self.x, self.d = [arb(float(v)) for v in x], [arb(float(v)) for v in d]
        self.step, self.weight = arb(float(step)), arb(float(weight))
        self.h = exact_penalty(penalty)
        self.bits = bits
        # What is left over tells the signs on both sides of a radius apart, also just above the threshold:
        # a share, and the bits by which the group's elements are spread.
        bits -= spread
        self.radius_bits = bits - max(_GUARD - 10, 2 * bits // 5)
        # What the radial part sees: b = D x after the elementwise part, and the elements where it is not 0.
        self.b = [self._shrunk(d * x) for d, x in zip(self.d, self.x, strict=True)]
        self.live = [k for k, b in enumerate(self.b) if b != 0]

    def _shrunk(self, b: Ball) -> Ball:
        limit = self.step * self.h.threshold
        if compare(b, limit) > 0:
            return b - limit
        if self.h.nonnegative or compare(b, -limit) >= 0:
            return arb(0)
        return b + limit

    def spread(self) -> int:
        """Bits with which ``Σ b_i²`` is exact, so that it is above the threshold or not, and by how much.

        The exponents of the metric are added: an element of a large metric is the first to give way.
        """
        sizes = [exponent(d * x) for d, x in zip(self.d, self.x, strict=True) if x != 0]
        if self.h.threshold > 0:
            sizes.append(exponent(self.step * self.h.threshold))
        metric = [exponent(d) for d in self.d]
        spread, apart = (max(v, default=0) - min(v, default=0) for v in (sizes, metric))
        return 2 * spread + apart + _EXACT

    # ------------------------------------------------------------------------------------------ the prox

    def solve(self, last: bool) -> ExactSolution:
        """Compare all candidates; ``last`` says that no higher precision will be tried."""
        if self.h.largest:
            z, level = self._clipped()
            return ExactSolution(z, level, False, True, self.bits)
        candidates = self._candidates()
        best, tied = candidates[0], False
        least = self.objective(*best)
        for other in candidates[1:]:
            value = self.objective(*other)
            if value < least:
                best, least, tied = other, value, False
            elif value > least:
                continue
            elif other[1].overlaps(best[1]):
                # A crossing at a knot has been found from both sides.
                z = [v.union(w) for v, w in zip(best[0], other[0], strict=True)]
                best = z, best[1].union(other[1])
            else:
                # The sparser is first.
                if not last and not value - least == 0:
                    raise UndecidedError("two minimisers are as good")
                tied = True
        return ExactSolution(best[0], best[1], tied, True, self.bits)

    def enclosure(self) -> ExactSolution:
        """What holds whatever the minimiser is: it lies between 0 and ``x``."""
        z = [arb(0).union(x) for x in self.x]
        sizes = [abs(x) for x in self.x]
        high = max(sizes, key=float) if self.h.largest and sizes else norm(self.x)
        return ExactSolution(z, arb(0).union(high), False, False, self.bits)

    def _clipped(self) -> tuple[list[Ball], Ball]:
        """``sign(x) min(|x|, t)``, where ``t`` is the largest of ``(Σ_S d |x| - η λ w)/Σ_S d`` over sets
        ``S``, and so over the sets of largest elements.
        """
        x = [v.max(arb(0)) if self.h.nonnegative else v for v in self.x]
        order = sorted(range(len(x)), key=lambda k: -float(abs(x[k])))
        total, slope, level = -self.step * self.weight * self.h.pieces[0].slope, arb(0), arb(0)
        for k in order:
            total, slope = total + self.d[k] * abs(x[k]), slope + self.d[k]
            level = level.max(total / slope)
        return [clip(v, -level, level) for v in x], _largest(x).min(level)

    def _candidates(self) -> list[tuple[list[Ball], Ball]]:
        """Every point that may be the minimiser, with its radius: the sparser first."""
        zero = ([arb(0)] * len(self.x), arb(0))
        if not self.live:
            return [zero]
        if self.h.curve is not None:
            return self._curved_candidates(zero)
        found = []
        pieces, eta = self.h.pieces, self.step * self.weight
        length = norm(self.b[k] / self.d[k] for k in self.live)
        jump = pieces[0].value > 0
        if jump or compare(squares(self.b[k] for k in self.live), (eta * pieces[0].slope) ** 2) <= 0:
            found.append(zero)
        for k, piece in enumerate(pieces):
            end = pieces[k + 1].start if k + 1 < len(pieces) else arb("inf")
            if length < piece.start:
                break
            if k and length > piece.start and self._rises(pieces[k - 1], piece):
                found.append((self._at_radius(piece.start), piece.start))
            if piece.slope == 0 and piece.curvature == 0:
                if not length > end:
                    found.append(([b / d for b, d in zip(self.b, self.d, strict=True)], length))
                continue
            r = self._crossing(piece, end)
            if r is not None:
                found.append((self._points(r, eta * piece.slope_at(r)), r))
        return found or [zero]

    def _curved_candidates(self, zero: tuple[list[Ball], Ball]) -> list[tuple[list[Ball], Ball]]:
        eta, curve = self.step * self.weight, self.h.curve
        if eta == 0:
            return [([b / d for b, d in zip(self.b, self.d, strict=True)], norm(self.x))]
        b, d = ([v[k] for k in self.live] for v in (self.b, self.d))
        first = eta * curve.slope(arb(0))
        rests = not first.is_finite() or compare(squares(b), first**2) <= 0
        found = crossings(b, d, eta, curve, self.h.falls, self.radius_bits)
        return [zero] * rests + [(self._points(r, t), r) for r, t in found] or [zero]

    @staticmethod
    def _rises(before: ExactPiece, after: ExactPiece) -> bool:
        """Whether the slope jumps up at a knot, so that a minimiser may lie on it."""
        return bool(after.slope_at(after.start) > before.slope_at(after.start))

    def _points(self, r: Ball, t: Ball) -> list[Ball]:
        return [arb(0) if b == 0 else b * r / (d * r + t) for b, d in zip(self.b, self.d, strict=True)]

    def _sums(self, r: Ball, t: Ball, shift: Ball | None) -> tuple[Ball, Ball]:
        """``Σ u²`` and minus half its derivative: in ``r`` with the shift ``η c``, or in ``t`` without
        one.
        """
        total, slope = arb(0), arb(0)
        for k in self.live:
            d = self.d[k]
            w = 1 / (d * r + t)
            u2 = (self.b[k] * w) ** 2
            total += u2
            slope += u2 * w if shift is None else u2 * (d - shift) * w
        return total, slope

    def _crossing(self, piece: ExactPiece, end: Ball) -> Ball | None:
        """The radius on a piece where the concave ``Σ^(-1/2) - 1`` turns positive, or None."""
        eta = self.step * self.weight
        shift = eta * piece.curvature

        def sums(r: Ball) -> tuple[Ball, Ball]:
            return self._sums(r, eta * piece.slope_at(r), shift)

        if piece.start == 0:
            if piece.slope == 0:
                # The slope is proportional to the radius.
                r = norm(self.b[k] / (self.d[k] - shift) for k in self.live)
                return None if r > end else r
            if compare(squares(self.b[k] for k in self.live), (eta * piece.slope) ** 2) <= 0:
                return None
        else:
            at_start, slope = sums(piece.start)
            if at_start < 1:
                return None
            if not at_start > 1:
                # As far as can be told there is a crossing at the knot: this one, or the one after which the
                # function falls.
                return None if slope <= 0 else self._proved(sums, piece.start.mid())
        return self._climb(sums, piece.start.mid(), self._guess(piece, end), end)

    def _at_radius(self, radius: Ball) -> list[Ball]:
        """The nearest point to ``x`` on the sphere of a radius below ``‖x‖``."""

        def sums(t: Ball) -> tuple[Ball, Ball]:
            return self._sums(radius, t, None)

        t = self._climb(sums, arb(0), None, arb("inf"))
        if t is None:
            raise UndecidedError("no multiplier")
        return self._points(radius, t)

    def _climb(
        self, sums: Callable[[Ball], tuple[Ball, Ball]], start: Ball, guess: Ball | None, end: Ball
    ) -> Ball | None:
        """Newton's iteration on ``Σ^(-1/2) - 1`` from its negative side, where it increases to the crossing.

        It passes ``end`` or meets a slope that is not positive if there is no crossing.
        """
        r = start
        if guess is not None and guess > start:
            total, slope = sums(guess)
            if total > 1 and slope > 0:
                r = guess
        for _ in range(_STEPS):
            total, slope = sums(r)
            climb = (1 - total.rsqrt()) * total * total.sqrt()
            if not slope > 0:
                # Where the slope may be zero, the step is at least that of the largest that it may be.
                high = slope.upper()
                if high <= 0 or r + climb / high > end:
                    return None
                raise UndecidedError("a slope may be zero")
            following = (r + climb / slope).mid()
            if following > end * (1 + arb(2) ** -self.radius_bits):
                return None
            if following > 0 and following - r < following * arb(2) ** -(self.radius_bits + 10):
                found = self._proved(sums, following)
                return None if found > end else found
            r = following
        raise UndecidedError("too many steps")

    def _proved(self, sums: Callable[[Ball], tuple[Ball, Ball]], r: Ball) -> Ball:
        """A ball around ``r`` that encloses the crossing."""
        margin = arb(2) ** -self.radius_bits
        left, right = (r * (1 - margin)).mid(), (r * (1 + margin)).mid()
        if sums(left)[0] > 1 and sums(right)[0] < 1:
            return left.union(right)
        raise UndecidedError("no change of sign around the computed radius")

    def _guess(self, piece: ExactPiece, end: Ball) -> Ball | None:
        """A start just left of the crossing from floats, or None where they do not find it."""
        b, d = (np.array([float(v[k]) for k in self.live]) for v in (self.b, self.d))
        eta = float(self.step * self.weight)
        a, c, r = float(piece.slope), float(piece.curvature), float(piece.start)
        with np.errstate(all="ignore"):
            for _ in range(100):
                w = 1.0 / (d * r + eta * (a - c * r))
                u2 = (b * w) ** 2
                total, slope = float(np.sum(u2)), float(np.sum(u2 * (d - eta * c) * w))
                if not (slope > 0 and 0 < total < math.inf):
                    return None
                following = r + total * (math.sqrt(total) - 1.0) / slope
                if not following > r * (1 + 1e-15):
                    break
                r = following
        return arb(r * (1 - 1e-13)) if 0 < r < math.inf and not arb(r) > end else None

    # ------------------------------------------------------------------------------------------ the errors

    def objective(self, z: Sequence[Ball], r: Ball) -> Ball:
        """``h(z) + ‖z - x‖²_D / (2 step)`` of a point of radius ``r``."""
        quadratic = sum((d * (v - x) ** 2 for d, v, x in zip(self.d, z, self.x, strict=True)), arb(0))
        return self.penalty_value(z, r) + quadratic / (2 * self.step)

    def penalty_value(self, z: Sequence[Ball], r: Ball) -> Ball:
        """``h(z)`` of a point of radius ``r``."""
        if self.h.nonnegative and any(v < 0 for v in z):
            return arb("inf")
        value = self.weight * self.h.value(r)
        return value + self.h.threshold * sum((abs(v) for v in z), arb(0)) if self.h.threshold > 0 else value

    def radius(self, z: Sequence[Ball]) -> Ball:
        """The radius of a point."""
        return _largest(z) if self.h.largest else norm(z)

    def errors(self, candidate: FloatArray, solved: ExactSolution) -> ExactErrors:
        """True errors of a finite candidate."""
        z = [arb(float(v)) for v in candidate]
        difference = [v - w for v, w in zip(z, solved.z, strict=True)]
        metric = root(sum((d * v * v for d, v in zip(self.d, difference, strict=True)), arb(0)))
        value = self.objective(z, self.radius(z))
        if not solved.decided:
            gap = arb(0).union(value)
        else:
            gap = value if value == arb("inf") else value - self.objective(solved.z, solved.radius)
        return ExactErrors(norm(difference), metric, self.stationarity(z), gap)

    def stationarity(self, z: Sequence[Ball]) -> Ball:
        """``dist(0, ∂Q(z))``, at a point of exact coordinates."""
        if self.h.nonnegative and any(v < 0 for v in z):
            return arb("inf")
        grad = [d * (v - x) / self.step for d, v, x in zip(self.d, z, self.x, strict=True)]
        if self.h.largest:
            return self._face_distance(grad, z)
        if all(v == 0 for v in z):
            if self.h.curve is not None:
                first = self.h.curve.slope(arb(0))
                infinite = not first.is_finite() and self.weight > 0
            else:
                first, infinite = self.h.pieces[0].slope, self.h.pieces[0].value > 0 and self.weight > 0
            if infinite:
                return arb(0)
            return (norm([self._absorbed(g) for g in grad]) - self.weight * first).max(arb(0))
        r = norm(z)
        fixed = squares(self._absorbed(g) for g, v in zip(grad, z, strict=True) if v == 0)
        pairs = [
            (g + (self.h.threshold if v > 0 else -self.h.threshold), v / r)
            for g, v in zip(grad, z, strict=True)
            if v != 0
        ]
        if self.h.curve is not None:
            slopes = [self.weight * self.h.curve.slope(r)]
        else:
            slopes = [self.weight * piece.slope_at(r) for piece in self._sides(z, r)]
        for low, high in pairwise(slopes):
            if low < high:
                # A convex kink: all slopes between the two are subgradients.
                slopes.append(clip(-sum((g * u for g, u in pairs), arb(0)), low, high))
                break
        lengths = [root(fixed + squares(g + slope * u for g, u in pairs)) for slope in slopes]
        least = lengths[0]
        for length in lengths[1:]:
            least = least.min(length)
        return least

    def _sides(self, z: Sequence[Ball], r: Ball) -> list[ExactPiece]:
        """The piece of a point, or both where its radius is a knot; squares tell exactly."""
        around = self.h.around(r)
        if len(around) < 2:
            return around
        side = squares(z) - around[-1].start ** 2
        return around[-1:] if side > 0 else around[:1] if side < 0 else around

    def _absorbed(self, g: Ball) -> Ball:
        """What the elementwise part leaves of the gradient at an element that is zero."""
        down = (-g - self.h.threshold).max(arb(0))
        return down if self.h.nonnegative else (g - self.h.threshold).max(down)

    def _face_distance(self, grad: list[Ball], z: Sequence[Ball]) -> Ball:
        """The distance to the subdifferential of the largest modulus: a simplex on the face, or the ball of
        the ℓ1 norm.
        """
        strength = self.weight * self.h.pieces[0].slope
        top = _largest(z)
        if top == 0:
            wanted, rest = [(-g).max(arb(0)) if self.h.nonnegative else abs(g) for g in grad], arb(0)
            floor = arb(0)
        else:
            face = [abs(v) == top for v in z]
            wanted = [-g if v > 0 else g for g, v, on in zip(grad, z, face, strict=True) if on]
            rest = squares(
                g.min(arb(0)) if self.h.nonnegative and v == 0 else g
                for g, v, on in zip(grad, z, face, strict=True)
                if not on
            )
            floor = arb("-inf")
        level, total = floor, -strength
        for n, v in enumerate(sorted(wanted, key=float, reverse=True), start=1):
            total = total + v
            level = total / n if n == 1 and floor != 0 else level.max(total / n)
        return root(rest + squares(v.min(level) for v in wanted))


def _largest(z: Sequence[Ball]) -> Ball:
    top = arb(0)
    for v in z:
        top = top.max(abs(v))
    return top


def solve_group(
    x: FloatArray, d: FloatArray, step: float, weight: float, penalty: Penalty, digits: int
) -> ExactSolution:
    """Solve one group to so many digits, with more where two points are hard to tell apart."""
    bits = bits_of(digits)
    for k in range(_DOUBLINGS + 1):
        last, spread = k == _DOUBLINGS, 0
        if last:
            with precision(bits):
                spread = ExactGroup(x, d, step, weight, penalty, bits).spread()
        now = (bits << k) + spread
        with precision(now):
            group = ExactGroup(x, d, step, weight, penalty, now, spread)
            try:
                return group.solve(last)
            except UndecidedError:
                if last:
                    return group.enclosure()
    raise AssertionError("unreachable")


def bits_of(digits: int) -> int:
    """Return the precision that so many digits take."""
    radius = math.ceil(digits * math.log2(10)) + 10
    return max(radius + _GUARD - 10, 5 * radius // 3 + 2)
