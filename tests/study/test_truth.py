"""The truth of proxlab.study against the tests' own oracle, grids and hand calculations."""

import math
from dataclasses import dataclass
from pathlib import Path

import flint
import numpy as np
import pytest
from flint import arb
from hypothesis import example, given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.penalties.base import Piece, RadialPenalty
from tests import oracle
from tests.cases import cases
from tests.table import GROUPS, PENALTIES, ids

pytest.importorskip("flint")
from proxlab import study

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, eq=False)
class Table(RadialPenalty):
    """A penalty of one's own: rows of start, value, a and c."""

    table: tuple = ()

    @property
    def pieces(self):
        return tuple(Piece(*row) for row in self.table)


def problem_of(case, row):
    penalty = row.build(case.parameters)
    return study.Problem("case", case.x[None], case.step, case.d[None], penalty)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@given(data=st.data())
def test_it_is_the_oracles(row, data):
    """Two methods in ball arithmetic that share nothing agree to 40 digits of x."""
    case = data.draw(cases(row))
    t = study.truth(problem_of(case, row))
    assert t.decided.all()
    if case.answer.gap > 1e-60:
        with oracle.digits_for(case.x, case.d):
            far = [abs(a - b) for a, b in zip(t.z[0], case.answer.candidates[0], strict=True)]
        assert max(float(v.upper()) for v in far) <= 1e-40 * float(np.linalg.norm(case.x)), (t.z, case)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@given(data=st.data())
def test_errors_are_the_oracles(row, data):
    case = data.draw(cases(row))
    t = study.truth(problem_of(case, row))
    z = case.x * np.array(data.draw(st.lists(st.floats(0, 1.1), min_size=case.x.size, max_size=case.x.size)))
    e = t.errors(z[None])
    args = (case.x, case.d, case.step, case.weight)
    with oracle.digits_for(case.x, case.d):
        value = oracle.objective(row.name, case.parameters, z, *args) / case.step
        outside = value == oracle.arb("inf")
        gap = value if outside else value - case.answer.objectives[0] / case.step
        found = sum(e.balls.gap)
        assert outside or float(abs(found - gap)) <= 1e-40 * float(value), case
    noise = max(1e-300, 1e-40 * float(value))
    assert e.gap.sum() == (np.inf if outside else pytest.approx(float(gap), rel=1e-13, abs=noise))
    if case.answer.gap > 1e-60:
        assert math.hypot(*e.distance) == pytest.approx(case.answer.distance(z), rel=1e-13, abs=1e-300)
    weighted = float(np.linalg.norm(np.sqrt(case.d) * (z - t.z[0].astype(float))))
    noise = 1e-15 * float(np.linalg.norm(np.sqrt(case.d) * case.x))
    assert np.linalg.norm(e.metric_distance) == pytest.approx(weighted, rel=1e-12, abs=noise)


small = st.builds(lambda e, s: s * 10.0**e, st.floats(-323, -16), st.sampled_from([-1.0, 1.0]))


@given(
    rest=st.lists(st.one_of(st.just(0.0), small), max_size=3),
    size=st.integers(-300, 300),
    kappa=st.sampled_from([0.0, 1.0, 3.0]),
)
@example(rest=[2.2e-308], size=0, kappa=1.0)
def test_a_group_just_above_the_threshold_however_its_elements_spread(rest, size, kappa):
    """In the identity metric ``r = (‖x‖ - λ)/(1 + κ)``, here with λ the largest element."""
    x = np.array([1.0, *rest]) * 2.0**size
    t = study.truth(study.Problem("spread", x[None], 1.0, None, pl.GroupElasticNet(x[0], kappa)))
    assert t.decided.all()
    with flint.ctx.workprec(8000):
        exact = (oracle.norm([arb(float(v)) for v in x]) - arb(float(x[0]))) / arb(1 + kappa)
        assert t.radius[0].overlaps(exact)
        assert t.radius[0].rad() <= exact * arb(10) ** -40


CONVEX = [row for row in PENALTIES if row.convex]


@pytest.mark.parametrize("row", CONVEX, ids=ids(CONVEX))
@pytest.mark.parametrize("z", [(0.0, 0.0), (0.3, 0.0), (0.4, 0.4), (0.7, 0.2)])
def test_stationarity_is_the_steepest_descent(row, z):
    """For a convex Q, dist(0, ∂Q(z)) is the steepest slope downwards, here over many directions."""
    x, d, step, z = np.array([1.3, -0.6]), np.array([0.7, 2.0]), 0.9, np.array(z)
    problem = study.Problem("two", x[None], step, d[None], row.build())
    angle = np.linspace(0, 2 * np.pi, 20001)
    u, h = np.stack([np.cos(angle), np.sin(angle)], axis=1), 1e-7

    def q(v):
        return oracle.values(row.name, row.parameters, v) + 0.5 / step * np.sum(d * (v - x) ** 2, axis=-1)

    steepest = max(0.0, float(np.max((q(z) - q(z + h * u)) / h)))
    found = np.linalg.norm(study.truth(problem).errors(z[None]).stationarity)
    assert found == (np.inf if np.isinf(q(z)) else pytest.approx(steepest, abs=2e-5))


@pytest.mark.parametrize(
    ("table", "x", "exact"),
    [
        (((0, 0, 1, 0), (1, 1, 3, 0)), 3.0, 1.0),  # an upward kink that holds the minimiser
        (((0, 0, 1, 0), (1, 1, 3, 0)), 4.5, 1.5),
        (((0, 0.5, 1, 0),), 3.0, 2.0),  # a jump at zero and a slope
        (((0, 0.5, 1, 0),), 1.5, 0.0),
        (((0, 0, 0.5, 0), (1, 0.5, -0.5, -1)), 3.0, 1.75),
        (((0, 0, 10, 8), (1, 6, 2, 0), (64, 132, 0, 0)), 9.0, 7.0),  # falling and convex
        (((0, 0, 0, -1),), 3.0, 1.5),  # a ridge
    ],
)
def test_tables_of_ones_own(table, x, exact):
    t = study.truth(study.Problem("one", np.array([[x]]), 1.0, None, Table(table=table)))
    assert t.decided.all()
    assert float(t.z[0, 0]) == pytest.approx(exact, abs=1e-40)


@given(data=st.data())
def test_no_point_of_a_grid_is_better_for_a_random_table(data):
    """Brute force over z in two dimensions, for tables with kinks both ways and a jump at zero."""
    number = st.floats(0.0, 2.0)
    starts = [0.0, *sorted(data.draw(st.lists(st.floats(0.1, 3.0), max_size=2, unique=True)))]
    value = data.draw(st.sampled_from([0.0, 0.4]))
    rows = []
    for k, start in enumerate(starts):
        length = starts[k + 1] - start if k + 1 < len(starts) else 1.0
        first, last = data.draw(number), data.draw(number)
        if k + 1 == len(starts):
            last = max(first, last)
        c = (first - last) / length
        rows.append((start, value, first + c * start, c))
        value += length * (first + last) / 2
    penalty = Table(table=tuple(rows))
    x = np.array([data.draw(st.floats(0.1, 4.0)), data.draw(st.floats(-4.0, -0.1))])
    d = np.array([data.draw(st.floats(0.1, 3.0)), data.draw(st.floats(0.1, 3.0))])
    step = data.draw(st.floats(0.1, 3.0))
    t = study.truth(study.Problem("table", x[None], step, d[None], penalty))
    z = t.z.astype(float)[0]
    grid = np.stack(np.meshgrid(np.linspace(0, 1.0, 201), np.linspace(0, 1.0, 201)), -1).reshape(-1, 2) * x

    def q(v):
        r = np.linalg.norm(v, axis=-1)
        p = np.zeros_like(r)
        for start, base, a, c in rows:
            p = np.where(r >= start, base + (r - start) * (a - c * (r + start) / 2), p)
        return np.where(r > 0, p, 0.0) + 0.5 / step * np.sum(d * (v - x) ** 2, axis=-1)

    assert q(z) <= q(grid).min() + 1e-12 * (1 + q(grid).max())


@pytest.mark.parametrize("groups", GROUPS, ids=list(GROUPS))
def test_groups_of_every_kind(groups):
    make, shape = GROUPS[groups]
    rng = np.random.default_rng(3)
    x, d = rng.standard_normal(shape), rng.uniform(0.1, 3.0, shape)
    penalty = pl.GroupLasso(0.6, groups=make(), weights="sqrt_size")
    steps = rng.uniform(0.2, 1.0, make().n_groups(shape))
    problem = study.Problem("groups", x, steps, d, penalty)
    t = study.truth(problem)
    indptr, indices = make().indices(shape)
    flat, zs = x.reshape(-1), t.z.reshape(-1)
    for g in range(len(steps)):
        members = indices[indptr[g] : indptr[g + 1]]
        weight = np.sqrt(len(members))
        answer = oracle.solve(
            "GroupLasso", {"lam": 0.6}, flat[members], d.reshape(-1)[members], steps[g], weight
        )
        np.testing.assert_allclose(zs[members].astype(float), answer.z, rtol=1e-15, atol=1e-300)
        assert float(t.value[g]) == pytest.approx(0.6 * weight * float(t.radius[g]), rel=1e-14)
    free = np.setdiff1d(np.arange(x.size), indices)
    np.testing.assert_array_equal(zs[free].astype(float), flat[free])
    found = t.errors(pl.prox(penalty, x, steps, metric=d))
    assert found.distance.max(initial=0) < 1e-14


@pytest.mark.parametrize("file", ["group_lasso_hard.npz", "group_mcp_hard.npz"])
def test_the_shipped_hard_groups(file):
    with np.load(DATA / file) as stored:
        data = dict(stored)
    for k, label in enumerate(data["name"]):
        part = slice(data["offsets"][k], data["offsets"][k + 1])
        x, d, z = (data[name][part] for name in ("x", "d", "z"))
        lam, gamma = float(data["lam"][k]), float(data["gamma"][k])
        if (d > 0).all():
            penalty = pl.GroupMCP(lam, gamma) if np.isfinite(gamma) else pl.GroupLasso(lam)
            t = study.truth(study.Problem(str(label), x[None], float(data["step"][k]), d[None], penalty))
            np.testing.assert_allclose(t.z[0].astype(float), z, rtol=2e-16, atol=1e-300, err_msg=str(label))


@pytest.mark.parametrize(
    ("penalty", "x", "z", "tied"),
    [
        (pl.GroupLasso(5.0), (3.0, 4.0), (0.0, 0.0), False),  # on the threshold exactly
        (pl.GroupMCP(1.0, 3.0), (3.0,), (3.0,), False),  # on the knot
        (pl.GroupSCAD(1.0, 3.0), (2.0,), (1.0,), False),  # on the first knot
        (pl.GroupSCAD(1.0, 3.0), (3.0,), (3.0,), False),  # on the second
        (pl.GroupMCP(1.0, 1.0), (1.0,), (0.0,), True),  # flat all the way
        (pl.GroupMCP(0.7, 1.0 / 3.0), (0.7,), (0.7,), False),  # no curvature left, as far as digits tell
        (pl.GroupL0(2.0), (2.0,), (0.0,), True),  # zero or x: as good
        (pl.GroupLinf(1.0), (2.0, 1.0), (1.0, 1.0), False),
        (pl.L1(0.5), (0.5, -2.0), (0.0, -1.5), False),
        (pl.SparseGroupLasso(0.5, 1.0), (0.5, 2.0), (0.0, 0.5), False),
    ],
)
def test_points_on_knots_thresholds_and_ties(penalty, x, z, tied):
    t = study.truth(study.Problem("knot", np.array([x]), 1.0, None, penalty))
    assert t.decided.all()
    np.testing.assert_allclose(t.z.astype(float)[0], z, rtol=1e-30, atol=1e-40)
    assert bool(t.tied.any()) == tied


def test_more_digits_are_within_fewer():
    x, d = np.array([[3.0, 4.0]]), np.array([[1.0, 4.0]])
    problem = study.Problem("digits", x, 1.0, d, pl.GroupLasso(1.0))
    few, many = study.truth(problem, digits=20), study.truth(problem, digits=200)
    assert few.radius[0].contains(many.radius[0])
    assert float(many.radius[0].rad()) < 1e-199


def test_enclosures_that_miss_are_counted():
    x = np.array([[3.0, 4.0], [0.1, 0.1]])
    t = study.truth(study.Problem("rows", x, 1.0, None, pl.GroupLasso(1.0)))
    z = np.abs(t.z.astype(float))
    assert t.outside(z * (1 - 1e-12), z * (1 + 1e-12)).tolist() == [0, 0]
    assert t.outside(z + 1e-12, z + 1.0).tolist() == [2, 2]
    assert t.radius_outside([3.9, 0.1], [3.99, 1.0]).tolist() == [True, True]


def test_what_is_not_admissible():
    problem = study.Problem("one", np.ones((1, 2)), 1.0, None, pl.GroupLasso(1.0))
    with pytest.raises(ValueError, match="digits: must be between 20 and 1000"):
        study.truth(problem, digits=5)
    with pytest.raises(TypeError, match="problem: must be"):
        study.truth("problem")
    good = study.truth(problem)
    with pytest.raises(ValueError, match="z: must have the shape of x"):
        good.errors(np.ones(2))
    with pytest.raises(ValueError, match="z: must be finite"):
        good.errors(np.full((1, 2), np.nan))
