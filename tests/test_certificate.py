"""Certificates against the truth: no bound below the true error, no enclosure without the prox in it, ever.

Candidates come from everywhere: the prox rounded, a root finder stopped early, noise, zero, x, the other
side of the threshold, the wrong minimiser. Truth is exact (`tests.exact`) and compared in ball arithmetic.
"""

import math
from dataclasses import dataclass
from itertools import product

import flint
import numpy as np
import pytest
from flint import arb

import proxlab as pl
from tests import exact, oracle
from tests.table import BACKENDS

# Strengths and shapes whose products, quotients and differences all round.
PENALTIES = {
    "L1": [{"lam": 0.3}, {"lam": 1e-7}],
    "L1-nonnegative": [{"lam": 0.3, "nonnegative": True}],
    "GroupLasso": [{"lam": 0.7}, {"lam": 3e-9}],
    "GroupLasso-nonnegative": [{"lam": 0.7, "nonnegative": True}],
    "GroupElasticNet": [
        {"lam": 0.4, "kappa": 0.83},
        {"lam": 1e-3, "kappa": 1e5},
        {"lam": 2.0, "kappa": 1e-6},
    ],
    "SparseGroupLasso": [
        {"lam1": 0.2, "lam2": 0.53},
        {"lam1": 1e-4, "lam2": 0.7},
        {"lam1": 0.7, "lam2": 1e-3},
    ],
    "GroupMCP": [{"lam": 0.8, "gamma": 1.3}, {"lam": 1e-3, "gamma": 333.3}, {"lam": 49.0, "gamma": 0.011}],
    "GroupSCAD": [{"lam": 0.7, "a": 2.4}, {"lam": 0.013, "a": 2.0001}, {"lam": 3.1, "a": 37.3}],
    "GroupCapped": [{"lam": 0.9, "theta": 0.7}, {"lam": 0.01, "theta": 13.0}],
    "GroupL0": [{"lam": 0.4}],
    "GroupLinf": [{"lam": 0.8}, {"lam": 1e-5}],
}
CONVEX = [name for name in PENALTIES if name.partition("-")[0] in oracle.CONVEX]
DTYPES = [np.float32, np.float64]
BOUNDS = ("distance", "metric_distance", "stationarity", "gap")


@pytest.fixture(autouse=True)
def digits():
    with flint.ctx.workprec(400):
        yield


# ----------------------------------------------------------------------------------------------------------
# Problems and candidates


@dataclass
class Batch:
    """Many groups of one size as the rows of a matrix, each with its own metric, step and weight."""

    name: str
    parameters: dict
    x: np.ndarray
    d: np.ndarray
    step: np.ndarray
    weight: np.ndarray

    @property
    def penalty(self):
        if self.name == "L1":
            return pl.L1(**self.parameters)
        return getattr(pl, self.name)(**self.parameters, weights=self.weight)

    @property
    def cases(self):
        rows = zip(self.x, self.d, self.step, self.weight, strict=True)
        return [exact.Case(self.name, self.parameters, x, d, float(s), float(w)) for x, d, s, w in rows]

    def certify(self, z, backend="array_api"):
        return pl.certify(self.penalty, z, self.x, self.step, metric=self.d, backend=backend)

    def prox(self, **options):
        return pl.prox(self.penalty, self.x, self.step, metric=self.d, backend="array_api", **options)


def slope(name, p, r):
    """``p'`` of a radial penalty, in float64."""
    if name == "GroupElasticNet":
        return p["lam"] + p["kappa"] * r
    if name == "GroupMCP":
        return np.maximum(p["lam"] - r / p["gamma"], 0.0)
    if name == "GroupSCAD":
        return np.clip((p["a"] * p["lam"] - r) / (p["a"] - 1), 0.0, p["lam"])
    if name == "GroupCapped":
        return np.where(r < p["theta"], p["lam"], 0.0)
    return np.full_like(r, p.get("lam2", p.get("lam", 0.0)) if name != "GroupL0" else 0.0)


def knot(name, p):
    """A radius at which something happens, if there is one."""
    knots = {"GroupMCP": ("lam", "gamma"), "GroupSCAD": ("lam", "a"), "GroupCapped": ("theta",)}.get(name)
    return math.prod(p[k] for k in knots) if knots else None


def draw(rng, label, n_groups, n, dtype):
    """Random problems: 40 decades in d, all thresholds, radii around the knots."""
    name = label.partition("-")[0]
    parameters = PENALTIES[label][rng.integers(len(PENALTIES[label]))]
    n = 1 if name == "L1" else n
    shape = (n_groups, n)
    widest = {np.float32: 12.0, np.float64: 40.0}[dtype]
    spread = rng.choice([0.0, 0.3, 3.0, widest / 2, widest], size=(n_groups, 1))
    d = 10.0 ** (rng.uniform(-1, 0, size=shape) * spread + rng.uniform(-3, 3, size=(n_groups, 1)))
    x = rng.normal(size=shape) * 10.0 ** (
        rng.uniform(-1, 0, size=shape) * rng.choice([0, 2, 10], size=(n_groups, 1))
    )
    length = np.linalg.norm(x, axis=1, keepdims=True)
    at = knot(name, parameters)
    if at is None:
        x *= 10.0 ** rng.uniform(-6, 6, size=(n_groups, 1))
    else:
        x *= at * 10.0 ** (rng.uniform(-1.5, 1.5, size=(n_groups, 1)) * rng.choice([1, 0.01, 1e-8])) / length
    x[rng.random(shape) < 0.05] = 0.0
    x, d = x.astype(dtype), d.astype(dtype)
    # The step is what decides between zero and not: a fraction of the step at which the group vanishes.
    near = 10.0 ** rng.uniform(-17, -1, size=n_groups)
    fractions = [rng.uniform(0, 1.3, n_groups), 1 - near, 1 + near, 10.0 ** rng.uniform(-14, 0, n_groups)]
    fraction = np.choose(rng.integers(4, size=n_groups), fractions)
    weight = np.ones(n_groups) if name == "L1" else rng.uniform(0.3, 3, n_groups)
    b = x.astype(np.float64) * d
    size = {"GroupLinf": np.abs(b).sum(axis=1), "GroupL0": 0.5 * (b * x).sum(axis=1)}.get(name)
    size = np.linalg.norm(b, axis=1) if size is None else size
    strength = weight * max(
        parameters.get("lam", 0.0), parameters.get("lam1", 0.0) + parameters.get("lam2", 0.0)
    )
    step = np.maximum(fraction, 1e-16) * np.where(size > 0, size, 1.0) / strength
    return Batch(name, parameters, x, d, step, weight)


CANDIDATES = (
    "rounded",
    "near",
    "far",
    "noise",
    "noisy zero",
    "zero",
    "x",
    "short",
    "long",
    "flipped",
    "anything",
)


def candidates(rng, batch, truths):
    """A candidate for each group, of a random kind."""
    dtype = batch.x.dtype
    best = np.array([[oracle.to_float(v) for v in t.z] for t in truths])
    kinds = rng.integers(len(CANDIDATES), size=len(best))
    x, d = batch.x.astype(np.float64), batch.d.astype(np.float64)
    p = batch.parameters
    if p.get("nonnegative"):
        x = np.maximum(x, 0.0)
    if batch.name == "SparseGroupLasso":
        x = np.sign(x) * np.maximum(np.abs(x) - batch.step[:, None] * p["lam1"] / d, 0.0)
    out = np.zeros_like(best)
    for g, kind in enumerate(kinds):
        error = 10.0 ** rng.uniform(-17, 0)
        z, eta = best[g], batch.step[g] * batch.weight[g]
        norm = np.linalg.norm(z)

        def at_radius(r, g=g, eta=eta):
            """What a root finder that stopped at another radius would return."""
            if batch.name == "GroupLinf":
                return np.clip(x[g], -r, r)
            if batch.name == "L1":
                return np.sign(x[g]) * r
            tau = eta * slope(batch.name, p, np.asarray(r))
            return x[g] * (d[g] * r / (d[g] * r + tau)) if r > 0 else 0 * x[g]

        with np.errstate(all="ignore"):
            out[g] = np.nan_to_num(
                {
                    "rounded": lambda z=z: z,
                    "near": lambda r=norm, e=error: at_radius(r * (1 + e * rng.choice([-1, 1]))),
                    "far": lambda r=norm: at_radius(r * rng.uniform(0.3, 2.0)),
                    "noise": lambda z=z, e=error: z * (1 + e * rng.normal(size=z.size)),
                    "noisy zero": lambda g=g, e=error: at_radius(e * np.linalg.norm(x[g])),
                    "zero": lambda z=z: 0 * z,
                    "x": lambda g=g: x[g],
                    "short": lambda z=z: z * rng.uniform(0, 1),
                    "long": lambda z=z: z * rng.uniform(1, 3),
                    "flipped": lambda z=z: -z,
                    "anything": lambda g=g: rng.normal(size=x.shape[1]) * np.abs(x[g]).max(),
                }[CANDIDATES[kind]](),
                nan=0.0,
            )
    return out.astype(dtype)


def exactly(values):
    return [v.mid() for v in values]


@dataclass
class Errors:
    """What is true of one candidate."""

    distance: arb
    metric_distance: arb
    stationarity: arb
    gap: arb


def errors(case, truth, z):
    off = exactly(a - b for a, b in zip(exact.balls(z), truth.z, strict=True))
    weighted = exactly(a * a * b for a, b in zip(off, exact.balls(case.d), strict=True))
    return Errors(
        oracle.norm(off),
        sum(weighted, arb(0)).sqrt(),
        exact.stationarity(case, z),
        (case.objective(z) - truth.objective).mid(),
    )


def covers(bound, true):
    """Whether a float is no less than an exact number, which itself carries 60 digits."""
    if true.is_nan():
        raise AssertionError("no truth")
    return bound == math.inf or bool(arb(float(bound)) >= true.mid() * (1 - arb(10) ** -55))


def violations(batch, z, c, truths):
    """Describe every claim of a certificate that is not true."""
    found = []
    lower, upper = (np.asarray(a, dtype=np.float64) for a in (c.lower, c.upper))
    assert lower.shape == upper.shape == batch.x.shape
    low, high = (np.asarray(a) for a in c.bracket)
    for g, (case, truth) in enumerate(zip(batch.cases, truths, strict=True)):
        with case.digits():
            true = errors(case, truth, z[g])
            for bound in BOUNDS:
                value = float(np.asarray(getattr(c, bound))[g])
                if not covers(value, getattr(true, bound)):
                    found.append((g, bound, value, oracle.to_float(getattr(true, bound).mid())))
            sizes = [abs(v).mid() for v in truth.z]
            tolerance = 1 + arb(10) ** -55
            for i, size in enumerate(sizes):
                if not (arb(lower[g, i]) <= size * tolerance and (size <= arb(upper[g, i]) * tolerance)):
                    found.append(
                        (g, f"enclosure of element {i}", (lower[g, i], upper[g, i]), oracle.to_float(size))
                    )
            radius = oracle.norm(sizes)
            if case.name == "GroupLinf":
                radius = max(sizes, key=oracle.to_float)
            if not (arb(float(low[g])) <= radius * tolerance and radius <= arb(float(high[g])) * tolerance):
                found.append((g, "bracket", (low[g], high[g]), oracle.to_float(radius)))
    return found


def solve_all(batch):
    truths = []
    for case in batch.cases:
        with case.digits():
            truths.append(exact.solve(case))
    return truths


def explain(batch, z, found):
    """A reproducer of the first violation."""
    g = found[0][0]
    return (
        f"{len(found)} violations; the first: {found[0][1:]} in\n"
        f"pl.certify(pl.{batch.name}(**{batch.parameters}, weights=np.array([{batch.weight[g]!r}])), "
        f"np.array([{z[g].tolist()}], '{z.dtype}'), np.array([{batch.x[g].tolist()}], '{z.dtype}'), "
        f"{batch.step[g]!r}, metric=np.array([{batch.d[g].tolist()}], '{z.dtype}'))"
    )


# ----------------------------------------------------------------------------------------------------------
# Containment and tightness


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", PENALTIES)
def test_no_bound_is_below_the_truth(label, dtype, backend):
    rng = np.random.default_rng([1, list(PENALTIES).index(label), np.dtype(dtype).itemsize])
    undecided = total = 0
    for n in (1, 2, 3, 6, 20):
        batch = draw(rng, label, 60 if n < 20 else 20, n, dtype)
        truths = solve_all(batch)
        z = candidates(rng, batch, truths)
        c = batch.certify(z, backend)
        for bound in BOUNDS:
            values = np.asarray(getattr(c, bound))
            assert values.shape == (len(z),)
            assert not np.isnan(values).any()
            assert (values >= 0).all()
        assert np.isfinite(np.asarray(c.distance)).all()
        found = violations(batch, z, c, truths)
        assert not found, explain(batch, z, found)
        undecided += np.count_nonzero(~np.asarray(c.decided))
        total += len(z)
    assert undecided < 0.25 * total  # thresholds within 1e-15 are drawn on purpose


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", PENALTIES)
def test_bounds_are_tight(label, dtype, backend):
    """Median of bound/true ≤ 2 and 99th percentile ≤ 10 where the error exceeds 100 units of rounding.

    A unit is what rounding the step to float64 does to the prox, plus what rounding the prox itself does. Of
    candidates that are not close nine of ten gaps are within a fifth, near zero as elsewhere.
    """
    rng = np.random.default_rng([2, list(PENALTIES).index(label), np.dtype(dtype).itemsize])
    ratios, gaps = [], []
    for n in (1, 2, 5, 12):
        batch = draw(rng, label, 80, n, dtype)
        truths = solve_all(batch)
        z = candidates(rng, batch, truths)
        c = batch.certify(z, backend)
        for g, (case, truth) in enumerate(zip(batch.cases, truths, strict=True)):
            if not np.asarray(c.decided)[g]:
                continue
            with case.digits():
                size = oracle.to_float(oracle.norm(exactly(truth.z)))
                unit = 2.0**-53 * exact.sensitivity(case, truth) + 0.5 * np.finfo(dtype).eps * size
                found = errors(case, truth, z[g])
                true, gap = oracle.to_float(found.distance), oracle.to_float(found.gap)
            if true > 0.1 * size and 0 < gap < math.inf:
                gaps.append(float(np.asarray(c.gap)[g]) / gap)
            if true > 100 * unit:
                ratios.append(float(np.asarray(c.distance)[g]) / true)
    assert len(ratios) > 60
    assert np.median(ratios) <= 2
    assert np.quantile(ratios, 0.99) <= 10
    assert np.quantile(gaps, 0.9) <= 1.2


def solvable(label, rng):
    """Groups of four whose prox is neither zero nor, but for flat penalties, the point."""
    name = label.partition("-")[0]
    parameters = PENALTIES[label][0]
    x, d = rng.normal(size=(12, 4)) * (knot(name, parameters) or 1.0), np.exp(rng.normal(size=(12, 4)))
    x = np.abs(x) if parameters.get("nonnegative") else x
    b = np.abs(x * d)
    size = {"GroupLinf": b.sum(axis=1), "GroupL0": 0.5 * (b * np.abs(x)).sum(axis=1)}
    strength = parameters.get("lam", 0.0) + parameters.get("lam1", 0.0) + parameters.get("lam2", 0.0)
    step = 0.3 * size.get(name, np.linalg.norm(b, axis=1)) / strength
    return Batch(name, parameters, x, d, step, np.ones(12))


@pytest.mark.parametrize("label", [label for label in PENALTIES if not label.startswith("L1")])
def test_brackets_are_narrow_whatever_the_candidate(label):
    batch = solvable(label, np.random.default_rng(12))
    for share in (0.0, 1.0, -1.0, 1e-9, 1e3):
        c = batch.certify(share * batch.x)
        low, high = c.bracket
        assert c.decided.all()
        assert (high - low <= 1e-12 * high).all(), (share, low, high)


@pytest.mark.parametrize("exponent", [-900, 900])
@pytest.mark.parametrize("label", [label for label in PENALTIES if not label.startswith("L1")])
def test_the_metric_of_an_element_that_is_zero_does_not_matter(label, exponent):
    batch = solvable(label, np.random.default_rng(13))
    batch.x[:, 3] = 0.0
    z = 0.9 * batch.prox()
    plain = batch.certify(z)
    batch.d[:, 3] = math.ldexp(1.0, exponent)
    c = batch.certify(z)
    for bound in BOUNDS:
        np.testing.assert_allclose(getattr(c, bound), getattr(plain, bound), rtol=1e-9)
    assert (np.asarray(c.decided) == np.asarray(plain.decided)).all()
    found = violations(batch, z, c, solve_all(batch))
    assert not found, explain(batch, z, found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounding_grows_slowly_with_the_group(backend):
    """Blocked sums: with thousands of elements, errors of a few thousand units are still bounded tightly."""
    rng = np.random.default_rng(12)
    x, d = rng.normal(size=(1, 3000)) * 0.02, np.exp(rng.normal(size=(1, 3000)) * 2) * 1e-3
    step = np.array([0.4 * np.linalg.norm(x * d) / 0.7])
    batch = Batch("GroupLasso", {"lam": 0.7}, x, d, step, np.ones(1))
    truths = solve_all(batch)
    best = np.array([[oracle.to_float(v) for v in truths[0].z]])
    for error in (0.0, 1e-14, 5e-13, 1e-9):
        z = best * (1 + error)
        c = batch.certify(z, backend)
        found = violations(batch, z, c, truths)
        assert not found, explain(batch, z, found)
        assert c.distance[0] <= (1.2 * error + 5e-14) * np.linalg.norm(best)


@pytest.mark.parametrize(
    "finder", [pl.Newton, pl.Halley, pl.Bisection, pl.Brent, pl.Chandrupatla, pl.ITP, pl.ClassicNewton]
)
@pytest.mark.parametrize("label", ["GroupLasso", "GroupElasticNet", "GroupMCP", "GroupSCAD", "GroupLinf"])
def test_root_finders_stopped_early(finder, label):
    rng = np.random.default_rng([3, len(finder.__name__), list(PENALTIES).index(label)])
    for rtol in (0.3, 1e-2, 1e-5, 1e-9, 1e-15):
        batch = draw(rng, label, 25, 4, np.float64)
        truths = solve_all(batch)
        z = batch.prox(root_finder=finder(rtol=rtol))
        found = violations(batch, z, batch.certify(z), truths)
        assert not found, explain(batch, z, found)


@pytest.mark.parametrize("label", PENALTIES)
def test_the_prox_itself_is_certified_to_rounding(label):
    """The default solver's answer has bounds of a few hundred units; what is decided is nearly everything."""
    rng = np.random.default_rng([4, list(PENALTIES).index(label)])
    batch = draw(rng, label, 200, 8, np.float64)
    truths = solve_all(batch)
    z = batch.prox()
    c = batch.certify(z)
    found = violations(batch, z, c, truths)
    assert not found, explain(batch, z, found)
    far = np.array([oracle.to_float(t.lead) > 1e-9 * oracle.to_float(t.objective) for t in truths])
    units = []
    for g, (case, truth) in enumerate(zip(batch.cases, truths, strict=True)):
        with case.digits():
            size = oracle.to_float(oracle.norm(exactly(truth.z)))
            unit = 2.0**-53 * (exact.sensitivity(case, truth) + size)
        if np.asarray(c.decided)[g] and unit > 0:
            units.append(np.asarray(c.distance)[g] / unit)
    assert np.quantile(units, 0.9) < 500
    assert np.mean(np.asarray(c.decided)[far]) > 0.7


# ----------------------------------------------------------------------------------------------------------
# Doubt


def flips(case_at, low, high):
    """The two neighbouring floats between which the sparser minimiser takes over."""
    while np.nextafter(low, high) < high:
        middle = low + 0.5 * (high - low)
        middle = middle if low < middle < high else np.nextafter(low, high)
        zero = all(v == 0 for v in exact.solve(case_at(middle)).z)
        low, high = (low, middle) if zero else (middle, high)
    return low, high


@pytest.mark.parametrize(
    ("name", "parameters", "x", "d"),
    [
        ("GroupLasso", {"lam": 0.7}, [1.0, 2.0, 0.3], [1.0, 0.1, 3.0]),
        ("GroupMCP", {"lam": 0.8, "gamma": 0.3}, [0.5, 0.7], [0.2, 0.3]),
        ("GroupSCAD", {"lam": 0.3, "a": 2.1}, [5.0, 4.0], [0.02, 0.03]),
        ("GroupCapped", {"lam": 0.9, "theta": 0.2}, [0.5, 0.7], [0.2, 0.3]),
        ("GroupL0", {"lam": 0.4}, [0.5, 0.7], [0.2, 0.3]),
        ("GroupLinf", {"lam": 0.4}, [0.5, 0.7], [0.2, 0.3]),
    ],
)
def test_doubt_at_the_last_bit_of_the_step(name, parameters, x, d):
    """Where a step and its neighbour have different minimisers, every bound covers whichever is true."""

    def case_at(step):
        return exact.Case(name, parameters, x, d, float(step))

    low, high = flips(case_at, 1e-3, 1e3)
    xs, ds = np.array([x]), np.array([d])
    for step in (low, high):
        truth = exact.solve(case_at(step))
        points = [np.zeros_like(xs), xs, pl.prox(getattr(pl, name)(**parameters), xs, low, metric=ds)]
        for z in points:
            batch = Batch(name, parameters, xs, ds, np.array([step]), np.ones(1))
            c = batch.certify(z)
            found = violations(batch, z, c, [truth])
            assert not found, explain(batch, z, found)
    if name not in oracle.CONVEX:  # a jump: one of the two cannot have been proved by rounded sums
        batch = Batch(name, parameters, xs, ds, np.array([high]), np.ones(1))
        assert not np.asarray(batch.certify(xs).decided)[0]


def test_exact_tie_is_undecided():
    """λη = d x²/2 with dyadic numbers: 0 and x are equally good."""
    x, d = np.array([[2.0]]), np.array([[1.0]])
    c = pl.certify(pl.GroupL0(2.0), x, x, 1.0, metric=d)
    assert not c.decided[0]
    assert c.distance[0] >= 2.0  # the prox is the sparser one
    assert pl.certify(pl.GroupL0(2.0), 0 * x, x, 1.0, metric=d).gap[0] < 1e-14


@pytest.mark.parametrize("label", PENALTIES)
def test_clear_cases_are_decided(label):
    name = label.partition("-")[0]
    parameters = PENALTIES[label][0]
    h = getattr(pl, name)(**parameters)
    x, d = np.array([[1.0, 2.0, -0.5]]), np.array([[1.0, 0.5, 2.0]])
    for step in (1e-6, 1e3):
        z = pl.prox(h, x, step, metric=d)
        c = pl.certify(h, z, x, step, metric=d)
        assert np.all(np.asarray(c.decided))
        assert c.total.distance < 1e-13
        assert c.total.gap < 1e-13


# ----------------------------------------------------------------------------------------------------------
# Range, shape, kind


@pytest.mark.parametrize("label", PENALTIES)
@pytest.mark.parametrize("magnitude", [1e-310, 1e-160, 1e150, 1e300])
@pytest.mark.parametrize("of", ["x", "d", "both"])
def test_extreme_magnitudes(label, magnitude, of):
    """Units may be as unusual as they like: bounds hold, nothing is NaN, nothing warns."""
    name = label.partition("-")[0]
    parameters = dict(PENALTIES[label][0])
    rng = np.random.default_rng(5)
    x, d = (
        rng.normal(size=(4, 1 if name == "L1" else 3)),
        np.exp(rng.normal(size=(4, 1 if name == "L1" else 3))),
    )
    x, d = x * (magnitude if of in "x both" else 1.0), d * (magnitude if of in "d both" else 1.0)
    step, weight = np.array([1e-3, 0.3, 1.0, 30.0]), np.ones(4)
    batch = Batch(name, parameters, x, d, step, weight)
    truths = solve_all(batch)
    for z, backend in product((x, 0 * x, 0.5 * x, batch.prox()), BACKENDS):
        c = batch.certify(z, backend)
        for bound in BOUNDS:
            assert not np.isnan(np.asarray(getattr(c, bound))).any()
        found = violations(batch, z, c, truths)
        assert not found, explain(batch, z, found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", PENALTIES)
def test_absurd_candidates(label, backend):
    name = label.partition("-")[0]
    h = getattr(pl, name)(**PENALTIES[label][0])
    x = np.array([[1.0, -2.0]])
    for z in (np.full((1, 2), 1e308), np.full((1, 2), 5e-324), np.array([[-1e200, 1e-200]])):
        c = pl.certify(h, z, x, 0.5, backend=backend)
        for bound in BOUNDS:
            assert not np.isnan(np.asarray(getattr(c, bound))).any()
        assert c.total.distance >= np.abs(z).max() - 2.0


@pytest.mark.parametrize("label", PENALTIES)
def test_totals_combine_the_groups(label):
    rng = np.random.default_rng(6)
    batch = draw(rng, label, 50, 4, np.float64)
    z = candidates(rng, batch, solve_all(batch))
    c = batch.certify(z)
    for bound in ("distance", "metric_distance", "stationarity"):
        values = exact.balls(np.asarray(getattr(c, bound)))
        if np.isfinite(np.asarray(getattr(c, bound))).all():
            assert covers(getattr(c.total, bound), oracle.norm(values))
            assert getattr(c.total, bound) <= oracle.to_float(oracle.norm(values)) * (1 + 1e-12)
        else:
            assert getattr(c.total, bound) == math.inf
    if np.isfinite(np.asarray(c.gap)).all():
        assert covers(c.total.gap, sum(exact.balls(np.asarray(c.gap)), arb(0)))


def test_certificate_keeps_what_it_was_asked():
    x, d = np.array([[3.0, 4.0]]), np.array([[1.0, 2.0]])
    h = pl.GroupLasso(0.5)
    z = pl.prox(h, x, 0.7, metric=d)
    c = pl.certify(h, z, x, 0.7, metric=d)
    assert c.z is z
    assert c.x is x
    assert c.penalty is h
    assert c.metric is d
    with pytest.raises(AttributeError):
        c.z = x


def test_solver_brackets_and_certificates_agree():
    rng = np.random.default_rng(7)
    batch = draw(rng, "GroupLasso", 100, 5, np.float64)
    s = pl.solve(batch.penalty, batch.x, batch.step, metric=batch.d)
    c = batch.certify(s.z)
    low, high = (np.maximum(s.bracket[0], c.bracket[0]), np.minimum(s.bracket[1], c.bracket[1]))
    assert np.all(low <= high)


def test_free_elements_count_where_they_differ_from_x():
    labels = pl.Groups.labels(np.array([0, 0, -1]))
    h = pl.GroupLasso(0.5, groups=labels)
    x = np.array([3.0, 4.0, 5.0])
    z = pl.prox(h, x)
    assert pl.certify(h, z, x).total.distance < 1e-13
    z[2] = 6.0
    c = pl.certify(h, z, x)
    assert c.total.distance >= 1.0
    assert c.total.gap >= 0.5
    assert c.total.stationarity >= 1.0
    assert np.asarray(c.lower)[2] <= 5.0 <= np.asarray(c.upper)[2]


@pytest.mark.parametrize("arrangement", ["columns", "middle", "ragged"])
def test_groups_of_any_kind(arrangement):
    rng = np.random.default_rng(8)
    x, d = rng.normal(size=(5, 4)), np.exp(rng.normal(size=(5, 4)))
    step, z = rng.uniform(0.5, 2, 5), 0.8 * x
    arrange, groups = {
        "columns": (lambda a: a.T, pl.Groups.over(0)),
        "middle": (lambda a: a.T.reshape(2, 2, 5), pl.Groups.over((0, 1))),
        "ragged": (lambda a: a.reshape(-1), pl.Groups.csr(4 * np.arange(6))),
    }[arrangement]
    rows = pl.certify(pl.GroupMCP(0.3, 2.0), z, x, step, metric=d)
    other = pl.certify(pl.GroupMCP(0.3, 2.0, groups=groups), arrange(z), arrange(x), step, metric=arrange(d))
    for bound in (*BOUNDS, "decided"):
        np.testing.assert_allclose(getattr(other, bound), getattr(rows, bound), rtol=1e-6, atol=1e-15)
    for name in ("lower", "upper"):
        np.testing.assert_allclose(getattr(other, name), arrange(getattr(rows, name)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_certify(shape):
    x = np.ones(shape)
    c = pl.certify(pl.GroupLasso(1.0), x, x)
    assert c.distance.shape == (shape[0],)
    assert c.total.distance == c.total.gap == c.total.stationarity == 0.0
    assert np.all(c.decided)


@pytest.mark.parametrize("label", PENALTIES)
def test_namespaces(label, xp):
    name = label.partition("-")[0]
    h = getattr(pl, name)(**PENALTIES[label][0])
    rng = np.random.default_rng(9)
    x, d = rng.normal(size=(4, 3)), np.exp(rng.normal(size=(4, 3)))
    z = 0.7 * x
    native = pl.certify(h, xp.asarray(z), xp.asarray(x), 0.5, metric=xp.asarray(d), backend="array_api")
    c = pl.certify(h, z, x, 0.5, metric=d, backend="array_api")
    for bound in BOUNDS:
        np.testing.assert_allclose(
            xp.to_numpy(getattr(native, bound)), getattr(c, bound), rtol=1e-6, atol=1e-15
        )
        assert getattr(native.total, bound) == pytest.approx(getattr(c.total, bound), rel=1e-6, abs=1e-15)
    assert isinstance(native.total.distance, float)


@pytest.mark.parametrize("label", PENALTIES)
def test_criteria_on_real_certificates(label):
    name = label.partition("-")[0]
    h = getattr(pl, name)(**PENALTIES[label][0])
    rng = np.random.default_rng(10)
    x = rng.normal(size=(4, 3))
    z = pl.prox(h, x, 0.5)
    c = pl.certify(h, z, x, 0.5)
    assert pl.inexactness.Distance(1e-12).holds(c)
    assert pl.inexactness.RelativeDistance(1e-9).holds(c, x)
    assert pl.inexactness.Gap(1e-12).holds(c)
    assert pl.inexactness.Stationarity(1e-12).holds(c, x)
    assert pl.inexactness.RelativeStationarity(1e-9).holds(c, x)
    assert not pl.inexactness.Distance(1e-3).holds(pl.certify(h, x, x, 0.5))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"z": np.ones((1, 3))}, ValueError, "z: must have the shape of x"),
        ({"z": [[1.0, 2.0]]}, TypeError, "z: must be an array"),
        ({"z": np.array([[1, 2]])}, TypeError, "z: must have a real floating-point dtype"),
        ({"z": np.array([[1.0, math.nan]])}, ValueError, "z: must be finite"),
        ({"x": np.array([[1.0, math.inf]])}, ValueError, "x: must be finite"),
        ({"step": 0.0}, ValueError, "step: must be finite and > 0"),
        ({"metric": np.array([[1.0, 0.0]])}, ValueError, "metric: must be finite and > 0"),
        ({"penalty": "lasso"}, TypeError, "penalty: must be"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {
        "penalty": pl.GroupLasso(1.0),
        "z": np.ones((1, 2)),
        "x": np.ones((1, 2)),
        "step": 1.0,
        "metric": None,
    }
    arguments |= change
    with pytest.raises(error, match=message):
        pl.certify(**arguments)


@pytest.mark.parametrize("name", ["z", "x", "metric"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_invalid_values_in_elements_in_no_group(name, bad):
    arrays = {"z": np.ones(3), "x": np.ones(3), "metric": np.ones(3)}
    arrays[name][2] = bad
    with pytest.raises(ValueError, match=f"^{name}: must be finite"):
        pl.certify(pl.GroupLasso(1.0, groups=pl.Groups.csr([0, 2])), **arrays)


@pytest.mark.parametrize("step", [0.25, 3.0])
def test_bounds_of_elements_in_no_group_are_sharp(step):
    """Their residual is ``D (z - x)/step``, and they are worse by ``‖z - x‖²_D / 2 step``."""
    rng = np.random.default_rng(0)
    x, z, d = rng.normal(size=5), rng.normal(size=5), np.exp(rng.normal(size=5))
    h = pl.GroupLasso(1.0, groups=pl.Groups.csr([0]))
    total = pl.certify(h, z, x, step, metric=d).total
    off = z - x
    for bound, right in (
        (total.distance, np.linalg.norm(off)),
        (total.metric_distance, np.sqrt(np.sum(d * off**2))),
        (total.stationarity, np.linalg.norm(d * off) / step),
        (total.gap, np.sum(d * off**2) / (2 * step)),
    ):
        assert right * (1 - 1e-14) <= bound <= right * (1 + 1e-12)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_what_is_printed_is_a_line(rows):
    """How many groups there are and what is known of them all; no array, and no bound rounded down."""
    x = np.random.default_rng(rows).standard_normal((rows, 3))
    h = pl.GroupLasso(1.0, weights=np.ones(rows))
    solution = pl.solve(h, x)
    certificate = pl.certify(h, solution.z + 1e-3, x)
    zero = int((solution.radius == 0).sum())
    assert repr(solution).startswith(
        f"<Solution: GroupLasso, shape ({rows}, 3), {rows} groups, {zero} zero, 0 "
    )
    text = repr(certificate)
    assert len(text) < 200
    assert f"{rows} groups, {int(certificate.decided.sum())} decided" in text
    for name, bound in certificate.total._asdict().items():
        told = float(text.split(f" {name} <= ")[1].split(",")[0].rstrip(">"))
        assert bound <= told <= 1.02 * bound


def test_elements_that_a_threshold_makes_zero_leave_the_stationarity_of_a_prox_small():
    """Their metric is not kept, and was taken for 1: no tolerance of the stationarity was ever proved."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)) * 10.0 ** rng.uniform(-2, 3, (200, 1))
    d = 10.0 ** rng.uniform(-6, 2, x.shape)
    penalty = pl.SparseGroupLasso(0.1, 0.05)
    z = pl.prox(penalty, x, metric=d)
    cut = (z == 0) & (x != 0) & z.any(axis=1)[:, None]
    assert cut.sum() > 100
    c = pl.certify(penalty, z, x, metric=d)
    scale = np.linalg.norm(d * x, axis=1) + 0.15
    assert (c.stationarity <= 1e-12 * scale).all()
