"""The oracle against itself: its methods share no algorithm, so agreement means something."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

from tests import oracle

PARAMETERS = {
    "L1": {"lam": 0.6},
    "GroupLasso": {"lam": 0.7},
    "GroupElasticNet": {"lam": 0.4, "kappa": 0.8},
    "SparseGroupLasso": {"lam1": 0.2, "lam2": 0.5},
    "GroupMCP": {"lam": 0.8, "gamma": 1.3},
    "GroupSCAD": {"lam": 0.7, "a": 2.4},
    "GroupCapped": {"lam": 0.9, "theta": 0.7},
    "GroupL0": {"lam": 0.4},
    "GroupLinf": {"lam": 0.8},
}
SIGNED = [(name, False) for name in oracle.CONVEX] + [("L1", True), ("GroupLasso", True)]


def problems(seed, count, n):
    """Random groups: metrics over three decades, some so flat that MCP makes the subproblem nonconvex."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        step, weight = rng.uniform(0.2, 2), rng.uniform(0.5, 2)
        yield rng.normal(size=n) * 2, np.exp(rng.normal(size=n) * 1.5), float(step), float(weight)


def test_imports_nothing_of_proxlab():
    tree = ast.parse(Path(oracle.__file__).read_text())
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [n for n in names if n.startswith(("proxlab", "analysis", "tests"))]


@pytest.mark.parametrize(
    "name", [name for name in PARAMETERS if name != "GroupLinf"]
)  # grids miss its creases
@pytest.mark.parametrize("n", [1, 2, 3])
def test_arb_matches_brute_force(name, n):
    for x, d, step, weight in problems(n, 6, n):
        best, objective = oracle.brute_force(name, PARAMETERS[name], x, d, step, weight)
        answer = oracle.solve(name, PARAMETERS[name], x, d, step, weight)
        least = oracle.to_float(answer.objectives[0])
        assert least <= objective * (1 + 1e-12)
        assert objective <= least * (1 + 1e-6)
        if answer.gap > 1e-3:  # the location is known to the square root of the objective's accuracy only
            np.testing.assert_allclose(best, answer.z, atol=2e-3 * np.linalg.norm(x))


@pytest.mark.parametrize(("name", "nonnegative"), SIGNED)
def test_arb_matches_clarabel(name, nonnegative):
    parameters = PARAMETERS[name] | ({"nonnegative": True} if nonnegative else {})
    for x, d, step, weight in problems(7, 4, 9):
        answer = oracle.solve(name, parameters, x, d, step, weight).z
        conic = oracle.conic(name, parameters, x, d, step, weight)
        np.testing.assert_allclose(conic, answer, atol=1e-4 * np.linalg.norm(x))


@pytest.mark.parametrize("name", ["GroupLasso", "GroupElasticNet"])
def test_arb_matches_mpmath(name):
    for x, d, step, _ in problems(8, 6, 5):
        answer = oracle.solve(name, PARAMETERS[name], x, d, step)
        if answer.radius > 0:
            radius = oracle.stationary_radius(name, PARAMETERS[name], x, d, step)
            assert radius == pytest.approx(oracle.to_float(answer.radius), rel=4e-16)


@pytest.mark.parametrize(("name", "nonnegative"), SIGNED)
def test_moreau_links_primal_and_dual(name, nonnegative):
    """x = prox_h(x) + step D^-1 prox_h*(D x / step), the two sides computed by unrelated code."""
    parameters = PARAMETERS[name] | ({"nonnegative": True} if nonnegative else {})
    for x, d, step, weight in problems(9, 4, 6):
        z = oracle.solve(name, parameters, x, d, step, weight).z
        u = oracle.dual(name, parameters, d * x / step, 1 / d, 1 / step, weight)
        np.testing.assert_allclose(z + step * u / d, x, atol=1e-13 * np.linalg.norm(x))


@pytest.mark.parametrize("name", PARAMETERS)
def test_two_codings_of_the_value_agree(name):
    rng = np.random.default_rng(3)
    for scale in (0.1, 1.0, 10.0):
        z = rng.normal(size=4) * scale
        expected = oracle.to_float(oracle.value(name, PARAMETERS[name], z, 1.7))
        assert oracle.values(name, PARAMETERS[name], z, 1.7) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("file", ["group_lasso_hard", "group_mcp_hard"])
def test_arb_reproduces_the_reference_data(file):
    """Bit for bit: both are computed to many more digits than float64 has."""
    data = np.load(Path(__file__).parent / "data" / f"{file}.npz")
    for k in range(0, data["name"].size, 3):  # every third: the rest is compared through proxlab
        group = slice(data["offsets"][k], data["offsets"][k + 1])
        x, d, step = data["x"][group], data["d"][group], data["step"][k]
        if (d == 0).any():
            continue
        if math.isinf(data["gamma"][k]):
            answer = oracle.solve("GroupLasso", {"lam": data["lam"][k]}, x, d, step)
        else:
            answer = oracle.solve("GroupMCP", {"lam": data["lam"][k], "gamma": data["gamma"][k]}, x, d, step)
        np.testing.assert_array_equal(answer.z, data["z"][group], err_msg=str(data["name"][k]))


def test_exact_zero_test():
    assert oracle.zero_margin([3.0], [1.0], 3.0) == 0
    assert oracle.zero_margin([3.0], [1.0], float(np.nextafter(3.0, 0))) > 0
    assert oracle.zero_margin([3.0, 4.0], [1.0, 1.0], 5.0) == 0
    assert oracle.zero_margin([1.0, 1e-20], [1.0, 1.0], 1.0) == 1e-40
