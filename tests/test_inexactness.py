"""The criteria against certificates made of exact numbers, and the schedules.

A criterion may only say True where ball arithmetic says so too, and must say True where there is room.
"""

import math
from dataclasses import FrozenInstanceError, dataclass
from types import SimpleNamespace
from typing import Any

import flint
import numpy as np
import pytest
from flint import arb

import proxlab as pl
from proxlab.inexactness import (
    Adaptive,
    Constant,
    Distance,
    EpsSubgradient,
    Exact,
    Gap,
    RelativeDistance,
    RelativeStationarity,
    SquareSummable,
    Stationarity,
    Summable,
)
from tests import exact, oracle

PENALTIES = {
    "L1": {"lam": 0.3},
    "GroupLasso": {"lam": 0.7},
    "GroupElasticNet": {"lam": 0.4, "kappa": 0.8},
    "SparseGroupLasso": {"lam1": 0.2, "lam2": 0.5},
    "GroupMCP": {"lam": 0.8, "gamma": 1.3},
    "GroupSCAD": {"lam": 0.7, "a": 2.4},
    "GroupCapped": {"lam": 0.9, "theta": 0.7},
    "GroupL0": {"lam": 0.4},
    "GroupLinf": {"lam": 0.8},
}
CONVEX = [name for name in PENALTIES if name in oracle.CONVEX]
SLACK = 1.0 + 1e-12
NOTHING = (np.zeros(1),) * 4  # bounds that a test does not look at


@pytest.fixture(autouse=True)
def digits():
    with flint.ctx.workprec(600):
        yield


@dataclass(frozen=True)
class Known:
    """A stand-in for a certificate: what it would say if it knew everything, rounded up."""

    penalty: Any
    z: Any
    x: Any
    step: Any
    metric: Any
    distance: Any
    metric_distance: Any
    stationarity: Any
    gap: Any

    @property
    def total(self):
        names = ("distance", "metric_distance", "stationarity", "gap")
        values = {k: np.array([float(v) for v in getattr(self, k)]) for k in names}
        gap = values.pop("gap").sum()
        return SimpleNamespace(gap=gap, **{k: float(np.sqrt(np.sum(v**2))) for k, v in values.items()})


def balls(a):
    return [arb(float(v)) for v in np.ravel(a)]


def total(values):
    return sum(values, arb(0))


def objective(name, parameters, z, x, d, step):
    """``Q`` of a matrix with a group per row."""
    rows = zip(z, x, d, step, strict=True)
    return total(oracle.objective(name, parameters, *row) / arb(float(row[-1])) for row in rows)


def known(name, z, x, d, step, stationarity=None):
    """The stand-in for a matrix with a group per row; L1's elements share what is known of their row."""
    parameters = PENALTIES[name]
    distance, metric_distance, gap = [], [], []
    for zg, xg, dg, eta in zip(z, x, d, step, strict=True):
        case = exact.Case(name, parameters, xg, dg, float(eta))
        truth = exact.solve(case)
        off = [(a - b).mid() for a, b in zip(balls(zg), truth.z, strict=True)]
        distance.append(float(oracle.norm(off).mid()) * SLACK)
        metric_distance.append(
            float(total(a * a * b for a, b in zip(off, balls(dg), strict=True)).sqrt().mid()) * SLACK
        )
        gap.append(max(float((case.objective(zg) - truth.objective).mid()), 0.0) * SLACK)
    per_group = [np.array(v) for v in (distance, metric_distance, gap)]
    if name == "L1":  # its groups are the elements
        size = x.shape[1]
        spread = 1 / math.sqrt(size)
        per_group = [
            np.repeat(v * s, size) for v, s in zip(per_group, (spread, spread, 1 / size), strict=True)
        ]
        step = np.repeat(step, size)
    if stationarity is None:
        stationarity = np.zeros(len(per_group[0]))
    penalty = getattr(pl, name)(**parameters)
    return Known(penalty, z, x, step, d, per_group[0], per_group[1], stationarity, per_group[2])


def problem(rng, shape=(3, 4), dtype=np.float64):
    """A point, a metric over three decades, a step per group; magnitudes from 1e-3 to 1e3."""
    scale = 10.0 ** rng.uniform(-0.5, 0.5)
    x = (rng.normal(size=shape) * 2 * scale).astype(dtype)
    d = np.exp(rng.normal(size=shape) * 1.5).astype(dtype)
    return x, d, rng.uniform(0.2, 2, size=shape[0])


def prox_rows(name, x, d, step):
    rows = zip(x, d, step, strict=True)
    truths = [exact.solve(exact.Case(name, PENALTIES[name], xg, dg, float(eta))) for xg, dg, eta in rows]
    return np.array([[oracle.to_float(v) for v in t.z] for t in truths]).astype(x.dtype)


# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", [Distance, Gap, Stationarity])
def test_absolute_criteria_compare_the_total(criterion):
    rng = np.random.default_rng(1)
    x, d, step = problem(rng)
    c = known("GroupLasso", x, x, d, step, stationarity=np.array([0.1, 0.2, 0.3]))
    bound = getattr(c.total, criterion.__name__.lower())
    assert criterion(bound).holds(c)
    assert not criterion(np.nextafter(bound, 0)).holds(c)
    for worthless in (math.inf, math.nan):
        fields = {f: np.full(3, worthless) for f in ("distance", "metric_distance", "stationarity", "gap")}
        assert not criterion(1e300).holds(Known(c.penalty, x, x, step, d, **fields))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-35, 1.0, 1e30])
def test_relative_distance(dtype, scale):
    rng = np.random.default_rng(2)
    for _ in range(50):
        z, w = ((rng.normal(size=(5, 7)) * scale).astype(dtype) for _ in range(2))
        if rng.random() < 0.5:
            w = (z * (1 + 10.0 ** rng.uniform(-7, 0))).astype(dtype)
        length = oracle.norm([a - b for a, b in zip(balls(z), balls(w), strict=True)])
        eps = 10.0 ** rng.uniform(-6, 0)
        for factor in (1 - 1e-10, 1 - 1e-16, 1.0, 1 + 1e-16):
            bound = float((arb(eps) * length).mid()) * factor
            c = SimpleNamespace(
                penalty=pl.GroupLasso(1.0),
                z=z,
                x=z,
                step=1.0,
                metric=None,
                total=SimpleNamespace(distance=bound),
            )
            said = RelativeDistance(eps).holds(c, w)
            assert not said or arb(bound) <= arb(eps) * length
            if factor == 1 - 1e-10:
                assert said


@pytest.mark.parametrize("magnitude", [1e-200, 1e-310, 1e300])
def test_relative_distance_out_of_range(magnitude):
    z, w = np.full((2, 3), magnitude), np.zeros((2, 3))
    c = SimpleNamespace(
        penalty=pl.GroupLasso(1.0), z=z, x=z, step=1.0, metric=None, total=SimpleNamespace(distance=0.0)
    )
    assert RelativeDistance(0.5).holds(c, w)  # an error of 0 is small against anything
    c.total.distance = 1e-5 * magnitude
    assert not RelativeDistance(0.5).holds(c, w)  # true, but not provable in float64


def test_relative_distance_at_rest():
    z = np.ones((2, 3))
    c = SimpleNamespace(
        penalty=pl.GroupLasso(1.0), z=z, x=z, step=1.0, metric=None, total=SimpleNamespace(distance=1e-30)
    )
    assert not RelativeDistance(0.9).holds(c, z)
    c.total.distance = 0.0
    assert RelativeDistance(0.9).holds(c, z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", PENALTIES)
def test_decrease_is_proved_never_guessed(name, dtype):
    """``Stationarity`` with an iterate says True only where ball arithmetic finds no increase."""
    rng = np.random.default_rng(3)
    sure = 0
    for k in range(12):
        x, d, step = problem(rng, dtype=dtype)
        best = prox_rows(name, x, d, step)
        near = 10.0 ** rng.uniform(-16, -1)
        noise = 1 + near * rng.normal(size=x.shape)
        points = [
            best,
            (best * noise).astype(dtype),
            x,
            np.zeros_like(x),
            np.nextafter(best, np.inf, dtype=dtype),
        ]
        z, w = points[k % 5], points[rng.integers(5)]
        c = known(name, z, x, d, step)
        change = objective(name, PENALTIES[name], z, x, d, step) - objective(
            name, PENALTIES[name], w, x, d, step
        )
        said = Stationarity(0.0).holds(c, w)
        sure += said
        assert not said or np.array_equal(z, w) or change <= 0
        if change < -1e-10 * objective(name, PENALTIES[name], w, x, d, step):
            assert said
        assert Stationarity(0.0).holds(c, z)
        assert Stationarity(0.0).holds(c)
    assert sure > 2


@pytest.mark.parametrize("name", CONVEX)
def test_decrease_below_the_resolution_of_the_objective(name):
    """A step of 1e-10 changes a convex objective by 1e-20: decided by growth, not by subtraction."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        x, d, step = problem(rng)
        best = prox_rows(name, x, d, step)
        w = best * (1 + 1e-10 * rng.choice([-1.0, 1.0], size=x.shape)) + 1e-11 * (best == 0)
        assert Stationarity(0.0).holds(known(name, best, x, d, step), w)
        assert not Stationarity(0.0).holds(known(name, w, x, d, step), best)


def test_growth_is_not_claimed_too_large():
    """Across a parabola from the last iterate, a little farther from its middle."""
    x, d, step = np.full((1, 1), 3.0), np.ones((1, 1)), np.ones(1)
    middle = 3.0 - PENALTIES["GroupLasso"]["lam"]
    z, w = np.full((1, 1), middle + 0.1), np.full((1, 1), middle - 0.0999)
    assert not Stationarity(0.0).holds(known("GroupLasso", z, x, d, step), w)
    assert Stationarity(0.0).holds(known("GroupLasso", w, x, d, step), z)


def test_growth_is_not_claimed_without_convexity():
    """Two minimisers of nearly equal value: far from one is not far up."""
    lam = PENALTIES["GroupL0"]["lam"]
    x, d, step = np.full((1, 1), math.sqrt(2 * lam) * (1 + 1e-9)), np.ones((1, 1)), np.ones(1)
    assert not Stationarity(0.0).holds(known("GroupL0", x * (1 - 1e-3), x, d, step), np.zeros_like(x))


def test_decrease_counts_the_rounding_of_the_quadratic_part():
    """Points on one sphere around ``x``: objectives equal but for rounding and a penalty far below it."""
    rng, h = np.random.default_rng(11), pl.GroupLasso(1e-18)
    unknown = (np.full(1, math.inf),) * 4
    for _ in range(200):
        x, v = rng.normal(size=(1, 6)), rng.normal(size=(1, 6))
        z, w = x + v, x + v[:, ::-1]
        c = Known(h, z, x, 1.0, None, *unknown[:2], np.zeros(1), unknown[3])
        off = [total((a - b) ** 2 for a, b in zip(balls(u), balls(x), strict=True)) for u in (z, w)]
        assert not Stationarity(0.0).holds(c, w) or off[0] <= off[1] + arb(1e-17)


def test_stationarity_needs_both_conditions():
    rng = np.random.default_rng(5)
    x, d, step = problem(rng)
    best = prox_rows("GroupLasso", x, d, step)
    assert not Stationarity(0.1).holds(known("GroupLasso", best, x, d, step, np.full(3, 0.1)), x)
    assert Stationarity(0.2).holds(known("GroupLasso", best, x, d, step, np.full(3, 0.1)), x)
    assert not Stationarity(0.2).holds(known("GroupLasso", x, x, d, step, np.full(3, 0.1)), best)


@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e100, 1e160])
def test_decrease_at_extreme_magnitudes(scale):
    """Where squares leave the range nothing is proved, and nothing warns."""
    z, w = np.full((2, 3), 1.0) * scale, np.full((2, 3), 2.0) * scale
    infinite = np.full(2, math.inf)
    c = Known(pl.GroupMCP(0.1 * scale, 2.0), w, z, 1.0, None, infinite, infinite, np.zeros(2), infinite)
    assert not Stationarity(0.0).holds(c, z)
    c = Known(pl.GroupMCP(0.1 * scale, 2.0), z, z, 1.0, None, infinite, infinite, np.zeros(2), infinite)
    assert Stationarity(0.0).holds(c, w) == (1e-150 < scale < 1e150)


def test_relative_stationarity():
    rng, nothing = np.random.default_rng(6), np.zeros(3)
    for k in range(200):
        x, d, step = problem(rng)
        if k % 2:
            d[:] = d[:, :1]
        z, w = x.copy(), x + rng.normal(size=x.shape) * 10.0 ** rng.uniform(-12, 0)
        s = np.abs(rng.normal(size=3)) * 10.0 ** rng.uniform(-12, 0)
        sigma = float(rng.uniform(0.01, 0.99))
        smallest = balls(d.min(axis=1))
        left = total(a * a * b / m for a, b, m in zip(balls(s), balls(step), smallest, strict=True))
        moved = [
            total(m * (a - b) ** 2 for m, a, b in zip(balls(dg), balls(zg), balls(wg), strict=True))
            for dg, zg, wg in zip(d, z, w, strict=True)
        ]
        right = arb(sigma) ** 2 * total(a / b for a, b in zip(moved, balls(step), strict=True))
        for target in (None, 1 - 1e-10, 1 - 1e-16, 1 + 1e-16, 1 + 1e-10):
            bound = s if target is None else s * float((right / left).sqrt().mid()) * target
            exact = total(a * a * b / m for a, b, m in zip(balls(bound), balls(step), smallest, strict=True))
            c = Known(pl.GroupLasso(1.0), z, x, step, d, nothing, nothing, bound, nothing)
            said = RelativeStationarity(sigma).holds(c, w)
            assert not said or exact <= right
            if target == 1 - 1e-10:
                assert said


def test_relative_stationarity_at_rest():
    x = np.ones((3, 4))
    c = known("GroupLasso", x, x, x, np.ones(3), np.zeros(3))
    assert RelativeStationarity(0.5).holds(c, x)
    c = known("GroupLasso", x, x, x, np.ones(3), np.full(3, 1e-300))
    assert not RelativeStationarity(0.5).holds(c, x)


# ----------------------------------------------------------------------------------------------------------


def fenchel_gap(name, z, x, d, step):
    """``h(z) + h*(s) - <s, z>`` of a matrix with a group per row, in ball arithmetic."""
    p = {k: arb(float(v)) for k, v in PENALTIES[name].items() if k != "nonnegative"}
    out = arb(0)
    for zg, xg, dg, eta in zip(z, x, d, step, strict=True):
        s = [b * (c - a) / arb(float(eta)) for a, b, c in zip(balls(zg), balls(dg), balls(xg), strict=True)]
        if name == "GroupLinf":
            inside, conjugate = total(abs(v) for v in s) <= p["lam"], arb(0)
        elif name == "L1":
            inside, conjugate = all(abs(v) <= p["lam"] for v in s), arb(0)
        else:
            t = p.get("lam1", arb(0))
            shrunk = [abs(v) - t if abs(v) > t else arb(0) for v in s]
            excess = oracle.norm(shrunk) - p.get("lam", p.get("lam2"))
            inside, conjugate = excess <= 0, arb(0)
            if name == "GroupElasticNet" and not inside:
                inside, conjugate = True, excess**2 / (2 * p["kappa"])
        if not inside:
            return arb("inf")
        inner = total(a * b for a, b in zip(s, balls(zg), strict=True))
        out += oracle.value(name, PENALTIES[name], zg) + conjugate - inner
    return out


@pytest.mark.parametrize("name", CONVEX)
def test_eps_subgradient(name):
    rng = np.random.default_rng(7)
    held = 0
    for k in range(24):
        x, d, step = problem(rng)
        if k % 4 == 0:
            x *= 0.05
        best = prox_rows(name, x, d, step)
        z = (
            best
            if k % 3 == 0
            else best + 10.0 ** rng.uniform(-12, -1) * (x - best) * rng.uniform(size=(3, 1))
        )
        per_group = np.repeat(step, x.shape[1]) if name == "L1" else step
        c = Known(getattr(pl, name)(**PENALTIES[name]), z, x, per_group, d, *NOTHING)
        exact = fenchel_gap(name, z, x, d, step)
        for eps in (0.0, 1e-14, 1e-8, 1e-2, 1e300):
            said = EpsSubgradient(eps).holds(c)
            held += said
            assert not said or exact <= eps
        if exact.is_finite():
            # room of 1e-12 for rounding, and for `s` to be proved inside the dual ball
            middle = float(exact.mid())
            inside = name == "GroupElasticNet" or k % 3
            if inside and middle > 1e-10:
                assert EpsSubgradient(middle * (1 + 1e-9) + 1e-12).holds(c)
                assert not EpsSubgradient(middle * (1 - 1e-9)).holds(c)
    assert held > 10


def test_eps_subgradient_at_zero():
    x, d = np.array([[0.3, 0.4]]), np.ones((1, 2))
    zero = np.zeros_like(x)
    assert EpsSubgradient(1e-300).holds(known("GroupLasso", zero, x, d, np.ones(1)))
    assert not EpsSubgradient(1e300).holds(known("GroupLasso", zero, 10 * x, d, np.ones(1)))


def test_eps_subgradient_nonnegative():
    x = np.array([[2.0, -3.0]])
    h = pl.GroupLasso(0.5, nonnegative=True)
    c = Known(h, np.array([[1.6, 0.0]]), x, 1.0, None, *NOTHING)
    assert EpsSubgradient(0.17).holds(c)  # s = (0.4, -3): the negative element does not count
    assert not EpsSubgradient(0.15).holds(c)
    c = Known(h, np.array([[1.5, -1e-9]]), x, 1.0, None, *NOTHING)
    assert not EpsSubgradient(1e300).holds(c)


@pytest.mark.parametrize("name", [name for name in PENALTIES if name not in CONVEX])
def test_eps_subgradient_refuses_nonconvex(name):
    x = np.ones((1, 2))
    with pytest.raises(
        TypeError, match=rf"EpsSubgradient: the penalty must be convex .* got {name}; use Gap"
    ):
        EpsSubgradient(1.0).holds(known(name, x, x, x, np.ones(1)))


# ----------------------------------------------------------------------------------------------------------

ALL = [
    RelativeDistance(0.5),
    Stationarity(0.5),
    RelativeStationarity(0.9),
    EpsSubgradient(1e9),
    Gap(1.0),
    Distance(1.0),
]
LABELS = np.array([[0, 3, -1, 1], [3, 0, 1, 1], [4, -1, 3, 0]])


@pytest.mark.parametrize("criterion", ALL, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("per_group", [False, True])
def test_groups_of_any_kind(criterion, per_group):
    """The same rows as columns, as labels with free and empty groups, and in one more dimension."""
    rng = np.random.default_rng(8)
    x, w = rng.normal(size=(2, 5, 4))
    d = np.exp(rng.normal(size=x.shape))
    z = 0.9 * x
    step = rng.uniform(0.5, 1, size=5) if per_group else 0.7
    bounds = [np.full(5, v) for v in (1e-3, 1e-3, 1e-3, 1e-6)]
    answers = set()
    for arrange, groups in (
        (lambda a: a, pl.Groups.over(-1)),
        (lambda a: a.T, pl.Groups.over(0)),
        (lambda a: a.reshape(5, 2, 2), pl.Groups.over((1, 2))),
        (lambda a: a.reshape(-1), pl.Groups.csr(4 * np.arange(6))),
        (
            lambda a: np.vstack([a, np.ones((1, 4))]),
            pl.Groups.labels(np.repeat([0, 1, 2, 3, 4, -1], 4).reshape(6, 4)),
        ),
    ):
        h = pl.GroupLasso(0.3, groups=groups, weights=np.arange(1.0, 6))
        c = Known(h, arrange(z), arrange(x), step, arrange(d), *bounds)
        answers.add(criterion.holds(c, arrange(w)))
    assert len(answers) == 1
    h = pl.GroupLasso(0.3, groups=pl.Groups.labels(LABELS))
    x, z, w = x[:3], z[:3], w[:3]
    c = Known(h, z, x, 1.0, d[:3], *bounds)
    assert criterion.holds(c, w) in (False, True)


@pytest.mark.parametrize("criterion", ALL, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("groups", [pl.Groups.over(-1), pl.Groups.csr([0]), pl.Groups.csr([0, 0])])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)])
def test_nothing_to_ask_about(criterion, groups, shape):
    x = np.ones(shape)
    n = groups.n_groups(shape)
    nothing = np.zeros(n)
    c = Known(pl.GroupLasso(0.0, groups=groups), x, x, 1.0, None, nothing, nothing, nothing, nothing)
    assert criterion.holds(c, x)


@pytest.mark.parametrize("criterion", ALL, ids=lambda c: type(c).__name__)
def test_namespaces(criterion, xp):
    rng = np.random.default_rng(9)
    x, w = rng.normal(size=(2, 3, 4))
    d, z = np.exp(rng.normal(size=x.shape)), 0.9 * x
    bounds = [np.full(3, v) for v in (1e-3, 1e-3, 1e-3, 1e-6)]
    c = Known(pl.GroupLasso(0.3), z, x, 0.7, d, *bounds)
    arrays = [xp.asarray(a) for a in (z, x)]
    native = Known(pl.GroupLasso(0.3), *arrays, 0.7, xp.asarray(d), *(xp.asarray(a) for a in bounds))
    assert criterion.holds(native, xp.asarray(w)) is criterion.holds(c, w)


@pytest.mark.parametrize("criterion", [RelativeDistance(0.5), RelativeStationarity(0.5)])
def test_relative_criteria_need_the_last_iterate(criterion):
    x = np.ones((1, 2))
    c = known("GroupLasso", x, x, x, np.ones(1))
    with pytest.raises(ValueError, match=f"previous: {type(criterion).__name__} .* needs it, got None"):
        criterion.holds(c)


def test_previous_must_fit():
    x = np.ones((2, 2))
    c = known("GroupLasso", x, x, x, np.ones(2))
    with pytest.raises(ValueError, match=r"previous: must have the shape of x, \(2, 2\), got \(2,\)"):
        RelativeDistance(0.5).holds(c, x[0])
    with pytest.raises(TypeError, match="previous: must be an array"):
        Stationarity(0.5).holds(c, [[1.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize("criterion", [Distance, RelativeDistance, Stationarity, Gap, EpsSubgradient])
@pytest.mark.parametrize("eps", [-1.0, math.nan, math.inf, "0.1", True])
def test_bad_tolerances(criterion, eps):
    with pytest.raises((TypeError, ValueError), match="eps: must be"):
        criterion(eps)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, 1.0, 2.0])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="sigma: must be"):
        RelativeStationarity(sigma)


# ----------------------------------------------------------------------------------------------------------


def test_schedules_follow_their_formulas():
    for t in (1, 2, 10, 10**6):
        assert Exact()(t) == 0.0
        assert Constant(0.3)(t) == 0.3
        assert Summable(0.3)(t) == pytest.approx(0.3 / t**2, rel=1e-13)
        assert Summable(0.3, power=1.5)(t) == pytest.approx(0.3 / t**1.5, rel=1e-13)
        assert SquareSummable(0.3)(t) == pytest.approx(0.3 / t, rel=1e-13)
    assert Summable(1.0, power=400.0)(10) == 0.0


def test_adaptive_takes_a_share_of_the_progress():
    schedule = Adaptive(1.0, sigma=0.1, power=1.0)
    assert schedule(10) == pytest.approx(0.1, rel=1e-13)
    assert schedule(10, 0.5) == pytest.approx(0.05, rel=1e-13)
    assert schedule(10, 50.0) == pytest.approx(0.1, rel=1e-13)
    assert schedule(10, math.inf) == schedule(10)
    assert schedule(10, 0.0) == 0.0


@pytest.mark.parametrize(
    ("schedule", "summable", "square_summable"),
    [
        (Exact(), True, True),
        (Constant(1.0), False, False),
        (Summable(1.0), True, True),
        (SquareSummable(1.0), False, True),
        (SquareSummable(1.0, power=1.5), True, True),
        (Adaptive(1.0), False, True),
        (Adaptive(1.0, power=1.5), True, True),
    ],
)
def test_flags_and_sums(schedule, summable, square_summable):
    assert schedule.is_summable is summable
    assert schedule.is_square_summable is square_summable
    # the mass of a far block of a convergent series of powers is small, that of a divergent one is not
    for power, flag in ((1, summable), (2, square_summable)):
        near, far = (sum(schedule(t) ** power for t in range(n, 4 * n)) for n in (1000, 16000))
        assert (far < 0.9 * near or near == 0) is flag


def test_all_schedules_are_called_alike_and_frozen():
    for schedule in (Exact(), Constant(0.1), Summable(0.1), SquareSummable(0.1), Adaptive(0.1)):
        assert schedule(3, 1e9) == schedule(3)
        assert schedule == type(schedule)(*([] if isinstance(schedule, Exact) else [0.1]))
        assert isinstance(hash(schedule), int)
        if not isinstance(schedule, Exact):
            with pytest.raises(FrozenInstanceError):
                schedule.eps = 1.0
        with pytest.raises(ValueError, match="t: must be finite and >= 1, got 0"):
            schedule(0)
        with pytest.raises(ValueError, match="progress: must be finite and >= 0, got -1"):
            schedule(1, -1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "eps: must be finite and > 0, got 0.0"),
        (lambda: Summable(1.0, power=1.0), "power: must be finite and > 1, got 1.0"),
        (lambda: SquareSummable(1.0, power=0.5), "power: must be finite and > 0.5, got 0.5"),
        (lambda: Adaptive(1.0, sigma=0.0), "sigma: must be finite and > 0, got 0.0"),
        (lambda: Adaptive(1.0, power=0.5), "power: must be finite and > 0.5, got 0.5"),
        (lambda: Adaptive(-1.0), "eps: must be finite and > 0, got -1.0"),
    ],
)
def test_bad_schedules(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------------------------------------------
# Elements in no group: their prox is x, their residual D(ẑ - x)/η.


def free_problem(rng):
    """A problem with one nonzero group and free elements that a candidate and the last iterate move."""
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    x, d = rng.normal(size=n + m), np.exp(2 * rng.normal(size=n + m))
    step = float(rng.uniform(0.3, 2))
    lam = float(rng.uniform(0.1, 0.8) * np.linalg.norm((d * x)[:n]) / step)
    order = rng.permutation(n + m)
    labels = np.empty(n + m, int)
    labels[order] = [0] * n + [-1] * m
    x, d = x[np.argsort(order)], d[np.argsort(order)]
    h = pl.GroupElasticNet(lam, float(rng.choice([0.0, 0.7])), groups=pl.Groups.labels(labels))
    z = pl.prox(h, x, step, metric=d)
    z = z + 10 ** rng.uniform(-9, 0) * rng.normal(size=n + m) * (rng.random(n + m) < 0.6)
    last = x + 10 ** rng.uniform(-9, 0) * rng.normal(size=n + m)
    return h, labels == 0, z, x, last, step, d


def free_truth(h, inside, z, x, w, step, d):
    """The dual norm of the least subgradient, ``‖z - w‖_D / η``, and Q at both."""

    def q(v):
        radius = oracle.norm(balls(v[inside]))
        value = arb(h.lam) * radius + arb(h.kappa) * radius**2 / 2
        return value + total(
            [e * (a - b) ** 2 for e, a, b in zip(balls(d), balls(v), balls(x), strict=True)]
        ) / (2 * arb(step))

    radius = oracle.norm(balls(z[inside]))
    slope = arb(h.lam) / radius + arb(h.kappa)
    s = [
        e * (a - b) / arb(step) + (slope * a if k else 0)
        for e, a, b, k in zip(balls(d), balls(z), balls(x), inside, strict=True)
    ]
    dual = total([v**2 / e for v, e in zip(s, balls(d), strict=True)]).sqrt()
    moved = total([e * (a - b) ** 2 for e, a, b in zip(balls(d), balls(z), balls(w), strict=True)]).sqrt()
    return dual, moved / arb(step), q(z), q(w)


@pytest.mark.parametrize("per_group", [False, True])
def test_elements_in_no_group_count(per_group):
    rng = np.random.default_rng(20)
    proved = {"stationarity": 0, "decrease": 0}
    for _ in range(150):
        h, inside, z, x, w, step, d = free_problem(rng)
        if rng.random() < 0.3:
            z = np.where(inside, z, x)
        c = pl.certify(h, z, x, np.array([step]) if per_group else step, metric=d)
        dual, moved, at_z, at_w = free_truth(h, inside, z, x, w, step, d)
        sigma = float(rng.choice([0.01, 0.5, 0.99]))
        said = RelativeStationarity(sigma).holds(c, w)
        proved["stationarity"] += said
        assert not said or dual <= sigma * moved
        said = Stationarity(1e300).holds(c, w)
        proved["decrease"] += said
        assert not said or at_z <= at_w
        if not per_group and inside.sum() == 1 and dual < 0.9 * sigma * moved:
            assert RelativeStationarity(sigma).holds(c, w)
        if not np.array_equal(z[~inside], x[~inside]):
            assert not EpsSubgradient(1e300).holds(c)
    assert min(proved.values()) > 5


@pytest.mark.parametrize("criterion", ALL, ids=lambda c: type(c).__name__)
def test_nothing_but_elements_in_no_group(criterion):
    h = pl.GroupLasso(1.0, groups=pl.Groups.csr([0]))
    x = np.array([1.0, -2.0])
    assert h(x) == 0.0
    assert h.value(x).shape == (0,)
    assert criterion.holds(pl.certify(h, x, x), x + 1.0)
    assert not criterion.holds(pl.certify(h, x + 9.0, x), x + 1.0)
