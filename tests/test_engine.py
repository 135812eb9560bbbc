"""The engine's source in plain Python: what is compiled can be stepped through, and does the same there."""

import numpy as np
import pytest

import proxlab as pl
from proxlab import search
from proxlab.backends import kernels
from proxlab.backends.kernel_records import Data, Scratch, Steps
from proxlab.backends.records import GroupResults
from proxlab.choose import Limits
from proxlab.equations import EQUATIONS

PENALTIES = {
    "lasso": pl.GroupLasso(1.0),
    "mcp": pl.GroupMCP(1.0, gamma=2.5),
    "scad": pl.GroupSCAD(1.0, a=3.7),
    "capped": pl.GroupCapped(1.0, theta=1.5),
    "l0": pl.GroupL0(1.0),
    "linf": pl.GroupLinf(1.0),
}


def problem(rows=40, n=5):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, n)) * np.exp(rng.uniform(-3, 3, (rows, 1)))
    x[::9] = 0.0
    # Out of the range in which squares are safe.
    x[4::9] *= 1e-180
    return x, np.exp(rng.uniform(-3, 3, (rows, n)))


@pytest.mark.parametrize("finder", [pl.Newton(), pl.Halley(), pl.Bisection(), pl.Brent()], ids=repr)
@pytest.mark.parametrize("name", PENALTIES)
def test_rows_are_solved_in_python_as_over_arrays(name, finder, monkeypatch):
    x, d = problem()
    penalty, n = PENALTIES[name], x.shape[1]
    equation = penalty.equation
    names = EQUATIONS[equation.kernel].names()
    names |= {"propose": type(finder).propose, "NEEDS_BRACKET": finder.needs_bracket}
    for key, value in names.items():
        monkeypatch.setattr(search, key, value)
    monkeypatch.setattr(kernels, "NEEDS_BRACKET", finder.needs_bracket)
    if equation.kernel == "clipped":
        monkeypatch.setattr(kernels, "sums_at", kernels.sum_clipped)
        monkeypatch.setattr(kernels, "solve_group", kernels.solve_linf)
        monkeypatch.setattr(kernels, "write_group", kernels.clip_group)

    z = np.empty_like(x).ravel()
    found = GroupResults(*(np.zeros(len(x)) for _ in range(3)), *(np.zeros(len(x), int) for _ in range(3)))
    apart, copies = np.zeros(len(x), bool), (np.empty(n), np.empty(n))
    limits = Limits(finder.relative_tolerance(53), finder.atol, finder.max_iterations, True)
    with np.errstate(all="ignore"):
        bad = kernels.solve_rows(
            Data(x.ravel(), d.ravel(), z, True), n, 0, len(x), Steps(np.ones(1), np.ones(1)), equation.rows,
            limits, found, apart, Scratch(*copies, *copies),
        )  # fmt: skip
    assert bad == -1
    assert not apart.any()
    expected = pl.solve(penalty, x, 1.0, metric=d, root_finder=finder, backend="array_api")
    np.testing.assert_allclose(z.reshape(x.shape), expected.z, rtol=1e-13, atol=0)
    np.testing.assert_array_equal(found.status, expected.status)
    np.testing.assert_allclose(found.radius, expected.radius, rtol=1e-13)
    for ours, theirs in zip((found.lower, found.upper), expected.bracket, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    # Sums are added in another order, by which an iteration more or less may be rounding.
    apart = np.abs(found.evaluations - expected.evaluations)
    assert np.mean(apart > 0) <= 0.05
