"""Penalties of one's own: any admissible table is solved right, and certified by true statements."""

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import flint
import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab.arguments import problem
from proxlab.backends import array_tables, radial_certify
from proxlab.penalties.base import Piece, RadialPenalty, table_of
from proxlab.penalties.tables import Form, form
from tests import oracle, tables
from tests.cases import numbers, positives, vectors
from tests.table import BACKENDS, DTYPES, ROOT_FINDERS, TABLED, Hasty, ids

BOUNDS = ("distance", "metric_distance", "stationarity", "gap")
SLACK = arb(10) ** -80  # of balls


@pytest.fixture(autouse=True)
def digits():
    with flint.ctx.workprec(400):
        yield


@dataclass(frozen=True, eq=False)
class Own(RadialPenalty):
    """A penalty as a user writes it: nothing but the pieces, perhaps with an elementwise part."""

    rows: tuple = ()
    lam: float = 1.0
    cut: float = 0.0
    sign: bool = False

    @property
    def pieces(self):
        return tuple(Piece(s, self.lam * v, self.lam * a, self.lam * c) for s, v, a, c in self.rows)

    @property
    def threshold(self):
        return self.cut

    @property
    def nonnegative(self):
        return self.sign


def own(*rows, **options):
    return Own(rows=rows, **options)


# ----------------------------------------------------------------------------------------------------------
# What is admissible

LASSO = (0.0, 0.0, 1.0, 0.0)
INADMISSIBLE = {
    "none": ((), "at least one"),
    "start": (((0.5, 0.0, 1.0, 0.0),), "first must start at 0.*0.5"),
    "negative start": (((-1.0, 0.0, 1.0, 0.0),), "first must start at 0"),
    "negative value": (((0.0, -0.1, 1.0, 0.0),), r"p\(0\+\), at least 0.*-0.1"),
    "not increasing": ((LASSO, (0.0, 0.0, 2.0, 0.0)), r"starts must increase, but pieces\[1\]"),
    "decreasing": ((LASSO, (2.0, 2.0, 1.0, 0.0), (1.0, 1.0, 1.0, 0.0)), r"starts must increase.*\[2\]"),
    "jump": ((LASSO, (1.0, 1.5, 1.0, 0.0)), r"continuous, but pieces\[1\] has the value 1.5.*arrives at 1"),
    "jump down": ((LASSO, (1.0, 0.9, 1.0, 0.0)), r"continuous, but pieces\[1\]"),
    "negative": (((0.0, 0.0, -1.0, 0.0),), r"slope a - c r must be at least 0, but that of pieces\[0\]"),
    "falls below": (((0.0, 0.0, 1.0, 1.0), (2.0, 0.0, 0.0, 0.0)), r"that of pieces\[0\].*is -1 at r = 2"),
    "no end": (((0.0, 0.0, 1.0, 1e-3),), "last piece, which has no end"),
    "nan": (((0.0, 0.0, float("nan"), 0.0),), r"a of pieces\[0\] must be finite, got nan"),
    "infinite start": ((LASSO, (float("inf"), 0.0, 1.0, 0.0)), r"start of pieces\[1\] must be finite"),
    "three entries": (((0.0, 0.0, 1.0),), r"pieces\[0\] must be a Piece"),
}


class Raw(Own):
    """As it is given."""

    @property
    def pieces(self):
        return tuple(self.rows)


@pytest.mark.parametrize(("rows", "message"), INADMISSIBLE.values(), ids=INADMISSIBLE)
def test_pieces_are_checked_when_a_penalty_is_made(rows, message):
    with pytest.raises(ValueError, match=f"pieces: .*{message}"):
        Raw(rows=rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (((0.0, 0.0, "1", 0.0),), r"a of pieces\[0\] must be a real number, got '1'"),
        (((0.0, 0.0, True, 1.0j),), "must be a real number"),
        ((3.0,), r"pieces\[0\] must be a Piece"),
        (((0.0, 0.0, [1.0], 0.0),), r"a of pieces\[0\] must be a real number"),
    ],
)
def test_pieces_are_numbers(rows, message):
    with pytest.raises(TypeError, match=f"pieces: .*{message}"):
        Raw(rows=rows)


@given(table=tables.tables(pieces=(2, 5)), at=st.integers(1, 4), sign=st.sampled_from([-1, 1]))
def test_values_are_continuous_up_to_rounding(table, at, sign):
    at = min(at, len(table) - 1)
    start, value, a, c = table[at]
    for share, admitted in ((2.0**-44, True), (1e-6, False)):
        rows = (*table[:at], (start, value * (1 + sign * share), a, c), *table[at + 1 :])
        if admitted or not value:
            assert Raw(rows=rows).rows == rows
        elif value > 1e-3:
            with pytest.raises(ValueError, match="pieces: p must be continuous"):
                Raw(rows=rows)


def test_pieces_are_checked_whatever_a_class_does():
    @dataclass(frozen=True, eq=False)
    class Silent(Own):
        def __post_init__(self):
            object.__setattr__(self, "groups", pl.Groups.over(-1))

    with pytest.raises(ValueError, match="pieces: the slope"):
        Silent(rows=((0.0, 0.0, -1.0, 0.0),))
    with pytest.raises(NotImplementedError, match="pieces: RadialPenalty must say"):
        RadialPenalty()
    good = own(LASSO)
    with pytest.raises(ValueError, match="pieces: the slope"):
        replace(good, rows=((0.0, 0.0, -1.0, 0.0),))
    # What is not frozen after all is checked where it is used.
    broken = own(LASSO)
    object.__setattr__(broken, "rows", ((0.0, 0.0, -1.0, 0.0),))
    x = np.ones((2, 3))
    for verb in (
        lambda: pl.prox(broken, x), lambda: pl.certify(broken, x, x), lambda: broken(x),
        lambda: broken.subdiff_distance(x, x), lambda: pl.envelope(broken, x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="pieces: the slope"):
            verb()


def test_what_pieces_may_be():
    """Lists, whole numbers and NumPy's numbers; a slope that begins below zero in the formula only."""
    assert table_of(Raw(rows=[[0, 0, 1, 0], np.array([1.0, 1.0, 0.0, -1.0])])) == (
        Piece(0.0, 0.0, 1.0, 0.0), Piece(1.0, 1.0, 0.0, -1.0),
    )  # fmt: skip
    rising = own((0, 0, 0.5, 0), (1, 0.5, -0.5, -1))
    x = np.array([[3.0]])
    np.testing.assert_allclose(pl.prox(rising, x), [[1.75]], rtol=1e-15)


@pytest.mark.parametrize("row", TABLED, ids=ids(TABLED))
def test_own_penalties_have_kernels(row):
    penalty = row.build()
    if isinstance(penalty, RadialPenalty):
        assert form(table_of(penalty)).has_kernels
        assert form(table_of(penalty.with_strength(0.0))) is Form.RIDGE


def test_the_cuda_backend_refuses_other_forms(monkeypatch):
    monkeypatch.setattr(sys.modules["proxlab.arguments"], "_choose", lambda *_: "cuda")
    with pytest.raises(ValueError, match=r"backend: the cuda backend has no kernels for the pieces of Own"):
        problem(own((0.0, 0.5, 1.0, 0.0)), np.ones((2, 3)), 1.0, None, "cuda")
    assert problem(own((0.0, 0.5, 1.0, 0.0)), np.ones((2, 3)), 1.0, None, None).backend == "array_api"
    assert problem(own(LASSO), np.ones((2, 3)), 1.0, None, "cuda").backend == "cuda"


def test_forms():
    falls = (0.0, 0.0, 10.0, 8.0), (1.0, 6.0, 2.0, 0.0), (64.0, 132.0, 0.0, 0.0)
    assert form(table_of(own(*falls))) is Form.GENERAL  # a falling slope that is convex
    assert (
        form(table_of(own(LASSO, (1.0, 1.0, 0.5, 0.0), (2.0, 1.5, 0.0, 0.0)))) is Form.GENERAL
    )  # a jump down
    assert form(table_of(own((0.0, 0.5, 1.0, 0.0)))) is Form.GENERAL  # a jump with a slope
    assert form(table_of(own(LASSO, (1.0, 1.0, 0.0, 0.0)))) is Form.CONCAVE
    assert own(LASSO, (0.3, 0.3, 0.0, -1.0 / 0.3)).is_convex  # up to the rounding of 0.3/0.3
    assert not own(LASSO, (1.0, 1.0, 0.5, 0.0)).is_convex


# ----------------------------------------------------------------------------------------------------------
# Problems of several groups


class Layout(NamedTuple):
    """Groups of one array, and how to put rows into it and read them from it."""

    groups: pl.Groups
    put: object
    rows: object


LAYOUTS = {
    "rows": Layout(pl.Groups.over(-1), lambda a: a, lambda a: a),
    "columns": Layout(pl.Groups.over(0), lambda a: np.ascontiguousarray(a.T), lambda a: a.T),
    "index": Layout(
        pl.Groups.csr([0, 2, 4, 6], [5, 1, 0, 2, 4, 3]), lambda a: _scatter(a), lambda a: _gather(a)
    ),
}


def _scatter(a):
    out = np.zeros(6, a.dtype)
    out[[5, 1, 0, 2, 4, 3]] = a.reshape(-1)
    return out


def _gather(a):
    return a[[5, 1, 0, 2, 4, 3]].reshape(3, 2)


@dataclass(frozen=True)
class Batch:
    """Groups under one table, each with a step and a weight."""

    groups: tuple
    layout: str
    dtype: type

    @property
    def penalty(self):
        g = self.groups[0]
        weights = np.array([g.weight for g in self.groups])
        return own(
            *g.table, weights=weights, groups=LAYOUTS[self.layout].groups, cut=g.threshold, sign=g.nonnegative
        )

    def put(self, rows):
        return LAYOUTS[self.layout].put(np.array(rows, dtype=self.dtype))

    @property
    def problem(self):
        """``x``, ``step`` and ``metric`` as proxlab takes them."""
        steps = np.array([g.step for g in self.groups])
        return self.put([g.x for g in self.groups]), steps, self.put([g.d for g in self.groups])

    def solve(self, **options):
        x, step, d = self.problem
        return pl.solve(self.penalty, x, step, metric=d, **options)

    def rows(self, a):
        return np.asarray(LAYOUTS[self.layout].rows(a), dtype=np.float64)


@st.composite
def batches(draw, dtypes=DTYPES, layouts=tuple(LAYOUTS)):
    """Draw three groups of two under one table, scaled so that all its pieces are reached by some."""
    dtype = draw(st.sampled_from(dtypes))
    narrow = lambda a: np.asarray(a, dtype=dtype).astype(np.float64)  # noqa: E731
    xs = [narrow(draw(vectors(2, numbers))) for _ in range(3)]
    d = narrow(draw(vectors(2, positives)))
    step = 10.0 ** draw(st.floats(-2, 1))
    length = float(np.linalg.norm(xs[0])) or 1.0
    slope = float(np.linalg.norm(d * xs[0])) / step or 1.0
    table = tables.scaled(draw(tables.tables()), length, slope * 10.0 ** draw(st.floats(-2, 0.1)))
    cut = draw(st.sampled_from([0.0, 0.0, 0.1])) * slope
    sign = draw(st.sampled_from([False, False, True]))
    groups = [
        tables.Group(table, x, d, step * draw(st.sampled_from([1.0, 0.3])), w, cut, sign)
        for x, w in zip(xs, draw(st.permutations([1.0, 0.0, 0.7])), strict=True)
    ]
    return Batch(tuple(groups), draw(st.sampled_from(layouts)), dtype)


def check_group(g, k, z, unit, solution):
    truth = tables.solve(g)
    best = oracle.to_float(truth.objective)
    assert best <= tables.brute_force(g) + 1e-12 * g.size, g
    # The rounding of z itself costs by the slope of the objective there.
    noise = unit * float(np.sum(g.d * np.abs(g.x) * (np.abs(z) + np.abs(g.x)))) / g.step
    noise += unit * oracle.to_float(g.value(z))
    assert oracle.to_float(g.objective(z)) <= best + 8 * noise + 1e-14 * g.size, (k, g)
    status = pl.Status(int(solution.status[k]))
    assert status.ok
    if truth.lead > 1e-10 * g.size:
        assert status is not pl.Status.TIE
        r, slack = oracle.to_float(oracle.norm(truth.z)), 1e-15
        low, high = (float(v[k]) for v in solution.bracket)
        assert low * (1 - slack) <= r <= high * (1 + slack), (low, r, high, g)
        assert (status is pl.Status.ZERO) == (r == 0), (status, g)


def check_global(batch, solution):
    """No point is better, the statuses say what is the case, and the brackets hold."""
    z, unit = batch.rows(solution.z), {np.float32: 2.0**-23, np.float64: 2.0**-52}[batch.dtype]
    for k, g in enumerate(batch.groups):
        with g.digits():
            check_group(g, k, z[k], unit, solution)
    assert (solution.evaluations <= 400).all()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40)
@given(batch=batches(), finder=st.sampled_from(ROOT_FINDERS))
def test_prox_is_global(backend, batch, finder):
    check_global(batch, batch.solve(backend=backend, root_finder=finder))


def check_certificates(batch, noise, backend=None):
    """No bound is below the truth, whatever the candidate."""
    x, step, d = batch.problem
    truths = [tables.solve(g) for g in batch.groups]
    points = np.array([[oracle.to_float(v) for v in t.z] for t in truths])
    drawn = np.abs(noise) if batch.groups[0].nonnegative else noise
    candidates = {
        "zero": 0 * points, "x": np.array([g.x for g in batch.groups]), "exact": points,
        "near": points * (1 + 1e-7 * noise), "prox": batch.rows(batch.solve().z), "random": drawn,
    }  # fmt: skip
    for name, z in candidates.items():
        given_ = batch.put(z)
        c = pl.certify(batch.penalty, given_, x, step, metric=d, backend=backend)
        lower, upper = batch.rows(c.lower), batch.rows(c.upper)
        for k, (g, truth, zk) in enumerate(zip(batch.groups, truths, batch.rows(given_), strict=True)):
            off = [(arb(float(a)) - b).mid() for a, b in zip(zk, truth.z, strict=True)]
            metric = [a * arb(float(v)).sqrt() for a, v in zip(off, g.d, strict=True)]
            exact = (
                _norm(off), _norm(metric), tables.stationarity(g, zk), g.objective(zk) - truth.objective,
            )  # fmt: skip
            for bound, true in zip(BOUNDS, exact, strict=True):
                said = float(getattr(c, bound)[k])
                assert said == np.inf or arb(said) >= true.mid() - SLACK, (name, bound, said, true, g)
            for a, b, v in zip(lower[k], upper[k], truth.z, strict=True):
                assert arb(float(a)) - SLACK <= abs(v).mid() <= arb(float(b)) + SLACK, (name, a, b, v, g)
            low, high = (arb(float(v[k])) for v in c.bracket)
            assert low - SLACK <= oracle.norm(truth.z).mid() <= high + SLACK, (name, low, high, g)
            # Where one minimiser is clearly the best it is found, and bounds of it are sharp.
            if truth.lead > 1e-7 * g.size and g.weight > 0 and oracle.norm(truth.z) > 0:
                assert c.decided[k], (name, g)
                if name == "exact" and batch.dtype is np.float64:
                    assert c.distance[k] <= 1e-6 * np.linalg.norm(g.x), g
                    assert c.gap[k] <= 1e-12 * g.size, g


def _norm(v):
    total = sum((a * a for a in v), arb(0)).mid()
    return total.sqrt() if total > 0 else arb(0)


@settings(max_examples=40)
@given(batch=batches(), noise=vectors(6, st.floats(-2, 2)), backend=st.sampled_from(BACKENDS))
def test_no_bound_is_below_the_truth(batch, noise, backend):
    check_certificates(batch, noise.reshape(3, 2), backend)


def test_no_bound_is_below_the_truth_where_metrics_spread():
    """Where a row's units do not resolve it, no piece and no kink of the table counts."""
    rng = np.random.default_rng(14)
    kinked = [
        ((0, 0, 1, 0), (1, 1, 3, 0)),
        ((0, 0.5, 2, 1), (1, 2, 0, 0), (2, 2, 1, 0)),
        ((0, 0, 1, 0), (0.5, 0.5, 0, 0), (1.5, 0.5, 2, 0)),
    ]
    for k in range(45):
        table = tuple(tuple(map(float, row)) for row in kinked[k % 3])
        x, d = 2 * rng.normal(size=2), rng.uniform(1, 2, size=2)
        exponents = rng.choice([-990, -880, -720, -690, -300, 0, 190, 210, 950], size=2)
        d = np.ldexp(d, exponents if k % 2 else [0, exponents[1]])
        step = float(np.exp(rng.uniform(-2, 1)) * (d.max() if k % 5 else d.min()))
        g = tables.Group(table, x, d, step)
        with g.digits():
            truth = tables.solve(g)
            best = np.array([oracle.to_float(v) for v in truth.z])
            for z in (0 * x, best, rng.normal(size=2)):
                c = pl.certify(own(*table), z[None], x[None], step, metric=d[None], backend="array_api")
                off = [(arb(float(a)) - b).mid() for a, b in zip(z, truth.z, strict=True)]
                exact = {"distance": _norm(off), "gap": (g.objective(z) - truth.objective).mid()}
                for bound, true in exact.items():
                    said, small = float(getattr(c, bound)[0]), arb(10) ** -50
                    assert said == np.inf or arb(said) >= true * (1 - small) - small, (g, z, bound, said)
                low, high = (arb(float(v[0])) for v in c.bracket)
                assert low * (1 - SLACK) <= _norm(truth.z) <= high * (1 + SLACK), (g, z)


@pytest.mark.parametrize("rows", [((0, 0, 1, 0), (1, 1, 3, 0)), ((0, 0.5, 2, 1), (1, 2, 0, 0), (2, 2, 1, 0))])
def test_namespaces(xp, rows):
    rng = np.random.default_rng(0)
    x, d = 2 * rng.normal(size=(9, 3)), np.exp(rng.normal(size=(9, 3)))
    penalty = own(*rows, cut=0.1)
    z = pl.prox(penalty, x, 0.7, metric=d)
    c = pl.certify(penalty, z, x, 0.7, metric=d)
    for finder in (pl.Newton(), pl.Brent()):
        there = pl.solve(penalty, xp.asarray(x), 0.7, metric=xp.asarray(d), root_finder=finder)
        np.testing.assert_allclose(xp.to_numpy(there.z), z, rtol=1e-12)
    there = pl.certify(penalty, xp.asarray(z), xp.asarray(x), 0.7, metric=xp.asarray(d))
    np.testing.assert_allclose(xp.to_numpy(there.distance), c.distance, rtol=0.5, atol=1e-14)
    np.testing.assert_array_equal(xp.to_numpy(there.decided), c.decided)


@given(
    batch=batches(),
    most=st.integers(1, 4),
    finder=st.sampled_from([*ROOT_FINDERS, Hasty()]),
    rtol=st.sampled_from([1e-2, None]),
)
def test_brackets_hold_whatever_is_left_undone(batch, most, finder, rtol):
    backend = "array_api" if isinstance(finder, Hasty) else None
    solution = batch.solve(root_finder=type(finder)(rtol=rtol, max_iterations=most), backend=backend)
    for k, g in enumerate(batch.groups):
        truth = tables.solve(g)
        if truth.lead > 1e-5 * g.size:
            r = oracle.to_float(oracle.norm(truth.z))
            low, high = (float(v[k]) for v in solution.bracket)
            status = pl.Status(int(solution.status[k]))
            assert low * (1 - 1e-15) <= r <= high * (1 + 1e-15), (low, r, high, status, g)
            if status.ok and rtol is None:
                assert abs(float(solution.radius[k]) - r) <= 1e-6 * r


@given(batch=batches(dtypes=[np.float64], layouts=("rows",)), noise=vectors(6, st.floats(-2, 2)))
def test_value_and_subdifferential(batch, noise):
    noise = np.abs(noise) if batch.groups[0].nonnegative else noise
    starts = [start for start, *_ in batch.groups[0].table] + [0.37]
    exact = np.array([[starts[k % len(starts)], 0.0] for k in range(3)])
    for z in (noise.reshape(3, 2), exact, 0 * exact, batch.rows(batch.solve().z)):
        value = batch.penalty.value(z)
        grad = np.array([g.d * (v - g.x) / g.step for g, v in zip(batch.groups, z, strict=True)])
        found = batch.penalty.subdiff_distance(grad, z)
        for k, g in enumerate(batch.groups):
            true = oracle.to_float(g.value(z[k]))
            assert abs(value[k] - true) <= 1e-13 * true + 1e-300
            # A norm that is within rounding of a kink upwards may count as the kink.
            w, t = arb(g.weight), arb(g.threshold)
            ends = [tables.distance_to(g, exact_, [arb(v) for v in grad[k]], w, t, blur)
                    for blur in (0.0, 2.0**-48) for exact_ in [[arb(float(v)) for v in z[k]]]]  # fmt: skip
            scale = np.linalg.norm(grad[k]) + g.weight * max(abs(a) + abs(c) * 2 for _, _, a, c in g.table)
            scale += g.threshold
            assert min(abs(found[k] - oracle.to_float(v)) for v in ends) <= 1e-12 * scale, (k, z, g)


def test_subdifferential_at_kinks_by_hand():
    up, down = own((0, 0, 1, 0), (1, 1, 3, 0)), own((0, 0, 3, 0), (1, 3, 1, 0))
    z = np.array([[1.0]])
    for pull, above, below in ((0.5, 0.5, 0.5), (2.0, 0.0, 1.0), (1.0, 0.0, 0.0), (3.5, 0.5, 0.5)):
        grad = np.array([[-pull]])
        assert up.subdiff_distance(grad, z) == above
        assert down.subdiff_distance(grad, z) == below
    assert own((0, 0.5, 1, 0)).subdiff_distance(np.array([[9.0]]), 0 * z) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("h", [own((0, 0.5, 0, 0), (1, 0.5, 1, 0)), pl.GroupL0(0.5)], ids=["own", "l0"])
def test_a_jump_without_weight_is_none(h, backend):
    h, x = replace(h, weights=np.array([0.0, 1.0])), np.array([[3.0, 4.0]] * 2)
    found = pl.certify(h, 0 * x, x, backend=backend).stationarity
    assert 5.0 <= found[0] <= 5.0 + 1e-12
    assert found[1] == 0
    assert h.subdiff_distance(-x, 0 * x).tolist() == [5.0, 0.0]


def test_what_is_nothing_is_certified_whatever_its_table():
    zero = np.zeros((1, 2))
    far = own((0, 0, 1, 0), (1e-250, 1e-250, 2, 0))
    c = pl.certify(far, zero, zero, metric=np.array([1e-90, 1.0]), backend="array_api")
    assert all(getattr(c, name)[0] == 0 for name in BOUNDS)


def test_a_radius_of_zero_is_decided():
    """Two candidates are left, and both are zero."""
    x, d = np.array([[2.48, 0.94]]), np.array([0.65, 0.49])
    c = pl.certify(own((0, 1, 1, 0.5), (1, 1.75, 1, 0)), 0 * x, x, 1.48, metric=d, backend="array_api")
    assert c.bracket[1][0] == 0
    assert c.decided[0]


# ----------------------------------------------------------------------------------------------------------
# Strengths


def test_vanishing_strength_of_convex_tables():
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(5, 3)), np.exp(rng.normal(size=(5, 3)))
    for rows in (((0, 0, 1, 0), (1, 1, 3, 0)), ((0, 0, 0.5, 0), (1, 0.5, -0.5, -1)), ((0, 0, 2, -1),)):
        penalty = own(*rows)
        strengths = pl.optim.vanishing_strength(penalty, x, 0.5, metric=d)
        for g, strength in enumerate(strengths):
            for factor, zero in ((1 - 1e-12, False), (1 + 1e-12, True)):
                z = pl.prox(penalty.with_strength(factor * strength), x[g : g + 1], 0.5, metric=d[g : g + 1])
                assert (not z.any()) == zero, (rows, g, factor)
    flat_first = own((0, 0, 0, 0), (1, 0, 1, 0))
    assert (pl.optim.vanishing_strength(flat_first, x) == np.inf).all()


def test_vanishing_strength_is_refused_where_nothing_is_proved():
    x = np.ones((2, 3))
    rows = {"jump": ((0, 0.5, 1, 0),), "convex": ((0, 0, 10, 8), (1, 6, 2, 0), (64, 132, 0, 0))}
    for table in rows.values():
        with pytest.raises(ValueError, match=r"penalty: from which strength .* pieces of Own"):
            pl.optim.vanishing_strength(own(*table), x)
    with pytest.raises(ValueError, match="penalty: from which strength"):
        pl.optim.vanishing_strength(own((0, 0, 1, 0), (1, 1, 0.5, 0)), x)
    with pytest.raises(ValueError, match=r"penalty: the strength of Own must be a factor .*threshold"):
        pl.optim.vanishing_strength(own((0, 0, 1, 0), cut=0.1), x)

    @dataclass(frozen=True, eq=False)
    class Nameless(RadialPenalty):
        mu: float = 1.0

        @property
        def pieces(self):
            return (Piece(0.0, 0.0, self.mu, 0.0),)

    with pytest.raises(TypeError, match=r"strength: Nameless has no 'lam'.*_factors"):
        Nameless().with_strength(2.0)


@pytest.mark.parametrize("groups", [pl.Groups.over(0), pl.Groups.over(-1)])
def test_steps_of_optimizers(groups):
    """Fused or not, on arrays and on tensors, a step is the prox of its point: at kinks, and after a jump."""
    torch = pytest.importorskip("torch")
    import proxlab.torch

    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 30, 20)).astype(np.float32)
    for rows in (((0, 0, 1, 0), (1, 1, 9, 0)), ((0, 0.5, 1, 0),), ((0, 0, 2, 1), (1.5, 1.875, 0.5, 0))):
        penalty = own(*rows, groups=groups)
        expected = pl.prox(penalty, w - np.float32(0.5) * g, 0.5)
        method = pl.optim.ProxSGD(lr=0.5)
        on_arrays, _ = method.step(w, g, method.init(w, penalty))
        np.testing.assert_allclose(on_arrays, expected, rtol=2e-6, atol=1e-7)
        tensor = torch.nn.Parameter(torch.tensor(w))
        tensor.grad = torch.tensor(g)
        proxlab.torch.ProxSGD([tensor], lr=0.5, penalty=penalty).step()
        np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=2e-6, atol=1e-7)


# ----------------------------------------------------------------------------------------------------------
# Yesterday's faults, which the checks above must find


def fixed(rows, x, dtype=np.float64):
    """Three groups of two elements in the identity metric, the first along the axis."""
    one = np.ones(2)

    def group(v, weight):
        table = tables.complete(rows[0][1], [(s, a, c) for s, _, a, c in rows])
        return tables.Group(table, np.array([v, 0.0]), one, 1.0, weight)

    return Batch((group(x, 1.0), group(0.5 * x, 1.0), group(0.1, 0.5)), "rows", dtype)


def known_form(table):
    """Mutant of b2a7806: one inner minimiser wherever the slope is continuous, falls, and ends flat."""
    steep = table[:-1]
    joined = all(
        abs((p.a - p.c * q.start) - (q.a - q.c * q.start)) <= 1e-12 * p.a for p, q in pairwise(steep)
    )
    flat_end = table[-1].a == 0 and table[-1].c == 0
    falls = len(table) > 1 and flat_end and table[0].value == 0 and all(p.c >= 0 for p in steep)
    return Form.CONCAVE if falls and joined else form(table)


def test_a_certificate_that_takes_one_minimiser_for_granted(monkeypatch):
    batch = fixed(((0.0, 0.0, 10.0, 8.0), (1.0, 6.0, 2.0, 0.0), (64.0, 132.0, 0.0, 0.0)), 9.0)
    noise = np.full((3, 2), 0.7)
    check_certificates(batch, noise)
    monkeypatch.setattr(sys.modules["proxlab.penalties.equations"], "form", known_form)
    with pytest.raises(AssertionError):
        check_certificates(batch, noise, "numba")
    # Arrays take nothing for granted.
    check_certificates(batch, noise, "array_api")


CAPPED, JUMP = ((0.0, 0.0, 1.0, 0.0), (2.0, 2.0, 0.0, 0.0)), ((0.0, 0.2, 0.0, 0.0), (1.0, 0.2, 1.0, 0.0))


@pytest.mark.parametrize(
    ("rows", "x", "best"),
    [(JUMP, 0.5, "zero"), (CAPPED, 2.2, "root"), (CAPPED, 2.8, "whole"), (JUMP, 1.5, "kink")],
)
def test_a_certificate_that_forgets_a_candidate(monkeypatch, rows, x, best):
    batch, noise = fixed(rows, x), np.full((3, 2), 0.7)
    check_certificates(batch, noise, "array_api")
    real = getattr(radial_certify.TableProblem, f"{best}_box")

    def forgotten(*arguments):
        box = real(*arguments)
        box.possible, box.most = box.possible & False, box.most + np.inf
        return box

    monkeypatch.setattr(radial_certify.TableProblem, f"{best}_box", forgotten)
    with pytest.raises(AssertionError):
        check_certificates(batch, noise, "array_api")


def test_gaps_of_candidates_beyond_a_flat_piece():
    """Mutant: what p rises by from the flat piece on, taken off the gap in place of added."""
    batch = fixed(((0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 0.0, 0.0), (4.0, 1.0, 1.0, 0.0)), 3.0)
    check_certificates(batch, np.full((3, 2), 5.0), "array_api")


def test_a_solver_without_kinks(monkeypatch):
    batch = fixed(((0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 3.0, 0.0)), 3.0)
    check_global(batch, batch.solve())
    real = array_tables._kink

    def none(rows, *arguments):
        found, root = real(rows, *arguments)
        return found._replace(exists=found.exists & False), root

    monkeypatch.setattr(array_tables, "_kink", none)
    with pytest.raises(AssertionError):
        check_global(batch, batch.solve())


def test_a_solver_that_takes_the_slope_beyond_the_kink(monkeypatch):
    """Mutant of b2a7806, which took the kernels' way for every table."""
    batch = fixed(((0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 3.0, 0.0)), 3.0)
    jump = fixed(((0.0, 0.5, 1.0, 0.0),), 3.0)
    check_global(jump, jump.solve())
    monkeypatch.setattr(sys.modules["proxlab.penalties.equations"], "form", lambda table: Form.CONCAVE)
    for backend in BACKENDS:
        for case in (batch, jump):
            with pytest.raises(AssertionError):
                check_global(case, case.solve(backend=backend))


def test_a_subdifferential_of_ends_only():
    """Mutant of b2a7806: at a kink upwards, the nearer of the two slopes."""
    up = own((0, 0, 1, 0), (1, 1, 3, 0))
    assert up.subdiff_distance(np.array([[-2.0]]), np.array([[1.0]])) == 0  # each end is 1 away
