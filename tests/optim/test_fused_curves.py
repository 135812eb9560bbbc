"""The fused pass under curves whose slope falls and is convex, against a search along the whole path."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim.fused_cpu import Batch
from proxlab.optim.fused_layout import FEWEST, plan_of
from proxlab.optim.rules import RULES, check_settings
from tests.curved_penalties import Laplace, Smooth, Witch
from tests.optim.fused import fused_step

RULE = RULES["ProxAdagrad"]
TOLERANCE = {"f4": 3e-6, "f8": 1e-10}


def drawn(rng, data, groups, n):
    """Draw point and metric of rows, and a curve whose strength decides for some of them."""
    x = rng.normal(size=(groups, n)) * 10.0 ** rng.uniform(-2, 1, size=(groups, 1))
    spread = data.draw(st.sampled_from([0.0, 0.5, 2.0, 4.0]))
    d = np.exp(rng.normal(size=(groups, n)) * spread) * 10.0 ** rng.uniform(-1.5, 1.5)
    step = 10.0 ** rng.uniform(-2, 1)
    norm, reach = np.median(np.linalg.norm(d * x, axis=1)) / step, np.median(np.linalg.norm(x, axis=1))
    kind, strength = data.draw(st.sampled_from(["log", "lq", "laplace"])), 10.0 ** rng.uniform(-1.5, 0.8)
    if kind == "log":
        eps = reach * 10.0 ** rng.uniform(-2, 1)
        return x, d, step, lambda **options: pl.GroupLog(strength * norm * eps / 2, eps, **options)
    if kind == "lq":
        q = rng.uniform(0.1, 0.95)
        return x, d, step, lambda **options: pl.GroupLq(strength * norm * reach ** (1 - q) / 2, q, **options)
    theta = reach * 10.0 ** rng.uniform(-1, 1)
    return x, d, step, lambda **options: Laplace(strength * norm * theta / 2, theta, **options)


def cost(penalty, z, x, d, eta):
    """The objective of the prox, for each row; ``eta`` is the step times the weight."""
    return 0.5 * (d * (z - x) ** 2).sum(axis=-1) + eta * penalty.curve(np).value(np.linalg.norm(z, axis=-1))


def least(penalty, x, d, eta):
    """The least objective of a group: at zero, at the point itself, and on a grid along the path."""
    best = min(cost(penalty, np.zeros_like(x), x, d, eta), cost(penalty, x, x, d, eta))
    low, high = np.log(d.min()) - 30.0, np.log(d.max()) + 30.0
    for _ in range(4):
        mu = np.exp(np.linspace(low, high, 800))[:, None]
        along = cost(penalty, x * d / (d + mu), x, d, eta)
        k, gap = int(np.argmin(along)), (high - low) / 799
        best = min(best, along[k])
        low, high = low + (k - 1.0) * gap, low + (k + 1.0) * gap
    return best


def layouts():
    """Layouts and dtypes, two of them in every run."""
    for layout in ("rows", "columns", "side"):
        for dtype in ("f4", "f8"):
            marks = [] if (layout, dtype) in (("columns", "f4"), ("rows", "f8")) else [pytest.mark.kernels]
            yield pytest.param(layout, dtype, marks=marks)


@given(st.data(), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(("layout", "dtype"), list(layouts()))
def test_no_group_has_a_better_minimiser(layout, dtype, data, seed):
    """Wherever the weights were: the search begins there."""
    rng = np.random.default_rng(seed)
    groups = FEWEST if layout == "side" else 24
    n = data.draw(st.sampled_from([1, 2, 3, 9, 25] if layout == "side" else [1, 2, 3, 30, 100, 300]))
    x, d, step, curve = drawn(rng, data, groups, n)
    weights = rng.uniform(0.5, 2.0, groups) if data.draw(st.booleans()) else None
    penalty = curve(groups=pl.Groups.over(0 if layout == "columns" else 1), weights=weights)
    # A step whose point is x: w - lr g/(sqrt(a) + eps) with a large learning rate, and so small gradients.
    lr = max(100.0 * np.abs(x).max(), step)
    before = np.asarray(x * 10.0 ** rng.uniform(-4, 0, size=(groups, 1)), dtype)
    state = np.asarray((d * lr / step) ** 2, dtype)
    grad = np.asarray((before - x) * np.sqrt(state) / lr, dtype)
    lie = np.ascontiguousarray if layout != "columns" else lambda a: np.ascontiguousarray(a.T)
    w, g, slots = lie(before), lie(grad), (lie(state),)
    settings = check_settings(RULE, {"lr": lr})
    asked = RULE.propose(settings, w, g, slots, 1, 0.0)
    fused_step(RULE, settings, penalty, w, g, slots, 1, 0.0, pl.Newton())
    found, point, metric = (lie(np.asarray(a, float)).reshape(groups, n) for a in (w, asked.x, asked.metric))
    eta = asked.step * (np.ones(groups) if weights is None else weights)
    for z, x, d, e in zip(found, point, metric, eta, strict=True):
        scale = 0.5 * (d * x * x).sum()
        assert cost(penalty, z, x, d, e) <= least(penalty, x, d, e) + TOLERANCE[dtype] * scale
        r = np.linalg.norm(z)
        if r > 0:
            # Stationary to rounding, too: near a minimiser values say little.
            pull = d * (z - x) + e * penalty.curve(np).slope(r) * z / r
            assert np.linalg.norm(pull) <= 30 * TOLERANCE[dtype] * np.linalg.norm(d * x)


def test_groups_beyond_the_range_are_solved_alone(monkeypatch):
    """Squares that vanish or overflow in single precision, gradients that leave no point, weights of zero."""
    left, solve = [], Batch._solve_left
    monkeypatch.setattr(
        Batch, "_solve_left", lambda self, k, some, *a: left.append(len(some)) or solve(self, k, some, *a)
    )
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1e-3, 1e-14, 1e-18, 1e16, 1e18, 0.0, 1.0])
    x = np.asarray(size * rng.normal(size=(40, 8)), "f4")
    weights = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    for penalty in (pl.GroupLog(1.0, 1e-2, groups=pl.Groups.over(0), weights=weights), pl.GroupLq(
        1e-3, 0.5, groups=pl.Groups.over(0), weights=weights
    )):  # fmt: skip
        settings, w, slots = check_settings(RULE, {"lr": 0.1}), x.copy(), (np.full_like(x, 4.0),)
        asked = RULE.propose(settings, w, np.zeros_like(w), slots, 1, 0.0)
        fused_step(RULE, settings, penalty, w, np.zeros_like(w), slots, 1, 0.0, pl.Newton())
        exact = pl.prox(penalty, asked.x, asked.step, metric=asked.metric)
        np.testing.assert_array_equal(w == 0, exact == 0)
        np.testing.assert_allclose(w, exact, rtol=1e-5)
    assert sum(left) > 0


@pytest.mark.parametrize(
    ("penalty", "fused"),
    [
        (pl.GroupLog(0.1, 0.5), True),
        (pl.GroupLq(0.1, 0.5), True),
        (Laplace(0.1, 0.5), True),
        (Smooth(0.1), False),
        (Witch(0.1), False),
    ],
)
def test_curves_that_fall_and_are_convex_are_one_pass(penalty, fused):
    assert (plan_of(penalty, (6, 5)) is not None) == fused
    if fused:
        assert plan_of(penalty.with_strength(0.0), (6, 5)).name == "flow"
