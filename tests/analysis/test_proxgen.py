"""Every inner solver meets its tolerance and no more; ProxGen with exact steps finds the group lasso."""

import numpy as np
import pytest

import proxlab as pl
from analysis import models, proxgen
from proxlab import inexactness


@pytest.fixture
def subproblem():
    rng = np.random.default_rng(0)
    h = pl.GroupLasso(0.3, groups=pl.Groups.csr([0, 3, 4, 8]), weights="sqrt_size")
    x, last = rng.normal(size=(2, 8))
    x[3] *= 1e-3  # a group that becomes zero
    return proxgen.Subproblem(h, x, 0.1, np.exp(rng.normal(size=8)), last)


def test_residual_is_the_stationarity(subproblem):
    exact = pl.prox(subproblem.penalty, subproblem.x, subproblem.step, metric=subproblem.metric)
    assert subproblem.residual(exact) < 1e-12
    for z in (exact + 0.01, np.zeros(8), subproblem.last, subproblem.x):
        gradient = subproblem.metric * (z - subproblem.x) / subproblem.step
        distance = subproblem.penalty.subdiff_distance(gradient, z)
        assert subproblem.residual(z) == pytest.approx(np.linalg.norm(distance))


def test_proximal_gradient_steps_converge_to_the_prox(subproblem):
    exact = pl.prox(subproblem.penalty, subproblem.x, subproblem.step, metric=subproblem.metric)
    steps = subproblem.proximal_gradient()
    for _ in range(400):
        z, free = next(steps)
        assert subproblem.residual(z) <= free * (1 + 1e-9) + 1e-12
    np.testing.assert_allclose(z, exact, atol=1e-13)


@pytest.mark.parametrize("solver", proxgen.SOLVERS)
@pytest.mark.parametrize("eps", [1.0, 1e-3, 1e-8])
def test_solvers_prove_what_they_return(subproblem, solver, eps):
    inner = proxgen.SOLVERS[solver]()(subproblem, inexactness.Stationarity(eps))
    assert inner.proved
    assert subproblem.residual(inner.z) <= inner.stationarity <= eps
    if solver == "adversary":
        assert inner.stationarity > 0.5 * eps


def test_looser_tolerances_cost_fewer_passes(subproblem):
    passes = [
        proxgen.ProximalGradient()(subproblem, inexactness.Stationarity(eps)).passes
        for eps in (1.0, 1e-3, 1e-9)
    ]
    assert passes == sorted(set(passes))


@pytest.mark.parametrize("solver", ["proximal gradient", "newton"])
def test_exact_steps_find_the_group_lasso(solver):
    record = proxgen.proxgen("birthwt", "exact", solver, "all", 150, 0)
    assert record.arrays["stationarity2"][-1] < 1e-12 * record.values["scale"] ** 2
    assert record.arrays["support"].shape == (150, 8)


def test_constant_tolerances_stay_below_their_size_and_above_exact():
    exact, loose = (
        proxgen.proxgen("birthwt", schedule, "adversary", "all", 100, 0)
        for schedule in ("exact", "constant 0.1")
    )
    assert loose.arrays["proved"].all()
    floor = np.median(loose.arrays["stationarity2"][-20:]) / loose.values["scale"] ** 2
    assert 1e-2 * 0.1**2 < floor < 0.1**2
    assert np.median(exact.arrays["stationarity2"][-20:]) < 1e-6 * floor


def test_runs_repeat():
    first, second = (proxgen.proxgen("digits", "adaptive", "bisection", "growing", 4, 3) for _ in range(2))
    np.testing.assert_array_equal(first.arrays["stationarity2"], second.arrays["stationarity2"])


def test_batches_draw_distinct_rows():
    rng = np.random.default_rng(0)
    growing = list(proxgen._batches("growing", 40, 60, rng))
    assert [len(rows) for rows in growing[:3]] == [17, 18, 19]
    assert all(len(np.unique(rows)) == len(rows) <= 40 for rows in growing)
    assert list(proxgen._batches("all", 40, 3, rng)) == [None] * 3


def test_steps_obey_the_theorem():
    setting = proxgen._setting("birthwt", 0)
    assert setting.step * 3.0 * models.birthwt_linear().lipschitz == pytest.approx(setting.floor)
