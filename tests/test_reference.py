"""proxlab against reference answers of hard groups, computed elsewhere (tests/data/README.md)."""

import math
from pathlib import Path

import numpy as np
import pytest

import proxlab as pl
from tests.cases import Case
from tests.checks import check_close
from tests.table import BACKENDS, ROOT_FINDERS, ids


def load(file):
    data = np.load(Path(__file__).parent / "data" / f"{file}.npz")
    for k, name in enumerate(data["name"]):
        group = slice(data["offsets"][k], data["offsets"][k + 1])
        parameters = {"lam": float(data["lam"][k])}
        if np.isfinite(data["gamma"][k]):
            parameters["gamma"] = float(data["gamma"][k])
        x, d = data["x"][group], data["d"][group]
        case = Case(
            "GroupMCP" if "gamma" in parameters else "GroupLasso", parameters, x, d, float(data["step"][k])
        )
        yield str(name), case, data["z"][group], float(data["gap"][k])


HARD = [*load("group_lasso_hard"), *load("group_mcp_hard")]


def penalty(case):
    return getattr(pl, case.name)(**case.parameters)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("finder", ROOT_FINDERS, ids=ids(ROOT_FINDERS))
def test_float64(finder, backend):
    for name, case, z, gap in HARD:
        if (case.d <= 0).any():
            continue
        s = pl.solve(
            penalty(case), case.x[None], case.step, metric=case.d[None], root_finder=finder, backend=backend
        )
        found, r = s.z[0], math.hypot(*z)
        if gap > 1e-10 or case.name == "GroupLasso":
            # Near the zero threshold errors are relative to x.
            assert math.dist(found, z) <= 1e-13 * r + 1e-15 * math.hypot(*case.x) + 5e-324, name
            if r > 0:
                assert found.any(), name
        assert s.bracket[0][0] <= r * (1 + 1e-15) + 5e-324, name
        assert r * (1 - 1e-15) - 5e-324 <= s.bracket[1][0], name


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32(backend):
    """The same groups cast to float32, with the truth recomputed for the cast values."""
    for k, (_, case, _, _) in enumerate(HARD):
        with np.errstate(over="ignore", under="ignore"):
            x, d = case.x.astype(np.float32), case.d.astype(np.float32)
        if k % 2 or not (np.isfinite(x).all() and np.isfinite(d).all() and (d > 0).all() and x.any()):
            continue
        single = case.replace(x=x.astype(np.float64), d=d.astype(np.float64))
        z = pl.prox(penalty(case), x[None], case.step, metric=d[None], backend=backend)[0]
        assert z.dtype == np.float32
        if single.unique or case.name == "GroupLasso":
            check_close(np.where(np.abs(z) < 1.2e-38, single.answer.z, z), single, accuracy=2e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_in_the_metric_is_an_error(backend):
    degenerate = [(name, case) for name, case, _, _ in HARD if (case.d == 0).any()]
    assert degenerate
    for _, case in degenerate:
        with pytest.raises(ValueError, match=r"metric: .* > 0, but element \(0, \d+\) is 0\.0"):
            pl.prox(penalty(case), case.x[None], case.step, metric=case.d[None], backend=backend)


def test_the_hard_groups_are_hard():
    """The data hold groups just above the threshold and near-ties, or the tests above say little."""
    assert any(0 < math.hypot(*z) < 1e-8 * math.hypot(*case.x) for _, case, z, _ in HARD)
    assert sum(gap < 1e-3 for _, _, _, gap in HARD) > 5
