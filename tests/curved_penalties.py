"""Penalties whose slope is a curve, as users write them, and their truth in high precision."""

from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mpf

import proxlab as pl
from proxlab.scalar import exp, expm1, sqrt


@dataclass(frozen=True, eq=False)
class Laplace(pl.CurvedPenalty):
    """``λ (1 - exp(-r/θ))``: a finite slope at zero that all but vanishes."""

    lam: float
    theta: float

    def value_at(self, r):
        return -self.lam * expm1(-r / self.theta)

    def slope_at(self, r):
        return self.lam / self.theta * exp(-r / self.theta)

    def curvature_at(self, r):
        return -self.lam / self.theta**2 * exp(-r / self.theta)


@dataclass(frozen=True, eq=False)
class Smooth(pl.CurvedPenalty):
    """``λ (sqrt(1 + r²) - 1)``: convex, and without a kink at zero."""

    lam: float
    slope_falls = False

    def value_at(self, r):
        return self.lam * r * r / (sqrt(1.0 + r * r) + 1.0)

    def slope_at(self, r):
        return self.lam * r / sqrt(1.0 + r * r)

    def curvature_at(self, r):
        return self.lam / ((1.0 + r * r) * sqrt(1.0 + r * r))


@dataclass(frozen=True, eq=False)
class Cube(pl.CurvedPenalty):
    """``λ r³``: a slope that rises faster than the radius, so that ``τ/r`` rises too."""

    lam: float
    slope_falls = False

    def value_at(self, r):
        return self.lam * r * r * r

    def slope_at(self, r):
        return 3.0 * self.lam * r * r

    def curvature_at(self, r):
        return 6.0 * self.lam * r


@dataclass(frozen=True, eq=False)
class Witch(pl.CurvedPenalty):
    """``λ r/sqrt(1 + r²)``: a slope that falls and is not convex."""

    lam: float
    slope_is_convex = False

    def value_at(self, r):
        return self.lam * r / sqrt(1.0 + r * r)

    def slope_at(self, r):
        return self.lam / ((1.0 + r * r) * sqrt(1.0 + r * r))

    def curvature_at(self, r):
        return -3.0 * self.lam * r / ((1.0 + r * r) * (1.0 + r * r) * sqrt(1.0 + r * r))


# Value and slope of p once more, for mpmath.
FORMULAS = {
    pl.GroupLog: (
        lambda h, r: mpf(h.lam) * mpmath.log1p(r / mpf(h.eps)),
        lambda h, r: mpf(h.lam) / (r + mpf(h.eps)),
    ),
    pl.GroupLq: (
        lambda h, r: mpf(h.lam) * r ** mpf(h.q),
        lambda h, r: mpf(h.lam) * mpf(h.q) * r ** (mpf(h.q) - 1),
    ),
    Laplace: (
        lambda h, r: -mpf(h.lam) * mpmath.expm1(-r / mpf(h.theta)),
        lambda h, r: mpf(h.lam) / mpf(h.theta) * mpmath.exp(-r / mpf(h.theta)),
    ),
    Smooth: (
        lambda h, r: mpf(h.lam) * (mpmath.sqrt(1 + r * r) - 1),
        lambda h, r: mpf(h.lam) * r / mpmath.sqrt(1 + r * r),
    ),
    Cube: (lambda h, r: mpf(h.lam) * r**3, lambda h, r: 3 * mpf(h.lam) * r * r),
    Witch: (
        lambda h, r: mpf(h.lam) * r / mpmath.sqrt(1 + r * r),
        lambda h, r: mpf(h.lam) / (1 + r * r) ** mpf(1.5),
    ),
}
PENALTIES = [
    pl.GroupLog(0.7, 0.05),
    pl.GroupLog(0.5, 1.0),
    pl.GroupLq(0.7, 0.5),
    pl.GroupLq(0.3, 0.9),
    Laplace(1.0, 0.3),
    Smooth(1.0),
    Cube(3.0),
    Witch(1.0),
]


class Truth:
    """The global minimiser of one group: zero, or a change of sign along a dense scan of the path."""

    def __init__(self, h, x, d, step):
        self.value, self.slope = FORMULAS[type(h)]
        self.h, self.step = h, mpf(step)
        self.x, self.d = [mpf(float(v)) for v in x], [mpf(float(v)) for v in d]
        mu = np.geomspace(1e-9, 1e9, 1501) * float(np.max(d))
        r = np.linalg.norm(x * d / (d + mu[:, None]), axis=1)
        with np.errstate(all="ignore"):
            rises = step * h.curve(np).slope(r) - mu * r > 0
        changes = [(mu[k], mu[k + 1]) for k in np.flatnonzero(rises[:-1] & ~rises[1:])]
        roots = [mpmath.findroot(self.excess, ends, solver="anderson", tol=1e-80) for ends in changes]
        points = [[mpf(0)] * len(self.x), *(self.at(root) for root in roots)]
        self.z = min(points, key=self.objective)
        self.least = self.objective(self.z)
        self.lead = min((self.objective(z) - self.least for z in points if z is not self.z), default=mpf(1))
        self.radius = mpmath.norm(self.z)

    def at(self, mu):
        return [a * b / (b + mu) for a, b in zip(self.x, self.d, strict=True)]

    def excess(self, mu):
        r = mpmath.norm(self.at(mu))
        return self.step * self.slope(self.h, r) - mu * r

    def objective(self, z):
        r = mpmath.norm(z)
        squares = sum(b * (v - a) ** 2 for v, a, b in zip(z, self.x, self.d, strict=True))
        return (self.step * self.value(self.h, r) if r > 0 else mpf(0)) + squares / 2

    def stationarity(self, z):
        z = [mpf(float(v)) for v in z]
        r = mpmath.norm(z)
        pull = [b * (v - a) / self.step for v, a, b in zip(z, self.x, self.d, strict=True)]
        if r == 0:
            try:
                first = self.slope(self.h, mpf(0))
            except ZeroDivisionError:
                return mpf(0)
            return max(mpmath.norm(pull) - first, mpf(0))
        return mpmath.norm([p + self.slope(self.h, r) * v / r for p, v in zip(pull, z, strict=True)])


def problems(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(1, 5))
        x, d = 1.5 * rng.normal(size=n), rng.lognormal(sigma=1.5, size=n)
        yield rng, x, d, float(rng.lognormal())
