"""Finite input has its finite answer at any magnitude: no product leaves the range before its quotient."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.backends.decimal_rows import solve_group
from proxlab.penalties.base import Piece, RadialPenalty
from tests import exact, oracle, tables

RANGE = {np.float64: (-1040, 1000), np.float32: (-140, 120)}
PENALTIES = [
    "L1",
    "GroupLasso",
    "GroupElasticNet",
    "SparseGroupLasso",
    "GroupMCP",
    "GroupSCAD",
    "GroupCapped",
    "GroupL0",
    "GroupLinf",
]
seeds = st.integers(0, 2**32 - 1)


def two_to(exponent):
    return math.ldexp(1.0, int(exponent))


def split(rng, total, parts, low=-1030, high=1010):
    """Exponents in the range that add up to ``total``."""
    for _ in range(1000):
        own = rng.integers(low, high, size=parts - 1)
        last = total - int(own.sum())
        if low <= last <= high:
            return [int(e) for e in own] + [last]
    raise AssertionError(total)


def problem(rng, name, dtype=np.float64, spread=2):
    """A group in units of ``2^ex`` and ``2^ed``, and a strength that neither erases nor spares it."""
    low, high = RANGE[dtype]
    n = int(rng.integers(1, 5))
    ex, ed = (int(rng.integers(low + 40, high - 40)) for _ in range(2))
    moves = rng.integers(-spread, spread + 1, size=n) if spread else np.zeros(n, int)
    moves = np.clip(moves, low + 10 - ed, high - 10 - ed)
    x = np.ldexp(rng.uniform(1, 2, size=n) * rng.choice([-1, 1], size=n), ex)
    d = np.array([math.ldexp(v, ed + int(m)) for v, m in zip(rng.uniform(1, 2, size=n), moves, strict=True)])
    x, d = x.astype(dtype), d.astype(dtype)
    # Exponents of strength, step and weight that add up to that of b, of which a share is taken.
    top = ex + ed + int(moves.max())
    weighted = name != "L1"
    goal = top if name != "GroupL0" else top + ex
    if not -2900 < goal < 2900:
        return None
    parts = split(rng, goal, 3 if weighted else 2, -1000, 1000)
    a, b, c = (*parts, 0)[:3]
    factor = float(rng.uniform(0.1, 0.6))
    lam, step, weight = factor * two_to(a), two_to(b) * float(rng.uniform(1, 2)), two_to(c)
    parameters = {"lam": lam}
    if name == "SparseGroupLasso":
        # The weight is of the group part only.
        parameters = {"lam1": 0.3 * two_to(min(max(goal - b, -1040), 1000)), "lam2": lam}
        if not -1000 < goal - b < 1000:
            return None
    if name in ("GroupElasticNet", "GroupMCP", "GroupSCAD", "GroupCapped"):
        shape = a - ex
        if not -1000 < shape < 1000:
            return None
        length = two_to(ex) * float(rng.uniform(0.3, 3))
        parameters |= {
            "GroupElasticNet": {"kappa": float(rng.uniform(0.1, 1)) * two_to(shape)},
            "GroupMCP": {"gamma": float(rng.uniform(1, 4)) * two_to(-shape)},
            "GroupSCAD": {"a": 2.0 + two_to(rng.integers(-3, 3))},
            "GroupCapped": {"theta": length},
        }[name]
    return exact.Case(name, parameters, x.astype(float), d.astype(float), step, weight)


def arrangements(case, dtype):
    """The penalty's prox of one group, in every layout and backend."""
    x, d = np.array(case.x, dtype), np.array(case.d, dtype)
    if case.name == "L1":
        h = pl.L1(**case.parameters)
        for backend in ("numba", "array_api"):
            yield backend, pl.prox(h, x, case.step, metric=d, backend=backend)
        return
    make = getattr(pl, case.name)
    w = case.weight
    for backend in ("numba", "array_api"):
        h = make(**case.parameters, weights=[w])
        yield backend, pl.prox(h, x[None], case.step, metric=d[None], backend=backend)[0]
        h = make(**case.parameters, weights=[w, w], groups=pl.Groups.over(0))
        two = [np.stack([a, a], axis=1) for a in (x, d)]
        yield backend + " columns", pl.prox(h, two[0], case.step, metric=two[1], backend=backend)[:, 1]


def check(case, dtype):
    with case.digits():
        truth = exact.solve(case)
        if not truth.lead > 1e-6 * abs(truth.objective):
            return False  # a tie, nearly
        length = max(oracle.to_float(oracle.norm(truth.z)), 5e-324)
        sensitive = max(1.0, exact.sensitivity(case, truth) / length)
        right = np.array([oracle.to_float(v) for v in truth.z])
    if not sensitive < 1e4:
        return False
    unit, tiny = (2.0**-53, 5e-324) if dtype is np.float64 else (2.0**-24, 1.5e-45)
    for where, z in arrangements(case, dtype):
        off = np.abs(z.astype(float) - right)
        allowed = 64 * unit * sensitive * np.abs(right) + 2 * tiny + 2.0**-1000 * length
        if case.name in ("L1", "SparseGroupLasso"):
            allowed = allowed + 8 * unit * sensitive * np.abs(case.x)
        assert (off <= allowed).all(), (case, where, z, right)
    return True


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(seed=seeds)
def test_prox_at_any_magnitude(name, dtype, seed):
    case = problem(np.random.default_rng(seed), name, dtype)
    if case is not None:
        check(case, dtype)


@pytest.mark.parametrize("name", ["GroupLasso", "GroupElasticNet", "GroupLinf", "GroupMCP"])
@given(seed=seeds)
def test_prox_where_the_metric_spreads_over_the_whole_range(name, seed):
    case = problem(np.random.default_rng(seed), name, spread=2000)
    if case is not None:
        check(case, np.float64)


def spread_problem(rng, name):
    """A group whose elements spread over up to 600 decades, under a penalty of the size of the largest."""
    n = int(rng.integers(2, 5))
    exponents = rng.integers(-1030, 1000, size=n)
    x = np.ldexp(rng.uniform(1, 2, size=n) * rng.choice([-1, 1], size=n), exponents)
    top, share = two_to(exponents.max()), float(rng.uniform(0.1, 0.6))
    own = two_to(rng.integers(-1030, exponents.max()))
    parameters = {
        "L1": {"lam": own},
        "GroupElasticNet": {"lam": share * top, "kappa": float(rng.uniform(0.1, 1))},
        "SparseGroupLasso": {"lam1": float(rng.choice([0.0, own])), "lam2": share * top},
        "GroupMCP": {"lam": share * top, "gamma": float(rng.uniform(1.1, 4))},
        "GroupSCAD": {"lam": share * top, "a": float(rng.uniform(2.5, 5))},
        "GroupCapped": {"lam": share * top, "theta": top * float(rng.uniform(0.3, 3))},
    }.get(name, {"lam": share * top})
    return exact.Case(name, parameters, x, np.ones(n), top if name == "GroupL0" else 1.0, 1.0)


@pytest.mark.parametrize("name", PENALTIES)
@given(seed=seeds)
def test_elements_far_below_the_largest(name, seed):
    case = spread_problem(np.random.default_rng(seed), name)
    with case.digits():
        truth = exact.solve(case)
        if not truth.lead > 1e-6 * abs(truth.objective):
            return
        sensitive = max(
            1.0, exact.sensitivity(case, truth) / max(oracle.to_float(oracle.norm(truth.z)), 5e-324)
        )
        right = np.array([oracle.to_float(v) for v in truth.z])
        x = np.array(case.x)
        if sensitive < 1e4:
            for where, z in arrangements(case, np.float64):
                allowed = 64 * 2.0**-53 * sensitive * np.abs(right) + 1e-323
                if case.name in ("L1", "SparseGroupLasso"):
                    allowed = allowed + 8 * 2.0**-53 * sensitive * np.abs(x)
                assert (np.abs(z - right) <= allowed).all(), (case, where, z, right)
        shape = x.shape if name == "L1" else (1, len(x))
        h, x = getattr(pl, name)(**case.parameters), x.reshape(shape)
        for backend in ("numba", "array_api"):
            c = pl.certify(h, 0 * x, x, case.step, backend=backend)
            for low, high, v in zip(c.lower.ravel(), c.upper.ravel(), truth.z, strict=True):
                assert arb(low) <= abs(v).upper(), (case, backend, low, v)
                assert arb(high) >= abs(v).lower(), (case, backend, high, v)


# ----------------------------------------------------------------------------------------------------------
# Certificates and brackets: nothing below the truth.


def candidates(rng, case, z):
    """Points whose squares vanish, or whose elements do, among milder ones."""
    x = np.array(case.x)
    tiny = z.copy()
    tiny[rng.integers(len(z))] = rng.choice([5e-324, -5e-324, 1e-310, 1e-163, -1e-200])
    only = np.zeros_like(z)
    only[rng.integers(len(z))] = rng.choice([5e-324, -1e-320, 1e-163, -1e-180])
    return [z, 0 * z, tiny, only, x, z * (1 + 1e-9 * rng.normal(size=len(z))), np.ldexp(z, -40)]


def check_bounds(case, h, certify, z, truth):
    c = certify(h, z)
    total = c.total
    off = [a - b for a, b in zip(exact.balls(z), truth.z, strict=True)]
    distance = oracle.norm(off)
    weighted = sum((v * a**2 for v, a in zip(exact.balls(case.d), off, strict=True)), arb(0)).sqrt()
    about = (case, z, total)
    assert arb(total.distance) >= distance.lower(), about
    assert arb(total.metric_distance) >= weighted.lower(), about
    assert arb(total.stationarity) >= exact.stationarity(case, z).lower(), about
    negative = case.nonnegative and min(z) < 0
    assert (
        math.isinf(total.gap) if negative else arb(total.gap) >= (case.objective(z) - truth.objective).lower()
    )
    if case.name != "L1":
        radius = max((abs(v) for v in truth.z), key=oracle.to_float) if case.name == "GroupLinf" else None
        radius = oracle.norm(truth.z) if radius is None else radius
        low, high = (float(np.ravel(b)[0]) for b in c.bracket)
        assert arb(low) <= radius.upper(), about
        assert arb(high) >= radius.lower(), about


@pytest.mark.parametrize("name", PENALTIES)
@given(seed=seeds)
def test_no_certificate_below_the_truth(name, seed):
    rng = np.random.default_rng(seed)
    case = problem(rng, name)
    if case is None:
        return
    with case.digits():
        truth = exact.solve(case)
        if not truth.lead > 1e-6 * abs(truth.objective):
            return
        z = np.array([oracle.to_float(v) for v in truth.z])
        x, d = np.array(case.x), np.array(case.d)
        h = (
            pl.L1(**case.parameters)
            if name == "L1"
            else getattr(pl, name)(**case.parameters, weights=[case.weight])
        )
        for candidate in candidates(rng, case, z):
            for backend in ("numba", "array_api"):

                def certify(h, z, backend=backend):
                    shape = z.shape if name == "L1" else (1, len(z))
                    data = (a.reshape(shape) for a in (z, x, d))
                    return pl.certify(
                        h, next(data), next(data), case.step, metric=next(data), backend=backend
                    )

                check_bounds(case, h, certify, candidate, truth)


@pytest.mark.parametrize("name", [n for n in PENALTIES[1:] if n != "GroupL0"])
@given(seed=seeds)
def test_brackets_hold_after_any_number_of_iterations(name, seed):
    rng = np.random.default_rng(seed)
    case = problem(rng, name, spread=int(rng.integers(2, 30)))
    if case is None:
        return
    x, d = np.array(case.x)[None], np.array(case.d)[None]
    h = getattr(pl, name)(**case.parameters, weights=[case.weight])
    with case.digits():
        truth = exact.solve(case)
        if not truth.lead > 1e-6 * abs(truth.objective):
            return
        radius = max((abs(v) for v in truth.z), key=oracle.to_float) if name == "GroupLinf" else None
        radius = oracle.norm(truth.z) if radius is None else radius
        right = np.array([oracle.to_float(v) for v in truth.z])
        for finder in (pl.Newton, pl.Bisection, pl.ITP):
            for iterations in (1, 2, 5, 100):
                for backend in ("numba", "array_api"):
                    root_finder = finder(max_iterations=iterations)
                    s = pl.solve(h, x, case.step, metric=d, root_finder=root_finder, backend=backend)
                    low, high = (float(b[0]) for b in s.bracket)
                    about = (case, root_finder, backend, s)
                    assert arb(low) <= radius.upper(), about
                    assert arb(high) >= radius.lower(), about
                    if s.ok:
                        off = np.linalg.norm((s.z[0] - right) / np.abs(x[0]).max())
                        assert off <= 1e-6, about


# ----------------------------------------------------------------------------------------------------------
# Values, distances to the subdifferential, envelopes.


def relative(found, right):
    """How far a number is from a ball, relative to it; 0 where both are beyond the range or below it."""
    right = oracle.to_float(right)
    if abs(right) < 1e-307:
        return 0.0 if abs(found) < 2e-307 else math.inf
    return abs(found / right - 1)


def overflows(call, right, name):
    """Whether the answer is beyond the range, and said to be."""
    if right.upper() < arb(2) ** 1023:
        return False
    if right.lower() > arb(2) ** 1024:
        with pytest.raises(OverflowError, match=f"^{name}: .* beyond the range of float64"):
            call()
    return True


@pytest.mark.parametrize("name", PENALTIES[1:])
@given(seed=seeds)
def test_values_at_any_magnitude(name, seed):
    rng = np.random.default_rng(seed)
    case = problem(rng, name)
    if case is None:
        return
    x, d = np.array(case.x)[None], np.array(case.d)[None]
    h = getattr(pl, name)(**case.parameters, weights=[case.weight])
    # With D/step = I the gradient at z is z - x, and z is far from x.
    z = 2.0 ** rng.integers(-3, 3) * x
    own = exact.Case(name, case.parameters, case.x, np.ones_like(case.x), 1.0, case.weight)
    with case.digits():
        value = oracle.value(name, case.parameters, case.x, case.weight)
        least = exact.solve(case).objective
        distance = exact.stationarity(own, z[0])
        scale = oracle.norm(exact.balls((z - x)[0]))
        for call, right, argument, slack in (
            (lambda: h.value(x), value, "z", 1e-13),
            (lambda: pl.envelope(h, x, case.step, metric=d), least, "x", 1e-12),
            (lambda: h.subdiff_distance(z - x, z), distance, "grad", 1e-12),
        ):
            if argument == "grad" and not right.lower() > scale / 1000:
                continue
            if not overflows(call, right, argument):
                found = float(call()[0])
                assert relative(found, right) < slack, (case, argument, found, right)


@pytest.mark.parametrize("name", PENALTIES[1:])
@given(seed=seeds)
def test_the_vanishing_strength_at_any_magnitude(name, seed):
    case = problem(np.random.default_rng(seed), name)
    if case is None:
        return
    x, d = np.array(case.x)[None], np.array(case.d)[None]
    h = getattr(pl, name)(**case.parameters, weights=[case.weight])
    (strength,) = pl.optim.vanishing_strength(h, x, case.step, metric=d)
    if not 1e-290 < strength < 1e290:
        return
    for factor, zero in ((1 - 1e-9, False), (1 + 1e-9, True)):
        z = pl.prox(h.with_strength(strength * factor), x, case.step, metric=d)
        assert bool((z == 0).all()) is zero, (case, strength, factor)


@pytest.mark.parametrize("scale", [-700, -400, 300, 600])
@pytest.mark.parametrize("name", ["GroupLasso", "GroupMCP", "GroupL0"])
def test_certificates_where_only_some_sums_are_in_range(name, scale):
    """``‖D x‖²`` leaves the range of the compiled sums, while ``‖x‖²_D`` and the step do not."""
    rng = np.random.default_rng(abs(scale))
    for _ in range(10):
        n = 3
        x = np.ldexp(rng.uniform(1, 2, n), scale // 2)
        d = np.ldexp(rng.uniform(1, 2, n), -scale + int(rng.integers(-9, 9)))
        b, step = float(np.linalg.norm(d * x)), float(rng.uniform(0.5, 2))
        parameters = {"lam": float(rng.uniform(0.2, 0.8)) * b / step}
        if name == "GroupMCP":
            parameters["gamma"] = float(rng.uniform(0.5, 2)) * float(np.linalg.norm(x)) / parameters["lam"]
        if name == "GroupL0":
            parameters["lam"] *= float(np.linalg.norm(x))
        case = exact.Case(name, parameters, x, d, step)

        def certify(h, z, case=case):
            x, d = np.array(case.x)[None], np.array(case.d)[None]
            return pl.certify(h, z[None], x, case.step, metric=d)

        with case.digits():
            truth = exact.solve(case)
            z = np.array([oracle.to_float(v) for v in truth.z])
            h = getattr(pl, name)(**parameters)
            for candidate in (z, 0 * z, x, 0.5 * x, z * (1 + 1e-10)):
                check_bounds(case, h, certify, candidate, truth)


def test_a_flat_part_that_begins_far_below_the_group():
    """The curvature is beyond the cap of coefficients, and the price of the flat part is not."""
    x, d = np.array([[-1.2e214, -1.9e214, 2.1e214]]), np.array([[5e-94, 2e-94, 9e-95]])
    h = pl.GroupSCAD(1.0, 4.0, weights=[2e25])
    (strength,) = pl.optim.vanishing_strength(h, x, 6e153, metric=d)
    for backend in ("numba", "array_api"):
        for factor, zero in ((1 - 1e-9, False), (1 + 1e-9, True)):
            z = pl.prox(h.with_strength(strength * factor), x, 6e153, metric=d, backend=backend)
            assert bool((z == 0).all()) is zero


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("GroupMCP", {"lam": 1e200, "gamma": 1e200}),
        ("GroupMCP", {"lam": 1e-5, "gamma": 1.7e308}),
        ("GroupSCAD", {"lam": 1e200, "a": 1e200}),
        ("GroupSCAD", {"lam": 1.9, "a": 1e308}),
        ("GroupCapped", {"lam": 1e300, "theta": 1e300}),
    ],
)
def test_flat_parts_beyond_all_numbers(name, parameters):
    for scale in (1e-5, 1.0, 1e180, 3e200):
        step = scale / parameters["lam"] * 0.5
        if not 0 < step < math.inf:
            continue
        case = exact.Case(name, parameters, [3.0 * scale, 4.0 * scale], [1.0, 2.0], step)
        check(case, np.float64)


def test_a_curvature_beyond_all_numbers():
    with pytest.raises(ValueError, match=r"^gamma: 1/gamma must be within the range"):
        pl.GroupMCP(1.0, 1e-310)


# ----------------------------------------------------------------------------------------------------------
# Groups whose elements, or whose metric, spread over the whole range, in opposite directions: no unit of x
# and d keeps every product.


def far_apart(rng, name):
    """A group that spreads over up to 630 decades, and a strength about the size of one of the products."""
    n = int(rng.integers(2, 5))
    ex = rng.integers(-1060, 1015, size=n)
    kind = rng.integers(3)
    if kind == 0:  # all products count
        ed = np.clip(rng.integers(-300, 300) - ex + rng.integers(-3, 4, size=n), -1060, 1015)
    else:
        ed = rng.integers(-1060, 1015, size=n)
    if kind == 2:  # the metric alone
        ex = rng.integers(-50, 50) + rng.integers(-3, 3, size=n)
    x = np.ldexp(rng.uniform(1, 2, size=n) * rng.choice([-1, 1], size=n), ex)
    d = np.ldexp(rng.uniform(1, 2, size=n), ed)
    if rng.random() < 0.2:
        x[rng.integers(n)] = 0
    if not x.any():
        return None
    products = [a + b for a, b, v in zip(np.frexp(x)[1], np.frexp(d)[1], x, strict=True) if v]
    goal = int(rng.choice(products) if rng.random() < 0.4 else max(products))
    reach = int(np.frexp(x)[1].max())
    goal += reach if name == "GroupL0" else 0
    if abs(goal) > 1900:
        return None
    a, b, c = (*split(rng, goal, 2 if name == "L1" else 3, -1000, 1000), 0)[:3]
    lam, step, weight = (
        float(rng.uniform(0.1, 1.2)) * two_to(a),
        two_to(b) * float(rng.uniform(1, 2)),
        two_to(c),
    )
    parameters = {"lam": lam}
    if name == "SparseGroupLasso":
        own = 0.3 * two_to(min(max(goal - b, -1000), 1000))
        parameters = {"lam1": own if rng.random() < 0.7 else 0.0, "lam2": lam}
    if name in ("GroupElasticNet", "GroupMCP", "GroupSCAD", "GroupCapped"):
        length = int(rng.choice([reach, int(rng.integers(-1000, 1000))]))
        if not (-1000 < a - length < 1000 and -1000 < length < 1000):
            return None
        parameters |= {
            "GroupElasticNet": {"kappa": float(rng.uniform(0.1, 1)) * two_to(a - length)},
            "GroupMCP": {"gamma": float(rng.uniform(1, 4)) * two_to(length - a)},
            "GroupSCAD": {"a": 2.0 + two_to(rng.integers(-3, 3))},
            "GroupCapped": {"theta": two_to(length) * float(rng.uniform(0.3, 3))},
        }[name]
    return exact.Case(name, parameters, x, d, step, weight)


def check_far_apart(case, z, right, sensitive, about):
    """Each element is right, but for those next to nothing beside their group."""
    length = max(np.abs(right).max(), 5e-324)
    allowed = 64 * 2.0**-53 * sensitive * np.abs(right) + 1e-323 + 1e-50 * length
    if case.name in ("L1", "SparseGroupLasso"):
        allowed = allowed + 8 * 2.0**-53 * sensitive * np.abs(np.array(case.x))
    assert (np.abs(z - right) <= allowed).all(), (case, about, z, right)


def truth_of(case):
    """The truth, rounded, and its condition; None in a tie, nearly, or where it is ill conditioned."""
    truth = exact.solve(case)
    if not truth.lead > 1e-6 * abs(truth.objective):
        return None
    right = np.array([oracle.to_float(v) for v in truth.z])
    length = max(oracle.to_float(oracle.norm(truth.z)), 5e-324)
    sensitive = max(1.0, exact.sensitivity(case, truth) / length)
    return (truth, right, sensitive) if sensitive < 1e4 else None


@pytest.mark.parametrize("name", PENALTIES)
@given(seed=seeds)
def test_groups_that_spread_over_the_whole_range(name, seed):
    """prox, brackets and certificates, the same in rows, columns, ragged groups and the array form."""
    rng = np.random.default_rng(seed)
    case = far_apart(rng, name)
    if case is None:
        return
    with case.digits():
        found = truth_of(case)
        if found is None:
            return
        truth, right, sensitive = found
        for where, z in arrangements(case, np.float64):
            check_far_apart(case, z, right, sensitive, where)
        x, d = np.array(case.x), np.array(case.d)
        if name == "L1":
            h, shape = pl.L1(**case.parameters), x.shape
        else:
            h, shape = getattr(pl, name)(**case.parameters, weights=[case.weight]), (1, len(x))
            ragged = getattr(pl, name)(
                **case.parameters, weights=[case.weight] * 2, groups=pl.Groups.csr([0, len(x), len(x) + 1])
            )
            point, metric = np.append(x, 1.0), np.append(d, 1.0)
            radius = [abs(v) for v in truth.z]
            radius = max(radius, key=oracle.to_float) if name == "GroupLinf" else oracle.norm(truth.z)
            for backend in ("numba", "array_api"):
                z = pl.prox(ragged, point, case.step, metric=metric, backend=backend)
                check_far_apart(case, z[:-1], right, sensitive, "ragged")
                s = pl.solve(h, x[None], case.step, metric=d[None], backend=backend)
                low, high = (float(b[0]) for b in s.bracket)
                assert arb(low) <= radius.upper(), (case, backend, s)
                assert arb(high) >= radius.lower(), (case, backend, s)
                assert low <= s.radius[0] <= high
        point, metric = x.reshape(shape), d.reshape(shape)
        for candidate in candidates(rng, case, right)[:: int(rng.integers(1, 4))]:
            for backend in ("numba", "array_api"):

                def certify(h, z, backend=backend):
                    z = z.reshape(shape)
                    return pl.certify(h, z, point, case.step, metric=metric, backend=backend)

                check_bounds(case, h, certify, candidate, truth)


@given(seed=seeds)
def test_negative_elements_of_groups_that_spread_over_the_whole_range(seed):
    """Where negative results are not admitted, the prox is that of the group without negative elements."""
    case = far_apart(np.random.default_rng(seed), "GroupLasso")
    if case is None or not (np.array(case.x) > 0).any():
        return
    x, d = np.array(case.x), np.array(case.d)
    case = replace(case, x=np.maximum(x, 0.0))
    with case.digits():
        found = truth_of(case)
    if found is None:
        return
    h = pl.GroupLasso(**case.parameters, nonnegative=True, weights=[case.weight])
    for backend in ("numba", "array_api"):
        z = pl.prox(h, x[None], case.step, metric=d[None], backend=backend)[0]
        check_far_apart(case, z, found[1], found[2], backend)


@dataclass(frozen=True, eq=False)
class Own(RadialPenalty):
    """A penalty of one's own: any table of pieces."""

    rows: tuple = ()

    @property
    def pieces(self):
        return tuple(Piece(*row) for row in self.rows)


@given(table=tables.tables(), seed=seeds)
def test_own_tables_of_groups_that_spread_over_the_whole_range(table, seed):
    rng = np.random.default_rng(seed)
    case = far_apart(rng, "GroupLasso")
    if case is None:
        return
    x, d, lengths = np.array(case.x), np.array(case.d), np.frexp(case.x)[1]
    length = int(rng.choice(lengths)) + int(rng.integers(-2, 3))
    slope = math.log2(case.parameters["lam"])
    if max(abs(v) for v in (length, slope, slope - length, slope + length)) > 900:
        return
    table = tables.scaled(table, two_to(length), case.parameters["lam"])
    if not all(1e-280 < abs(v) < 1e280 for row in table for v in row if v):
        return
    group = tables.Group(table, x, d, case.step, case.weight)
    with case.digits():
        truth = tables.solve(group)
        if not truth.lead > 1e-6 * abs(truth.objective):
            return
        right, radius = np.array([oracle.to_float(v) for v in truth.z]), oracle.norm(truth.z)
        h = Own(rows=table, weights=[case.weight])
        for backend in ("numba", "array_api"):
            s = pl.solve(h, x[None], case.step, metric=d[None], backend=backend)
            low, high = (float(b[0]) for b in s.bracket)
            about = (group, backend, s, right)
            assert arb(low) <= radius.upper(), about
            assert arb(high) >= radius.lower(), about
            assert np.abs(s.z[0] - right).max() <= 1e-6 * np.abs(right).max(), about
            for candidate in (right, 0 * x, x):
                c = pl.certify(h, candidate[None], x[None], case.step, metric=d[None], backend=backend)
                low, high = (float(b[0]) for b in c.bracket)
                off = oracle.norm([a - b for a, b in zip(exact.balls(candidate), truth.z, strict=True)])
                assert arb(low) <= radius.upper(), (about, c)
                assert arb(high) >= radius.lower(), (about, c)
                assert arb(c.total.distance) >= off.lower(), (about, c)
                assert arb(c.total.gap) >= (group.objective(candidate) - truth.objective).lower(), (about, c)


def test_a_kink_of_a_group_that_spreads_is_enclosed():
    """The slope rises from 0.5 to 3 at 2, where the minimiser stays: the table may be rounded."""
    h = Own(rows=((0.0, 0.0, 0.5, 0.0), (2.0, 1.0, 3.0, 0.0)))
    found = solve_group(h, [4.0, -3.0], [1.0, 1e-300], 1.0, 1.0)
    assert abs(math.hypot(*found.z) - 2) < 1e-14
    assert 2 * (1 - 1e-14) < found.lower < 2 < found.upper < 2 * (1 + 1e-14)


@pytest.mark.parametrize("backend", ["numba", "array_api"])
def test_the_other_groups_are_as_ever_and_in_place(backend):
    """One group in a thousand spreads too far: in place, in columns, with free elements."""
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(1000, 2)), rng.uniform(0.5, 2, size=(1000, 2))
    plain = pl.prox(pl.GroupLasso(1.2), x, metric=d)
    x[500], d[500] = (1e-200, 1e200), (1e300, 1e-100)
    h = pl.GroupLasso(1.2, weights=np.where(np.arange(1000) == 500, 1e100, 1.0))
    point = np.append(x.ravel(), 7.0)
    metric = np.append(d.ravel(), 1.0)
    ragged = replace(h, groups=pl.Groups.csr(np.arange(0, 2001, 2)))
    across = replace(h, groups=pl.Groups.over(0))
    free = pl.prox(ragged, point, metric=metric, backend=backend)
    assert free[-1] == 7.0
    columns = pl.prox(across, x.T.copy(), metric=d.T.copy(), backend=backend).T
    z = x.copy()
    assert pl.prox(h, z, metric=d, out=z, backend=backend) is z
    for found in (z, free[:-1].reshape(-1, 2), columns):
        np.testing.assert_allclose(found[500], [3.36675042e-201, 5.07556723e-201], rtol=1e-8)
        rest = np.arange(1000) != 500
        np.testing.assert_allclose(found[rest], plain[rest], rtol=1e-12)
    s = pl.solve(h, x, metric=d, backend=backend)
    assert s.status[500] == pl.Status.CONVERGED
    np.testing.assert_array_equal(s.z, z)


@pytest.mark.parametrize("library", ["array_api_strict", pytest.param("torch", marks=pytest.mark.torch)])
def test_groups_that_spread_over_the_whole_range_in_other_libraries(library):
    xp = pytest.importorskip(library)
    x, d = (
        xp.asarray([[1e-200, 1e200], [3.0, 4.0]], dtype=xp.float64),
        xp.asarray([[1e300, 1e-100], [1.0, 1.0]], dtype=xp.float64),
    )
    h = pl.GroupLasso(1.0, weights=[1.2e100, 1.0])
    for backend in ("array_api", None):
        z = pl.solve(h, x, metric=d, backend=backend).z
        assert type(z) is type(x)
        found = [[float(z[i, j]) for j in range(2)] for i in range(2)]
        np.testing.assert_allclose(found, [[3.36675042e-201, 5.07556723e-201], [2.4, 3.2]], rtol=1e-8)


@pytest.mark.parametrize("backend", ["numba", "array_api"])
def test_the_metric_of_an_element_that_is_zero_does_not_matter(backend):
    x, d = np.array([[0.0, 100.0]]), np.array([[1.7e308, 1.0]])
    for scale in (1.0, 1e-200, 1e200):
        for h in (pl.GroupLasso(scale), pl.GroupMCP(scale, 2.0), pl.GroupLinf(scale)):
            np.testing.assert_array_equal(
                pl.prox(h, scale * x, metric=d, backend=backend), pl.prox(h, scale * x, backend=backend)
            )
    # The metric of the other element is at the end of the range, and this one's next to nothing beside it.
    x, d = np.array([[3.0, 0.0]]), np.array([[1e300, 1e-300]])
    for scale in (1.0, 1e-200, 1e7):
        for h in (pl.GroupLasso(1e300), pl.GroupMCP(1e300, 2.0), pl.GroupLinf(1e300)):
            s = pl.solve(h, scale * x, scale, metric=d, backend=backend)
            z = pl.prox(h, scale * x[:, :1], scale, metric=d[:, :1], backend=backend)
            np.testing.assert_array_equal(s.z, [[z[0, 0], 0.0]])
            assert 0 < z[0, 0] < 3 * scale
            assert s.status[0] == pl.Status.CONVERGED
    flat = pl.prox(
        pl.GroupMCP(3e-37, 6e-43), np.array([[3e155, 0.0]]), 1e268, metric=np.array([[1e76, 1e-312]])
    )
    np.testing.assert_array_equal(flat, [[3e155, 0.0]])


@pytest.mark.parametrize(
    ("backend", "finder"),
    [
        ("numba", pl.Newton()),
        ("array_api", pl.Newton()),
        ("array_api", pl.Halley()),
        ("array_api", pl.ClassicNewton()),
        ("array_api", pl.Brent()),
    ],
)
@given(seed=seeds)
def test_the_root_of_the_maximum_norm_beyond_a_kink(backend, finder, seed):
    """Next to a kink Newton's step is less than rounding, and the root may be far away."""
    rng = np.random.default_rng(seed)
    x, d = np.full((30, 3), 10.0), 10.0 ** rng.uniform(0, 25, size=(30, 3))
    x[:, 0], x[:, 1], d[:, 2] = rng.uniform(0.5, 1.5, 30), rng.uniform(0.5, 5, 30), 1.0
    s = pl.solve(pl.GroupLinf(4.0), x, metric=d, backend=backend, root_finder=finder)
    np.testing.assert_allclose(s.radius, 6.0, rtol=1e-12)
    assert s.ok


@pytest.mark.parametrize("name", [n for n in PENALTIES if n != "L1"])
@given(seed=seeds)
def test_the_vanishing_strength_and_the_envelope_of_what_spreads(name, seed):
    case = far_apart(np.random.default_rng(seed), name)
    if case is None:
        return
    x, d = np.array(case.x)[None], np.array(case.d)[None]
    h = getattr(pl, name)(**case.parameters, weights=[case.weight])
    with case.digits():
        truth = exact.solve(case)
        in_range = arb(2) ** -1000 < truth.objective and truth.objective < arb(2) ** 1023
        if in_range and truth.lead > 1e-6 * abs(truth.objective) and name != "GroupLinf":
            found = float(pl.envelope(h, x, case.step, metric=d)[0])
            assert relative(found, truth.objective) < 1e-11, (case, found)
        (strength,) = pl.optim.vanishing_strength(h, x, case.step, metric=d)
        if not 1e-250 < strength < 1e250:
            return
        for factor, zero in ((1 - 1e-9, False), (1 + 1e-9, True)):
            own = h.with_strength(strength * factor)
            parameters = {key: getattr(own, key) for key in case.parameters}
            shifted = exact.Case(name, parameters, case.x, case.d, case.step, case.weight)
            radius = oracle.norm(exact.solve(shifted).z)
            assert bool(radius == 0) is zero, (case, strength, factor)
