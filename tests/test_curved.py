"""Penalties whose slope is a curve: against mpmath, closed forms and brute force over the path."""

import functools
import math
import types
from dataclasses import dataclass, replace
from types import SimpleNamespace

import array_api_compat
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

import proxlab as pl
from proxlab import curves, scalar
from proxlab.backends import curved_group, curved_path, curved_search, numba_curved, sums
from proxlab.backends.records import GroupResults
from proxlab.backends.scaled_rows import prepare
from proxlab.choose import Limits
from proxlab.linker import Given, functions_of, module_over_arrays, over_arrays
from proxlab.scalar import exp, expm1, log1p, sqrt, where
from proxlab.study import exact
from tests.table import BACKENDS, DTYPES, GROUPS


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


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


@pytest.mark.parametrize("h", PENALTIES, ids=lambda h: f"{type(h).__name__}-{h.lam}")
def test_prox_bracket_and_certificates_against_mpmath(h):
    for rng, x, d, step in problems(int(10 * h.lam), 10):
        truth = Truth(h, x, d, step)
        if truth.lead < 1e-9:
            continue
        s = pl.solve(h, x[None], step, metric=d[None])
        off = mpmath.norm([mpf(float(a)) - b for a, b in zip(s.z[0], truth.z, strict=True)])
        assert off <= 1e-12 * float(np.linalg.norm(x))
        assert s.bracket[0][0] <= truth.radius <= s.bracket[1][0]
        assert s.ok
        assert (s.status[0] == pl.Status.ZERO) == (truth.radius == 0)
        noise = rng.normal(size=x.size)
        near = s.z[0]
        for z in (near, near * (1 + 1e-3 * noise), near + 0.3 * noise):
            c = pl.certify(h, z[None], x[None], step, metric=d[None])
            apart = [mpf(float(a)) - b for a, b in zip(z, truth.z, strict=True)]
            assert c.distance[0] >= mpmath.norm(apart)
            weighted = mpmath.sqrt(sum(b * v * v for b, v in zip(truth.d, apart, strict=True)))
            assert c.metric_distance[0] >= weighted
            assert c.gap[0] >= (truth.objective([mpf(float(v)) for v in z]) - truth.least) / truth.step
            assert c.stationarity[0] >= truth.stationarity(z)
            sizes = [abs(v) for v in truth.z]
            assert all(low <= v <= high for low, v, high in zip(c.lower[0], sizes, c.upper[0], strict=True))
            assert c.bracket[0][0] <= truth.radius <= c.bracket[1][0]
            # Where nothing is known of a slope but that it falls, intervals may run out.
            assert c.decided[0] or type(h) is Witch
            # The gap next to it is of the order of the square of the distance.
            if z is near and h.slope_is_convex and h.slope_falls:
                assert c.gap[0] <= 1e-20 * float(np.sum(d * x * x)) / step
            slack = 1e-6 if type(h) is Witch else 1e-10
            assert c.distance[0] <= float(mpmath.norm(apart)) * 1.001 + slack * float(np.linalg.norm(x))


@pytest.mark.parametrize("h", [pl.GroupLog(0.5, 1.0), Laplace(1.0, 2.0)], ids=lambda h: type(h).__name__)
def test_gaps_next_to_the_threshold(h):
    """Where zero is all but the minimiser, a gap is what the candidate costs more than zero, and a little."""
    for over in (1e-1, 1e-3, 1e-5):
        x, d = (0.5 + over) * np.array([0.6, 0.8]), np.ones(2)
        truth = Truth(h, x, d, 1.0)
        assert truth.radius > 0
        for z in (0.0 * x, x, 3.0 * x):
            c = pl.certify(h, z[None], x[None], 1.0)
            gap = truth.objective([mpf(float(v)) for v in z]) - truth.least
            assert gap <= c.gap[0] <= 5 * gap


def half(x, tau):
    """ℓ½ for ``½(z - x)² + τ|z|^½`` (Xu, Chang, Xu & Zhang 2012)."""
    if abs(x) <= 1.5 * tau ** (2 / 3):
        return 0.0
    phi = math.acos(tau / 4 * (abs(x) / 3) ** -1.5)
    return 2 / 3 * x * (1 + math.cos(2 / 3 * math.pi - 2 / 3 * phi))


def two_thirds(x, tau):
    """ℓ⅔ for ``½(z - x)² + τ|z|^⅔`` (Cao, Sun & Xu 2013)."""
    if abs(x) <= 2 * (2 * tau / 3) ** 0.75:
        return 0.0
    phi = math.acosh(27 * x * x / 16 * (2 * tau) ** -1.5)
    root = 2 / math.sqrt(3) * (2 * tau) ** 0.25 * math.sqrt(math.cosh(phi / 3))
    return math.copysign(((root + math.sqrt(2 * abs(x) / root - root * root)) / 2) ** 3, x)


@pytest.mark.parametrize(("q", "closed"), [(0.5, half), (2 / 3, two_thirds)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_single_elements_have_closed_forms(q, closed, backend):
    rng = np.random.default_rng(0)
    x, d, step = rng.normal(size=200) * 3.0, rng.lognormal(size=200), 0.7
    z = pl.prox(pl.GroupLq(1.3, q, groups=pl.Groups.over(())), x, step, metric=d, backend=backend)
    expected = [closed(a, step * 1.3 / b) for a, b in zip(x, d, strict=True)]
    np.testing.assert_allclose(z, expected, rtol=1e-9)
    assert 20 < np.count_nonzero(z) < 180


@given(st.data())
def test_the_identity_metric_is_a_problem_of_one_radius(data):
    """There the direction stays, so that a dense scan of the radius decides."""
    x = data.draw(st.floats(0.01, 10.0)) * np.array([0.6, -0.8])
    h = data.draw(st.sampled_from(PENALTIES))
    step = data.draw(st.floats(0.05, 5.0))
    r = np.concatenate([[0.0], np.geomspace(1e-6, 1.0, 4000) * np.linalg.norm(x)])
    objective = step * h.value(r[:, None] * np.array([0.6, -0.8])) + 0.5 * (r - np.linalg.norm(x)) ** 2
    z = pl.prox(h, x[None], step)
    mine = step * h(z) + 0.5 * float(np.sum((z - x) ** 2))
    assert mine <= objective.min() + 1e-12 * (1.0 + objective.min())


def test_evaluations_are_at_most_twice_those_of_mcp_on_metrics_of_adam():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 64)) * rng.lognormal(size=(300, 1))
    for spread in (0.5, 1.0):  # of the logarithm of a root mean square
        d = rng.lognormal(sigma=spread, size=x.shape) + 1e-8
        b, r = (np.median(np.linalg.norm(a, axis=1)) for a in (d * x, x))
        energy = 0.5 * np.median(np.sum(d * x * x, axis=1))
        mcp = pl.solve(pl.GroupMCP(0.5 * b, 6.0 * r / b), x, metric=d, backend="array_api")
        of_mcp = mcp.evaluations.mean()
        for h in (
            pl.GroupLog(0.7 * energy / math.log(11.0), 0.1 * r),
            pl.GroupLog(0.7 * energy / math.log(2.0), r),
            pl.GroupLq(0.7 * energy / r**0.5, 0.5),
            pl.GroupLq(0.7 * energy / r**0.1, 0.1),
        ):
            s = pl.solve(h, x, metric=d)
            assert s.ok
            assert s.evaluations.mean() <= 2.0 * of_mcp, (h, spread)
            assert s.evaluations.max() <= 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grouping", GROUPS)
def test_every_layout_is_solved_as_its_groups_are(grouping, dtype):
    make, shape = GROUPS[grouping]
    rng = np.random.default_rng(len(grouping))
    groups = make()
    count = groups.n_groups(shape)
    x, d = rng.normal(size=shape).astype(dtype), rng.lognormal(size=shape).astype(dtype)
    weights, step = rng.uniform(0.5, 1.5, count), rng.uniform(0.3, 1.0, count)
    h = pl.GroupLog(0.3, 0.2, groups=groups, weights=weights)
    z = pl.prox(h, x, step, metric=d)
    assert z.dtype == dtype
    expected, (indptr, indices) = x.reshape(-1).copy(), groups.indices(shape)
    for k in range(count):
        part = indices[indptr[k] : indptr[k + 1]]
        if len(part):
            one = pl.GroupLog(0.3, 0.2, weights=[weights[k]])
            xs, ds = (a.reshape(-1)[part].astype(float)[None] for a in (x, d))
            expected[part] = pl.prox(one, xs, step[k], metric=ds)[0]
    np.testing.assert_allclose(z.reshape(-1), expected, rtol=1e-12 if dtype == np.float64 else 1e-6)


@given(st.sampled_from(BACKENDS), st.floats(-200, -9), st.floats(0.1, 0.95), st.integers(0, 99))
def test_a_strength_that_is_next_to_none_leaves_a_point_next_to_where_it_was(backend, power, q, seed):
    """What is looked at next was the point itself, but for rounding, until passes ran out."""
    rng = np.random.default_rng(seed)
    x, d = rng.normal(size=(3, 2)) * 10.0 ** rng.uniform(-1, 1), rng.lognormal(size=(3, 2))
    h = pl.GroupLq(10.0**power, q)
    s = pl.solve(h, x, metric=d, backend=backend)
    assert s.ok
    np.testing.assert_allclose(s.z, x, rtol=1e-6)
    assert s.evaluations.max() <= 8
    c = pl.certify(h, s.z, x, metric=d, backend=backend)
    assert c.decided.all()
    assert (c.distance <= 1e-10 * np.linalg.norm(x, axis=1)).all()


def test_ties_take_the_sparser_and_undecided_certificates_say_so():
    # ℓ½ of one element: zero and 2x/3 tie at x = 3/2 τ^(2/3).
    tau = 0.8
    x = np.array([[1.5 * tau ** (2 / 3)]])
    for shift in (-1e-6, 1e-6):
        s = pl.solve(pl.GroupLq(tau, 0.5), x * (1 + shift))
        assert (s.radius[0] > 0) == (shift > 0)
        assert pl.certify(pl.GroupLq(tau, 0.5), s.z, x * (1 + shift)).decided[0]
    s = pl.solve(pl.GroupLq(tau, 0.5), x)
    c = pl.certify(pl.GroupLq(tau, 0.5), s.z, x)
    if s.status[0] == pl.Status.TIE:
        assert s.radius[0] == 0
        assert s.bracket[1][0] >= 2 / 3 * x[0, 0] * (1 - 1e-9)
    assert not c.decided[0]
    assert c.distance[0] >= 2 / 3 * x[0, 0] * (1 - 1e-9)


def test_zero_of_the_slope_at_zero():
    """The threshold of the logarithm at a large ε is that of the group lasso, λ/ε."""
    h = pl.GroupLog(2.0, 4.0)
    for x, alive in ((0.4999999, False), (0.5, False), (0.5000001, True)):
        s = pl.solve(h, np.array([[x]]))
        assert bool(s.radius[0] > 0) is alive


def test_out_of_iterations():
    rng = np.random.default_rng(4)
    x, d = rng.normal(size=(20, 30)) * 3, rng.lognormal(sigma=2.0, size=(20, 30))
    h = pl.GroupLog(3.0, 0.5)
    full = pl.solve(h, x, metric=d)
    short = pl.solve(h, x, metric=d, root_finder=pl.Newton(max_iterations=1))
    assert full.ok
    assert not short.ok
    assert ((short.bracket[0] <= full.radius) & (full.radius <= short.bracket[1])).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e-30, 1e30, 1e150, 1e300])
def test_certificates_hold_at_any_magnitude(scale):
    rng = np.random.default_rng(5)
    x, d = rng.normal(size=(6, 3)) * scale, rng.lognormal(size=(6, 3))
    for h in (pl.GroupLq(0.4 * scale, 0.5), pl.GroupLog(0.3, 0.2)):
        z = pl.prox(h, x, metric=d)
        c = pl.certify(h, z, x, metric=d)
        for a in (c.distance, c.metric_distance, c.stationarity, c.gap, *c.bracket):
            assert not np.isnan(a).any()
        assert (c.lower <= c.upper).all()
        inside = (c.lower <= np.abs(z) * (1 + 1e-9)) & (np.abs(z) <= c.upper * (1 + 1e-9) + 5e-324)
        assert inside.all()


def test_no_penalty_is_no_penalty():
    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    for h in (pl.GroupLog(0.0, 1.0), pl.GroupLq(0.0, 0.5), pl.GroupLq(1.0, 0.5, weights=[0.0, 0.0])):
        s = pl.solve(h, x)
        np.testing.assert_array_equal(s.z, x)
        assert s.status.tolist() == [pl.Status.UNSHRUNK, pl.Status.ZERO]
        assert h(x) == 0


def test_the_study_s_truth_is_that_of_mpmath():
    for h in PENALTIES[:5]:
        for _, x, d, step in problems(7, 3):
            truth = Truth(h, x, d, step)
            if truth.lead > 1e-9:
                solved = exact.solve_group(x, d, step, 1.0, h, 30)
                assert solved.decided
                off = max(abs(float(a) - float(b)) for a, b in zip(solved.z, truth.z, strict=True))
                assert off <= 1e-14


@pytest.mark.parametrize("h", PENALTIES[1:6], ids=lambda h: f"{type(h).__name__}-{h.lam}")
def test_check_penalty_finds_nothing(h, monkeypatch):
    from proxlab import check

    monkeypatch.setattr(check, "_PROBLEMS", {2: 3})
    assert pl.check_penalty(h) == ()


@dataclass(frozen=True, eq=False)
class Doubled(Laplace):
    def slope_at(self, r):
        return 2.0 * self.lam / self.theta * exp(-r / self.theta)


def test_check_penalty_finds_a_wrong_slope(monkeypatch):
    from proxlab import check

    monkeypatch.setattr(check, "_PROBLEMS", {2: 3})
    assert pl.check_penalty(Doubled(1.0, 0.3))


def test_what_is_wrong_is_refused_by_name():
    class NotZero(Laplace):
        def value_at(self, r):
            return self.lam + 0.0 * r

    class Rises(Laplace):
        slope_falls = False

    class Branches(Laplace):
        def slope_at(self, r):
            return self.lam if r > 1 else 0.0

    class Cut(Laplace):
        @property
        def threshold(self):
            return 0.1

    class Named(Laplace):
        slope_falls = "yes"

    for make, error, told in (
        (NotZero, ValueError, r"^value_at: p\(0\) must be 0"),
        (Rises, ValueError, r"^slope_falls: the slope must never fall"),
        (Branches, TypeError, r"^slope_at: Branches must give a float64 for each radius"),
        (Cut, ValueError, r"^threshold: must be 0 for a CurvedPenalty"),
        (Named, TypeError, r"^slope_falls: must be True or False, got 'yes'"),
    ):
        with pytest.raises(error, match=told):
            make(1.0, 0.3)
    with pytest.raises(ValueError, match=r"^q: must be below 1"):
        pl.GroupLq(1.0, 1.0)

    class Half(pl.CurvedPenalty):
        def value_at(self, r):
            return r

    with pytest.raises(NotImplementedError, match="slope_at: Half must say"):
        Half()


def test_vanishing_strength_of_the_paper_s_thresholds():
    """ℓ½ of one element vanishes from ``τ = (2|x|/3)^1.5`` on, a curve from its slope at zero or later."""
    x, d = np.array([[2.0], [-0.5]]), np.array([[1.0], [4.0]])
    s = pl.optim.vanishing_strength(pl.GroupLq(1.0, 0.5), x, 0.5, metric=d)
    np.testing.assert_allclose(s, (2 * np.abs(x[:, 0]) / 3) ** 1.5 * d[:, 0] / 0.5, rtol=1e-12)
    s = pl.optim.vanishing_strength(pl.GroupLog(1.0, 100.0), x, 0.5, metric=d)
    np.testing.assert_allclose(s, 100.0 * np.abs(d * x)[:, 0] / 0.5, rtol=1e-12)

    @dataclass(frozen=True, eq=False)
    class Squared(Laplace):
        def value_at(self, r):
            return self.lam**2 * r

        def slope_at(self, r):
            return self.lam**2 + 0.0 * r

        def curvature_at(self, r):
            return 0.0 * r

    with pytest.raises(ValueError, match="penalty: the strength of Squared must be a factor of it"):
        pl.optim.vanishing_strength(Squared(1.0, 1.0), x)


def test_vanishing_strength_is_where_zero_begins_to_win():
    rng = np.random.default_rng(6)
    x, d = rng.normal(size=(40, 4)), rng.lognormal(sigma=1.5, size=(40, 4))
    for h in (pl.GroupLog(1.0, 0.1), pl.GroupLog(1.0, 1.0), pl.GroupLq(1.0, 0.7)):
        s = pl.optim.vanishing_strength(h, x, 0.3, metric=d)
        for factor, zero in ((1 + 1e-9, True), (1 - 1e-9, False)):
            weighted = replace(h, weights=s * factor)
            assert (pl.prox(weighted, x, 0.3, metric=d).any(axis=1) != zero).all()


@pytest.mark.parametrize("h", [pl.GroupLog(0.05, 0.1), pl.GroupLq(0.1, 0.5)], ids=lambda h: type(h).__name__)
def test_optimizers_take_curves(h):
    """Least squares whose other groups vanish, and a share of zeros that is driven to a target."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(8, 5)) * (np.arange(8) < 3)[:, None]
    for sparsity, zeros in ((None, 5), (pl.optim.TargetSparsity(0.75), 6)):
        optimizer = pl.optim.ProxAdam(lr=0.1, sparsity=sparsity)
        w = rng.normal(size=(8, 5))
        state = optimizer.init(w, h)
        for _ in range(60 if sparsity is None else 6):
            w, state = optimizer.step(w, w - target, state)
        assert (~w.any(axis=1)).sum() == zeros


def test_a_bound_that_is_none_is_found(monkeypatch):
    """Mutant: what is below T is doubled, and minimisers are lost; halved it costs passes, and no more."""
    rng = np.random.default_rng(2)
    x, d = rng.normal(size=(200, 4)), rng.lognormal(sigma=1.5, size=(200, 4))
    h = pl.GroupLog(0.4, 0.3)
    good = pl.solve(h, x, metric=d, backend="array_api")
    real = over_arrays(curves.line_at, array_api_compat.array_namespace(x))

    def tangents(factor):
        def line_at(line, r):
            return np.where(line.eps > 0, factor, 1.0) * real(line, r)

        names = {"line_at": Given(line_at, f"times {factor}")}

        def linked(module, xp):
            return SimpleNamespace(
                **{name: over_arrays(f, xp, names) for name, f in functions_of(module).items()}
            )

        monkeypatch.setattr(curved_path, "module_over_arrays", linked)
        return pl.solve(h, x, metric=d, backend="array_api")

    slow = tangents(0.5)
    assert slow.evaluations.sum() > good.evaluations.sum()
    np.testing.assert_allclose(slow.z, good.z, rtol=1e-5, atol=1e-7)
    assert np.abs(tangents(2.0).z - good.z).max() > 1e-3


def test_a_root_next_to_a_point_takes_few_steps(monkeypatch):
    """Rounding puts Newton's point next to the left end, where halvings of all that is right of it began."""
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(100, 16)), rng.lognormal(sigma=0.5, size=(100, 16))
    steps = []
    real = curved_search.CurvedSearch._narrow

    def counted(s, bracket, base, line, price, share, done):
        if done == 0:
            steps.append(0)
        s.on = SimpleNamespace(**vars(module_over_arrays(curves, s.xp)))
        narrow = s.on.narrow

        def once(*args):
            steps[-1] += 1
            return narrow(*args)

        s.on.narrow = once
        return real(s, bracket, base, line, price, share, done)

    monkeypatch.setattr(curved_search.CurvedSearch, "_narrow", counted)
    pl.prox(pl.GroupLog(1.0, 0.5), x, metric=d, backend="array_api")
    assert 0 < max(steps) <= 12


def test_replaced_parameters_keep_the_class():
    h = replace(pl.GroupLog(1.0, 0.5), lam=2.0)
    assert h.strength == 2.0
    assert h.with_strength(3.0).slope_at(0.5) == 3.0
    assert not h.is_convex


@dataclass(frozen=True, eq=False)
class Mistaken(Witch):
    slope_is_convex = True


def test_a_slope_that_is_not_convex_is_refused_where_it_is_said_to_be():
    with pytest.raises(ValueError, match="slope_is_convex: must be False where the slope is not convex"):
        Mistaken(1.0)


THETA = 0.5


@dataclass(frozen=True, eq=False)
class Global(pl.CurvedPenalty):
    lam: float

    def value_at(self, r):
        return -self.lam * expm1(-r / THETA)

    def slope_at(self, r):
        return self.lam / THETA * exp(-r / THETA)

    def curvature_at(self, r):
        return -self.lam / THETA**2 * exp(-r / THETA)


def test_constants_of_a_module_count_as_they_are_now(monkeypatch):
    x = np.array([[1.5, 0.5]])
    for theta in (0.5, 2.0):
        monkeypatch.setitem(globals(), "THETA", theta)
        np.testing.assert_array_equal(pl.prox(Global(1.0), x), pl.prox(Laplace(1.0, theta), x))


@pytest.mark.parametrize(
    ("penalty", "x", "d"),
    [
        (pl.GroupLq(1.8e-132, 0.5), [9.069e67, 7.0897e-07, 1.82233e45], [9.2753e37, 2.91362e-56, 3.6e14]),
        (pl.GroupLog(9.8, 7e116), [7e117, 9.4e-70], [2.4e-236, 1.36e138]),
    ],
)
def test_groups_that_spread_too_far_are_not_called_solved(penalty, x, d):
    found = pl.solve(penalty, np.array([x]), metric=np.array([d]))
    assert not found.ok
    assert found.bracket[0][0] == 0.0
    assert found.bracket[1][0] >= max(x)


def test_slopes_of_a_unit_strength_have_to_be_numbers_too():
    with pytest.raises(
        ValueError, match=r"^eps: the slopes lam/eps and 1/eps .* lam = 1e-10 and eps = 1e-309"
    ):
        pl.GroupLog(1e-10, 1e-309)


@pytest.mark.parametrize("h", [pl.GroupLog(1.0, 0.2), pl.GroupLog(2.0, 2.0), pl.GroupLq(1.0, 0.5)], ids=repr)
def test_what_is_said_of_an_interval_holds_at_its_minima(h):
    """Between two points of the path: no minimiser in what is closed, none below the bound, none outside."""
    rng = np.random.default_rng(4)
    rows, n = 2000, 2
    x, d = rng.normal(size=(rows, n)), rng.lognormal(sigma=2, size=(rows, n))
    x *= np.exp(rng.normal(size=(rows, 1)))
    one = np.ones(rows)
    xp = array_api_compat.array_namespace(x)
    p = prepare(xp, 0 * x, x, d, one, 0.5 * one, 0.0, False)
    s = curved_search.CurvedSearch(xp, p, h)
    low = np.exp(rng.uniform(-4, 2, rows))
    high = low * np.exp(rng.uniform(0.5, 4, rows))
    verdict = s.judge(s.visit(high), s.visit(low), np.inf * one, 0 * one, 0 * one, s.price)
    grid = np.geomspace(high, low, 1001)[:, :, None]
    z = p.d * p.size / (p.d + grid)
    radius = np.linalg.norm(z, axis=2)
    f = 0.5 * (p.d * (p.size - z) ** 2).sum(axis=2) + np.array([s.value(r) for r in radius])
    minima = (f[1:-1] < f[:-2]) & (f[1:-1] < f[2:])
    assert 30 < minima.any(axis=0).sum() < rows
    k, row = np.nonzero(minima)
    assert (verdict.open | verdict.kept)[row].all()
    assert (verdict.floor[row] <= f[1:-1][k, row] * (1 + 1e-9)).all()
    # The grid is as fine as this.
    assert (verdict.low[row] <= radius[k + 2, row]).all()
    assert (verdict.high[row] >= radius[k, row]).all()


@pytest.mark.parametrize("penalty", [pl.GroupLog(1.0, 1e14), pl.GroupLq(1.0, 0.9), Smooth(1.0)], ids=repr)
def test_no_gap_is_below_the_truth_where_numbers_leave_the_range(penalty):
    """At x = 0, where the gap is what the candidate costs."""
    rng, rows = np.random.default_rng(0), 600
    z, d, step, weights = (10.0 ** rng.uniform(-k, k, rows) for k in (290, 145, 290, 290))
    z, d = z[:, None] * rng.normal(size=(rows, 3)), d[:, None] * np.exp(rng.normal(size=(rows, 3)))
    h = replace(penalty, weights=weights)
    found = pl.certify(h, z, 0.0 * z, step, metric=d, backend="array_api").gap
    value, _ = FORMULAS[type(penalty)]
    finite = np.flatnonzero(np.isfinite(found))
    assert len(finite) >= 100
    with mpmath.workdps(40):
        for k in finite:
            r = mpmath.sqrt(sum(mpf(v) ** 2 for v in z[k]))
            moved = sum(mpf(a) * mpf(v) ** 2 for a, v in zip(d[k], z[k], strict=True)) / (2 * mpf(step[k]))
            assert found[k] >= (mpf(weights[k]) * value(penalty, r) + moved) * (1 - mpf(2) ** -40)


@pytest.mark.parametrize("h", [pl.GroupLog(1.0, 0.5), pl.GroupLq(1.0, 0.9), pl.GroupLq(1.0, 0.06)], ids=repr)
def test_no_bound_is_below_the_truth_at_candidates_of_subnormal_numbers(h):
    """Their radius is not what it is in units in which it is a square, nor may be their direction."""
    rng, rows = np.random.default_rng(0), 80
    z = rng.integers(1, 9, (rows, 2)) * 5e-324 * 10.0 ** rng.integers(0, 9, (rows, 1))
    x = rng.normal(size=z.shape) * 10.0 ** rng.uniform(-120, 0, (rows, 1))
    radius = np.linalg.norm(x, axis=1)
    step = 10.0 * radius / h.curve(np).slope(radius)
    c = pl.certify(h, z, x, step, backend="array_api")
    for k in range(rows):
        truth = Truth(h, x[k], np.ones(2), step[k])
        assert c.stationarity[k] >= truth.stationarity(z[k]) * (1 - mpf(10) ** -40)
        zk = [mpf(float(v)) for v in z[k]]
        assert c.gap[k] >= (truth.objective(zk) - truth.least) / truth.step * (1 - mpf(10) ** -40)
    assert np.isfinite(c.gap).all()


@pytest.mark.parametrize("h", [h for h in PENALTIES if h.slope_falls], ids=repr)
def test_no_gap_is_below_the_truth_next_to_zero(h):
    """What a penalty costs there is not lost beside 1."""
    z = np.array([[-1e-5], [-1e-12], [-1e-17], [-1e-40]])
    found = pl.certify(h, z, np.full_like(z, 0.01), 3.0, backend="array_api").gap
    truth = Truth(h, [0.01], np.ones(1), 3.0)
    for gap, v in zip(found, z[:, 0], strict=True):
        assert gap >= (truth.objective([mpf(float(v))]) - truth.least) / truth.step * (1 - mpf(10) ** -40)


def test_what_is_left_at_the_width_of_rounding_is_decided():
    """Passes ran out among intervals of a few units of rounding around the one minimiser of a long group."""
    x = np.linspace(20.0, 60.0, 600)[:, None]
    penalty = pl.GroupLog(1.0, 0.1)
    bounds = pl.certify(penalty, pl.prox(penalty, x), x)
    # The one root of (r - x) (r + eps) + 1 = 0 beside zero, which costs more.
    root = 0.5 * (x[:, 0] - 0.1 + np.sqrt((x[:, 0] + 0.1) ** 2 - 4.0))
    assert (np.abs(root - bounds.lower[:, 0]) <= 1e-12).all()
    assert bounds.decided.all()


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


@dataclass(frozen=True, eq=False)
class Mixed(pl.CurvedPenalty):
    """``a (1 - exp(-r/θ)) + b log(1 + r/ε)``, of a size of its own: a slope that falls and is convex."""

    a: float
    theta: float
    b: float
    eps: float
    nonnegative: bool = False

    def value_at(self, r):
        return -self.a * expm1(-r / self.theta) + self.b * log1p(r / self.eps)

    def slope_at(self, r):
        return self.a / self.theta * exp(-r / self.theta) + self.b / (r + self.eps)

    def curvature_at(self, r):
        return -self.a / self.theta**2 * exp(-r / self.theta) - self.b / (r + self.eps) / (r + self.eps)


def rows_of(data, rows=12):
    """Draw rows of one length: ordinary, zero and short ones, and some that spread beyond all bounds."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(1, 70))
    x = rng.normal(size=(rows, n)) * rng.lognormal(
        size=(rows, 1), sigma=data.draw(st.sampled_from([0.3, 2.0]))
    )
    d = rng.lognormal(size=x.shape, sigma=data.draw(st.sampled_from([0.0, 0.5, 2.0])))
    weights = rng.uniform(0.2, 2.0, rows)
    weights[0], x[1], x[2, 0], d[3, 0] = 0.0, 0.0, 1e-70, 1e-80
    x[4] *= 1e-200
    return x, d, weights


penalties = st.one_of(
    st.sampled_from(PENALTIES),
    st.builds(
        Mixed, *[st.floats(0.05, 2.0)] * 4, nonnegative=st.booleans()
    ),
)  # fmt: skip


@given(st.data())
def test_the_compiled_form_is_the_array_form(data):
    h, step = data.draw(penalties), data.draw(st.floats(0.1, 3.0))
    x, d, weights = rows_of(data)
    h = replace(h, weights=weights)
    mine, arrays = (pl.solve(h, x, step, metric=d, backend=backend) for backend in ("numba", "array_api"))
    assert ((mine.radius > 0) == (arrays.radius > 0)).all()
    assert (mine.bracket[0] <= arrays.bracket[1]).all()
    assert (arrays.bracket[0] <= mine.bracket[1]).all()
    ended = (mine.status != pl.Status.MAX_ITERATIONS) & (arrays.status != pl.Status.MAX_ITERATIONS)
    assert ended.sum() >= 10
    np.testing.assert_array_equal(mine.status[ended], arrays.status[ended])
    np.testing.assert_allclose(mine.z[ended], arrays.z[ended], rtol=1e-9, atol=0.0)
    # Passes are about the same, but for those that are made before the radii are divided.
    most = 1.5 * arrays.evaluations + curved_group.MOST_FOLLOWED + 1
    assert (mine.evaluations[ended] <= most[ended]).all()
    # And no point of the path costs less.
    size = np.maximum(x, 0.0) if h.nonnegative else x
    for k in (5, 6, 7):
        mu = np.concatenate([np.geomspace(1e-12, 1e12, 3000) * d[k].max(), [0.0]])[:, None]
        points = np.concatenate([d[k] * size[k] / (d[k] + mu), mine.z[k : k + 1], 0.0 * x[:1]])
        costs = step * weights[k] * h.curve(np).value(np.linalg.norm(points, axis=1))
        costs = costs + 0.5 * np.sum(d[k] * (points - x[k]) ** 2, axis=1)
        assert costs[-2] <= costs.min() * (1.0 + 1e-12)


def test_the_compiled_form_is_python():
    """Its source, run as it is, with functions of Python in the place of addresses."""
    x, d = np.random.default_rng(7).normal(size=(2, 6, 5))
    d = np.exp(d)
    h = Mixed(0.5, 0.3, 0.2, 0.4)
    z, left, n = np.empty(x.size), np.ones(len(x), bool), x.shape[1]
    out = GroupResults(*np.zeros((3, 6)), *np.zeros((3, 6), np.int64))

    def plain(method):
        return lambda own, r: float(method(own, np.float64(r)))

    functions = curved_group.Functions(*map(plain, (Mixed.value_at, Mixed.slope_at, Mixed.curvature_at)), h)
    given = curved_group.KnownCurve(functions, True, True, False, 1.0, plain(Mixed.slope_at)(h, 0.0))
    problem = curved_group.CurvedRequest(
        np.ones(1), np.ones(1), given, numba_curved.precision(n), Limits(1e-12, 0.0, 100, True)
    )
    table = np.empty((102, curved_group.COLUMNS))
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        for word in ("slope", "turn", "value"):
            patch.setattr(curves, word, getattr(curved_group, word))
        patch.setattr(sums, "load", curved_group.load)
        data = numba_curved.curved_data(x, d, z)
        curved_group.solve_curves(data, 0, len(x), problem, out, left, table)
    assert not left.any()
    np.testing.assert_allclose(z.reshape(x.shape), pl.prox(h, x, metric=d, backend="array_api"), rtol=1e-12)
    assert out.radius.any()


@dataclass(frozen=True, eq=False)
class Helped(pl.GroupLog):
    def shifted(self, r):
        return r + self.eps

    def slope_at(self, r):
        return self.lam / self.shifted(r)


@dataclass(frozen=True, eq=False)
class Listed(pl.GroupLog):
    factors = (1.0,)

    def slope_at(self, r):
        return self.lam / (r + self.eps) * self.factors[0]


@dataclass(frozen=True, eq=False)
class Hidden(pl.GroupLog):
    @property
    def _eps(self):
        return self.eps

    def curvature_at(self, r):
        return -(self.lam / (r + self._eps)) / (r + self._eps)


@dataclass(frozen=True, eq=False)
class Super(pl.GroupLog):
    def curvature_at(self, r):
        return pl.GroupLog.curvature_at(self, r)


HELPERS, DEEPER = types.ModuleType("helpers"), types.ModuleType("deeper")
exec("from proxlab.scalar import exp\ndef decay(r, theta):\n    return exp(-r / theta)", vars(DEEPER))
exec(
    "from proxlab.scalar import exp\ndef around(r, theta):\n    return deeper.decay(r, theta)", vars(HELPERS)
)
vars(HELPERS)["deeper"] = DEEPER
LEAVES = [
    "exp(-r / self.theta)", "scalar.exp(-r / self.theta)", "np.exp(-r / self.theta)",
    "math.exp(-r / self.theta)", "helpers.exp(-r / self.theta)", "helpers.around(r, self.theta)",
    "helpers.deeper.decay(r, self.theta)", "around(r, self.theta)", "decay(r, self.theta)",
    "made(r, self.theta)", "self.fixed(r, self.theta)", "Base.fixed(r, theta=self.theta)",
]  # fmt: skip
LAPLACE = """
def decay(r, theta, one=1.0, *, two=2.0):
    return one * exp(-two * r / (two * theta))

def make(function):
    def inner(r, theta):
        return (lambda q: function(-q / theta))(r)
    return inner

made = make(exp)

class Mixin:
    pass
{Mixin}
@dataclass(frozen=True, eq=False)
class Base(pl.CurvedPenalty):
    lam: float
    theta: float

    @staticmethod
    def fixed(r, theta):
        return exp(-r / theta)
{Base}
class Mine(Mixin, Base):
    def value_at(self, r):
        return self.lam * (1.0 - {value})

    def slope_at(self, r):
        return self.lam / self.theta * {slope}

    def curvature_at(self, r):
        return -self.lam / self.theta**2 * {curvature}
{Mine}
"""


@st.composite
def laplace_penalties(draw):
    """Laplace's penalty, whose functions reach the exponential by all ways that Python has."""
    methods = {"Mixin": "", "Base": "", "Mine": ""}

    def define(kind, text):
        name = f"part{sum(map(len, methods.values()))}"
        methods[kind] += f"\n    def {name}(self, r):\n        return {text}\n"
        return name

    def text(kind, depth, bare=False):
        if depth == 0:
            return draw(st.sampled_from(LEAVES))
        ways = ["where", "lambda", "method", "class"] + ["super"] * (kind == "Mine")
        way = draw(st.sampled_from(ways))
        if way == "where":
            return f"where(r < 0.0, 1.0, {text(kind, depth - 1, bare)})"
        if way == "lambda":
            return f"(lambda r: {text(kind, depth - 1, bare=True)})(r)"
        owner = draw(st.sampled_from(list(methods))) if way == "method" else "Base"
        name = define(owner, text(owner, depth - 1))
        if way == "method":
            return f"self.{name}(r)"
        # Of the class behind, and not the one that stands before it.
        methods["Mine"] += f"\n    def {name}(self, r):\n        return 0.0 * r\n"
        if way == "class":
            return f"Base.{name}(self, r)"
        return f"super({'Mine, self' if bare or draw(st.booleans()) else ''}).{name}(r)"

    three = {name: text("Mine", draw(st.integers(0, 3))) for name in ("value", "slope", "curvature")}
    source = LAPLACE.format(**three, **methods).replace("    pass\n\n    def", "    def")
    scope = {
        "__name__": "mine", "dataclass": dataclass, "pl": pl, "np": np, "math": math, "exp": exp,
        "where": where, "scalar": scalar, "helpers": HELPERS, "around": HELPERS.around,
    }  # fmt: skip
    exec(compile(source, "<mine>", "exec"), scope)
    return scope["Mine"]


@settings(max_examples=30)
@given(kind=laplace_penalties())
@pytest.mark.parametrize("xp", ["numpy", "torch", "array_api_strict"])
def test_what_the_functions_of_a_slope_call_runs_over_arrays(xp, kind):
    xp = np if xp == "numpy" else pytest.importorskip(xp)
    r = np.geomspace(1e-3, 10.0, 7)
    mine, plain = kind(0.7, 0.4).curve(xp), Laplace(0.7, 0.4).curve(np)
    plain = plain._replace(value=lambda r: 0.7 * (1.0 - np.exp(-r / 0.4)))  # as these write it
    for f, g in zip(mine, plain, strict=True):
        # A namespace may have another exponential.
        np.testing.assert_allclose(np.asarray(f(xp.asarray(r))), g(r), rtol=0.0 if xp is np else 1e-15)


@settings(max_examples=12)
@given(laplace_penalties())
def test_slopes_that_call_others_are_solved(kind):
    rng = np.random.default_rng(3)
    x, d = rng.normal(size=(9, 4)), rng.uniform(0.5, 2.0, (9, 4))
    found, expected = (
        pl.prox(h, x, metric=d, backend="array_api") for h in (kind(0.7, 0.4), Laplace(0.7, 0.4))
    )
    np.testing.assert_array_equal(found, expected)
    assert (found == 0).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "np.polyval([1.0], r)",
            "the function slope_at .* uses numpy.polyval, which these arrays do not have",
        ),
        ("absent(r)", "the function slope_at .* uses absent, which is not defined"),
        ("deeper.absent(r)", "the function slope_at .* uses deeper.absent, which is not defined"),
        ("again(r)", "the function again .* calls itself"),
        ("again.factor * r", "the function slope_at .* uses again.factor, an attribute of a function"),
    ],
)
def test_what_a_slope_may_not_call_is_named(text, said):
    scope = {"Laplace": Laplace, "np": np, "deeper": DEEPER, "__name__": "mine"}
    source = f"def again(r): return again(r)\nclass Mine(Laplace):\n  def slope_at(self, r): return {text}"
    exec(compile(source, "<mine>", "exec"), scope)
    with pytest.raises(TypeError, match=f"penalty: {said}"):
        pl.prox(scope["Mine"](1.0, 0.5), pytest.importorskip("array_api_strict").ones((1, 2)))


def decay(by, r):
    return by * pl.scalar.exp(-r)


class Decay:
    def __call__(self, r):
        return decay(1.0, r)


KEPT = {
    "classmethod": classmethod(lambda _, r: decay(1.0, r)),
    "partial": functools.partial(decay, 1.0),
    "partialmethod": functools.partialmethod(lambda _, by, r: decay(by, r), 1.0),
    "property": property(lambda _: lambda r: decay(1.0, r)),
    "_lru_cache_wrapper": functools.lru_cache(lambda _, r: decay(1.0, r)),
    "Decay": Decay(),
    "dict": {"by": Decay()},
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", KEPT)
def test_what_keeps_the_operations_of_numbers_is_named(kind, deep):
    class Mine(Laplace):
        helper = KEPT[kind]

        def other(self, r):
            return self.helper(r) if kind != "dict" else self.helper["by"](r)

        def slope_at(self, r):
            return self.lam * self.other(r)

    if not deep:
        Mine.slope_at = Mine.other
    told = rf"^slope_at: Mine must give a float64 .*; helper, a {kind}, stays as it is: let it be a method"
    with pytest.raises(TypeError, match=told):
        Mine(1.0, 1.0)

    class Through(Laplace):
        def slope_at(self, r):
            return type(self).value_at(self, r) + kept(r)

    kept = functools.partial(decay, 0.0)
    with pytest.raises(TypeError, match="; kept, a partial, what type of self has, stays as it is"):
        Through(1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Falling(pl.CurvedPenalty):
    """Its functions are parameters, which an instance has and are not bound to it."""

    lam: float
    fall: types.FunctionType = lambda r: decay(1.0, r)

    def value_at(self, r):
        return self.lam * (1.0 - self.fall(r))

    def slope_at(self, r):
        return self.lam * self.fall(r)

    def curvature_at(self, r):
        return -self.lam * self.fall(r)


@pytest.mark.parametrize("functions", [(), (lambda r: decay(1.0, r),)], ids=["default", "given"])
@pytest.mark.parametrize("xp", ["numpy", "torch", "array_api_strict"])
def test_functions_may_be_parameters(xp, functions):
    xp = np if xp == "numpy" else pytest.importorskip(xp)
    x = np.random.default_rng(0).normal(size=(9, 4))
    found = np.asarray(pl.prox(Falling(0.7, *functions), xp.asarray(x)))
    np.testing.assert_allclose(found, pl.prox(Laplace(0.7, 1.0), x, backend="array_api"), rtol=1e-14)


def scaled(by, where):
    """Return functions of one code that differ in a default: a number or an array, by place or by name."""
    by = np.array(by) if where == "array" else by
    return (lambda r, *, by=by: by * r) if where == "name" else lambda r, by=by: by * r


@pytest.mark.parametrize("where", ["place", "name", "array"])
def test_functions_that_differ_in_a_default_are_told_apart(where):
    double, third = scaled(2.0, where), scaled(1.0 / 3.0, where)

    class Mine(Laplace):
        def slope_at(self, r):
            return 1.5 * double(third(pl.scalar.exp(-r)))

        def value_at(self, r):
            return 1.5 * third(double(1.0 - pl.scalar.exp(-r)))

    r, curve = np.array([0.5, 2.0]), Mine(1.0, 1.0).curve(np)
    np.testing.assert_allclose(curve.slope(r), np.exp(-r), rtol=1e-15)
    np.testing.assert_allclose(curve.value(r), 1.0 - np.exp(-r), rtol=1e-15)


def logged(method):
    @functools.wraps(method)
    def call(*given, **named):
        return method(*given, **named)

    return call


@dataclass(frozen=True, eq=False)
class Wrapped(pl.GroupLog):
    @logged
    def slope_at(self, r):
        return self.lam / (r + self.eps)


@pytest.mark.parametrize("kind", [Helped, Listed, Hidden, Super, Wrapped])
def test_what_cannot_be_compiled_is_solved_by_arrays(kind):
    h = kind(1.0, 0.3)
    x = np.random.default_rng(0).normal(size=(9, 4))
    assert numba_curved.compiled_functions(h) is None
    np.testing.assert_array_equal(pl.prox(h, x), pl.prox(pl.GroupLog(1.0, 0.3), x, backend="array_api"))


@dataclass(frozen=True, eq=False)
class Edited(Laplace):
    pass


def test_a_function_that_is_another_one_now_is_compiled_anew():
    x = np.array([[1.5, 0.5], [0.2, 0.1]])
    before = pl.prox(Edited(1.0, 0.3), x)
    np.testing.assert_allclose(before, pl.prox(Laplace(1.0, 0.3), x, backend="array_api"), rtol=1e-14)
    for name in ("value_at", "slope_at", "curvature_at"):
        setattr(Edited, name, getattr(pl.GroupLog, name))
    Edited.eps = 0.3
    np.testing.assert_allclose(pl.prox(Edited(1.0, 0.3), x), pl.prox(pl.GroupLog(1.0, 0.3), x), rtol=1e-14)
    assert (pl.prox(Edited(1.0, 0.3), x) != before).any()
