"""The fast exact answers against the oracle, which shares none of their theory."""

import ast
import math
from pathlib import Path

import flint
import numpy as np
import pytest
from flint import arb

from tests import exact, oracle
from tests.table import TABLED, ids


@pytest.fixture(autouse=True)
def digits():
    with flint.ctx.workprec(400):
        yield


def cases(row, seed, count):
    rng = np.random.default_rng(seed)
    for k in range(count):
        n = int(rng.integers(1, 6))
        x, d = (
            rng.normal(size=n) * 10.0 ** rng.uniform(-0.7, 0.7),
            np.exp(rng.normal(size=n) * rng.choice([0.1, 2, 5])),
        )
        if k % 5 == 0:
            x[rng.integers(n)] = 0.0
        step, weight = rng.uniform(0.2, 2, size=2)
        yield exact.Case(
            row.name, row.parameters, x, d, float(step), 1.0 if row.name == "L1" else float(weight)
        )


def test_imports_nothing_of_proxlab():
    tree = ast.parse(Path(exact.__file__).read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert not [m for m in modules if m.startswith("proxlab")]


@pytest.mark.parametrize("row", TABLED, ids=ids(TABLED))
def test_minimisers_are_the_oracle_s(row):
    for case in cases(row, 1, 12):
        truth = exact.solve(case)
        answer = oracle.solve(case.name, case.parameters, case.x, case.d, case.step, case.weight)
        scale = 1e-60 * (oracle.norm(truth.z) + 1e-30)
        off = [a - b for a, b in zip(truth.z, answer.candidates[0], strict=True)]
        if truth.lead > arb(1e-30):
            assert all(abs(v) <= scale for v in off)
        assert abs(truth.objective * arb(case.step) - answer.objectives[0]) <= 1e-60


@pytest.mark.parametrize("row", TABLED, ids=ids(TABLED))
def test_stationarity_vanishes_at_the_minimiser_and_grows_off_it(row):
    rng = np.random.default_rng(2)
    for case in cases(row, 3, 20):
        z = np.array([oracle.to_float(v) for v in exact.solve(case).z])
        size = float(np.linalg.norm(case.d * case.x)) / case.step
        if row.name != "GroupLinf" or np.count_nonzero(z) <= 1:  # its face is lost to rounding
            assert exact.stationarity(case, z) <= 1e-12 * size
        other = z + rng.normal(size=z.size) * 10.0 ** rng.uniform(-3, 0)
        if row.convex and not row.parameters.get("nonnegative"):
            # strong monotonicity: dist(0, ∂Q(z)) >= (min d / step) ||z - z*||
            moved = float(np.linalg.norm(other - z)) * float(np.min(case.d)) / case.step
            assert exact.stationarity(case, other) >= moved * (1 - 1e-9) - 1e-12


def test_stationarity_is_the_distance_to_the_subdifferential():
    """By hand: at zero, at a kink, on a face, outside the domain."""
    one = exact.Case("GroupLasso", {"lam": 2.0}, [3.0, 4.0], [1.0, 1.0], 1.0)
    assert exact.stationarity(one, [0.0, 0.0]) == 3
    assert abs(exact.stationarity(one, [1.8, 2.4])) < 1e-15
    capped = exact.Case("GroupCapped", {"lam": 2.0, "theta": 1.0}, [3.0], [1.0], 1.0)
    assert exact.stationarity(capped, [1.0]) == 0  # slope 2 from the left; 2 from the right
    sparse = exact.Case("SparseGroupLasso", {"lam1": 1.0, "lam2": 1.0}, [3.0, 0.5], [1.0, 1.0], 1.0)
    assert exact.stationarity(sparse, [1.0, 0.0]) == 0
    face = exact.Case("GroupLinf", {"lam": 1.0}, [3.0, 2.0, 1.0], [1.0, 1.0, 1.0], 1.0)
    assert exact.stationarity(face, [2.0, 2.0, 1.0]) == 0
    assert exact.stationarity(face, [2.0, 2.0, 0.0]) == 1
    assert exact.stationarity(face, [0.0, 0.0, 0.0]) == 3  # (3, 2, 1) less its projection (1, 0, 0)
    positive = exact.Case("GroupLasso", {"lam": 1.0, "nonnegative": True}, [2.0, -5.0], [1.0, 1.0], 1.0)
    assert exact.stationarity(positive, [1.0, 0.0]) == 0
    assert exact.stationarity(positive, [1.0, -1.0]) == arb("inf")


def test_condition_of_a_soft_threshold():
    case = exact.Case("L1", {"lam": 0.5}, [3.0], [2.0], 4.0)
    assert exact.sensitivity(case, exact.solve(case)) == pytest.approx(1.0, rel=1e-12)
    near = exact.Case("GroupLasso", {"lam": 1.0}, [1.0, 1e-8], [1.0, 1e-6], 1 - 1e-12)
    assert math.isfinite(exact.sensitivity(near, exact.solve(near)))
