"""The compiled kernels where their short cuts could go wrong: single precision, columns, contested roots."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import proxlab as pl
from tests import oracle
from tests.cases import Case
from tests.checks import check_close
from tests.table import DTYPES

AXES = pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
dtypes = pytest.mark.parametrize("dtype", DTYPES)
# A float32 result is the float64 one, rounded once; the radius is as exact as float32 resolves.
ACCURACY = {np.float32: 1.5e-7, np.float64: 1e-13}


def along(axis, *groups):
    """Arrays whose groups lie along an axis, from matrices with a group per row."""
    return [np.ascontiguousarray(a.T) if axis == 0 else a for a in groups]


def check(name, parameters, x, d, axis, step=1.0, sample=None):
    """prox and solve of groups in rows or columns against the oracle; returns the solution."""
    penalty = getattr(pl, name)(**parameters, groups=pl.Groups.over(axis))
    laid_x, laid_d = along(axis, x, d)
    s = pl.solve(penalty, laid_x, step, metric=laid_d)
    z = pl.prox(penalty, laid_x, step, metric=laid_d)
    (found,), (explained,) = along(axis, z), along(axis, s.z)
    for g in range(len(x)) if sample is None else sample:
        case = Case(name, parameters, x[g].astype(np.float64), d[g].astype(np.float64), step)
        for point in (found[g], explained[g]):
            check_close(point.astype(np.float64), case, ACCURACY[x.dtype.type])
        if case.unique:
            truth = oracle.to_float(case.answer.radius)
            assert s.bracket[0][g] <= truth * (1 + 1e-15)
            assert truth * (1 - 1e-15) <= s.bracket[1][g]
            assert s.bracket[0][g] <= s.radius[g] <= s.bracket[1][g]
    return s


@AXES
@dtypes
def test_groups_around_the_zero_threshold_are_decided_exactly(axis, dtype):
    """Zero or not, from exact rational sums: closer to the threshold than sums in single precision tell."""
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(60, 32)).astype(dtype), np.exp(rng.normal(size=(60, 32))).astype(dtype)
    x[:20], d[:20] = 0, 1
    x[:20, :2] = 3, 4
    squares = [
        sum((Fraction(float(u)) * Fraction(float(v))) ** 2 for u, v in zip(*g, strict=True))
        for g in zip(x, d, strict=True)
    ]
    norms = np.array([math.sqrt(s) for s in squares])
    penalty = pl.GroupLasso(1.0, groups=pl.Groups.over(axis))
    point, metric = along(axis, x, d)
    for ulps in (-(2**31), -(2**8), -1, 0, 1, 2**8, 2**31):
        step = norms * (1 + ulps * 2.0**-52)
        zero = np.array([q <= Fraction(t) ** 2 for q, t in zip(squares, step.tolist(), strict=True)])
        s = pl.solve(penalty, point, step, metric=metric)
        np.testing.assert_array_equal(s.status == int(pl.Status.ZERO), zero)
        for z in along(axis, s.z, pl.prox(penalty, point, step, metric=metric)):
            np.testing.assert_array_equal((z == 0).all(axis=1), zero)


@AXES
@dtypes
@pytest.mark.parametrize("n", [3, 50])
def test_the_root_against_the_point_itself(n, axis, dtype):
    """A concave penalty with a flat end, where a root and the point itself are both local minimisers."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, n)).astype(dtype)
    d = np.exp(2 * rng.normal(size=(300, n))).astype(dtype)
    strength = float(np.median(np.linalg.norm(d * x, axis=1)))
    length = float(np.median(np.linalg.norm(x, axis=1)))
    kinds = set()
    for name, parameters in (
        ("GroupMCP", {"lam": 0.5 * strength, "gamma": 0.9 * length / (0.5 * strength)}),
        ("GroupMCP", {"lam": 0.2 * strength, "gamma": 0.6 * length / (0.2 * strength)}),
        ("GroupCapped", {"lam": 0.3 * strength, "theta": 0.8 * length}),
    ):
        s = check(name, parameters, x, d, axis, sample=range(0, 300, 50))
        kinds |= set(s.status.tolist())
        # the rest against brute force over the radius: of all points on the path, none is better
        for g in range(0, 300, 3):
            case = Case(name, parameters, x[g].astype(np.float64), d[g].astype(np.float64), 1.0)
            z = along(axis, s.z)[0][g].astype(np.float64)
            own = float(oracle.values(name, parameters, z)) + 0.5 * float(np.sum(case.d * (z - case.x) ** 2))
            for rival in path(case):
                other = float(oracle.values(name, parameters, rival))
                other += 0.5 * float(np.sum(case.d * (rival - case.x) ** 2))
                assert own <= other * (1 + 4 * ACCURACY[dtype])
    assert {int(pl.Status.CONVERGED), int(pl.Status.UNSHRUNK), int(pl.Status.ZERO)} <= kinds


def path(case):
    """Points ``b/(d + mu)`` of many radii, zero and the point itself."""
    yield np.zeros_like(case.x)
    yield case.x
    for mu in np.geomspace(1e-4, 1e4, 30) * float(np.median(case.d)):
        yield case.d * case.x / (case.d + mu)


@AXES
@dtypes
def test_metrics_over_forty_decades(axis, dtype):
    rng = np.random.default_rng(2)
    # large enough that no element of the result is subnormal
    x = (1e8 * rng.normal(size=(8, 40))).astype(dtype)
    d = (10 ** rng.uniform(-20, 20, size=(8, 40))).astype(dtype)
    for share in (1e-6, 0.1, 0.9, 1 - 1e-6):
        strength = share * float(np.median(np.linalg.norm(d.astype(np.float64) * x, axis=1)))
        check("GroupLasso", {"lam": strength}, x, d, axis)


@AXES
@dtypes
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e36])
def test_groups_out_of_the_range_of_single_precision(scale, axis, dtype):
    """Neighbours in range, out of range, zero and too small to be squared."""
    rng = np.random.default_rng(3)
    x, d = rng.normal(size=(16, 40)), np.exp(rng.normal(size=(16, 40)))
    x[::4] *= scale
    x[1::4] = 0
    x[2::8, 1:] = 0
    x[2::8, 0] = 1e-44
    x, d = x.astype(dtype), d.astype(dtype)
    norms = np.linalg.norm(d.astype(np.float64) * x, axis=1)
    step = np.where(norms > 0, 0.3 * norms, 1.0)
    penalty = pl.GroupLasso(1.0, groups=pl.Groups.over(axis))
    point, metric = along(axis, x, d)
    z = along(axis, pl.prox(penalty, point, step, metric=metric))[0].astype(np.float64)
    for g in range(16):
        case = Case("GroupLasso", {"lam": 1.0}, x[g].astype(np.float64), d[g].astype(np.float64), step[g])
        error = np.abs(z[g] - case.answer.z)
        assert (error <= case.tolerance(0, ACCURACY[dtype]) + float(np.finfo(dtype).smallest_subnormal)).all()


@AXES
@dtypes
def test_what_is_flat_stays_as_it_is(dtype, axis):
    """Unshrunk groups come out bit by bit, the largest and smallest numbers among them, and in place."""
    limits = np.finfo(dtype)
    values = [limits.max, limits.tiny, limits.smallest_subnormal, 1.0, 1e30, 1e-30]
    x = np.array([np.roll(values, k) for k in range(6)], dtype=dtype)
    for d in (1e-30, 1.0, 1e30):
        for penalty in (pl.GroupL0, pl.GroupLasso):
            z, h = x.copy(), penalty(0.0, groups=pl.Groups.over(axis))
            pl.prox(h, z, metric=np.full_like(x, d), out=z)
            np.testing.assert_array_equal(z, x)
            s = pl.solve(h, np.sqrt(x), metric=np.full_like(x, d))
            assert (s.status == int(pl.Status.UNSHRUNK)).all()
            np.testing.assert_array_equal(s.z, np.sqrt(x))


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_passes_in_single_precision_count(limit):
    """They spend max_iterations like others, and whatever is left undone the bracket holds the truth."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 30)).astype(np.float32)
    d = (10 ** rng.uniform(-6, 6, size=(40, 30))).astype(np.float32)
    strength = 0.5 * float(np.median(np.linalg.norm(d * x, axis=1)))
    s = pl.solve(pl.GroupLasso(strength), x, metric=d, root_finder=pl.Newton(max_iterations=limit))
    assert (s.iterations <= limit).all()
    assert (s.evaluations[s.radius > 0] == s.iterations[s.radius > 0] + 1).all()
    for g in range(40):
        case = Case("GroupLasso", {"lam": strength}, x[g].astype(np.float64), d[g].astype(np.float64), 1.0)
        truth = oracle.to_float(case.answer.radius)
        assert s.bracket[0][g] <= truth * (1 + 1e-15)
        assert truth * (1 - 1e-15) <= s.bracket[1][g]
    if limit == 1:
        assert (s.status == int(pl.Status.MAX_ITERATIONS)).any()


@dtypes
@pytest.mark.parametrize("shape", [(70, 40), (3, 50, 33), (37, 5, 3), (2, 40, 35, 2)])
def test_certificates_of_strided_groups_are_those_of_rows(shape, dtype):
    """Groups are copied tile by tile: none is lost at the edges."""
    rng = np.random.default_rng(5)
    x, d = rng.normal(size=shape).astype(dtype), np.exp(rng.normal(size=shape)).astype(dtype)
    axes = {2: (0,), 3: (1,), 4: (1, 3)}[len(shape)]
    kept = [a for a in range(len(shape)) if a not in axes]
    rows = [a.transpose(*kept, *axes).reshape(-1, int(np.prod([shape[a] for a in axes]))) for a in (x, d)]
    z = (0.5 * x).astype(dtype)
    near = pl.certify(pl.GroupLasso(3.0, groups=pl.Groups.over(axes)), z, x, 0.7, metric=d)
    plain = pl.certify(pl.GroupLasso(3.0), (0.5 * rows[0]).astype(dtype), rows[0], 0.7, metric=rows[1])
    for name in ("distance", "metric_distance", "stationarity", "gap"):
        np.testing.assert_allclose(getattr(near, name), getattr(plain, name), rtol=1e-12)


def test_functions_without_a_module_still_compile():
    """The announcement of a build looks at every function that anybody compiles."""
    code = """
import numba, numpy as np, proxlab as pl
pl.prox(pl.GroupLasso(1.0), np.ones((2, 3)))
scope = {}
exec("def double(v): return 2 * v", scope)
scope["double"].__module__ = None
print(numba.njit(scope["double"])(21))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.strip() == "42"


def test_what_is_not_marked_rounds_as_it_is_written():
    """Numba gives what says nothing the options of whoever calls it first in the process."""
    from proxlab.backends.compiling import made

    def product(a, b, c):
        return a * b + c

    exact = made(product, False)

    def total(a, b, c):
        return exact(a, b, c) * b + c

    loose = made(total, True)
    loose.compile("float64(float64, float64, float64)")
    codes = [next(iter(f.inspect_llvm().values())) for f in (exact, loose)]
    assert ["contract" in code for code in codes] == [False, True]


def test_a_million_rows():
    """Sums down a column are as good as along a row; the truth is Newton's method on rounded exact sums."""
    rng = np.random.default_rng(3)
    x, d = rng.normal(size=(1_000_000, 2)) + 2 * rng.random((1_000_000, 2)), rng.uniform(0.5, 2, 2_000_000)
    d = d.reshape(x.shape)
    lam = 0.99 * float(np.linalg.norm((d * x)[:, 0]))
    s = pl.solve(pl.GroupLasso(lam, groups=pl.Groups.over(0)), x, metric=d)
    b, r = (d * x)[:, 0], float(s.radius[0])
    for _ in range(3):
        u = b / (d[:, 0] * r + lam)
        square, slope = math.fsum(u * u), math.fsum(u * u * d[:, 0] / (d[:, 0] * r + lam))
        r += square * (math.sqrt(square) - 1) / slope
    assert abs(s.radius[0] - r) <= 1e-13 * r
