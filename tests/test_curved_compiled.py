"""The compiled form of curves: against the array form, and what cannot be compiled."""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab import curves
from proxlab.backends import curved_group, numba_curved, sums
from proxlab.backends.records import GroupResults
from proxlab.choose import Limits
from proxlab.scalar import exp, expm1, log1p
from tests.curved_penalties import PENALTIES, Laplace
from tests.table import BACKENDS


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
    # Sums of more than 128 elements are of strips first.
    n = data.draw(st.one_of(st.integers(1, 70), st.integers(1, 70), st.sampled_from([129, 256, 301])))
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


@given(
    st.builds(pl.GroupLog, st.floats(0.01, 10.0), st.floats(1e-6, 1e-2)),
    st.integers(1, 9),
    st.integers(0, 99),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_that_clearly_vanish_cost_no_pass(backend, h, n, seed):
    """A tenth of the way already costs more than zero, and the slope falls: there is nothing to find."""
    x = np.random.default_rng(seed).normal(size=(5, n))
    norm = 10.0
    while h.value_at(0.1 * norm) < norm**2:
        norm /= 2.0
    found = pl.solve(h, norm * x / np.linalg.norm(x, axis=1, keepdims=True), backend=backend)
    assert (found.radius == 0).all()
    assert (found.evaluations == 0).all()


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
