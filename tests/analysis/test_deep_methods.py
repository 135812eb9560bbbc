"""Methods that are reimplemented for the studies, against their rules in a few lines of NumPy or SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

import proxlab as pl
from analysis.deep import solving
from analysis.deep.blocks import blocks
from analysis.deep.catalogue import VISION
from analysis.deep.methods.solvers import SolvedAdamW, exact, proximal_gradient
from proxlab.torch import ProxAdamW, param_groups

pytestmark = pytest.mark.torch


def layer(rows, columns, seed=0):
    """A linear layer without bias, and where its loss is least: half of the columns are zero there."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(columns, rows, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(rows, columns, generator=draw))
    wanted = torch.randn(rows, columns, generator=draw) * (torch.arange(columns) % 2)
    return model, wanted


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
