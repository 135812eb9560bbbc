"""The fused pass under the maximum norm, against the level found by sorting in higher precision."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim.fused_cpu import Batch
from proxlab.optim.fused_layout import FEWEST, plan_of
from proxlab.optim.rules import RULES, check_settings
from tests.optim.fused import LAYOUTS, fused_step

RULE = RULES["ProxAdagrad"]
UNIT = {"f4": 2.0**-24, "f8": 2.0**-53}


def level(x, d, eta):
    """The level of a group by sorting (Held, Wolfe & Crowder 1974)."""
    size, metric = np.abs(x).astype(np.longdouble), d.astype(np.longdouble)
    if (metric * size).sum() <= eta:
        return np.longdouble(0)
    order = np.argsort(-size)
    size, metric = size[order], np.cumsum(metric[order])
    levels = (np.cumsum(np.diff(metric, prepend=0) * size) - eta) / metric
    return levels[np.flatnonzero(size > levels)[-1]]


def drawn(rng, data, groups, n):
    """Draw point and metric of rows: with ties, zeros, and elements that stand out."""
    x = rng.normal(size=(groups, n)) * 10.0 ** rng.uniform(-2, 1, size=(groups, 1))
    kind = data.draw(st.sampled_from(["plain", "tied", "heavy", "nearly tied", "few"]))
    if kind == "tied":
        x = np.sign(x) * 2.0 ** np.round(np.log2(np.abs(x)))
    elif kind == "heavy":
        x *= np.exp(rng.normal(size=x.shape) * 4.0)
    elif kind == "nearly tied":
        x = np.sign(x) * (1.0 + 1e-6 * rng.normal(size=x.shape))
    elif kind == "few":
        x *= rng.random(size=x.shape) < 0.1
    spread = data.draw(st.sampled_from([0.0, 0.5, 2.0, 6.0]))
    return x, np.exp(rng.normal(size=(groups, n)) * spread) * 10.0 ** rng.uniform(-6, 1.5)


@given(st.data(), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(("layout", "dtype"), LAYOUTS)
def test_groups_are_clipped_at_their_levels(layout, dtype, data, seed):
    """Wherever the weights were, whose largest is where the level is first looked for."""
    rng = np.random.default_rng(seed)
    groups = FEWEST if layout == "side" else 150
    n = data.draw(st.sampled_from([1, 2, 3, 9, 25] if layout == "side" else [1, 2, 3, 30, 120, 1100]))
    x, d = drawn(rng, data, groups, n)
    step = 10.0 ** rng.uniform(-2, 1)
    # A step whose point is x: w - lr g/(sqrt(a) + eps) with a large learning rate, and so small gradients.
    lr = max(100.0 * np.abs(x).max(), step)
    d = np.minimum(d, 1e18 * step / lr)
    # From what changes nearly nothing to what leaves nearly nothing, and just not or just enough for zero.
    share = 10.0 ** rng.uniform(-9, 0.3, groups)
    near = rng.random(groups) < 0.2
    share[near] = 1.0 + 10.0 ** rng.uniform(-9, -1, near.sum()) * rng.choice([-1, 1], near.sum())
    share[rng.random(groups) < 0.05] = 0.0
    weights = share * (d * np.abs(x)).sum(axis=1) / step
    penalty = pl.GroupLinf(1.0, groups=pl.Groups.over(0 if layout == "columns" else 1), weights=weights)
    scale = 10.0 ** data.draw(st.sampled_from([0.0, -3.0, 0.5])) * (rng.random(size=(groups, 1)) < 0.8)
    before = np.asarray(scale * x * (1.0 + 0.02 * rng.normal(size=x.shape)), dtype)
    state = np.asarray((d * lr / step) ** 2, dtype)
    grad = np.asarray((before - x) * np.sqrt(state) / lr, dtype)
    lie = np.ascontiguousarray if layout != "columns" else lambda a: np.ascontiguousarray(a.T)
    w, g, slots = lie(before), lie(grad), (lie(state),)
    settings = check_settings(RULE, {"lr": lr})
    asked = RULE.propose(settings, w, g, slots, 1, 0.0)
    fused_step(RULE, settings, penalty, w, g, slots, 1, 0.0, pl.Newton())
    found, point, metric = (lie(np.asarray(a)).reshape(groups, n) for a in (w, asked.x, asked.metric))
    for z, v, m, e in zip(found, point, metric, asked.step * weights, strict=True):
        top = np.abs(z).max()
        assert np.array_equal(z, np.sign(v) * np.minimum(np.abs(v), top))
        if e == 0.0:
            assert np.array_equal(z, v)
            continue
        t, size = level(v, m, e), np.abs(v).astype(np.longdouble)
        # Of the metric of what is clipped, and of the level, no more than rounding is lost.
        above = size >= min(t, top) * (1.0 - 8.0 * UNIT[dtype])
        lost = (200.0 * UNIT[dtype] * m * size)[above].sum() / m[size > t].sum() if t > 0 else np.inf
        assert abs(top - t) <= min(lost, np.abs(v).max()) + 4.0 * UNIT[dtype] * t
        assert (top == 0.0) == (t == 0.0) or abs((m * size).sum() - e) <= 4e-16 * len(v) * e


def test_few_groups_are_solved_alone(monkeypatch):
    """Through a training from dense weights on, with noise and without."""
    left, solve = [], Batch._solve_left
    monkeypatch.setattr(
        Batch, "_solve_left", lambda self, k, some, *a: left.append(len(some)) or solve(self, k, some, *a)
    )
    rng = np.random.default_rng(0)
    settings, steps = check_settings(RULE, {"lr": 1e-3}), 30
    for lam in (1e-5, 1e-3, 3e-2):
        penalty = pl.GroupLinf(lam, groups=pl.Groups.over(0))
        w = np.asarray(0.02 * rng.normal(size=(400, 256)), "f4")
        drift, slots = 1e-3 * rng.normal(size=w.shape), (np.full_like(w, 1e-6),)
        for t in range(1, steps + 1):
            grad = np.asarray(drift * rng.integers(2) + 1e-3 * rng.normal(size=w.shape), "f4")
            fused_step(RULE, settings, penalty, w, grad, slots, t, 0.0, pl.Newton())
    assert sum(left) < 3 * steps * 256 / 100


def test_the_first_look_is_at_the_largest_weight():
    """In columns, in runs of them and in parts of several tensors; what is not finite is told."""
    rng = np.random.default_rng(0)
    settings = check_settings(RULE, {"lr": 0.1})
    for shape, axes in (((70, 33), 0), ((5, 40, 3, 3), (0, 2, 3)), ((3, 7, 600), (0, 2))):
        w, g, a = (np.asarray(rng.normal(size=shape), "f4") for _ in range(3))
        penalty = pl.GroupLinf(0.1, groups=pl.Groups.over(axes))
        batch = Batch(RULE, settings, penalty, [shape], w.dtype, [None])
        batch.addresses[0] = [b.ctypes.data for b in (w, g, a)]
        assert not batch._spoilt().any()
        np.testing.assert_array_equal(batch._tensors.squares, np.abs(w).max(axis=axes))
        g.flat[-1] = 1e30
        assert batch._spoilt().all()
    shapes, joint = [(40, 30), (40,), (20, 40)], [pl.Groups.over(1), pl.Groups.over(()), pl.Groups.over(0)]
    parts = [[np.asarray(rng.normal(size=s), "f4") for _ in range(3)] for s in shapes]
    batch = Batch(RULE, settings, pl.GroupLinf(0.1), shapes, np.float32, [None] * 3, joint)
    batch.addresses[...] = [[b.ctypes.data for b in part] for part in parts]
    assert not batch._spoilt().any()
    a, b, c = (np.abs(part[0]) for part in parts)
    np.testing.assert_array_equal(batch._tensors.squares, np.maximum(a.max(axis=1), b).clip(c.max(axis=0)))
    parts[0][1][0, 0] = np.nan
    assert batch._spoilt().all()


def test_groups_beyond_the_range_are_solved_alone(monkeypatch):
    """Products that vanish or overflow in single precision, and weights of zero."""
    left, solve = [], Batch._solve_left
    monkeypatch.setattr(
        Batch, "_solve_left", lambda self, k, some, *a: left.append(some.tolist()) or solve(self, k, some, *a)
    )
    rng = np.random.default_rng(0)
    size = np.array([1.0, 1e-3, 1e-18, 1e-25, 1e-36, 1e30, 1e37, 0.0, 1.0])
    x = np.asarray(size * rng.normal(size=(40, 9)), "f4")
    weights = size * [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    for lam in (0.5, 30.0, 300.0):
        penalty = pl.GroupLinf(lam, groups=pl.Groups.over(0), weights=weights)
        settings, w, slots = check_settings(RULE, {"lr": 0.1}), x.copy(), (np.full_like(x, 4.0),)
        asked = RULE.propose(settings, w, np.zeros_like(w), slots, 1, 0.0)
        fused_step(RULE, settings, penalty, w, np.zeros_like(w), slots, 1, 0.0, pl.Newton())
        exact = pl.prox(penalty, asked.x, asked.step, metric=asked.metric)
        np.testing.assert_array_equal(w == 0, exact == 0)
        np.testing.assert_allclose(w, exact, rtol=1e-5)
    assert left == 3 * [[3, 4, 5, 6]]


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_gradients_that_are_not_finite_change_nothing(layout):
    penalty = pl.GroupLinf(0.1, groups=pl.Groups.over({"rows": 1, "columns": 0}[layout]))
    settings = check_settings(RULE, {"lr": 0.1})
    for bad in (np.nan, np.inf):
        w, g = np.ones((5, 6), "f4"), np.ones((5, 6), "f4")
        g[3, 2] = bad
        slots = (np.ones_like(w),)
        with pytest.raises(ValueError, match="must be finite"):
            fused_step(RULE, settings, penalty, w, g, slots, 1, 0.0, pl.Newton())
        assert (w == 1).all()
        assert (slots[0] == 1).all()


def test_without_strength_there_are_no_groups():
    penalty = pl.GroupLinf(0.1)
    assert plan_of(penalty, (6, 5)).name == "rows"
    assert plan_of(replace(penalty, lam=0.0), (6, 5)).name == "flow"
