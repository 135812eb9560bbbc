"""Curves whose numbers leave the range, or are enormous at the point."""

from dataclasses import dataclass, replace

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

import proxlab as pl
from proxlab import scalar
from proxlab.scalar import exp, expm1
from tests.table import BACKENDS


@given(
    st.sampled_from(["GroupLog", "GroupLq"]), st.floats(-280, 280), st.floats(-2, 1), st.floats(-2, 1),
    st.integers(0, 99), st.sampled_from(BACKENDS),
)  # fmt: skip
def test_at_any_length_the_answer_is_that_of_length_one_or_open(kind, power, strength, shape, seed, backend):
    """Where curvatures leave the range, above or below, they say nothing: zero was called the minimiser."""
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=(1, 3)) * 10.0 ** rng.uniform(-1, 1), rng.lognormal(size=(1, 3))
    s, strength, shape = 10.0**power, 10.0**strength, 10.0**shape
    if kind == "GroupLog":  # of eta lam s² in all
        plain, scaled, step = pl.GroupLog(strength, shape), pl.GroupLog(strength * s, shape * s), s
    else:
        plain = pl.GroupLq(strength, 0.25 + 0.05 * shape)
        scaled, step = replace(plain, lam=strength * s), s ** (1.0 - plain.q)
    truth, penalty = pl.solve(plain, x, metric=d), scaled
    found = pl.solve(penalty, x * s, step, metric=d, backend=backend)
    bounds = pl.certify(penalty, found.z, x * s, step, metric=d, backend=backend)
    if pl.certify(plain, truth.z, x, metric=d).decided[0]:
        off = np.linalg.norm(found.z / s - truth.z)
        assert bounds.distance[0] / s >= off * (1 - 1e-6) - 1e-12 * np.linalg.norm(x)
        ended = found.status[0] != pl.Status.MAX_ITERATIONS
        assert found.status[0] == truth.status[0] if ended else not bounds.decided[0] or off < 1e-9
        assert off <= 1e-9 * np.linalg.norm(x) or not ended
        low, high = found.bracket[0][0] / s, found.bracket[1][0] / s
        assert low * (1 - 1e-9) <= truth.radius[0] <= high * (1 + 1e-9)
    assert abs(power) > 100 or found.ok


@dataclass(frozen=True, eq=False)
class Exponential(pl.CurvedPenalty):
    """``λ (exp(r/θ) - 1)``: convex, and beyond the range before the point is reached."""

    lam: float
    theta: float
    slope_falls = False

    def value_at(self, r):
        return self.lam * expm1(r / self.theta)

    def slope_at(self, r):
        return self.lam / self.theta * exp(r / self.theta)

    def curvature_at(self, r):
        return self.lam / self.theta**2 * exp(r / self.theta)


@dataclass(frozen=True, eq=False)
class Power(pl.CurvedPenalty):
    """``λ r^s``, ``s > 2``: convex, and at a point far out enormous beside what it is at the minimiser."""

    lam: float
    s: float
    slope_falls = False

    def value_at(self, r):
        return self.lam * scalar.power(r, self.s)

    def slope_at(self, r):
        return self.lam * self.s * scalar.power(r, self.s - 1.0)

    def curvature_at(self, r):
        return self.lam * self.s * (self.s - 1.0) * scalar.power(r, self.s - 2.0)


#: Logarithms of the slopes, for mpmath.
LOG_SLOPES = {
    Exponential: lambda h, r: mpmath.log(mpf(h.lam) / mpf(h.theta)) + r / mpf(h.theta),
    Power: lambda h, r: mpmath.log(mpf(h.lam) * mpf(h.s)) + (mpf(h.s) - 1) * mpmath.log(r),
}


@mpmath.workdps(60)
def assert_solved(h, x, d, step, s):
    """Of a convex penalty: against the one crossing, by halvings in the exponent."""
    xs, ds = [abs(mpf(float(v))) for v in x], [mpf(float(v)) for v in d]

    def radius(mu):
        return mpmath.norm([a * b / (b + mu) for a, b in zip(xs, ds, strict=True)])

    low, high = mpf(10) ** -90, mpf(10) ** 90
    for _ in range(300):  # where the slope crosses mu r
        mu = mpmath.sqrt(low * high)
        r = radius(mu)
        above = mpmath.log(step) + LOG_SLOPES[type(h)](h, r) > mpmath.log(mu * r)
        low, high = (mu, high) if above else (low, mu)
    norm = mpmath.norm([a * b for a, b in zip(xs, ds, strict=True)])
    truth = radius(low) if norm > step * mpf(float(h.slope_at(0.0))) else mpf(0)
    assert s.ok
    assert abs(mpf(float(s.radius[0])) - truth) <= 1e-9 * truth
    assert s.bracket[0][0] * (1 - 1e-12) <= truth <= s.bracket[1][0] * (1 + 1e-12)


@given(
    st.one_of(
        st.builds(Exponential, st.just(0.5), st.floats(0.1, 10.0)),
        st.builds(Power, st.floats(0.1, 500.0), st.floats(2.1, 3.5)),
    ),
    st.integers(0, 9999), st.floats(-2, 4), st.floats(-26, 6), st.sampled_from(BACKENDS),
)  # fmt: skip
def test_a_slope_that_is_enormous_at_the_point_hides_nothing(h, seed, reach, metric, backend):
    """What is open of its sign there was taken for what is open of it at the minimiser."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    x, d = rng.normal(size=n) * 10.0**reach, 10.0 ** (metric + rng.uniform(-3, 3, n))
    with np.errstate(all="ignore"):
        s = pl.solve(h, x[None], 1.0, metric=d[None], backend=backend)
    assert_solved(h, x, d, 1.0, s)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("h", "x", "d", "step"),
    [
        (
            Power(371.5181722174721, 2.2169333119092123),
            [2.999233842457968],
            [8.121213598570425e-25],
            44.680891675535676,
        ),
        (Exponential(0.5, 0.2), [669.5, 0.7], [8066.0, 1e8], 1.0),
        (Exponential(0.5, 0.2), [100.0, 1.0], [1.0, 1e6], 1.0),
    ],
)
def test_slopes_that_were_enormous_at_a_point(h, x, d, step, backend):
    with np.errstate(all="ignore"):
        s = pl.solve(h, np.array([x]), step, metric=np.array([d]), backend=backend)
    assert_solved(h, x, d, step, s)
