"""Near a tie of two minimisers: the better one, or status TIE, in every layout, dtype and root finder."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

import proxlab as pl
from tests import exact, oracle

LAYOUTS = {
    "columns": (pl.Groups.over(0), lambda a: np.stack([a, a], axis=1), lambda a: a[:, 0]),
    "rows": (pl.Groups.over(1), lambda a: np.stack([a, a]), lambda a: a[0]),
    "ragged": (None, lambda a: np.concatenate([a, a[:1]]), lambda a: a[:-1]),
}


def rivals(name, parameters, x, d, step, weight, dtype):
    """The parameter that sets where the penalty becomes flat, and its value at which two minimisers tie.

    None if they do not.
    """
    key = {"GroupCapped": "theta", "GroupMCP": "lam"}[name]
    x, d = x.astype(dtype).astype(float), d.astype(dtype).astype(float)

    def excess(value):
        """By how much x is better than the best other candidate."""
        case = exact.Case(name, parameters | {key: value}, x, d, step, weight)
        own, truth = case.objective(x), exact.solve(case)
        at_x = all(a == float(b) for a, b in zip(truth.z, x, strict=True))
        other = truth.objective + truth.lead if at_x else truth.objective
        return oracle.to_float((other - own) / own)

    # Where the flat part begins at ‖x‖ the inner one wins; where it begins near zero, x does, or zero.
    reach = np.linalg.norm(x) / parameters.get("gamma", 1.0)
    if not excess(1e-3 * reach) > 0 > excess(reach):
        return None
    return key, brentq(excess, 1e-3 * reach, reach, xtol=1e-300, rtol=1e-15)


def solved(penalty, layout, x, d, step, weight, **options):
    groups, spread, back = LAYOUTS[layout]
    if groups is None:
        groups = pl.Groups.csr([0, len(x), len(x) + 1])
    h = penalty(groups=groups, weights=[weight, weight])
    s = pl.solve(h, spread(x), step, metric=spread(d), **options)
    return back(s.z), pl.Status(int(s.status[0]))


@st.composite
def problems(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed), draw(st.sampled_from(["GroupCapped", "GroupMCP"]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(problem=problems())
def test_the_better_of_two_or_a_tie(dtype, problem):
    rng, name = problem
    n = int(rng.integers(1, 6))
    x, d = rng.normal(size=n), np.exp(3 * rng.normal(size=n))
    step, weight = float(rng.uniform(0.5, 2)), float(rng.uniform(0.5, 3))
    gamma = float(step * weight / np.exp(rng.uniform(np.log(d.min()), np.log(d.max()) + 1)))
    given_ = {"lam": float(rng.uniform(0.1, 0.9) * np.linalg.norm(d * x) / step / weight)}
    given_ |= {"theta": 1.0} if name == "GroupCapped" else {"gamma": gamma}
    found = rivals(name, given_, x, d, step, weight, dtype)
    if found is None:
        return
    key, value = found
    for share in (0.0, *(rng.choice([-1, 1], 4) * 10 ** rng.uniform(-15, -8, size=4))):
        here = given_ | {key: value * (1 + share)}
        xs, ds = x.astype(dtype), d.astype(dtype)
        case = exact.Case(name, here, xs.astype(float), ds.astype(float), step, weight)
        truth = exact.solve(case)
        penalty = lambda here=here, **options: getattr(pl, name)(**here, **options)  # noqa: E731
        trials = [(layout, {}) for layout in LAYOUTS] + [("columns", {"backend": "array_api"})]
        trials += [("rows", {"root_finder": pl.Bisection(rtol=1e-5)})]
        trials += [("rows", {"root_finder": pl.Newton(rtol=1e-5), "backend": "array_api"})]
        for layout, options in trials:
            z, status = solved(penalty, layout, xs, ds, step, weight, **options)
            if status is pl.Status.TIE:
                assert abs(oracle.to_float(truth.lead / truth.objective)) < 1e-14, (layout, options)
                continue
            if dtype is np.float64:
                worse = oracle.to_float((case.objective(z) - truth.objective) / truth.objective)
                assert worse <= 4e-15, (layout, options, worse, status)
            elif oracle.to_float(truth.lead / truth.objective) > 4e-15:
                kept = all(a == float(b) for a, b in zip(truth.z, xs, strict=True))
                assert (status is pl.Status.UNSHRUNK) == kept, (layout, options, status)


@pytest.mark.parametrize("a", [10.0, 30.0, 100.0])
def test_a_root_where_two_pieces_meet_is_not_lost(a):
    """Rounding may put it beyond the end of the one and before the start of the other."""
    rng = np.random.default_rng(15)
    lam, count = 1.224, 6000
    unit = rng.normal(size=(count, 2))
    z = lam * (1 + rng.integers(-9, 10, size=count)[:, None] * 2.0**-53) * unit
    z /= np.linalg.norm(unit, axis=1, keepdims=True)
    # The point that this is the prox of: there the slope is lam.
    step = rng.uniform(0.3, 0.8, size=count) * a
    x = z * (1 + step[:, None])
    found = pl.prox(pl.GroupSCAD(lam, a), x, step, backend="array_api")
    np.testing.assert_allclose(found, z, rtol=1e-9)
