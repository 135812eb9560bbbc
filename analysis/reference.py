"""The weighted prox of radial penalties to 70 digits in ball arithmetic, and the true errors of a candidate.

Nothing here uses proxlab: penalties are given by their own table of slopes, numbers are Arb balls
(python-flint), and every returned radius carries a proof, a change of sign of the secular function between
two neighbours of it. The mathematics is that of the trust-region reduction: on a piece where the penalty's
slope is ``a − c r``, the stationary radii solve ``Σ b_i² / (d_i r + step (a − c r))² = 1`` with ``b = D
x``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

#: Bits of the computation; enough for 70 digits.
PRECISION = 256
#: A radius is returned with this relative accuracy.
RADIUS_BITS = 200
#: The largest precision that is tried before a case is given up.
MAX_PRECISION = 4096


class UndecidedError(ArithmeticError):
    """No proof at the largest precision: a degenerate problem."""


@contextmanager
def _precision(bits: int) -> Iterator[None]:
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


@dataclass(frozen=True)
class Piece:
    """``p'(r) = slope − curvature · r`` from `start` to the next piece."""

    start: Any
    slope: Any
    curvature: Any


@dataclass(frozen=True)
class Radial:
    """A penalty ``p(‖z‖)`` with piecewise-affine slope, as exact numbers.

    Attributes
    ----------
    pieces : tuple of Piece
        From radius 0 upwards.
    jump : arb
        ``p(0⁺)``: nonzero for the group ℓ0 only.
    is_convex : bool
        Whether `p` is convex.
    """

    pieces: tuple[Piece, ...]
    jump: Any = field(default_factory=lambda: arb(0))
    is_convex: bool = False

    def value(self, r: Any) -> Any:
        """``p(r)`` for a ball `r`."""
        if r == 0:
            return arb(0)
        total = self.jump
        for k, piece in enumerate(self.pieces):
            last = k + 1 == len(self.pieces)
            end = r if last else r.min(self.pieces[k + 1].start)
            total += piece.slope * (end - piece.start) - piece.curvature * (end**2 - piece.start**2) / 2
            if not last and not r > self.pieces[k + 1].start:
                break
        return total

    def slopes(self, r: Any) -> list[Any]:
        """``p'(r)``; both one-sided slopes where `r` is, or may be, a kink."""
        found = []
        for k, piece in enumerate(self.pieces):
            last = k + 1 == len(self.pieces)
            if not r < piece.start and (last or not r > self.pieces[k + 1].start):
                found.append(piece.slope - piece.curvature * r)
        return found

    @property
    def slope_at_zero(self) -> Any:
        """``p'(0⁺)``, infinite for a jump."""
        return self.pieces[0].slope if self.jump == 0 else arb("inf")


def group_lasso(lam: float) -> Radial:
    """``lam ‖z‖``."""
    return Radial((Piece(arb(0), arb(lam), arb(0)),), is_convex=True)


def group_elastic_net(lam: float, kappa: float) -> Radial:
    """``lam ‖z‖ + kappa ‖z‖²/2``."""
    return Radial((Piece(arb(0), arb(lam), -arb(kappa)),), is_convex=True)


def group_mcp(lam: float, gamma: float) -> Radial:
    """``lam ‖z‖ − ‖z‖²/(2 gamma)`` up to ``gamma lam``, then constant."""
    with _precision(PRECISION):
        a, g = arb(lam), arb(gamma)
        return Radial((Piece(arb(0), a, 1 / g), Piece(g * a, arb(0), arb(0))))


def group_scad(lam: float, a: float) -> Radial:
    """Slope ``lam`` up to ``lam``, then falling linearly to zero at ``a lam``."""
    with _precision(PRECISION):
        s, shape = arb(lam), arb(a)
        middle = Piece(s, shape * s / (shape - 1), 1 / (shape - 1))
        return Radial((Piece(arb(0), s, arb(0)), middle, Piece(shape * s, arb(0), arb(0))))


def group_capped(lam: float, theta: float) -> Radial:
    """``lam min(‖z‖, theta)``."""
    return Radial((Piece(arb(0), arb(lam), arb(0)), Piece(arb(theta), arb(0), arb(0))))


def group_l0(lam: float) -> Radial:
    """``lam`` wherever ``z ≠ 0``."""
    return Radial((Piece(arb(0), arb(0), arb(0)),), jump=arb(lam))


@dataclass(frozen=True)
class Errors:
    """True errors of a candidate as floats that are not above the truth.

    Attributes
    ----------
    distance, metric_distance : float
        Euclidean and metric distance to the prox.
    stationarity : float
        ``dist(0, ∂Q(candidate))``.
    gap : float
        ``Q(candidate) − min Q``.
    """

    distance: float
    metric_distance: float
    stationarity: float
    gap: float


def _down(ball: Any) -> float:
    """The largest convenient float that is not above a nonnegative ball."""
    low = float(ball.lower())
    return max(0.0, math.nextafter(low, -math.inf))


def norm(values: Sequence[Any]) -> Any:
    """Euclidean length."""
    return sum((v * v for v in values), arb(0)).sqrt()


class Reference:
    """The exact prox of one group.

    Parameters
    ----------
    x, metric : array_like of float, shape (size,)
        The point and the diagonal metric, taken as exact numbers.
    step : float
        Step size.
    penalty : Radial
        The penalty.

    Attributes
    ----------
    z : list of arb
        The prox, a ball around each coordinate with a relative radius below 1e-58.
    radius : arb
        ``‖z‖``.

    Raises
    ------
    UndecidedError
        If the problem is so degenerate that 1200 digits do not settle it.
    """

    def __init__(
        self, x: NDArray[np.floating[Any]], metric: NDArray[np.floating[Any]], step: float, penalty: Radial
    ) -> None:
        self.penalty, self.step = penalty, arb(step)
        self.x = [arb(float(v)) for v in x]
        self.d = [arb(float(v)) for v in metric]
        bits = PRECISION
        while True:
            try:
                with _precision(bits):
                    self._solve()
                return
            except UndecidedError:
                bits *= 2
                if bits > MAX_PRECISION:
                    raise

    def _solve(self) -> None:
        self._b = [d * x for d, x in zip(self.d, self.x, strict=True)]
        self._b_squared = [b * b for b in self._b]
        norm_b, norm_x = norm(self._b), norm(self.x)
        pieces = self.penalty.pieces
        candidates: list[tuple[Any, list[Any]]] = []
        if not norm_b > self.step * self.penalty.slope_at_zero:
            candidates.append((arb(0), [arb(0)] * len(self.x)))
        for k, piece in enumerate(pieces):
            end = pieces[k + 1].start if k + 1 < len(pieces) else arb("inf")
            if not norm_x > piece.start:
                break
            if piece.slope == 0 and piece.curvature == 0:
                if not norm_x > end:
                    candidates.append((norm_x, self.x))
                continue
            r = self._up_crossing(piece, end)
            if r is not None:
                t = self.step * (piece.slope - piece.curvature * r)
                points = [b * r / (d * r + t) for b, d in zip(self._b, self.d, strict=True)]
                candidates.append((r, points))
        objectives = [self._objective(z, r) for r, z in candidates]
        best = 0
        for k in range(1, len(candidates)):
            # every candidate before the best is sparser or equal; a tie keeps it
            if objectives[k] < objectives[best]:
                best = k
        self.radius, self.z = candidates[best]
        self._minimum = objectives[best]

    def _sums(self, piece: Piece, r: Any) -> tuple[Any, Any]:
        """``Σ u²`` and ``Σ u² (d − step c) w`` of the secular function."""
        t = self.step * (piece.slope - piece.curvature * r)
        shift = self.step * piece.curvature
        total, slope = arb(0), arb(0)
        for d, b2 in zip(self.d, self._b_squared, strict=True):
            w = 1 / (d * r + t)
            u2 = b2 * w * w
            total += u2
            slope += u2 * (d - shift) * w
        return total, slope

    def _up_crossing(self, piece: Piece, end: Any) -> Any:
        """The radius in ``[start, end]`` where the concave ``Σ^(−1/2) − 1`` turns positive, or None.

        Newton's iterates increase towards it from the left, and pass `end` or meet a slope ≤ 0 if there is
        none.
        """
        r = piece.start
        if r == 0:
            r = arb(0)
            if not norm(self._b) > self.step * piece.slope:
                return None
        elif not self._sums(piece, r)[0] > 1:
            return None
        for _ in range(1000):
            total, slope = self._sums(piece, r)
            if not slope > 0:
                return None
            following = (r + (1 - total.rsqrt()) * total * total.sqrt() / slope).mid()
            if following > end:
                return None
            if r > 0 and following - r < r * arb(2) ** -(RADIUS_BITS + 10):
                break
            r = following
        return self._proved(piece, r)

    def _proved(self, piece: Piece, r: Any) -> Any:
        """A ball around `r` that encloses the crossing."""
        margin = arb(2) ** -RADIUS_BITS
        left, right = (r * (1 - margin)).mid(), (r * (1 + margin)).mid()
        if self._sums(piece, left)[0] > 1 and self._sums(piece, right)[0] < 1:
            return left.union(right)
        raise UndecidedError("no change of sign around the computed radius")

    def _objective(self, z: Sequence[Any], r: Any) -> Any:
        quadratic = sum((d * (v - x) * (v - x) for d, v, x in zip(self.d, z, self.x, strict=True)), arb(0))
        return self.penalty.value(r) + quadratic / (2 * self.step)

    def rounded(self) -> NDArray[np.float64]:
        """The prox rounded to float64."""
        return np.array([float(v.mid()) for v in self.z])

    def errors(self, candidate: NDArray[np.floating[Any]]) -> Errors:
        """True errors of a candidate, whoever computed it."""
        with _precision(PRECISION):
            z = [arb(float(v)) for v in candidate]
            difference = [v - w for v, w in zip(z, self.z, strict=True)]
            metric = sum((d * v * v for d, v in zip(self.d, difference, strict=True)), arb(0)).sqrt()
            r = norm(z)
            gap = self._objective(z, r) - self._minimum
            return Errors(_down(norm(difference)), _down(metric), _down(self._stationarity(z, r)), _down(gap))

    def _stationarity(self, z: Sequence[Any], r: Any) -> Any:
        if r == 0:
            excess = norm(self._b) / self.step - self.penalty.slope_at_zero
            return excess.max(arb(0)) if excess.is_finite() else arb(0)
        smooth = [d * (v - x) / self.step for d, v, x in zip(self.d, z, self.x, strict=True)]
        lengths = []
        for slope in self.penalty.slopes(r):
            factor = slope / r
            lengths.append(norm([g + factor * v for g, v in zip(smooth, z, strict=True)]))
        result = lengths[0]
        for length in lengths[1:]:
            result = result.min(length)
        return result

    def outside(self, lower: NDArray[np.floating[Any]], upper: NDArray[np.floating[Any]]) -> int:
        """How many coordinates of ``|z|`` certainly lie outside a componentwise enclosure."""
        count = 0
        for v, low, high in zip(self.z, lower, upper, strict=True):
            size = abs(v)
            high_ball = arb(float(high)) if math.isfinite(high) else arb("inf")
            count += bool(size < arb(float(low)) or size > high_ball)
        return count

    def radius_outside(self, lower: float, upper: float) -> bool:
        """Whether the radius certainly lies outside a bracket."""
        return bool(self.radius < arb(lower) or self.radius > arb(upper))
