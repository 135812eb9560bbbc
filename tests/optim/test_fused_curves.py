"""The fused pass under curves whose slope falls and is convex, against a search along the whole path."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim.fused_cpu import Batch
from proxlab.optim.fused_layout import FEWEST, plan_of
from proxlab.optim.rules import RULES, check_settings
from tests.curved_penalties import Laplace, Smooth, Witch
from tests.optim.fused import LAYOUTS, fused_step
from tests.test_curved_compiled import Mixed

RULE = RULES["ProxAdagrad"]
TOLERANCE = {"f4": 3e-6, "f8": 1e-10}


def drawn(rng, data, groups, n):
    """Draw point and metric of rows, and a curve whose strength decides for some of them."""
    x = rng.normal(size=(groups, n)) * 10.0 ** rng.uniform(-2, 1, size=(groups, 1))
    spread = data.draw(st.sampled_from([0.0, 0.5, 2.0, 4.0]))
    d = np.exp(rng.normal(size=(groups, n)) * spread) * 10.0 ** rng.uniform(-6, 1.5)
    step = 10.0 ** rng.uniform(-2, 1)
    norm, reach = np.median(np.linalg.norm(d * x, axis=1)) / step, np.median(np.linalg.norm(x, axis=1))
    kind, strength = (
        data.draw(st.sampled_from(["log", "lq", "laplace", "mixed"])),
        10.0 ** rng.uniform(-1.5, 0.8),
    )
    if kind == "log":
        eps = reach * 10.0 ** rng.uniform(-2, 1)
        return x, d, step, lambda **options: pl.GroupLog(strength * norm * eps / 2, eps, **options)
    if kind == "lq":
        q = rng.uniform(0.1, 0.95)
        return x, d, step, lambda **options: pl.GroupLq(strength * norm * reach ** (1 - q) / 2, q, **options)
    theta = reach * 10.0 ** rng.uniform(-1, 1)
    if kind == "mixed":
        eps, share = reach * 10.0 ** rng.uniform(-2, 1), rng.uniform(0.1, 0.9)
        a, b = strength * norm * theta * share / 2, strength * norm * eps * (1 - share) / 2
        nonnegative = bool(rng.integers(2))
        return x, d, step, lambda **options: Mixed(a, theta, b, eps, nonnegative, **options)
    return x, d, step, lambda **options: Laplace(strength * norm * theta / 2, theta, **options)


def cost(penalty, z, x, d, eta):
    """The objective of the prox, for each row; ``eta`` is the step times the weight."""
    return 0.5 * (d * (z - x) ** 2).sum(axis=-1) + eta * penalty.curve(np).value(np.linalg.norm(z, axis=-1))


def least(penalty, x, d, eta):
    """The least objective of a group: at zero, at the point itself, and on a grid along the path."""
    best = min(cost(penalty, np.zeros_like(x), x, d, eta), cost(penalty, x, x, d, eta))
    low, high = np.log(d.min()) - 30.0, np.log(d.max()) + 30.0
    for _ in range(5):
        mu = np.exp(np.linspace(low, high, 200))[:, None]
        along = cost(penalty, x * d / (d + mu), x, d, eta)
        k, gap = int(np.argmin(along)), (high - low) / 199
        best = min(best, along[k])
        low, high = low + (k - 1.0) * gap, low + (k + 1.0) * gap
    return best


def tied(penalty, x, d, step):
    """The weight at which a group is as well zero as at the minimiser along its path, or 1."""
    x = np.maximum(x, 0.0) if penalty.nonnegative else x
    if not x.any():
        return 1.0
    mu = np.exp(np.linspace(np.log(d.min()) - 20.0, np.log(d.max()) + 20.0, 400))[:, None]
    z = x * d / (d + mu)
    gained = 0.5 * (d * x * x - d * (z - x) ** 2).sum(axis=1)
    return np.max(gained / (step * penalty.curve(np).value(np.linalg.norm(z, axis=1))))


@given(st.data(), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS)
def test_no_group_has_a_better_minimiser(layout, dtype, data, seed):
    """Wherever the weights were: the search begins there."""
    rng = np.random.default_rng(seed)
    groups = FEWEST if layout == "side" else 150
    n = data.draw(st.sampled_from([1, 2, 3, 9, 25] if layout == "side" else [1, 2, 3, 30, 120]))
    x, d, step, curve = drawn(rng, data, groups, n)
    weights = None
    if data.draw(st.booleans()):
        near = 10.0 ** rng.uniform(-4, -0.5, groups) * rng.choice([-1, 1], groups)
        weights = (1.0 + near) * [tied(curve(), *pair, step) for pair in zip(x, d, strict=True)]
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
    if penalty.nonnegative:
        assert (found >= 0.0).all()
        point = np.maximum(point, 0.0)
    eta = asked.step * (np.ones(groups) if weights is None else weights)
    for z, x, d, e in zip(found, point, metric, eta, strict=True):
        scale = 0.5 * (d * x * x).sum()
        assert cost(penalty, z, x, d, e) <= least(penalty, x, d, e) + TOLERANCE[dtype] * scale
        r = np.linalg.norm(z)
        if r > 0:
            # Stationary to rounding, too: near a minimiser values say little.
            pull = d * (z - x) + e * penalty.curve(np).slope(r) * z / r
            assert np.linalg.norm(pull) <= 30 * TOLERANCE[dtype] * np.linalg.norm(d * x)


def test_slopes_at_zero_that_are_just_enough():
    """Where the penalty hardly bends, a group vanishes from one slope at zero on: exactly, not nearly."""
    rng = np.random.default_rng(0)
    x = 0.01 * rng.normal(size=(2000, 2))
    enough = 1.0 + 10.0 ** rng.uniform(-5, -1, 2000) * rng.choice([-1, 1], 2000)
    metric, lr, eps = 1e4, 25.0, 2.0
    weights = enough * metric * np.linalg.norm(x, axis=1) / lr * eps
    penalty = pl.GroupLog(1.0, eps, groups=pl.Groups.over(1), weights=weights)
    w = x * 10.0 ** rng.uniform(-3, 0, size=(2000, 1))
    state = np.full_like(x, metric**2)
    grad = (w - x) * metric / lr
    fused_step(RULE, check_settings(RULE, {"lr": lr}), penalty, w, grad, (state,), 1, 0.0, pl.Newton())
    np.testing.assert_array_equal((w == 0).all(axis=1), enough > 1)


def test_a_minimiser_behind_the_one_that_is_found_first():
    """Metrics so far apart that the multiplier falls twice, and weights at the lesser minimiser."""
    x, d, penalty = np.array([0.0426, 1.5507]), np.array([4514.0, 1.0]), Laplace(0.531, 0.2)
    mu = np.exp(np.linspace(-12.0, 12.0, 4000))[:, None]
    path = x * d / (d + mu)
    along = cost(penalty, path, x, d, 1.0)
    last, *_, first = np.flatnonzero((along[1:-1] < along[:-2]) & (along[1:-1] < along[2:])) + 1
    assert along[last] < 0.5 * along[first]
    lr = 200.0
    w, a = np.asarray(path[first], "f4")[:, None], np.asarray((d * lr) ** 2, "f4")[:, None]
    g = np.asarray((w[:, 0] - x) * d, "f4")[:, None]
    across = replace(penalty, groups=pl.Groups.over(0))
    fused_step(RULE, check_settings(RULE, {"lr": lr}), across, w, g, (a,), 1, 0.0, pl.Newton())
    np.testing.assert_allclose(w[:, 0], path[last], rtol=1e-2)


@pytest.mark.parametrize("penalty", [pl.GroupLog(2.0, 0.1), pl.GroupLq(4.0, 0.5)])
def test_few_groups_are_solved_alone(penalty, monkeypatch):
    """Where a third vanish, and many are as good as at their threshold: each costs as much as many others."""
    left, solve = [], Batch._solve_left
    monkeypatch.setattr(
        Batch, "_solve_left", lambda self, k, some, *a: left.append(len(some)) or solve(self, k, some, *a)
    )
    rng = np.random.default_rng(0)
    w = np.asarray(rng.normal(size=(30, 600)) * rng.lognormal(size=600, sigma=0.7), "f4")
    state = np.asarray(rng.lognormal(size=w.shape, sigma=0.5), "f4")
    grad = np.asarray(0.01 * rng.normal(size=w.shape), "f4")
    across, settings = replace(penalty, groups=pl.Groups.over(0)), check_settings(RULE, {"lr": 1.0})
    fused_step(RULE, settings, across, w, grad, (state,), 1, 0.0, pl.Newton())
    assert 0.2 < (w == 0).all(axis=0).mean() < 0.4
    assert sum(left) < 600 / 10


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
