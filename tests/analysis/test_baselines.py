import numpy as np
import pytest

import proxlab as pl
from analysis import baselines
from proxlab import study

STEP, LAM = 0.5, 0.4


@pytest.fixture(scope="module")
def benign():
    """Rows with a mild metric, some below the threshold; their exact prox."""
    rng = np.random.default_rng(0)
    d = rng.uniform(0.5, 2.0, (12, 5))
    x = rng.standard_normal((12, 5)) * np.linspace(0.02, 2, 12)[:, None]
    z = study.truth(study.Problem("benign", x, STEP, d, pl.GroupLasso(LAM))).z.astype(float)
    assert 0 < (z == 0).all(axis=1).sum() < len(x)
    return x, d, z


METHODS = {
    "proxssi": (lambda x, d: baselines.proxssi_group_lasso(x.T[None], d.T[None], STEP, LAM), 1e-9),
    "ramda": (lambda x, d: baselines.ramda_group_lasso(x, d, STEP, LAM), 1e-3),
    "brentq": (lambda x, d: baselines.brentq_group_lasso(x, d, STEP, LAM), 1e-11),
    "find_root": (lambda x, d: baselines.find_root_group_lasso(x, d, STEP, LAM), 1e-11),
    "cvxpy": (lambda x, d: baselines.cvxpy_group_lasso(x, d, STEP, LAM, batched=False), 1e-4),
    "cvxpy, batched": (lambda x, d: baselines.cvxpy_group_lasso(x, d, STEP, LAM, batched=True), 1e-3),
}


@pytest.mark.parametrize("name", METHODS)
def test_converges_on_a_benign_problem(name, benign):
    x, d, z = benign
    solve, tolerance = METHODS[name]
    found = solve(x, d)
    assert found.converged.all()
    result = found.z[0].T if name == "proxssi" else found.z
    np.testing.assert_allclose(result, z, atol=tolerance)
    assert (found.iterations[(z != 0).any(axis=1)] > 0).all()


def test_proxssi_takes_a_convolution_per_input_channel():
    rng = np.random.default_rng(1)
    x, d = rng.standard_normal((4, 6, 3, 3)), rng.uniform(0.5, 2, (4, 6, 3, 3))
    view = lambda a: a.reshape(4, 6, 9).transpose(0, 2, 1)  # noqa: E731
    z = baselines.proxssi_group_lasso(view(x), view(d), STEP, LAM).z
    expected = baselines.ramda_group_lasso(x, d, STEP, LAM, axis=(0, 2, 3), max_iterations=1000).z
    np.testing.assert_allclose(z, view(expected), atol=1e-3)


def test_proxssi_stays_in_float32_and_stops_where_it_is_told(benign):
    x, d = (a.T[None].astype(np.float32) for a in benign[:2])
    found = baselines.proxssi_group_lasso(x, d, STEP, LAM, max_iterations=2)
    assert found.z.dtype == np.float32
    assert found.iterations.max() == 2
    assert not found.converged.all()


def test_proxssi_mcp_is_right_where_the_subproblem_is_convex_and_wrong_where_it_is_not():
    lam, gamma, d = 0.5, 3.0, np.array([1.0, 1.5, 0.8])
    for scale, step, agrees in ((0.5, 0.2, True), (1.0, 9.0, False)):
        x = scale * np.array([1.0, -1.2, 0.7])
        found = baselines.proxssi_group_mcp(x[None, :, None], d[None, :, None], step, lam, gamma).z[0, :, 0]
        problem = study.Problem("one", x[None], step, d, pl.GroupMCP(lam, gamma))
        exact = study.truth(problem).z.astype(float)[0]
        assert np.allclose(found, exact, atol=1e-6) == agrees


def test_proxssi_mcp_returns_a_long_group_unchanged():
    x, d = np.full((1, 4, 1), 10.0), np.full((1, 4, 1), 1e-4)
    assert (baselines.proxssi_group_mcp(x, d, 1e-2, 1.0, 3.0).z == x).all()


def test_ramda_names_a_bad_axis():
    with pytest.raises(ValueError, match="axis must leave one axis of groups, got 0 "):
        baselines.ramda_group_lasso(np.ones((2, 3, 4)), np.ones((2, 3, 4)), 1.0, 1.0, axis=0)
