"""Wrong implementations that the checks must reject, or the checks prove nothing.

Each mutant is a small NumPy implementation with one mistake, found in published code or easy to make; the
same implementation without the mistake passes the same checks.
"""

import numpy as np
import pytest

import proxlab as pl
from tests import checks, oracle
from tests.cases import Case
from tests.checks import Subject


def root(excess, low, high):
    """The zero of a decreasing function, by bisection."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def lasso(x, d, step, lam, clamp=True):
    """The weighted prox of ``lam ‖z‖``: ``z = d x / (d + mu)`` with ``mu ‖z‖ = step lam``."""
    b, tau = d * x, step * lam
    if np.linalg.norm(b) <= tau and clamp:
        return np.zeros_like(x)
    if not clamp:  # the closed form for a constant metric, without the maximum with zero
        return (1 - tau / np.linalg.norm(b)) * x
    r = root(lambda r: np.linalg.norm(b / (d * r + tau)) - 1, 0.0, np.linalg.norm(x))
    return b * r / (d * r + tau)


def mcp(x, d, step, lam, gamma):
    """The global minimiser for MCP, by a scan of the path ``z = d x / (d + mu)``."""
    value = mcp_value(lam, gamma)
    paths = [d * x / (d + mu) for mu in np.geomspace(1e-6 * d.min(), 1e9 * d.max(), 20_000)]
    candidates = [np.zeros_like(x), x, *paths]
    return min(candidates, key=lambda z: value(z) + checks.quadratic(z, x, d, step))


def mcp_value(lam, gamma):
    def value(z):
        r = min(np.linalg.norm(z), gamma * lam)
        return lam * r - r * r / (2 * gamma)

    return value


def flat_mcp(x, d, step, lam, gamma):
    """Mutant: takes the flat part for the answer wherever the point lies on it."""
    return x if np.linalg.norm(x) > gamma * lam else mcp(x, d, step, lam, gamma)


X, D = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.6, 8.0])
CASES = [Case("GroupLasso", {"lam": lam}, X, D, step) for lam in (0.3, 1.0, 5.0) for step in (0.5, 1.0)]


def subject(case, prox, value=None):
    lam = case.parameters["lam"]
    return Subject(prox, value or (lambda z: lam * float(np.linalg.norm(z))))


def truth(s, case):
    z = s.at(case)
    checks.check_close(z, case, accuracy=1e-12)
    expected = oracle.to_float(oracle.value(case.name, case.parameters, z, case.weight))
    assert s.value(z) == pytest.approx(expected, rel=1e-12)


def own_value(s, case):
    checks.check_minimises_own_value(s, case, [0.5 * case.x])


def passes(check, make, cases):
    for case in cases:
        check(make(case), case)


def rejects(check, make, cases):
    for case in cases:
        try:
            check(make(case), case)
        except AssertionError:
            return
    pytest.fail(f"{check.__name__} accepts a wrong implementation")


def correct(case):
    return subject(case, lambda x, d, step: lasso(x, d, step, case.parameters["lam"]))


GENERAL = {
    "truth": truth,
    "own value": own_value,
    "moreau": checks.check_moreau,
    "resolvent": lambda s, case: checks.check_resolvent(s, case, 0.5),
    "joint scaling": lambda s, case: checks.check_joint_scaling(s, case, 4.0),
    "tilt": lambda s, case: checks.check_tilt(s, case, np.array([0.3, 0.1, -0.2])),
    "ridge": lambda s, case: checks.check_ridge(s, case, np.array([0.3, 1.0, 2.0])),
    "step": lambda s, case: checks.check_monotone_in_step(s, case, 3.0),
    "signs": lambda s, case: checks.check_signs(s, case, np.array([-1.0, 1.0, -1.0])),
    "permutation": lambda s, case: checks.check_permutation(s, case, [2, 0, 1]),
    "growth": lambda s, case: checks.check_quadratic_growth(s, case, X[::-1]),
    "firm": lambda s, case: checks.check_firmly_nonexpansive(s, case, X[::-1]),
}


@pytest.mark.parametrize("check", [c for name, c in GENERAL.items() if name != "joint scaling"])
def test_the_correct_implementation_passes(check):
    passes(check, correct, CASES)


@pytest.mark.parametrize("check", [truth, own_value], ids=["truth", "own value"])
def test_sqrt_size_in_the_prox_and_not_in_the_value(check):
    def mutant(case):
        lam = case.parameters["lam"]
        return subject(case, lambda x, d, step: lasso(x, d, step, lam * np.sqrt(x.size)))

    def consistent(case):
        lam = case.parameters["lam"] * np.sqrt(3)
        prox = correct(case.replace(parameters={"lam": lam})).prox
        return subject(case, prox, lambda z: lam * float(np.linalg.norm(z)))

    rejects(check, mutant, CASES)
    if check is own_value:
        passes(lambda s, case: checks.check_minimises(s.value, s.at(case), case, []), consistent, CASES)


@pytest.mark.parametrize("name", ["truth", "own value", "moreau", "step"])
def test_a_clamp_dropped(name):
    def mutant(case):
        return subject(case, lambda x, d, step: lasso(x, d, step, case.parameters["lam"], clamp=False))

    constant = [case.replace(d=np.ones(3)) for case in CASES]
    passes(GENERAL[name], correct, constant)
    rejects(GENERAL[name], mutant, constant)


def test_a_clamp_of_the_sign_dropped():
    """The nonnegative variant without the projection."""
    cases = [case.replace(parameters=case.parameters | {"nonnegative": True}) for case in CASES]

    def projected(case):
        return subject(case, lambda x, d, step: lasso(np.maximum(x, 0), d, step, case.parameters["lam"]))

    passes(truth, projected, cases)
    rejects(truth, correct, cases)


def test_mcp_flat_wherever_the_point_is():
    """Two group sizes where an interior point beats x although ``‖x‖ > gamma lam`` (the metric is uneven)."""
    x, d = np.array([3.0, 3.0]), np.array([1e-3, 10.0])
    case = Case("GroupMCP", {"lam": 3.0, "gamma": 1.2}, x, d, 1.0)
    assert np.linalg.norm(x) > 1.2 * 3.0
    assert 0 < oracle.to_float(case.answer.radius) < np.linalg.norm(x) - 1e-3
    value = mcp_value(3.0, 1.2)
    right = Subject(lambda x, d, step: mcp(x, d, step, 3.0, 1.2), value)
    wrong = Subject(lambda x, d, step: flat_mcp(x, d, step, 3.0, 1.2), value)
    assert np.linalg.norm(right.at(case) - case.answer.z) < 1e-2
    for check in (truth, own_value):
        with pytest.raises(AssertionError):
            check(wrong, case)
    assert np.linalg.norm(pl.prox(pl.GroupMCP(3.0, 1.2), x[None], metric=d[None])[0] - case.answer.z) < 1e-12


@pytest.mark.parametrize(
    "mutant",
    [
        lambda x, d, step, lam: lasso(x, np.full_like(d, d.mean()), step, lam),
        lambda x, d, step, lam: (
            np.zeros_like(x) if np.linalg.norm(x) <= step * lam else lasso(x, d, step, lam)
        ),
        lambda x, d, step, lam: lasso(x, d, 1.0, lam),
        lambda x, d, step, lam: lasso(x, np.sqrt(d), step, lam),
        lambda x, d, step, lam: lasso(x, d, step, lam) * (1 + 1e-11),
        lambda x, d, step, lam: lasso(np.abs(x), d, step, lam),
    ],
    ids=["mean metric", "Euclidean zero test", "no step", "root of the metric", "inexact", "signs lost"],
)
def test_other_mistakes(mutant):
    def make(case):
        return subject(case, lambda x, d, step: mutant(x, d, step, case.parameters["lam"]))

    rejects(truth, make, CASES)


def test_zero_test_off_by_one_ulp():
    def late(x, d, step):
        return np.zeros(2) if np.linalg.norm(d * x) < step * 5.0 else x

    with pytest.raises(AssertionError):
        checks.check_zero_test(Subject(late, float), np.array([3.0, 4.0]), np.ones(2), 1.0, is_zero=True)


def adam_step(w, m, v, t, lr, penalty, step_of_prox):
    """A proximal step of Adam: the metric is the preconditioner, the step the bias-corrected one."""
    step = lr / (1 - 0.9**t)
    metric = np.sqrt(v / (1 - 0.999**t)) + 1e-8
    return pl.prox(penalty, w - step * m / metric, step_of_prox(step), metric=metric), step, metric


def check_proximal_step(update):
    """The new iterate is stationary: ``0 ∈ m + D (w⁺ - w)/step + ∂h(w⁺)``."""
    rng = np.random.default_rng(0)
    w, m, v = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.uniform(0.1, 1, size=(4, 3))
    penalty = pl.GroupLasso(0.2)
    for t in (1, 2, 10):
        new, step, metric = update(w, 0.1 * m, 0.001 * v, t, penalty)
        assert penalty.subdiff_distance(0.1 * m + metric * (new - w) / step, new).max() <= 1e-12


def test_the_learning_rate_in_place_of_the_bias_corrected_step():
    check_proximal_step(lambda w, m, v, t, penalty: adam_step(w, m, v, t, 0.1, penalty, lambda step: step))
    with pytest.raises(AssertionError):
        check_proximal_step(lambda w, m, v, t, penalty: adam_step(w, m, v, t, 0.1, penalty, lambda step: 0.1))


def bare_certificate(lam, z, x, step, d):
    """Mutant: the bracket of one evaluation and the farthest corner of its box, all roundings ignored."""
    b, tau, r = d * x, step * lam, np.linalg.norm(z)
    u = b / (d * r + tau)
    s, s1 = np.sum(u * u), np.sum(u * u * d / (d * r + tau))
    g, slope = 1 / np.sqrt(s), s1 / s**1.5
    ends = [r + (1 - g) / slope, r + max(1 - g, 0.0) * np.linalg.norm(x)]
    corners = [b * e / (d * e + tau) for e in ends]
    return float(np.linalg.norm(np.maximum(*(np.abs(z - c) for c in corners))))


def certified(lam, z, x, step, d):
    return float(pl.certify(pl.GroupLasso(lam), z[None], x[None], step, metric=d[None]).distance[0])


def check_bound(bound):
    """The bound is never below the true distance, here of points that are exact to rounding."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        x, d = rng.normal(size=4), np.exp(rng.normal(size=4))
        step, lam = float(rng.uniform(0.5, 1)), float(rng.uniform(0.1, 0.9) * np.linalg.norm(d * x))
        answer = oracle.solve("GroupLasso", {"lam": lam}, x, d, step)
        for z in (answer.z, np.nextafter(answer.z, np.inf)):
            assert bound(lam, z, x, step, d) >= answer.distance(z)


def test_a_certificate_without_its_rounding_term():
    check_bound(certified)
    with pytest.raises(AssertionError):
        check_bound(bare_certificate)
