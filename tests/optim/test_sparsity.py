"""The strength from which on a group vanishes, and what drives the strength towards a wanted sparsity."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim import TargetSparsity, sparsity, vanishing_strength
from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import Resting
from tests import oracle
from tests.table import GROUPS, PENALTIES, ids

# How a penalty of strength s reads: the parameters that scale, and those that stay.
SHAPES = {
    "GroupElasticNet": {"kappa": 0.8},
    "GroupMCP": {"gamma": 1.3},
    "GroupSCAD": {"a": 2.4},
    "GroupCapped": {"theta": 0.7},
    "GroupLog": {"eps": 0.3},
    "GroupLq": {"q": 0.5},
}


def parameters(name, s, shape, share=0.3):
    if name == "SparseGroupLasso":
        return {"lam1": share * s, "lam2": (1 - share) * s}
    return {"lam": s, **shape}


def random_shape(name, rng):
    """Shapes over the regimes in which the flat part, the slope at zero or neither decides."""
    exponents = {
        "kappa": (-2, 2),
        "gamma": (-3, 2),
        "a": (-2, 2),
        "theta": (-3, 1),
        "eps": (-3, 2),
        "q": (-1, 0),
    }
    return {k: 10 ** rng.uniform(*exponents[k]) + 2.0 * (k == "a") for k in SHAPES.get(name, {})}


def vanishes(name, s, shape, x, d, step, weight):
    """By ball arithmetic, where the objectives decide; a tie is no answer."""
    return oracle.solve(name, parameters(name, s, shape), x, d, step, weight).radius.mid() == 0


SIGNED = [row for row in PENALTIES if not row.parameters.get("nonnegative")]


@pytest.mark.parametrize("row", SIGNED, ids=ids(SIGNED))
def test_a_group_vanishes_from_this_strength_on(row):
    rng = np.random.default_rng(0)
    for k in range(12):
        n = 1 if row.name == "L1" else int(rng.integers(1, 5))
        x, d = rng.normal(size=n), rng.lognormal(sigma=2.0, size=n)
        step, shape = 10 ** rng.uniform(-2, 3), random_shape(row.name, rng)
        weight = 1.0 if row.name == "L1" else rng.uniform(0.3, 3.0)
        options = {} if row.name == "L1" else {"weights": [weight]}
        penalty = getattr(pl, row.name)(**parameters(row.name, 0.7, shape), **options)
        (s,) = vanishing_strength(penalty, x[None], step, metric=d[None]).ravel()
        assert vanishes(row.name, s * (1 + 1e-9), shape, x, d, step, weight), k
        assert not vanishes(row.name, s * (1 - 1e-9), shape, x, d, step, weight), k


@pytest.mark.parametrize("name", ["GroupMCP", "GroupSCAD", "GroupCapped"])
def test_either_condition_decides_somewhere(name):
    """The slope at zero, and the flat part: no shape of the test before is there for nothing."""
    rng = np.random.default_rng(0)
    flat = []
    for _ in range(40):
        x, d, shape = rng.normal(size=(1, 3)), rng.lognormal(sigma=2.0, size=(1, 3)), random_shape(name, rng)
        step = 10 ** rng.uniform(-2, 3)
        s = vanishing_strength(getattr(pl, name)(**parameters(name, 1.0, shape)), x, step, metric=d)[0]
        flat.append(s > np.linalg.norm(d * x) / step * (1 + 1e-12))
    assert 5 < sum(flat) < 35


WRONG = {
    "the metric left out": lambda s, x, d, step: np.linalg.norm(x) / step,
    "the step left out": lambda s, x, d, step: s * step,
    "the slope at zero alone": lambda s, x, d, step: np.linalg.norm(d * x) / step,
    "the flat part alone": lambda s, x, d, step: np.sqrt(x @ (d * x) / (1.3 * step)),
}


@pytest.mark.parametrize("mutant", WRONG)
def test_a_wrong_condition_is_told_apart(mutant):
    """For MCP, where both conditions decide; the right one passes the same check."""
    rng = np.random.default_rng(0)
    shape, rejected = {"gamma": 1.3}, 0
    for _ in range(12):
        x, d, step = rng.normal(size=3), rng.lognormal(sigma=2.0, size=3), 10 ** rng.uniform(-1, 1)
        (s,) = vanishing_strength(pl.GroupMCP(0.7, **shape), x[None], step, metric=d[None])
        for strength, count in ((s, 0), (WRONG[mutant](s, x, d, step), 1)):
            above = vanishes("GroupMCP", strength * (1 + 1e-9), shape, x, d, step, 1.0)
            below = vanishes("GroupMCP", strength * (1 - 1e-9), shape, x, d, step, 1.0)
            assert count or (above and not below)
            rejected += count * (not above or below)
    assert rejected > 1


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@pytest.mark.parametrize("grouping", ["rows", "columns", "ragged", "labels", "heads"])
def test_the_prox_agrees(row, grouping):
    """By bisection over the strength with the prox itself, for every group at once."""
    make, size = GROUPS[grouping]
    rng = np.random.default_rng(1)
    x, d = rng.normal(size=size), rng.lognormal(size=size)
    options = {} if row.name == "L1" else {"groups": make()}
    penalty = row.build(**options)
    s = vanishing_strength(penalty, x, 0.3, metric=d)
    layout = penalty.groups.layout(size)

    def zero(strength):
        z = pl.prox(penalty.with_strength(strength), x, 0.3, metric=d)
        return np.array(
            [not z.ravel()[part].any() for part in np.split(layout.csr()[1], layout.csr()[0][1:-1])]
        )

    low, high = np.zeros_like(s), np.full_like(s, 1e6)
    for k in range(len(s)):
        for _ in range(60):
            middle = (low[k] + high[k]) / 2
            low[k], high[k] = (low[k], middle) if zero(middle)[k] else (middle, high[k])
    np.testing.assert_allclose(high, s, rtol=1e-12, atol=1e-11)


def test_steps_per_group_and_float32():
    x = np.array([[3.0, 4.0], [0.3, 0.4]], np.float32)
    s = vanishing_strength(pl.GroupLasso(1.0), x, np.array([1.0, 0.1]))
    np.testing.assert_allclose(s, [5.0, 5.0], rtol=1e-6)
    assert s.dtype == np.float64


def test_groups_without_weight_never_vanish_unless_they_are_zero():
    x = np.array([[1.0, 2.0], [0.0, 0.0]])
    for penalty in (pl.GroupLasso(1.0, weights=[0, 0]), pl.GroupLinf(1.0, weights=[0, 0])):
        assert vanishing_strength(penalty, x).tolist() == [math.inf, 0.0]
    s = vanishing_strength(pl.SparseGroupLasso(0.5, 0.5, weights=[0, 0]), x)
    np.testing.assert_allclose(s, [4.0, 0.0])


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_sparse_group_lasso_over_extreme_spreads(spread):
    """Against bisection of the equation itself, in rational steps of the strength."""
    rng = np.random.default_rng(3)
    x = np.exp(spread * rng.normal(size=(40, 9)))
    for share in (1e-9, 0.3, 1 - 1e-9, 1.0):
        s = vanishing_strength(pl.SparseGroupLasso(share, 1 - share), x)
        for row, strength in zip(x, s, strict=True):
            low, high = 0.0, float(np.linalg.norm(row)) * 3e9
            for _ in range(200):
                m = (low + high) / 2
                left = math.hypot(*np.maximum(row - share * m, 0))
                low, high = (m, high) if left > (1 - share) * m else (low, m)
            assert strength == pytest.approx(high, rel=1e-12)


def test_an_empty_array_has_no_groups(xp):
    assert vanishing_strength(pl.GroupLasso(1.0), xp.asarray(np.zeros((0, 3)))).shape == (0,)
    s = vanishing_strength(pl.GroupMCP(1.0, 2.0), xp.asarray(np.array([[3.0, 4.0]])))
    np.testing.assert_allclose(xp.to_numpy(s), [5.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.array([[np.nan]])}, "x: must be finite"),
        ({"metric": np.array([[0.0]])}, "metric: must be finite and > 0"),
        ({"penalty": pl.SparseGroupLasso(0.0, 0.0)}, "must not all be 0"),
        ({"step": -1.0}, "step: must be finite and > 0"),
    ],
)
def test_bad_input_is_an_error(arguments, message):
    given = {"penalty": pl.GroupLasso(1.0), "x": np.ones((1, 1)), "step": 1.0, "metric": None} | arguments
    with pytest.raises(ValueError, match=message):
        vanishing_strength(given["penalty"], given["x"], given["step"], metric=given["metric"])


def test_a_penalty_that_does_not_say_is_named():
    class Mine(pl.GroupMCP):
        _strength_at = pl.penalties.RadialPenalty._strength_at

    with pytest.raises(NotImplementedError, match="Mine does not say at which strength"):
        vanishing_strength(Mine(1.0, 2.0), np.ones((1, 2)))


# The quantile


def problems(rng, penalties, step=0.1):
    return [
        ProxProblem(p, rng.normal(size=(50, 4)) * scale, rng.lognormal(size=(50, 4)), step)
        for p, scale in zip(penalties, (1.0, 3.0, 0.2), strict=False)
    ]


def zero_groups(penalty, problem):
    z = pl.prox(penalty, problem.x, problem.step, metric=problem.metric)
    rows = z.reshape(-1, 1) if type(penalty) is pl.L1 else z
    return ~rows.any(axis=1)


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
@pytest.mark.parametrize("wanted", [0.013, 0.5, 0.7, 0.98])
def test_the_wanted_share_vanishes(row, wanted):
    (problem,) = problems(np.random.default_rng(0), [row.build()])
    target = TargetSparsity(wanted)
    lam, state = target.update(target.init(problem.penalty.strength), 1, [problem], [], None)
    zero = zero_groups(problem.penalty.with_strength(lam), problem)
    already = zero_groups(
        problem.penalty.with_strength(0.0 if row.name != "SparseGroupLasso" else 1e-9), problem
    )
    expected = max(math.ceil(wanted * len(zero) - 1e-9), already.sum())
    assert zero.sum() == expected
    assert state["sparsity"] == zero.mean()
    assert state["gap"] == wanted - zero.mean()
    assert state["lam"] == lam


def test_penalties_keep_their_proportion_and_sizes_count():
    rng = np.random.default_rng(1)
    # twelve groups of 1 to 3 elements in the second problem
    ragged = pl.GroupMCP(0.9, gamma=2.0, groups=pl.Groups.csr(np.cumsum([0, *[1, 2, 3] * 4])))
    first = ProxProblem(pl.GroupLasso(0.3), rng.normal(size=(20, 6)), None, 0.5)
    second = ProxProblem(ragged, rng.normal(size=24), rng.lognormal(size=24), 0.5)
    for weighted in (False, True):
        target = TargetSparsity(0.6, weighted=weighted, keep_at_least=0)
        lam, state = target.update(target.init(0.3), 1, [first, second], [], None)
        zero = []
        for problem, share in ((first, 1.0), (second, 3.0)):
            z = pl.prox(problem.penalty.with_strength(share * lam), problem.x, 0.5, metric=problem.metric)
            indptr, indices = problem.penalty.groups.layout(problem.x.shape).csr()
            parts = np.split(indices, indptr[1:-1])
            zero += [(len(part) if weighted else 1, not z.ravel()[part].any()) for part in parts]
        sizes, dead = np.array(zero, float).T
        reached = sizes @ dead / sizes.sum()
        assert state["sparsity"] == pytest.approx(reached, abs=1e-15)
        assert 0.6 <= reached < 0.6 + sizes.max() / sizes.sum()


def test_float32_points_and_equal_groups():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(10, 300)), 2, axis=0).astype(np.float32)
    problem = ProxProblem(pl.GroupLasso(1.0), x, None, 1.0)
    target = TargetSparsity(0.45)
    lam, state = target.update(target.init(1.0), 1, [problem], [], None)
    assert zero_groups(pl.GroupLasso(lam), problem).sum() == 10  # nine are asked for, and come in pairs
    assert state["sparsity"] == 0.5


def test_what_cannot_vanish_is_said():
    penalty = pl.GroupLasso(1.0, weights=[1.0, 0.0, 0.0, 0.0])
    problem = ProxProblem(penalty, np.ones((4, 2)), None, 1.0)
    target = TargetSparsity(0.5)
    lam, state = target.update(target.init(1.0), 1, [problem], [], None)
    assert (state["sparsity"], state["gap"], state["reachable"]) == (0.25, 0.25, 0.25)
    assert zero_groups(penalty.with_strength(lam), problem).sum() == 1
    problem = problem._replace(penalty=pl.GroupLasso(1.0, weights=[0.0] * 4))
    lam, state = target.update(target.init(0.3), 1, [problem], [], None)
    assert (lam, state["sparsity"], state["reachable"]) == (0.3, 0.0, 0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_groups_that_rest_count_as_they_are(weighted):
    """Three of seven rest, one of them zero: for 4/7 the others have to give three."""
    rng = np.random.default_rng(0)
    problem = ProxProblem(pl.GroupLasso(1.0), rng.normal(size=(4, 2)), None, 1.0)
    resting = Resting(np.array([True, False, True]), np.array([2, 2, 2]))
    target = TargetSparsity(0.55, weighted=weighted)
    lam, state = target.update(target.init(1.0), 1, [problem], [resting], None)
    assert zero_groups(pl.GroupLasso(lam), problem).sum() == 3
    assert state["sparsity"] == pytest.approx(4 / 7)
    _, state = TargetSparsity(0.8, keep_at_least=0).update(target.init(1.0), 1, [problem], [resting], None)
    assert state["sparsity"] == state["reachable"] == pytest.approx(5 / 7)


def test_nothing_is_decided_without_a_prox_and_what_is_zero_is_said():
    target = TargetSparsity(0.5)
    lam, state = target.update(target.init(0.3), 1, [], [], lambda: 0.125)
    assert lam == 0.3
    assert state == target.init(0.3) | {"sparsity": 0.125, "gap": 0.375}


@pytest.mark.parametrize("per", ["network", "layer"])
def test_the_history_is_of_this_step_where_nothing_moves(per):
    """Every fourth step or so is of rate 0, and somebody else makes groups zero before it."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.0, 0.1], 40)
    optimizer = pl.optim.ProxSGD(lr=lambda t: rates[t - 1], sparsity=TargetSparsity(0.5, per=per))
    w = {"a": rng.normal(size=(8, 3)), "b": rng.normal(size=(4, 5))}
    state = optimizer.init(w, pl.GroupLasso(0.1))
    for rate in rates:
        w = {k: a * (rng.random((len(a), 1)) < 0.8) + (rng.random((len(a), 1)) < 0.2) for k, a in w.items()}
        w, state = optimizer.step(w, {k: rng.normal(size=a.shape) for k, a in w.items()}, state)
        zero = sum(int((~a.any(axis=1)).sum()) for a in w.values())
        assert state.history[-1]["sparsity"] == zero / 12
        assert state.history[-1]["sparsity_gap"] == 0.5 - zero / 12, rate


# The multiplicative method


def follow(gaps, target=0.5, **options):
    method = TargetSparsity(target, method="multiplicative", **options)
    state, path = method.init(2.0), []
    for t, gap in enumerate(gaps, 1):
        lam, state = method.update(state, t, [], [], lambda gap=gap: target - gap)
        path.append(lam)
    return path, state


def test_the_strength_grows_while_too_dense_and_shrinks_while_too_sparse():
    path, _ = follow([0.5, 0.5, -0.25], rate=0.2)
    np.testing.assert_allclose(path, [2.0 * 1.1, 2.0 * 1.21, 2.0 * 1.21 / 1.05], rtol=1e-15)


def test_the_rate_falls_at_each_change_of_direction_but_the_first():
    gaps = [0.2, -0.2, -0.2, 0.0, 0.2, 0.2, -0.2]
    path, state = follow(gaps, rate=0.5)
    lam, expected = 2.0, []
    for gap, rate in zip(gaps, [0.5, 0.5, 0.5, 0.5, 0.475, 0.475, 0.45125], strict=True):
        lam *= (1 + rate * abs(gap)) ** np.sign(gap)
        expected.append(lam)
    np.testing.assert_allclose(path, expected, rtol=1e-14)
    assert state["rate"] == pytest.approx(0.45125)


def test_the_strength_stays_in_range():
    path, _ = follow([0.5] * 3000, rate=9.0)
    assert path[-1] == 1e150
    path, _ = follow([-0.5] * 3000, rate=9.0)
    assert path[-1] == 1e-150


# Ramps and options


def test_ramps():
    linear = TargetSparsity(0.8, ramp="linear", ramp_steps=8, start=0.2)
    assert [linear.at(t) for t in (2, 4, 8, 9)] == pytest.approx([0.35, 0.5, 0.8, 0.8])
    cubic = TargetSparsity(0.8, ramp="cubic", ramp_steps=4)
    assert [cubic.at(t) for t in (1, 2, 3, 4)] == pytest.approx(
        [0.8 * (1 - f**3) for f in (0.75, 0.5, 0.25, 0)]
    )
    assert TargetSparsity(0.8).at(1) == 0.8


def test_every():
    assert [t for t in range(1, 12) if TargetSparsity(0.5, every=4).due(t)] == [1, 5, 9]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": 1.0}, ValueError, "target: must be < 1, got 1.0"),
        ({"target": 0.0}, ValueError, "target: must be finite and > 0"),
        ({"target": "much"}, TypeError, "target: must be a real number"),
        ({"method": "magic"}, ValueError, 'method: must be "quantile" or "multiplicative"'),
        ({"weighted": 1}, TypeError, "weighted: must be True or False"),
        ({"every": 0}, ValueError, "every: must be finite and >= 1"),
        ({"every": 1.5}, ValueError, "every: must be a whole number"),
        ({"ramp": "steep", "ramp_steps": 3}, ValueError, "ramp: must be None"),
        ({"ramp": "linear"}, ValueError, "ramp_steps: goes with ramp"),
        ({"ramp_steps": 3}, ValueError, "ramp_steps: goes with ramp"),
        ({"start": 0.1}, ValueError, "start: goes with ramp"),
        ({"ramp": "linear", "ramp_steps": 3, "start": 1.0}, ValueError, "start: must be < 1"),
        ({"rate": 0.0}, ValueError, "rate: must be finite and > 0"),
        ({"decay": 1.1}, ValueError, "decay: must be <= 1"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        TargetSparsity(**({"target": 0.5} | options))


def test_a_strength_of_zero_cannot_be_driven():
    with pytest.raises(ValueError, match="lam0: must be finite and > 0"):
        TargetSparsity(0.5).init(0.0)


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TargetSparsity(0.5).target = 0.6


KINDS_OF_SUMS = [
    lambda **o: pl.GroupLasso(0.3, **o),
    lambda **o: pl.GroupElasticNet(0.3, 0.1, **o),
    lambda **o: pl.GroupMCP(0.3, gamma=2.0, **o),
    lambda **o: pl.GroupSCAD(0.3, 3.7, **o),
    lambda **o: pl.GroupL0(0.3, **o),
]


@given(
    kind=st.sampled_from(KINDS_OF_SUMS),
    shape=st.sampled_from([(7, 70), (70, 7), (6, 5, 3, 3), (3, 4, 5)]),
    axes=st.sampled_from([0, 1, -1, (0, -1), ()]),
    dtype=st.sampled_from([np.float32, np.float64]),
    dense=st.booleans(),
    decades=st.sampled_from([0.0, 1.0, 90.0, 140.0]),
    seed=st.integers(0, 100),
)
def test_strengths_from_sums_are_those_of_the_elements(kind, shape, axes, dtype, dense, decades, seed):
    """Where sums leave the range too: there the elements decide."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-decades, decades / 4, shape) if dtype is np.float64 else 1.0
    x = (scale * rng.normal(size=shape)).astype(dtype)
    x[0] = 0.0
    metric = np.exp(2 * rng.normal(size=shape)).astype(dtype) if dense else None
    penalty = kind(groups=pl.Groups.over(axes), weights="sqrt_size")
    found = pl.optim.vanishing_strength(penalty, x, 0.1, metric=metric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparsity, "_compiled", lambda *_: None)
        expected = pl.optim.vanishing_strength(penalty, x, 0.1, metric=metric)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_say_nothing_of_what_is_not_finite(axis):
    x, d = np.ones((6, 8)), np.ones((6, 8))
    x[2, 3] = np.nan
    penalty = pl.GroupLasso(1.0, groups=pl.Groups.over(axis))
    with pytest.raises(ValueError, match=r"x: must be finite, .*\(2, 3\)"):
        pl.optim.vanishing_strength(penalty, x, metric=d)
    x[2, 3], d[4, 5] = 1.0, -1.0
    with pytest.raises(ValueError, match="metric: must be"):
        pl.optim.vanishing_strength(penalty, x, metric=d)


@given(seed=st.integers(0, 2**32 - 1))
def test_several_problems_are_told_together_what_each_is_told_alone(seed):
    """Whether their sums tell or do not: elementwise parts, labels, what leaves the range."""
    rng = np.random.default_rng(seed)
    penalties = [
        pl.GroupLasso(0.3), pl.GroupLasso(0.3, groups=pl.Groups.over(0)), pl.GroupMCP(0.5, gamma=1.7),
        pl.GroupLasso(0.2, weights="sqrt_size"), pl.SparseGroupLasso(0.1, 0.2), pl.GroupLinf(0.4),
        pl.GroupLasso(0.7, groups=pl.Groups.labels(np.arange(12).reshape(4, 3) % 5)),
        pl.GroupLasso(2.0, weights=np.array([0.0, 1.0, 2.0, 0.5])),
    ]  # fmt: skip
    problems = []
    for _ in range(int(rng.integers(1, 9))):
        penalty, dtype = penalties[rng.integers(len(penalties))], rng.choice([np.float32, np.float64])
        x = rng.normal(size=(4, 3)).astype(dtype)
        x[rng.integers(4)] = 0.0
        if dtype == np.float64 and rng.random() < 0.2:
            x[rng.integers(4)] *= 1e-220
        metric = rng.uniform(0.5, 2.0, size=x.shape).astype(dtype) if rng.random() < 0.7 else None
        if rng.random() < 0.2:
            x = np.asfortranarray(x)
        problems.append(ProxProblem(penalty, x, metric, float(rng.choice([1.0, 0.25])), uses=2.0))
    for p, found in zip(problems, sparsity.all_moving(problems), strict=True):
        alone = vanishing_strength(p.penalty, p.x, p.step, metric=p.metric) / p.penalty.strength
        np.testing.assert_array_equal(found.strengths, alone)
        np.testing.assert_array_equal(found.sizes, p.penalty.groups.sizes(p.x.shape))
        assert found.uses == 2.0
