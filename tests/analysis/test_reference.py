from pathlib import Path

import numpy as np
import pytest

from analysis import reference

DATA = Path(__file__).parents[1] / "data"
PENALTIES = {
    "lasso": reference.group_lasso(0.3),
    "elastic net": reference.group_elastic_net(0.3, 2.0),
    "mcp": reference.group_mcp(0.3, 2.5),
    "scad": reference.group_scad(0.3, 3.7),
    "capped": reference.group_capped(0.3, 0.8),
    "l0": reference.group_l0(0.3),
}


def hard_cases(name):
    with np.load(DATA / name) as file:
        data = dict(file)
    for k, label in enumerate(data["name"]):
        part = slice(data["offsets"][k], data["offsets"][k + 1])
        if (data["d"][part] > 0).all():
            yield (
                str(label),
                data["x"][part],
                data["d"][part],
                data["z"][part],
                {key: float(data[key][k]) for key in ("step", "lam", "gamma")},
            )


@pytest.mark.parametrize("file", ["group_lasso_hard.npz", "group_mcp_hard.npz"])
def test_agrees_with_the_shipped_answers(file):
    for label, x, d, z, p in hard_cases(file):
        lasso = not np.isfinite(p["gamma"])
        penalty = reference.group_lasso(p["lam"]) if lasso else reference.group_mcp(p["lam"], p["gamma"])
        exact = reference.Reference(x, d, p["step"], penalty)
        np.testing.assert_allclose(exact.rounded(), z, rtol=2e-16, atol=1e-300, err_msg=label)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_no_point_of_a_grid_is_better(name, scale):
    """A check of the whole reduction: brute force over z in two dimensions."""
    x, d, step = scale * np.array([1.1, -0.7]), np.array([0.3, 2.0]), 0.9
    exact = reference.Reference(x, d, step, PENALTIES[name])
    for u in np.linspace(0, 1.05, 22):
        for v in np.linspace(0, 1.05, 22):
            assert exact.errors(np.array([u, v]) * x).gap >= 0


def test_errors_of_a_shifted_prox():
    x, d = np.array([3.0, 4.0]), np.array([1.0, 4.0])
    exact = reference.Reference(x, d, 1.0, reference.group_l0(0.1))  # far from zero: the prox is x
    found = exact.errors(np.array([3.0, 4.5]))
    assert found.distance == pytest.approx(0.5)
    assert found.metric_distance == pytest.approx(1.0)
    assert found.stationarity == pytest.approx(2.0)
    assert found.gap == pytest.approx(0.5)
    assert exact.outside(np.array([3.0, 3.0]), np.array([3.0, 3.5])) == 1


def test_zero_is_stationary_below_the_threshold_only():
    x, d = np.array([0.6, 0.8]), np.ones(2)
    inside = reference.Reference(x, d, 1.0, reference.group_lasso(1.5))
    assert inside.errors(np.zeros(2)).stationarity == 0
    above = reference.Reference(x, d, 1.0, reference.group_lasso(0.25))
    assert above.errors(np.zeros(2)).stationarity == pytest.approx(0.75)
    np.testing.assert_allclose(above.rounded(), 0.75 * x)
