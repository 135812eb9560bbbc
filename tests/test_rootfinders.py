"""Every root finder: the truth in every bracket, tolerances kept, counts honest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

import proxlab as pl
from proxlab.scalar import midpoint, where
from tests import oracle
from tests.cases import Case, cases
from tests.checks import check_truth, proxlab
from tests.table import BACKENDS, GROUPED, PENALTIES, ROOT_FINDERS, Hasty, ids

finders = pytest.mark.parametrize("finder", ROOT_FINDERS, ids=ids(ROOT_FINDERS))
backends = pytest.mark.parametrize("backend", BACKENDS)
MCP = next(row for row in PENALTIES if row.name == "GroupMCP")
MONOTONE = (pl.Newton, pl.Halley)


def true_radius(row, answer):
    """The norm that a solution calls its radius, in ball arithmetic."""
    if row.name == "GroupLinf":
        radius = oracle.arb(0)
        for v in answer.candidates[0]:
            radius = radius.max(abs(v))
        return radius
    return answer.radius


@finders
@backends
@given(data=st.data())
def test_truth(finder, backend, data):
    row = data.draw(st.sampled_from(PENALTIES))
    case = data.draw(cases(row))
    check_truth(proxlab(row, case, backend, root_finder=finder), case)


@finders
@backends
def test_a_point_where_a_steep_piece_ends(finder, backend):
    """``d - η c`` is next to nothing beside ``d``, and the knot is off ``x`` by less than rounding."""
    for x in (1.0, 1.0 - 2.0**-50, 1.0 + 2.0**-50):
        parameters = {"lam": 99.98594712341624, "gamma": 0.010001405485169472}
        case = Case("GroupMCP", parameters, np.array([x]), np.array([100.0]), 1.0)
        check_truth(proxlab(MCP, case, backend, root_finder=finder), case)


#: λ, γ, point and metric where Halley's first step leads beyond the root and the maximum of ``f``.
OVERSHOOTING = [
    (3.1704941983092847, 0.6054768749570353, [1.4196120789937932, 0.2178807220874205, 1.3316411201594678],
     [0.021259664883634084, 42.296845221747, 3.5590549140971457]),
    (17.479119601131682, 0.03377151241628733,
     [-0.15593768692522733, -0.5278509199335027, -0.5893826754413874],
     [3201.6633398728386, 49.62955807019002, 0.11376127058280855]),
    (7.615251881094072, 0.40935494268993977, [2.8392672713868388, 2.0780345407805094, -0.6793194279613413],
     [4.452280316744111, 0.0010539915493404932, 4284.260480665011]),
]  # fmt: skip


@finders
@backends
@pytest.mark.parametrize(("lam", "gamma", "x", "d"), OVERSHOOTING)
def test_a_step_beyond_the_root_does_not_lose_it(finder, backend, lam, gamma, x, d):
    case = Case("GroupMCP", {"lam": lam, "gamma": gamma}, np.array(x), np.array(d), 1.0)
    check_truth(proxlab(MCP, case, backend, root_finder=finder), case)


@pytest.mark.parametrize("finder", [Hasty, pl.Halley])
def test_steep_concave_penalties_have_no_false_bracket(finder):
    """Where ``f`` rises and falls again steeply, bisection's brackets and these have the root in common."""
    rng = np.random.default_rng(20261127)
    for _ in range(30):
        x, d = rng.normal(size=(200, 3)), np.exp(rng.choice([2.0, 4.0]) * rng.normal(size=(200, 3)))
        lam = float(np.exp(rng.normal()) * np.median(np.linalg.norm(x * d, axis=1)))
        penalty = pl.GroupMCP(lam, gamma=float(np.exp(rng.normal())) / lam)
        (lower, upper), (low, high) = (
            pl.solve(penalty, x, metric=d, root_finder=one(), backend="array_api").bracket
            for one in (finder, pl.Bisection)
        )
        assert np.all(np.maximum(lower, low) <= np.minimum(upper, high))


@finders
@backends
@given(data=st.data(), digits=st.integers(0, 16), cap=st.sampled_from([1, 2, 3, 5, 100]))
def test_bracket_contains_the_truth(finder, backend, data, digits, cap):
    """At any tolerance, and where the iterations ran out; a solved group's radius keeps its tolerance."""
    row = data.draw(st.sampled_from(GROUPED))
    case = data.draw(cases(row))
    rtol = 10.0**-digits
    s = pl.solve(
        row.build(case.parameters),
        case.x[None],
        case.step,
        metric=case.d[None],
        root_finder=type(finder)(rtol=rtol, max_iterations=cap),
        backend=backend,
    )
    (lower,), (upper,) = s.bracket
    assert lower <= s.radius[0] <= upper
    status = pl.Status(s.status[0])
    assert s.ok == (status is not pl.Status.MAX_ITERATIONS)
    assert s.iterations[0] <= cap
    assert 0 <= s.iterations[0] <= s.evaluations[0] + 1
    if not case.unique and status is not pl.Status.TIE:
        return
    with oracle.digits_for(case.x, case.d):
        radius = true_radius(row, case.answer)
        if status is pl.Status.TIE:
            return
        assert oracle.arb(lower) <= radius, f"{lower} > {radius}: {case}"
        assert radius <= oracle.arb(upper), f"{upper} < {radius}: {case}"
        if status is pl.Status.CONVERGED:
            slack = rtol + 1e-14 * (1 + case.answer.conditions[0])
            error = oracle.to_float(abs(oracle.arb(float(s.radius[0])) - radius))
            largest = float(np.abs(case.x).max())
            assert error <= slack * oracle.to_float(radius) + 1e-14 * largest * (row.name == "GroupLinf")


@finders
@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_tolerances_are_kept(finder, row):
    """A loose tolerance saves work and is still kept; the default solves to rounding."""
    rng = np.random.default_rng(1)
    x, d = rng.normal(size=(20, 8)), 10 ** rng.uniform(-2, 2, size=(20, 8))
    penalty = row.build()
    exact = pl.solve(penalty, x, 0.5, metric=d)
    for tolerance in ({"rtol": 1e-3}, {"atol": 1e-3, "rtol": 0.0}):
        loose = pl.solve(penalty, x, 0.5, metric=d, root_finder=type(finder)(**tolerance))
        default = pl.solve(penalty, x, 0.5, metric=d, root_finder=finder)
        assert loose.ok
        assert default.ok
        bound = tolerance.get("atol", 0.0) + tolerance["rtol"] * exact.radius + 1e-14
        assert (np.abs(loose.radius - exact.radius) <= bound).all()
        assert loose.evaluations.sum() <= default.evaluations.sum()
        np.testing.assert_allclose(default.z, exact.z, rtol=1e-12, atol=1e-15)


@backends
def test_newton_needs_few_iterations(backend):
    """At most 8 on the metrics of adaptive optimizers, at most 24 on any input."""
    rng = np.random.default_rng(2)
    x, d = 0.02 * rng.normal(size=(300, 40)), 1e-3 * np.exp(2 * rng.normal(size=(300, 40)))
    thresholds = np.linalg.norm(d * x, axis=1)
    share = np.concatenate([10 ** rng.uniform(-6, 0, 200), 1 - 10 ** rng.uniform(-8, -1, 100)])
    step = share * thresholds / thresholds.max()
    solution = pl.solve(pl.GroupLasso(thresholds.max()), x, step, metric=d, backend=backend)
    assert solution.ok
    assert solution.iterations.max() <= 8
    spread = 10 ** rng.uniform(-25, 25, size=(300, 40))
    wild = pl.solve(pl.GroupLasso(1.0), x / spread, 1e-4, metric=spread, backend=backend)
    assert wild.ok
    assert wild.iterations.max() <= 24


@finders
def test_more_iterations_are_asked_for(finder):
    x = np.array([[1.0, 2.0, 3.0]])
    s = pl.solve(
        pl.GroupLasso(2.0),
        x,
        metric=np.array([[1.0, 10.0, 0.01]]),
        root_finder=type(finder)(max_iterations=1),
    )
    if s.ok:  # one step can be enough
        return
    message = pl.Status(s.status[0]).message
    assert "max_iterations" in message
    assert not pl.Status(s.status[0]).ok


# ----------------------------------------------------------------------------------------------------------
# Each method against its publication, where no step is cut short: functions with a root between 1 and 3

FUNCTIONS = [
    (lambda r: r**3 - 7.0, lambda r: 3.0 * r**2, lambda r: -6.0 * r),
    (lambda r: np.log(r) - 0.4, lambda r: 1.0 / r, lambda r: r**-2.0),
    (lambda r: np.exp(r) - 15.0, np.exp, lambda r: -np.exp(r)),
    (lambda r: 1.0 - 2.0 * r**-1.5, lambda r: 3.0 * r**-2.5, lambda r: 7.5 * r**-3.5),
]
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=["cubic", "logarithm", "exponential", "power"])


def proposed(finder, function, count):
    """The points that a method asks for, its memory kept and its bracket by the signs."""
    f, slope, bend = function
    lo, hi, r, memory, points = 1.0, 3.0, 1.0, [np.nan] * 5, []
    for _ in range(count):
        new, *memory = finder.propose(r, f(r), slope(r), bend(r), lo, f(lo), hi, f(hi), *memory)
        r = float(new)
        points.append(r)
        lo, hi = (r, hi) if f(r) < 0 else (lo, r)
    return points


def chandrupatla(f, count):
    """Chandrupatla (1997): ``a`` is the latest point, ``b`` the other end, ``c`` the one dropped."""
    a, b, t, points = 1.0, 3.0, 0.5, []
    for _ in range(count):
        new = a + t * (b - a)
        points.append(new)
        c = a
        if (f(new) < 0) != (f(a) < 0):
            b, c = a, b
        a = new
        xi, phi = (a - b) / (c - b), (f(a) - f(b)) / (f(c) - f(b))
        t = 0.5
        if phi**2 < xi and (1 - phi) ** 2 < 1 - xi:
            t = f(a) / (f(b) - f(a)) * f(c) / (f(b) - f(c))
            t += (c - a) / (b - a) * f(a) / (f(c) - f(a)) * f(b) / (f(c) - f(b))
    return points


def itp(f, count):
    """Oliveira & Takahashi (2020), with the tolerance a power of two of the first width and n₀ = 1."""
    a, b, points = 1.0, 3.0, []
    first = b - a
    for j in range(count):
        half, chord = (a + b) / 2, (f(b) * a - f(a) * b) / (f(b) - f(a))
        sign, delta, reach = np.sign(half - chord), 0.2 / first * (b - a) ** 2, first * 2.0**-j - (b - a) / 2
        new = chord + sign * delta if delta <= abs(half - chord) else half
        new = new if abs(new - half) <= reach else half - sign * reach
        points.append(new)
        a, b = (new, b) if f(new) < 0 else (a, new)
    return points


def brent(f, count):
    """The points that SciPy's implementation asks for after the two ends."""
    points = []
    brentq(lambda r: points.append(r) or f(r), 1.0, 3.0, xtol=1e-300, rtol=1e-15)
    return points[2 : 2 + count]


@functions
@pytest.mark.parametrize(
    ("finder", "published", "count"),
    [(pl.Chandrupatla, chandrupatla, 5), (pl.ITP, itp, 6), (pl.Brent, brent, 5)],
    ids=["Chandrupatla", "ITP", "Brent"],
)
def test_methods_with_a_bracket_are_the_published_ones(finder, published, count, function):
    found = proposed(finder, function, count)
    np.testing.assert_allclose(found, published(function[0], count), rtol=1e-6)


@functions
def test_methods_with_a_slope_are_the_published_ones(function):
    f, slope, bend = (v(1.7) for v in function)
    first = {
        pl.Newton: 1.7 - f / slope,
        pl.Halley: 1.7 - 2 * f * slope / (2 * slope**2 + f * bend),
        # Newton's method on S - 1 with S = (1 + f)^(-2); on a function that falls below -1, on itself.
        pl.ClassicNewton: 1.7 - ((1 + f) ** -2 - 1) / (-2 * (1 + f) ** -3 * slope)
        if f > -1
        else 1.7 - f / slope,
    }
    for finder, point in first.items():
        assert finder.propose(1.7, f, slope, bend, 1.0, 0.0, 3.0, 0.0, *[np.nan] * 5)[0] == pytest.approx(
            point
        )


def test_the_default_tolerance_is_what_the_data_resolve():
    assert pl.Newton().relative_tolerance(53) == 2.0**-50
    assert pl.Newton().relative_tolerance(24) == 2.0**-26
    assert pl.Newton(rtol=0.1).relative_tolerance(24) == 0.1


class Remembering(pl.RootFinder):
    """Bisection that counts its steps in five numbers, and goes astray where one is not the next."""

    needs_bracket = True

    def propose(r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4):
        first = (m0 != m0) & (m1 != m1) & (m2 != m2) & (m3 != m3) & (m4 != m4)
        next_ = (m1 == 2.0 * m0) & (m2 == 3.0 * m0) & (m3 == 5.0 * m0) & (m4 == 7.0 * m0)
        k = where(first, lo * 0.0 + 1.0, m0 + 1.0)
        new = where(first | next_, midpoint(lo, hi), hi)
        return new, k, 2.0 * k, 3.0 * k, 5.0 * k, 7.0 * k


def test_what_a_root_finder_remembers_is_handed_back():
    x, d = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 10.0, 0.01]])
    options = {"metric": d, "backend": "array_api"}
    ours = pl.solve(pl.GroupLasso(2.0), x, root_finder=Remembering(), **options)
    plain = pl.solve(pl.GroupLasso(2.0), x, root_finder=pl.Bisection(), **options)
    assert ours.ok
    assert ours.iterations[0] == plain.iterations[0]


@backends
def test_statuses_say_what_happened(backend):
    x = np.array([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0], [0.0, 0.0]])
    s = pl.solve(pl.GroupMCP(1.0, 10.0), x, backend=backend)
    expected = [pl.Status.CONVERGED, pl.Status.ZERO, pl.Status.UNSHRUNK, pl.Status.ZERO]
    assert [pl.Status(k) for k in s.status] == expected
    np.testing.assert_array_equal(s.z[2], x[2])
    for status in pl.Status:
        assert status.message.endswith(".")
