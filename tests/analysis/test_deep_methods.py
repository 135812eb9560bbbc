"""Methods that are reimplemented for the studies, against their rules in a few lines of NumPy or SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

import proxlab as pl
from analysis.deep import solving
from analysis.deep.blocks import Block, blocks
from analysis.deep.catalogue import VISION
from analysis.deep.methods.dgating import ZERO, DGating, Gated
from analysis.deep.methods.pat import PAT
from analysis.deep.methods.solvers import SolvedAdamW, exact, proximal_gradient
from proxlab.torch import ProxAdamW, param_groups

pytestmark = pytest.mark.torch


class AdamW:
    """The rule of Loshchilov & Hutter (2019) on an array."""

    def __init__(self, lr, decay, betas=(0.9, 0.999), eps=1e-8):
        self.lr, self.decay, self.betas, self.eps = lr, decay, betas, eps
        self.m = self.v = self.count = 0

    def step(self, w, g):
        self.count += 1
        b1, b2 = self.betas
        self.m, self.v = b1 * self.m + (1 - b1) * g, b2 * self.v + (1 - b2) * g * g
        m, v = self.m / (1 - b1**self.count), self.v / (1 - b2**self.count)
        return w * (1 - self.lr * self.decay) - self.lr * m / (np.sqrt(v) + self.eps)


def layer(rows, columns, seed=0):
    """A linear layer without bias, and where its loss is least: half of the columns are zero there."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(rows, columns, generator=draw))
    wanted = torch.randn(rows, columns, generator=draw) * (torch.arange(columns) % 2)
    return model, wanted


# --------------------------------------------------------------------------------------------------------
# PAT


@pytest.mark.parametrize(("rows", "lam"), [(1, 0.3), (4, 0.2)])
def test_pat_moves_latent_weights_and_shows_their_prox(rows, lam):
    """With one row a group is a number, and the network's weight is the latent one soft-thresholded."""
    model, wanted = layer(rows, 6)
    rates = [0.05, 0.04, 0.03, 0.02, 0.05]
    optimizer = PAT(param_groups(model, pl.GroupLasso(lam, weights="sqrt_size")), lr=1.0, weight_decay=0.1)
    latent = shown = model.weight.detach().double().numpy().copy()
    rule = AdamW(None, 0.1)
    for k, rate in enumerate(rates):
        gradient = shown - wanted.double().numpy()
        model.weight.grad = model.weight.detach() - wanted
        optimizer.param_groups[0]["lr"] = rule.lr = rate
        optimizer.step()
        latent = rule.step(latent, gradient)
        threshold = lam * math.sqrt(rows) * sum(rates[: k + 1])
        norm = np.linalg.norm(latent, axis=0)
        shown = np.maximum(1.0 - threshold / norm, 0.0) * latent
        np.testing.assert_allclose(model.weight.detach().numpy(), shown, atol=1e-5, rtol=1e-4)


def test_pat_brings_a_group_back_where_its_latent_weights_grow():
    model, _ = layer(1, 2)
    optimizer = PAT(param_groups(model, pl.GroupLasso(10.0)), lr=0.05, weight_decay=0.0)
    zero = []
    for _ in range(60):
        model.weight.grad = torch.tensor([[-1.0, 0.0]])
        optimizer.param_groups[0]["lr"] = 0.05 if len(zero) < 10 else 0.0
        optimizer.step()
        zero.append((model.weight == 0).tolist()[0])
    # the threshold is 10 times the sum of all rates and stays with it, whatever the weights do
    assert zero[-1] == [True, True]


# --------------------------------------------------------------------------------------------------------
# D-Gating


def gated(rows, depth, lam):
    p = nn.Parameter(torch.as_tensor(rows, dtype=torch.float64))
    return Gated(Block(("w",), (p,), (pl.GroupLasso(lam).groups,), pl.GroupLasso(lam)), depth)


@settings(max_examples=15)
@given(
    depth=st.integers(2, 5),
    lam=st.floats(0.01, 10.0),
    w=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=4).filter(lambda w: np.linalg.norm(w) > 0.05),
)
def test_the_least_charge_of_the_factors_is_the_penalty(depth, lam, w):
    """Over all gates, with ω = w/Πγ: λ ‖w‖^(2/D), found by SciPy over the logarithms of the gates."""
    g = gated([w], depth, lam)

    def charge(logs):
        gates = torch.as_tensor(np.exp(logs))
        g.gates, g.vectors = gates[None], torch.as_tensor(np.array([w])) / gates.prod()
        return float(g.penalty())

    found = optimize.minimize(charge, np.zeros(depth - 1), method="BFGS")
    assert found.fun == pytest.approx(lam * np.linalg.norm(w) ** (2.0 / depth), rel=1e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_factors_descend_the_smooth_objective(depth):
    """One step of SGD against differences of the objective as a function of the factors."""
    model, wanted = layer(3, 4)
    model.double()
    wanted, lam, lr = wanted.double(), 0.3, 1e-2
    start = model.weight.detach().numpy().T.copy()
    optimizer = DGating(param_groups(model, pl.GroupLasso(lam, weights="sqrt_size")), lr=lr, depth=depth)
    model.weight.grad = model.weight.detach() - wanted
    optimizer.step()

    def objective(z):
        vectors, gates = z[:12].reshape(4, 3), z[12:].reshape(4, depth - 1)
        w = vectors * gates.prod(axis=1, keepdims=True)
        charge = lam * math.sqrt(3) / depth * ((vectors**2).sum() + (gates**2).sum())
        return 0.5 * ((w - wanted.numpy().T) ** 2).sum() + charge

    z = np.concatenate([start.ravel(), np.ones(4 * (depth - 1))])
    gradient = [(objective(z + e) - objective(z - e)) / 2e-6 for e in 1e-6 * np.eye(len(z))]
    moved = z - lr * np.array(gradient)
    expected = moved[:12].reshape(4, 3) * moved[12:].reshape(4, depth - 1).prod(axis=1, keepdims=True)
    np.testing.assert_allclose(model.weight.detach().numpy().T, expected, atol=1e-8)


@pytest.mark.parametrize("adam", [False, True])
def test_gates_close_and_small_groups_are_zero(adam):
    model, wanted = layer(3, 6)
    lr = 0.05
    optimizer = DGating(param_groups(model, pl.GroupLasso(0.3)), lr=lr, adam=adam)
    for step in range(600):
        model.weight.grad = model.weight.detach() - wanted
        optimizer.param_groups[0]["lr"] = lr * (1.0 - step / 600)
        optimizer.step()
    # the minimiser of the group lasso, whose penalty this is for D = 2: where the gates are balanced
    norm = wanted.norm(dim=0)
    expected = (1.0 - 0.3 / norm).clamp_min(0.0).nan_to_num() * wanted
    torch.testing.assert_close(model.weight.detach(), expected, atol=2e-2, rtol=0.0)
    assert (model.weight == 0).all(dim=0).tolist() == [True, False] * 3


def test_a_gate_needs_two_factors():
    with pytest.raises(ValueError, match="depth must be at least 2, got 1"):
        gated([[1.0]], 1, 1.0)
    near = gated([[ZERO, -ZERO], [0.9 * ZERO, 0.9 * ZERO]], 2, 1.0).weights()
    assert near.any(dim=1).tolist() == [True, False]


# --------------------------------------------------------------------------------------------------------
# Solvers of the prox


def test_the_exact_solver_is_the_exact_optimizer():
    models = []
    for make in (
        lambda g: SolvedAdamW(g, solve=exact, lr=0.05),
        lambda g: ProxAdamW(g, lr=0.05, weight_decay=1e-2),
    ):
        model, wanted = layer(3, 8)
        optimizer = make(param_groups(model, pl.GroupLasso(3.0, weights="sqrt_size")))
        for step in range(12):
            model.weight.grad = model.weight.detach() * (1.0 + torch.arange(3.0))[:, None] - wanted
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
            optimizer.step()
        models.append(model.weight.detach())
    torch.testing.assert_close(*models, atol=1e-6, rtol=1e-5)
    assert 0 < int((models[0] == 0).all(dim=0).sum()) < 8


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_fixed_number_of_iterations_is_that_of_proximal_gradient(iterations):
    rng = np.random.default_rng(0)
    x, d, step, lam = rng.standard_normal((5, 4)), rng.uniform(0.01, 1.0, (5, 4)), 0.1, 2.0
    z, spent = proximal_gradient(x, d, step, lam, iterations=iterations)
    expected = np.zeros_like(x)
    alive = 0
    for k in range(5):
        if np.linalg.norm(d[k] * x[k]) > step * lam:
            alive += 1
            point, inverse = x[k], 1.0 / d[k].max()
            for _ in range(iterations):
                point = point - inverse * d[k] * (point - x[k])
                norm = np.linalg.norm(point)
                point = max(1.0 - inverse * step * lam / norm, 0.0) * point
            expected[k] = point
    np.testing.assert_allclose(z, expected, atol=1e-12)
    assert alive > 0
    assert spent == pytest.approx(iterations * alive / 5)


def test_the_published_rule_comes_near_the_prox():
    rng = np.random.default_rng(1)
    x, d = rng.standard_normal((20, 5)), rng.uniform(0.2, 1.0, (20, 5))
    nearly, spent = proximal_gradient(x, d, 0.1, 2.0)
    np.testing.assert_allclose(nearly, exact(x, d, 0.1, 2.0)[0], atol=1e-3)
    assert 1.0 < spent <= 100.0


@settings(max_examples=20)
@given(st.lists(st.floats(-100.0, 100.0), min_size=2, max_size=8))
def test_intervals_are_students(values):
    found = solving.interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=1e-9)
    assert found.high == pytest.approx(np.mean(values) + half, abs=1e-9)
    one = solving.interval(values[:1])
    assert (one.is_above, one.is_below) == (False, False)


def paired(sparsity, accuracy):
    """The verdict on runs of the exact prox that differ by these points from another solver's."""
    rows = []
    for seed, (s, a) in enumerate(zip(sparsity, accuracy, strict=True)):
        for strength in (1e-3, 2e-3):
            rows += [
                ("vgg", VISION.solvers[0].name, strength, seed, None, 50.0 + 7.0 * seed + s, 90.0 + a),
                ("vgg", VISION.solvers[1].name, strength, seed, None, 50.0 + 7.0 * seed, 90.0),
            ]
    # a run that failed has no partner
    rows.append(("vgg", VISION.solvers[1].name, 1e-3, 99, "diverged", math.nan, math.nan))
    names = ["task", "method", "strength", "seed", "failed", "weighted sparsity", "accuracy"]
    (found,) = solving.comparisons(solving.differences(pd.DataFrame(rows, columns=names), VISION), VISION)
    assert (found.strengths, found.sparsity.seeds) == (2, len(sparsity))
    return found.verdict, "is repeated" in found.words, found.words


def test_the_verdict_follows_from_the_numbers():
    none = (0.1, -0.1, 0.05, -0.05, 0.0)
    more, less = (2.0, 2.1, 1.9, 2.2, 1.8), (-2.0, -2.1, -1.9, -2.2, -1.8)
    assert paired(more, none)[:2] == ("good", True)
    assert paired(more, more)[:2] == ("good", True)
    assert paired(more, less)[:2] == ("neutral", False)
    assert paired(none, none)[:2] == ("neutral", False)
    assert paired(none, more)[:2] == ("good", False)
    assert paired(none, less)[:2] == ("bad", False)
    assert paired(less, none)[:2] == ("bad", False)
    assert "less sparse and less accurate" in paired(less, less)[2]
    assert paired((2.0,), (0.0,)) == ("neutral", False, "One seed: no interval, and no verdict.")


def test_blocks_of_the_solvers_are_those_of_the_optimizer():
    model, _ = layer(3, 8)
    optimizer = SolvedAdamW(param_groups(model, pl.GroupLasso(0.3)), solve=exact, lr=0.05)
    assert [b.n_groups for b in blocks(optimizer.param_groups)] == [8]
