"""The engine's source in plain Python: what is compiled can be stepped through, and does the same there."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import brentq

import proxlab as pl
from proxlab import search
from proxlab.backends import column_kernels, column_sums, kernels, one_group
from proxlab.backends import sums as sums_module
from proxlab.backends.kernel_records import Data, Elements, Kept, Request, Scratch, Shrink, Steps
from proxlab.backends.records import GroupResults
from proxlab.choose import Limits
from proxlab.equations import EQUATIONS, Sums, Task, radial
from proxlab.optim import fused_blocks, fused_columns, fused_elements, fused_many, fused_rows
from proxlab.optim.fused_layout import Slope
from proxlab.optim.rules import RULES, check_settings

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
    monkeypatch.setattr(one_group, "NEEDS_BRACKET", finder.needs_bracket)
    for key, value in one_group.EQUATION_NAMES[equation.kernel].items():
        monkeypatch.setattr(one_group, key, value)
    monkeypatch.setattr(kernels, "write", one_group.write)

    z = np.empty_like(x).ravel()
    found = GroupResults(*(np.zeros(len(x)) for _ in range(3)), *(np.zeros(len(x), int) for _ in range(3)))
    apart, copies = np.zeros(len(x), bool), (np.empty(n), np.empty(n))
    limits = Limits(finder.relative_tolerance(53), finder.atol, finder.max_iterations, True)
    request = Request(Steps(np.ones(1), np.ones(1)), Shrink(0.0, False), equation.rows, limits)
    with np.errstate(all="ignore"):
        bad = kernels.solve_rows(
            Data(x.ravel(), d.ravel(), z, True),
            n,
            0,
            len(x),
            request,
            found,
            apart,
            Scratch(*copies, *copies, np.empty(1)),
        )
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


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("lying", ["rows", "side", "columns"])
@pytest.mark.parametrize("name", ["ProxSGD", "ProxAdamW", "ProxAMSGrad", "ProxRMSprop"])
def test_the_fused_pass_runs_in_python(name, lying, single, monkeypatch):
    """As the kernels stand they are those of gradient descent; a target sets the rule of another method."""
    rule = RULES[name]
    settings = check_settings(rule, {"lr": 0.1})
    update = rule.select(settings)
    if update.slots:
        count = len(update.slots)
        chosen = {"state": update.state, "point": update.point, "form": update.metric}
        chosen |= {kind: getattr(fused_elements, f"{kind}{count}") for kind in ("read", "write")}
        chosen["metric"] = fused_elements.metric_own
        for key, value in chosen.items():
            monkeypatch.setattr(fused_elements, key, value)
            monkeypatch.setattr(fused_columns, key, value, raising=False)
        monkeypatch.setattr(fused_many, "held", getattr(fused_many, f"held{count}"))
    rng = np.random.default_rng(0)
    n, penalty = (20 if lying == "side" else 80), pl.GroupSCAD(2.0, 12.0)
    if single:
        n, penalty = 20, pl.GroupLasso(2.0)
    w = rng.normal(size=(6, n)) * np.array([[1, 3, 0.1, 0.1, 0.01, 0.01]]).T
    g, *slots = rng.uniform(1e-3, 1e-2, size=(1 + len(update.slots), *w.shape))
    proposal = rule.propose(settings, w, g, tuple(slots), 3, 0.0)
    expected = pl.prox(penalty, proposal.x, proposal.step, metric=proposal.metric)
    assert 0 < np.count_nonzero((expected == 0).all(axis=1)) < 6
    numbers = Slope(penalty.pieces).numbers(0.1, 1e-15, np.dtype(float))._replace(doubt=1e-14)
    flip = (lambda a: np.ascontiguousarray(a.T)) if lying == "columns" else (lambda a: a)
    flat, grad, *state = (flip(a).ravel() for a in (w, g, *slots))
    one, left = np.float64(1.0), np.zeros(6, np.int64)
    step = fused_elements.Step(rule.coefficients(settings, 3, 0.0).formulas, 0.0, one, 0.0, one)
    if lying == "rows":
        tensor = fused_elements.Tensor(flat, grad, tuple(state), (6, 1, 1, n, 1))
        room = fused_rows.RowRoom(np.empty(w.size), np.empty(w.size), left, np.empty(1))
        assert fused_rows.rows(tensor, step, numbers, np.ones(1), np.zeros(6, bool), 0, 6, room) == (6, 0)
    else:
        addresses = np.array([[a.__array_interface__["data"][0] for a in (flat, grad, *state)]])
        pitch, spoilt = int(fused_columns.PITCH), np.zeros(1, bool)
        scratch = (np.zeros(k * pitch) for k in (9, 7, 4))
        room = fused_columns.ColumnRoom(left, *scratch, np.zeros((fused_blocks.ROWS_OF_BLOCK, 6)))
        shape, units, per_block = ([1, n, 6, 1, 1], 2, 4) if lying == "columns" else ([6, 1, 1, n, 1], 6, 0)
        tensors = fused_many.Tensors(
            addresses, np.array([shape]), np.array([0, 1]), np.array([units]), np.array([per_block]),
            np.ones(1), np.zeros(6), np.array([[0, 0], [1, 6]]), np.array([1e-14]), np.zeros(6, bool),
            np.array([0, 6]),
        )  # fmt: skip
        whole = fused_many.Span(0, 0, 0, units)
        if lying == "columns":
            # Two blocks, the second one shorter.
            fused_many.scan_of(tensors, whole, step, room, spoilt)
            assert not spoilt
            np.testing.assert_allclose(tensors.squares, (w * w).sum(axis=1))
        kernel = fused_many.columns_of if lying == "columns" else fused_many.side_of
        # What is computed of neighbours at once is of those that need it not, too.
        with np.errstate(all="ignore"):
            assert kernel(tensors, whole, step, numbers, room) == (0, units, 0)
    np.testing.assert_allclose(flat.reshape(flip(w).shape), flip(expected), rtol=1e-12, atol=1e-15)
    for ours, theirs in zip(state, proposal.slots, strict=True):
        np.testing.assert_allclose(ours, flip(theirs).ravel(), rtol=1e-14)


@pytest.mark.parametrize("explain", [True, False])
@pytest.mark.parametrize("name", ["lasso", "mcp", "capped", "l0"])
def test_columns_are_solved_in_python_as_over_arrays(name, explain, monkeypatch):
    x, d = (np.ascontiguousarray(a.T) for a in problem())
    finder, penalty = pl.Newton(), dataclasses.replace(PENALTIES[name], groups=pl.Groups.over(0))
    names = column_kernels.RATIO.names() | {"propose": column_kernels.propose_third}
    for key, value in names.items():
        monkeypatch.setattr(search, key, value)
    n, count = x.shape
    z = np.zeros(x.size)
    found = GroupResults(*(np.zeros(count) for _ in range(3)), *(np.zeros(count, int) for _ in range(3)))
    limits = Limits(finder.relative_tolerance(53), 0.0, 8, explain)
    request = Request(Steps(np.ones(1), np.ones(1)), Shrink(0.0, False), penalty.equation.rows, limits)
    hard, acc = np.zeros(count, bool), np.zeros(column_sums.SCRATCH)
    columns = column_kernels.Columns(*np.zeros((9, 16)), *np.zeros((2, 16), int))
    with np.errstate(all="ignore"):
        # Three blocks, the last of them shorter.
        bad = column_kernels.solve_columns(
            Data(x.ravel(), d.ravel(), z, True), column_kernels.Blocks((1, n, count, 1), 16, 0, 3), request,
            hard, found, column_kernels.Room(acc, acc, columns),
        )  # fmt: skip
    assert bad == -1
    # Some are left alone: those out of range, some with several minimisers, and the last of a block.
    assert 0 < hard.sum() <= 20
    expected = pl.solve(penalty, x, 1.0, metric=d, root_finder=finder, backend="array_api")
    np.testing.assert_allclose(z.reshape(x.shape)[:, ~hard], expected.z[:, ~hard], rtol=1e-13, atol=0)
    np.testing.assert_array_equal(z.reshape(x.shape)[:, hard], x[:, hard])
    if explain:
        np.testing.assert_array_equal(found.status[~hard], expected.status[~hard])
        np.testing.assert_allclose(found.radius[~hard], expected.radius[~hard], rtol=1e-13)
        lower, upper = (b[~hard] for b in expected.bracket)
        assert (np.maximum(found.lower[~hard], lower) <= np.minimum(found.upper[~hard], upper)).all()


def test_a_step_of_third_order_is_at_most_twice_newton_s():
    for r, f, slope in ((1.0, -0.5, 0.5), (3.0, 0.5, 0.25)):
        step = -f / slope
        for share in (0.1, 0.9, 1.5, 1.9):
            assert one_group.third_order(r, f / slope, r + share * step) == r + share * step
        for share in (-0.1, 2.1, np.nan):
            assert one_group.third_order(r, f / slope, r + share * step) == r + step


def test_single_precision_comes_near_the_root():
    rng = np.random.default_rng(7)
    for _ in range(5):
        x, d = (v.astype(np.float32) for v in (rng.normal(size=50), np.exp(2 * rng.normal(size=50))))
        b = np.float64(x) * d
        bb, reach = np.sum(b * b), np.linalg.norm(x.astype(float))
        a = rng.uniform(0.1, 0.9) * np.sqrt(bb)
        root = brentq(lambda r: np.sum((b / (d * r + a)) ** 2) - 1.0, 0.0, reach)  # noqa: B023
        at = (np.sqrt(bb) - a) * bb / np.sum(b * b * d)
        assert at < root
        task = Task(a, 0.0, 0.0, at, reach, False, 0.0, 0.0, 1.0, 50.0, 0.0, 0.0, 0.0, 0.0, 100)
        r, passes = one_group.approach_narrow(Elements(x, d, 0, 50), reach, task)
        assert 1 <= passes <= 3
        assert abs(r - root) <= 2 * one_group.NARROW_ERROR * root
        assert abs(r - root) < 0.5 * abs(at - root)


def test_sums_in_the_ratio_tell_what_others_do():
    rng = np.random.default_rng(8)
    for _ in range(100):
        r, a = np.exp(rng.uniform(-3, 3, 2))
        c = rng.uniform(-2, 0.9) * a / r
        tau = a - c * r
        e = 1 / (1 + np.exp(rng.uniform(-4, 4, 20)))
        z = e * rng.normal(size=20) * np.exp(rng.uniform(-3, 3))
        v, ve, vee = (np.sum(z * z * e**k) for k in range(3))
        f, slope, bend = radial.residual(*one_group.from_ratio(v, ve, vee, r, tau, c))
        pace = 1 / r + abs(c) / tau
        final, error = search.final_step(r, f, slope, bend, pace)
        near = one_group.near_root(v, ve, vee, r, tau, c)
        np.testing.assert_allclose(near.f, f, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(near[1:], (slope, f / slope, final, error), rtol=1e-9, atol=1e-12)


def test_single_precision_says_of_no_group_what_is_not_so():
    """Zero or not, next to the threshold, against rational numbers; and bounds that hold."""
    rng = np.random.default_rng(9)
    known = 0
    for k in range(3000):
        n = int(rng.integers(1, 30))
        x, d = rng.normal(size=n), np.exp(rng.uniform(0.0, 3.0) * rng.normal(size=n))
        # Some groups are spread over the range of single precision.
        spread = 10.0 ** rng.uniform(-15, 15, n if k % 3 == 0 else 1)
        x, d = np.float32(x * 10.0 ** rng.uniform(-34, 15) / spread), np.float32(d * spread)
        b = [Fraction(float(u)) * Fraction(float(v)) for u, v in zip(x, d, strict=True)]
        square = sum(v * v for v in b)
        strength = math.sqrt(square) * (1 + rng.choice([-1, 1]) * 10 ** rng.uniform(-9, -2))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            sign, bounds = one_group.look_narrow(Elements(x, d, 0, n), strength)
        assert sign in (0, np.sign(Fraction(strength) ** 2 - square)), k
        if sign == 0:
            continue
        known += 1
        assert Fraction(float(bounds.bb)) <= square
        assert sum(v * v * Fraction(float(w)) for v, w in zip(b, d, strict=True)) <= float(bounds.bbd)
        assert sum(Fraction(float(v)) ** 2 for v in x) <= float(bounds.xx)
    assert 300 < known < 2000
    for bad in (np.nan, np.inf, 0.0, -1.0):
        for x, d in ((1.0, bad), (bad, 1.0)):
            values = np.array([[1.0, x, 2.0], [1.0, d, 2.0]], np.float32)
            if d > 0 and abs(x) < np.inf:
                continue
            assert one_group.look_narrow(Elements(*values, 0, 3), 1.0)[0] == 0


def test_a_write_near_the_last_pass_is_exact():
    rng = np.random.default_rng(10)
    n, r, tau = 200, 0.7, 1.3
    x, d = rng.normal(size=n), np.exp(rng.uniform(-12, 12, n))
    e = Kept(x, d, 0, n, np.empty(n), np.empty(1))
    sums = sums_module.sum_kept(e, r, tau, 0.2)
    np.testing.assert_allclose(sums, sums_module.sum_secular(Elements(x, d, 0, n), r, tau, 0.2), rtol=1e-13)
    z = np.full(n, np.nan)
    for off in (0.0, 1e-8, -1e-5, sums_module.NEARBY, -sums_module.NEARBY):
        ratio = r / tau * (1 + 0.999 * off)
        assert sums_module.write_near(e, z, ratio)
        np.testing.assert_allclose(z, x * (d * ratio / (d * ratio + 1)), rtol=2.0**-35)
    z[:] = 0
    for ratio in (1.001 * r / tau, 0.0, np.inf, np.nan):
        assert not sums_module.write_near(e, z, ratio)
    assert not z.any()


@pytest.mark.parametrize("name", ["lasso", "mcp", "scad", "capped", "l0"])
def test_rows_in_single_precision_are_solved_in_python_as_over_arrays(name, monkeypatch):
    rng = np.random.default_rng(11)
    count, n = 60, 12
    x = (rng.normal(size=(count, n)) * np.exp(rng.uniform(-3, 3, (count, 1)))).astype(np.float32)
    d = np.exp(rng.uniform(-3, 3, x.shape)).astype(np.float32)
    x[::9] = 0.0
    x[4::9] *= np.float32(1e-30)
    penalty = PENALTIES[name]
    for module, names in (
        (sums_module, ("NARROW", "KEEPS")), (one_group, ("NARROW", "KEEPS")), (kernels, ("KEEPS",)),
    ):  # fmt: skip
        for key in names:
            monkeypatch.setattr(module, key, True)
    for module in (one_group, search):
        for key, value in EQUATIONS["radial"].names().items():
            monkeypatch.setattr(module, key, value, raising=module is search)
    monkeypatch.setattr(one_group, "RESCALES", False)
    finder = pl.Newton()
    limits = Limits(finder.relative_tolerance(24), 0.0, finder.max_iterations, False)
    request = Request(Steps(np.ones(1), np.ones(1)), Shrink(0.0, False), penalty.equation.rows, limits)
    found = GroupResults(*np.zeros((3, 0)), *np.zeros((3, 0), int))
    z, apart, room = np.full(x.size, np.nan, np.float32), np.zeros(count, bool), (np.empty(n), np.empty(n))
    with np.errstate(all="ignore"):
        bad = kernels.solve_rows(
            Data(x.ravel(), d.ravel(), z, True), n, 0, count, request, found, apart,
            Scratch(*room, *room, np.empty(1)),
        )  # fmt: skip
    assert bad == -1
    assert not apart.any()
    expected = pl.prox(penalty, x, 1.0, metric=d, backend="array_api")
    assert 0 < np.count_nonzero(expected.any(axis=1)) < count
    np.testing.assert_allclose(z.reshape(x.shape), expected, rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("step", ["begin", "advance"])
def test_signs_count_only_beyond_rounding(step):
    delta, floor, at, r, far = 1e-9, 0.1, 0.5, 1.0, 2.0
    task = Task(1.0, 0.0, floor, at, far, False, 0.0, 0.0, 1.0, 4.0, 0.0, delta, 0.0, 0.0, 100)
    for share in (-3.0, -1.0, 0.5, 1.0, 3.0):
        sums = Sums((1.0 + share * delta) ** -2.0, 1.0, 1.0)
        known = search.begin(task, r, sums, 0)
        if step == "advance":
            known = search.begin(task, at, Sums(2.0, 1.0, 1.0), 0)._replace(r=r)
            known = search.advance(known, sums, task)
        assert known.sure_lo == (r if share < -2.0 else floor)
        assert known.sure_hi == (r if share > 2.0 else far)
