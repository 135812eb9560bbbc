"""Stationary radii for curved slopes in ball arithmetic: all of them, by bounds at the ends of intervals.

Along ``z(μ) = D x/(d + μ)`` the radius ``r`` falls and ``T = μ r`` grows, so that between two ``μ`` both
lie between their ends, and the slope of the penalty does. Where the bounds of ``τ - T`` have one sign
nothing is stationary; the rest is halved, until its slope has one sign and a change of sign proves the
radius.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from flint import arb

from proxlab.study.balls import Ball, UndecidedError, squares

__all__ = ["Balls", "crossings"]

#: Halvings of an interval, and evaluations, before a group is given up at a precision.
_DEPTH, _MOST = 60, 20000


class Balls:
    """The operations of :mod:`proxlab.scalar` on balls, by the names that array namespaces give them."""

    @staticmethod
    def where(condition: bool, yes: Ball, no: Ball) -> Ball:
        """Select, where the condition is certain."""
        return yes if condition else no

    @staticmethod
    def full_like(_: Ball, number: float) -> Ball:
        """Return a number as a ball."""
        return arb(number)

    @staticmethod
    def minimum(a: Ball, b: Ball) -> Ball:
        """Return the lesser of two."""
        return arb(a).min(arb(b))

    @staticmethod
    def maximum(a: Ball, b: Ball) -> Ball:
        """Return the greater of two."""
        return arb(a).max(arb(b))

    @staticmethod
    def pow(a: Ball, b: Any) -> Ball:
        """Return a power."""
        return a ** arb(b)

    @staticmethod
    def logical_not(condition: bool) -> bool:
        """Return whether a condition does not hold."""
        return not condition

    abs = staticmethod(abs)
    sqrt, exp, expm1, log, log1p = arb.sqrt, arb.exp, arb.expm1, arb.log, arb.log1p


class _Point(NamedTuple):
    """A point of the path: ``μ``, the radius, ``T``, ``-T'`` and ``τ`` there."""

    mu: Ball
    r: Ball
    t: Ball
    kappa: Ball
    tau: Ball

    @property
    def rises(self) -> int:
        """The sign of ``τ - T``, 0 where it is open."""
        return 1 if self.tau > self.t else -1 if self.tau < self.t else 0


def crossings(
    b: list[Ball], d: list[Ball], eta: Ball, curve: Any, falls: bool, bits: int
) -> list[tuple[Ball, Ball]]:
    """Return ``(r, τ)`` of every local minimiser of the objective between zero and the point itself.

    Parameters
    ----------
    b, d : list of balls
        ``D x`` and the metric, of elements that are not zero.
    eta : ball
    curve : Curve
        The functions of the radius, over balls.
    falls : bool
        Whether the slope never rises; else it never falls.
    bits : int
        Bits to which a radius is wanted.

    Raises
    ------
    UndecidedError
        If balls at this precision do not tell.
    """
    spent = 0

    def at(mu: Ball) -> _Point:
        nonlocal spent
        spent += 1
        if spent > _MOST:
            raise UndecidedError("too many intervals")
        z = [v / (e + mu) for v, e in zip(b, d, strict=True)]
        r = squares(z).sqrt()
        w = [v * v / (e + mu) for v, e in zip(z, d, strict=True)]
        kappa = sum((v * e for v, e in zip(w, d, strict=True)), arb(0)) / sum(w, arb(0))
        return _Point(mu, r, mu * r, kappa, eta * curve.slope(r))

    length = squares(v / e for v, e in zip(b, d, strict=True)).sqrt()
    end = eta * curve.slope(length)
    if not end > 0:
        raise UndecidedError("a slope that may vanish")
    low = at((end / length / 2).mid()) if falls else at((eta * curve.slope(length) / length).mid() / 2**40)
    # Beyond the last μ the sign of τ - T is that of the limit at zero.
    limit, norm_b = eta * curve.slope(arb(0)), squares(b).sqrt()
    high = at(low.mu * 2)
    for _ in range(4000):
        if (falls and high.tau > norm_b) or (limit.is_finite() and high.t > limit and limit < norm_b):
            break
        if not falls and limit >= norm_b:
            return []
        high = at(high.mu * 4)
    else:
        raise UndecidedError("no end of the path")
    found: list[tuple[Ball, Ball]] = []
    todo = [(low, high, 0)]
    while todo:
        left, right, depth = todo.pop()  # left is the longer
        most, least = (right.tau, left.tau) if falls else (left.tau, right.tau)
        if least > right.t or most < left.t:
            continue
        bend = eta * curve.curvature(right.r if falls else left.r) + left.kappa
        if depth > 4 and bend > 0 and left.rises == 1 and right.rises == -1:
            r = _proved(at, left, right, bits)
            found.append((r.r, r.t))
            continue
        if depth > 4 and (right.kappa + eta * curve.curvature(left.r if falls else right.r)) < 0:
            continue  # concave
        if depth > 4 and bend > 0 and left.rises * right.rises == 1:
            continue  # no sign is left between
        if depth == _DEPTH:
            raise UndecidedError("an interval that does not tell")
        middle = at((left.mu * right.mu).sqrt().mid())
        todo += [(left, middle, depth + 1), (middle, right, depth + 1)]
    return sorted(found, key=lambda v: float(v[0]))


def _proved(at: Any, left: _Point, right: _Point, bits: int) -> _Point:
    """Enclose the one change of sign between two points."""
    for _ in range(4 * bits):
        if right.mu - left.mu < left.mu * arb(2) ** -bits:
            return _Point(*(u.union(v) for u, v in zip(left, right, strict=True)))
        middle = at(((left.mu + right.mu) / 2).mid())
        if middle.rises == 0:
            # Between two neighbours of it.
            off = arb(2) ** -(bits + 8)
            near, far = at((middle.mu * (1 - off)).mid()), at((middle.mu * (1 + off)).mid())
            if near.rises == 1 and far.rises == -1:
                left, right = near, far
                continue
            raise UndecidedError("no change of sign around a radius")
        left, right = (middle, right) if middle.rises == 1 else (left, middle)
    raise UndecidedError("a radius that does not come")
