"""What a weighted proximal operator satisfies by theory, on random groups of every penalty."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import proxlab as pl
from tests import checks, oracle
from tests.cases import Case, cases, numbers, positives, unit, vectors
from tests.checks import Subject, proxlab
from tests.table import BACKENDS, CONVEX, PENALTIES, ids

every_penalty = pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
convex_penalties = pytest.mark.parametrize("row", CONVEX, ids=ids(CONVEX))
factors = st.floats(-3, 3).map(lambda e: 10.0**e)


def like(data, case, elements=numbers):
    """Draw another vector of the size of a case."""
    return data.draw(vectors(case.x.size, elements))


@every_penalty
@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data())
def test_truth(row, backend, data):
    case = data.draw(cases(row))
    checks.check_truth(proxlab(row, case, backend), case)


@every_penalty
@given(data=st.data())
def test_weighted_groups(row, data):
    if row.name == "L1":
        pytest.skip("L1 has no groups to weight")
    case = data.draw(cases(row)).replace(weight=data.draw(positives))
    checks.check_truth(proxlab(row, case), case)


@every_penalty
@given(data=st.data())
def test_value_and_prox_belong_together(row, data):
    case = data.draw(cases(row))
    checks.check_minimises_own_value(proxlab(row, case), case, [like(data, case)])


@convex_penalties
@given(data=st.data())
def test_firmly_nonexpansive_in_the_metric(row, data):
    case = data.draw(cases(row))
    checks.check_firmly_nonexpansive(proxlab(row, case), case, like(data, case))


def test_not_firmly_nonexpansive_without_the_metric():
    """The control: in the Euclidean metric the same inequality fails, so the metric is really there."""
    penalty = pl.GroupLasso(1.0)
    x, y, d = np.array([[5.0, -2.0]]), np.array([[7.0, 0.0]]), np.array([[1.0, 100.0]])
    p, q = (pl.prox(penalty, v, 10.0, metric=d) for v in (x, y))
    assert np.sum((p - q) * (x - y)) < np.sum((p - q) ** 2) - 2.0
    assert np.sum(d * (p - q) * (x - y)) >= np.sum(d * (p - q) ** 2)


@convex_penalties
@given(data=st.data())
def test_moreau_identity(row, data):
    case = data.draw(cases(row))
    checks.check_moreau(proxlab(row, case), case)


@every_penalty
@given(data=st.data())
def test_resolvent_identity(row, data):
    case = data.draw(cases(row))
    checks.check_resolvent(proxlab(row, case), case, share=data.draw(st.floats(0.01, 0.99)))


@every_penalty
@given(data=st.data())
def test_joint_scaling(row, data):
    case = data.draw(cases(row))
    checks.check_joint_scaling(proxlab(row, case), case, 2.0 ** data.draw(st.integers(-20, 20)))


@every_penalty
@given(data=st.data())
def test_tilt(row, data):
    case = data.draw(cases(row))
    checks.check_tilt(proxlab(row, case), case, like(data, case))


@every_penalty
@given(data=st.data())
def test_ridge(row, data):
    case = data.draw(cases(row))
    checks.check_ridge(proxlab(row, case), case, like(data, case, positives))


@given(data=st.data(), kappa=factors)
def test_ridge_is_the_elastic_net(data, kappa):
    case = data.draw(cases(next(row for row in PENALTIES if row.name == "GroupLasso")))
    lam, d = case.parameters["lam"], case.d + case.step * kappa
    net = case.replace(name="GroupElasticNet", parameters={"lam": lam, "kappa": kappa})
    z = pl.prox(pl.GroupLasso(lam), (case.d * case.x / d)[None], case.step, metric=d[None])[0]
    # x, d and their product are rounded here: errors of b, amplified by the condition of the radius
    slack = net.tolerance(accuracy=1e-13)
    pull = float(np.linalg.norm(case.d * case.x))
    if abs(pull - case.step * case.weight * lam) <= 1e-13 * pull:
        # At the threshold, which they may pass.
        slack = slack + 1e-12 * np.abs(case.x)
    assert (np.abs(z - net.answer.z) <= slack).all()


@every_penalty
@given(data=st.data())
def test_monotone_in_step(row, data):
    case = data.draw(cases(row))
    checks.check_monotone_in_step(proxlab(row, case), case, data.draw(st.floats(1.0, 100.0)))


@every_penalty
@given(data=st.data())
def test_monotone_in_strength(row, data):
    """A larger strength never makes the penalty of unit strength larger."""
    if row.name not in ("L1", "GroupLasso", "GroupCapped", "GroupL0", "GroupLinf"):
        pytest.skip("the strength changes the shape of the penalty, not only its size")
    case = data.draw(cases(row))
    strong = case.replace(
        parameters=case.parameters | {"lam": case.parameters["lam"] * data.draw(st.floats(1.0, 100.0))}
    )
    size = row.build(case.parameters | {"lam": 1.0})
    more, less = (proxlab(row, c).at(c)[None] for c in (case, strong))
    assert size(less) <= size(more) * (1 + 1e-12)


@every_penalty
@given(data=st.data())
def test_signs(row, data):
    if row.parameters.get("nonnegative"):
        pytest.skip("not symmetric")
    case = data.draw(cases(row))
    checks.check_signs(proxlab(row, case), case, like(data, case, st.sampled_from([-1.0, 1.0])))


@every_penalty
@given(data=st.data())
def test_permutation(row, data):
    case = data.draw(cases(row))
    order = data.draw(st.permutations(range(case.x.size)))
    checks.check_permutation(proxlab(row, case), case, order)


@convex_penalties
@given(data=st.data())
def test_quadratic_growth(row, data):
    case = data.draw(cases(row))
    rival = like(data, case)
    if row.parameters.get("nonnegative"):
        rival = np.abs(rival)
    checks.check_quadratic_growth(proxlab(row, case), case, rival)


@every_penalty
@given(data=st.data())
def test_envelope_lies_between_its_tangent_and_a_parabola(row, data):
    """Which makes ``D (x - prox(x)) / step`` its gradient; the tangent bounds it for convex penalties."""
    case = data.draw(cases(row))
    x, d, step = case.x, case.d, case.step
    y = x + like(data, case) * data.draw(st.sampled_from([1e-6, 1e-3, 1.0]))
    penalty = row.build(case.parameters)
    at_x, at_y = (float(pl.envelope(penalty, v[None], step, metric=d[None]).sum()) for v in (x, y))
    z = pl.prox(penalty, x[None], step, metric=d[None])[0]
    tangent = at_x + float(np.sum(d * (x - z) * (y - x))) / step
    noise = 1e-13 * (checks.quadratic(0 * x, x, d, step) + checks.quadratic(0 * x, y, d, step))
    assert at_y <= tangent + checks.quadratic(y, x, d, step) + noise
    if row.convex:
        assert at_y >= tangent - noise
    assert abs(at_x - (penalty(z[None]) + checks.quadratic(z, x, d, step))) <= noise


@every_penalty
@given(data=st.data())
def test_subdifferential_inclusion(row, data):
    """``D (x - z)/step`` is a subgradient of the penalty at the prox."""
    case = data.draw(cases(row))
    z = proxlab(row, case).at(case)
    gradient = case.d * (z - case.x) / case.step
    distance = row.build(case.parameters).subdiff_distance(gradient[None], z[None])
    # The cancellation in z - x, and the rounding of z where the metric is large.
    noise = np.linalg.norm(case.d * (np.abs(case.x) + np.abs(z))) / case.step
    assert float(distance.max()) <= 1e-14 * noise * (1 + case.answer.conditions[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["GroupLasso", "GroupElasticNet", "GroupSCAD"])
@given(data=st.data())
def test_exact_zero_test(name, backend, data):
    """Zero is decided up to the last bit of the strength: ``‖D x‖ ≤ step · lam`` in exact arithmetic."""
    n = data.draw(st.integers(1, 5))
    x, d = data.draw(vectors(n, numbers)), data.draw(vectors(n, positives))
    assume(x.any())
    step = data.draw(st.sampled_from([1.0, 0.1, 3.0]))
    lam = unit("strength", x, d, step, {})
    strengths = [lam]
    for _ in range(2):
        strengths = [np.nextafter(strengths[0], 0), *strengths, np.nextafter(strengths[-1], np.inf)]
    for strength in map(float, strengths):
        # Convex subproblems, where zero is the prox if and only if it is a local minimiser.
        extra = {"GroupElasticNet": {"kappa": 0.5}, "GroupSCAD": {"a": 2.0 + 2.0 * step / d.min()}}.get(
            name, {}
        )
        case = Case(name, {"lam": strength} | extra, x, d, step)
        row = next(row for row in PENALTIES if row.name == name)
        margin = oracle.zero_margin(x, d, oracle.Fraction(step) * oracle.Fraction(strength))
        if margin == 0 or abs(margin) > 1e-29:  # beyond that doubled precision does not see
            checks.check_zero_test(proxlab(row, case, backend), x, d, step, margin <= 0)


def soft(x, t):
    return np.sign(x) * np.maximum(np.abs(x) - t, 0.0)


def firm(x, t, gamma_lam, gamma_d):
    """The scalar prox of MCP where the subproblem is convex: ``gamma_d`` is ``gamma d / step > 1``."""
    return np.where(np.abs(x) > gamma_lam, x, soft(x, t) / (1 - 1 / gamma_d))


@given(x=vectors(6, numbers), d=vectors(6, positives), step=factors)
def test_groups_of_size_one_have_the_scalar_prox(x, d, step):
    lam, kappa, t = 0.7, 0.3, 0.7 * step / d
    gamma = 1.5 * step / d.min()
    expected = {
        pl.GroupLasso(lam, groups=pl.Groups.over(())): soft(x, t),
        pl.GroupElasticNet(lam, kappa, groups=pl.Groups.over(())): soft(x, t) / (1 + step * kappa / d),
        pl.GroupLinf(lam, groups=pl.Groups.over(())): soft(x, t),
        pl.GroupL0(lam, groups=pl.Groups.over(())): np.where(d * x**2 / 2 > step * lam, x, 0.0),
        pl.GroupMCP(lam, gamma, groups=pl.Groups.over(())): firm(x, t, gamma * lam, gamma * d / step),
        pl.SparseGroupLasso(lam, lam, groups=pl.Groups.over(())): soft(x, 2 * t),
        pl.L1(lam): soft(x, t),
    }
    for penalty, z in expected.items():
        found = pl.prox(penalty, x, step, metric=d)
        np.testing.assert_allclose(found, z, rtol=1e-12, atol=1e-14 * np.abs(x).max(), err_msg=repr(penalty))


@given(data=st.data(), d=positives, step=factors)
def test_constant_metric_is_block_soft_thresholding(data, d, step):
    x = data.draw(vectors(data.draw(st.integers(1, 6)), numbers))
    r = np.linalg.norm(x)
    assume(r > 0)
    lam = 10.0 ** data.draw(st.floats(-3, 0.2)) * d * r / step
    z = pl.prox(pl.GroupLasso(lam), x[None], step, metric=d)[0]
    np.testing.assert_allclose(z, max(1 - step * lam / (d * r), 0.0) * x, rtol=0, atol=1e-15 * r * x.size)


@every_penalty
@given(data=st.data())
def test_concatenation(row, data):
    """A group's prox does not depend on the other groups."""
    first = data.draw(cases(row, sizes=(3, 3)))
    x = np.stack([first.x, like(data, first), like(data, first)])
    d = np.stack([first.d, like(data, first, positives), like(data, first, positives)])
    penalty = row.build(first.parameters)
    together = pl.prox(penalty, x, first.step, metric=d)
    for k in range(3):
        np.testing.assert_array_equal(
            together[k], pl.prox(penalty, x[k : k + 1], first.step, metric=d[k : k + 1])[0]
        )


@given(lam=positives)
@example(lam=1.0)
def test_tie_returns_the_sparser_point(lam):
    """``d x²/2 = step lam``: dropping the group costs as much as keeping it."""
    x = np.array([[2.0, 0.0]])
    s = pl.solve(pl.GroupL0(2.0 * lam), x, metric=lam)
    assert (s.z == 0).all()
    assert s.status[0] == pl.Status.TIE


def test_subject_protocol():
    """The checks accept any callable; this one is the identity, the prox of zero."""
    case = Case("GroupLasso", {"lam": 0.0}, np.array([1.0, 2.0]), np.ones(2), 1.0)
    checks.check_truth(Subject(lambda x, d, step: x, lambda z: 0.0), case)
