"""The derivative of the prox: against differences of the oracle and of the prox, for every argument."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from tests import oracle
from tests.cases import cases
from tests.table import BACKENDS, GROUPED, GROUPS, PENALTIES, ids


def gradients(row, case, v, backend=None):
    weights = {} if row.name == "L1" else {"weights": [case.weight]}
    penalty = row.build(case.parameters, **weights)
    _, pullback = pl.prox_vjp(penalty, case.x[None], case.step, metric=case.d[None], backend=backend)
    return pullback(v[None])


def exact(case, v):
    z = case.answer.candidates[0]
    return oracle.to_float(sum((a * float(b) for a, b in zip(z, v, strict=True)), oracle.arb(0)))


def strengths(case, factor):
    return {k: factor * p if k in ("lam", "lam1", "lam2") else p for k, p in case.parameters.items()}


def slope(function, h):
    return (function(h) - function(-h)) / (2 * h)


def agrees(found, function):
    """Whether a derivative is that of a function; None where differences see a kink or a tie."""
    near, far, here = slope(function, 2.0**-22), slope(function, 2.0**-19), function(0.0)
    right, left = ((function(h) - here) / h for h in (2.0**-22, -(2.0**-22)))
    scale = 1e-9 + abs(near) + abs(far)
    if max(abs(near - far), abs(right - left)) > 1e-4 * scale:
        return None
    return bool(abs(found - near) <= 1e-4 * scale)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@given(data=st.data())
def test_differences_of_the_oracle(row, data):
    """All arguments at once, in a random direction, in ball arithmetic."""
    case = data.draw(cases(row, sizes=(1, 4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    v, dx, dd = rng.normal(size=(3, case.x.size))
    de, dl = rng.normal(size=2)
    g = gradients(row, case, v)
    assert all(np.isfinite(a).all() for a in g)
    strength = row.build(case.parameters).strength
    parts = (g.x[0] @ (case.x * dx), g.metric[0] @ (case.d * dd), g.step * case.step * de)
    by_strength = g.strength * strength * dl

    def moved(h):
        there = case.replace(
            x=case.x * (1 + h * dx),
            d=case.d * (1 + h * dd),
            step=case.step * (1 + h * de),
            parameters=strengths(case, 1 + h * dl),
        )
        return exact(there, v)

    assert agrees(sum(parts) + by_strength, moved) is not False, case


@pytest.mark.parametrize("grouping", GROUPS)
@pytest.mark.parametrize("row", GROUPED, ids=ids(GROUPED))
def test_every_layout_with_weights_and_a_step_per_group(row, grouping):
    """Against differences of the prox, whose values other tests know."""
    make, shape = GROUPS[grouping]
    rng = np.random.default_rng(len(row.id) + len(grouping))
    groups = make()
    n = groups.n_groups(shape)
    h = row.build(groups=groups, weights=rng.uniform(0.5, 1.5, n))
    x, d, v = 1.5 * rng.normal(size=shape), rng.lognormal(sigma=0.7, size=shape), rng.normal(size=shape)
    step = rng.uniform(0.3, 1.0, n)
    z, pullback = pl.prox_vjp(h, x, step, metric=d)
    np.testing.assert_array_equal(z, pl.prox(h, x, step, metric=d))
    g = pullback(v)
    dx, dd, ds = rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=n)
    for found, move in (
        (np.sum(g.x * dx), lambda t: pl.prox(h, x + t * dx, step, metric=d)),
        (np.sum(g.metric * dd), lambda t: pl.prox(h, x, step, metric=d + t * dd)),
        (np.sum(g.step * ds), lambda t: pl.prox(h, x, step + t * ds, metric=d)),
        (g.strength, lambda t: pl.prox(h.with_strength(h.strength + t), x, step, metric=d)),
    ):
        difference = slope(lambda t, move=move: np.sum(v * move(t)), 1e-6)
        assert found == pytest.approx(difference, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_shapes_are_those_of_what_was_given(row, xp):
    """Broadcast metrics are summed back; numbers are floats."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 4, 3))
    h = row.build()
    n = h.groups.n_groups((4, 3))
    full = np.broadcast_to(rng.uniform(0.5, 2.0, 3), (4, 3)).copy()
    _, pullback = pl.prox_vjp(h, x, np.full(n, 0.7), metric=full)
    whole = pullback(v)
    for metric, expected in ((full[0], whole.metric.sum(axis=0)), (full[:1], whole.metric.sum(0)[None])):
        z, pullback = pl.prox_vjp(h, xp.asarray(x), 0.7, metric=xp.asarray(metric))
        g = pullback(xp.asarray(v))
        np.testing.assert_allclose(xp.to_numpy(g.x), whole.x, atol=1e-14)
        np.testing.assert_allclose(xp.to_numpy(g.metric), expected, atol=1e-13)
        assert type(g.step) is float
        assert g.step == pytest.approx(whole.step.sum(), abs=1e-13)
        assert g.strength == pytest.approx(whole.strength, abs=1e-13)
        assert z.shape == (4, 3)
    _, pullback = pl.prox_vjp(h, xp.asarray(x.astype(np.float32)))
    g = pullback(xp.asarray(v.astype(np.float32)))
    assert g.x.dtype == xp.asarray(np.zeros(1, np.float32)).dtype
    assert g.metric is None
    _, pullback = pl.prox_vjp(h, x, metric=2.0)
    assert type(pullback(v).metric) is float


# Whose strength is of the size of x, so that it keeps within the range.
FIRST_POWER = ("L1", "GroupLasso", "GroupElasticNet", "SparseGroupLasso", "GroupLinf")


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@pytest.mark.parametrize("exponent", [-1000, -60, 60, 900])
def test_scales_do_not_matter(row, exponent):
    """x and its lengths, or metric and step, times a power of two: the same derivative, and never NaN."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, 4, 3))
    d, k = rng.lognormal(size=(4, 3)), 2.0**exponent
    plain = pl.prox_vjp(row.build(), x, 0.7, metric=d)[1](v)
    other = pl.prox_vjp(row.build(), x, 0.7 * k, metric=d * k)[1](v)
    np.testing.assert_allclose(other.x, plain.x, rtol=1e-12)
    np.testing.assert_allclose(other.metric * k, plain.metric, rtol=1e-12)
    assert other.step * k == pytest.approx(plain.step, rel=1e-12)
    assert other.strength == pytest.approx(plain.strength, rel=1e-12)
    if abs(exponent) > 100 and row.name not in FIRST_POWER:
        return
    power = {"GroupL0": 2.0, "GroupLog": 2.0, "GroupLq": 1.5}.get(row.name, 1.0)
    lengths = {"lam": k**power, "lam1": k, "lam2": k, "theta": k, "eps": k}
    if row.name == "GroupCapped":
        lengths["lam"] = k
    scaled = row.build({n: p * lengths[n] if n in lengths else p for n, p in row.parameters.items()})
    g = pl.prox_vjp(scaled, k * x, 0.7, metric=d)[1](v)
    np.testing.assert_allclose(g.x, plain.x, rtol=1e-12)
    np.testing.assert_allclose(g.metric / k, plain.metric, rtol=1e-12)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_nan_at_the_ends_of_the_range(row, backend):
    rng = np.random.default_rng(1)
    for size, spread, step in (
        (5e-324, 1.0, 1e-300),
        (1e-310, 300.0, 1.0),
        (1e305, 1.0, 1e300),
        (1.0, 300, 1.0),
    ):
        x = size * rng.choice([-3.0, 1.0, 2.0, 0.0], size=(6, 3))
        d = 10.0 ** rng.uniform(-spread, spread, size=(6, 3)) if spread > 1 else np.ones((6, 3))
        _, pullback = pl.prox_vjp(row.build(), x, step, metric=d, backend=backend)
        for g in pullback(rng.choice([-1e300, 1.0, 1e-300, 0.0], size=(6, 3))):
            assert not np.isnan(g).any()


def test_zero_groups_are_zero_and_free_elements_pass():
    h = pl.GroupLasso(1.0, groups=pl.Groups.labels([0, 0, -1, 1, 1]))
    x = np.array([0.1, 0.2, 7.0, 3.0, 4.0])
    g = pl.prox_vjp(h, x, metric=np.ones(5))[1](np.ones(5))
    np.testing.assert_allclose(g.x, [0.0, 0.0, 1.0, *(0.8 + 0.2 * 1.4 * np.array([0.6, 0.8]))], rtol=1e-14)
    np.testing.assert_array_equal(g.metric[:3], 0.0)


def test_a_slope_that_starts_from_zero_has_no_kink_there():
    """The ridge ``½κ‖z‖²`` is smooth: the prox is ``d x / (d + ηκ)``, at zero too."""
    x, d, v = np.zeros((1, 2)), np.array([[1.0, 3.0]]), np.array([[1.0, 2.0]])
    g = pl.prox_vjp(pl.GroupElasticNet(0.0, kappa=2.0), x, 0.5, metric=d)[1](v)
    np.testing.assert_allclose(g.x, d / (d + 1.0) * v, rtol=1e-15)
    np.testing.assert_array_equal(g.metric, 0.0)


def test_a_penalty_that_is_not_there_is_the_identity():
    x, v = np.array([[0.0, 0.0], [1.0, -2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])
    for h in (
        pl.GroupLasso(0.0),
        pl.GroupLasso(1.0, weights=[0, 0]),
        pl.GroupLinf(0.0),
        pl.GroupMCP(0.0, 2.0),
    ):
        g = pl.prox_vjp(h, x)[1](v)
        np.testing.assert_array_equal(g.x, v)
    # one-sided by the strength
    assert pl.prox_vjp(pl.GroupLasso(0.0), x)[1](v).strength == pytest.approx(7 / math.sqrt(5))
    assert pl.prox_vjp(pl.SparseGroupLasso(0.0, 0.0), x)[1](v).strength is None


class Kinked(pl.penalties.RadialPenalty):
    """A slope that jumps up at ``knot``: 1, then 3; all in proportion to the strength."""

    def __init__(self, lam, knot):
        super().__init__()
        object.__setattr__(self, "lam", lam)
        object.__setattr__(self, "knot", knot)

    def with_strength(self, strength):
        return Kinked(strength, self.knot)

    @property
    def pieces(self):
        return (
            pl.penalties.base.Piece(0.0, 0.0, self.lam, 0.0),
            pl.penalties.base.Piece(self.knot, self.lam * self.knot, 3 * self.lam, 0.0),
        )


def test_at_a_kink_the_radius_stays():
    rng = np.random.default_rng(0)
    h = Kinked(0.5, 1.3)
    v, direction, d = rng.normal(size=(3, 1, 4))
    d = np.exp(0.3 * d)
    for length in (2.2, 1.0, 4.0):
        x = length * np.array([[0.5, -0.5, 0.5, 0.5]])
        z, pullback = pl.prox_vjp(h, x, metric=d)
        g = pullback(v)
        assert (abs(np.linalg.norm(z) - 1.3) < 1e-12) == (length == 2.2)
        for found, move in (
            (np.sum(g.x * direction), lambda t, x=x: pl.prox(h, x + t * direction, metric=d)),
            (np.sum(g.metric * direction), lambda t, x=x: pl.prox(h, x, metric=d + t * direction)),
            (g.step, lambda t, x=x: pl.prox(h, x, 1.0 + t, metric=d)),
            (g.strength, lambda t, x=x: pl.prox(h.with_strength(0.5 + t), x, metric=d)),
        ):
            difference = slope(lambda t, move=move: np.sum(v * move(t)), 1e-6)
            assert found == pytest.approx(difference, abs=1e-7)


# The derivative of the group lasso by x, with a mistake.
WRONG = {
    "without the rank-one term": lambda d, mu, unit, v: d * v / (d + mu),
    "transposed": lambda d, mu, unit, v: whole(d, mu, unit, d * v),
    "with the curvature of a ridge": lambda d, mu, unit, v: d * whole(d + mu, 0 * mu, unit, v),
}


def whole(d, mu, unit, v):
    matrix = np.diag(d + mu) - mu * np.outer(unit, unit)
    return np.linalg.solve(matrix, v)


@pytest.mark.parametrize("mutant", [None, *WRONG])
def test_wrong_derivatives_are_told_apart(mutant):
    rng = np.random.default_rng(0)
    x, d, v, direction = rng.normal(size=5), rng.lognormal(size=5), rng.normal(size=5), rng.normal(size=5)
    z = pl.prox(pl.GroupLasso(0.4), x[None], metric=d[None])[0]
    r = np.linalg.norm(z)
    right = d * whole(d, 0.4 / r, z / r, v)
    np.testing.assert_allclose(
        pl.prox_vjp(pl.GroupLasso(0.4), x[None], metric=d[None])[1](v[None]).x[0], right
    )
    found = right if mutant is None else WRONG[mutant](d, 0.4 / r, z / r, v)
    answer = agrees(
        found @ direction,
        lambda h: v @ oracle.solve("GroupLasso", {"lam": 0.4}, x + h * direction, d, 1.0).z,
    )
    assert answer is (mutant is None)


@pytest.mark.parametrize(
    ("v", "error", "message"),
    [
        (np.ones((3, 2)), ValueError, r"^v: must have the shape of x, \(2, 3\), got \(3, 2\)"),
        ([[1.0]], TypeError, "^v: must be an array"),
        (np.array([[1.0, np.nan, 0.0]] * 2), ValueError, r"^v: must be finite, but element \(0, 1\)"),
    ],
)
def test_bad_cotangents(v, error, message):
    with pytest.raises(error, match=message):
        pl.prox_vjp(pl.GroupLasso(1.0), np.ones((2, 3)))[1](v)


def test_another_kind_of_penalty_is_refused():
    class Mine(pl.Penalty):
        lam = 1.0

    with pytest.raises(TypeError, match=r"^penalty: Mine is neither radial nor GroupLinf"):
        pl.prox_vjp(Mine(), np.ones((2, 3)), backend="array_api")
