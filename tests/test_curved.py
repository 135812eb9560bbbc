"""Penalties whose slope is a curve: against mpmath, closed forms and brute force over the path."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import array_api_compat
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

import proxlab as pl
from proxlab import curves
from proxlab.backends import curved_path, curved_search
from proxlab.backends.scaled_rows import prepare
from proxlab.linker import Given, functions_of, module_over_arrays, over_arrays
from proxlab.scalar import exp, expm1
from proxlab.study import exact
from tests.curved_penalties import FORMULAS, PENALTIES, Laplace, Smooth, Truth, Witch, problems
from tests.table import BACKENDS, DTYPES, GROUPS


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
