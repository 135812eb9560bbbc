"""The methods on arrays: what they compute, what they keep, and what they say of bad input."""

import dataclasses
import typing

import mpmath
import numpy as np
import pytest

import proxlab as pl
from proxlab import optim
from proxlab.optim.rules import RULES
from tests import oracle
from tests.optim.methods import METHODS, ONE_EACH, prox_rows

LAM = 0.3
RNG = np.random.default_rng(0)
START = RNG.normal(size=(6, 4))
DATA = RNG.normal(size=(30, 6))
TARGET = DATA @ np.diag([1.0, 0.5, 0.0, 0.0, 0.02, 0.0]) @ RNG.normal(size=(6, 4))
AVERAGED = ("rmda", "ramda")


def gradient(w):
    """Of a least-squares problem with some rows that do not matter."""
    return DATA.T @ (DATA @ w - TARGET) / len(DATA)


def run(optimizer, penalty, steps=25, start=START, asarray=np.asarray, to_numpy=np.asarray, sign=1.0):
    w = asarray(start)
    state = optimizer.init(w, penalty)
    path = []
    for _ in range(steps):
        g = sign * gradient(to_numpy(w).astype(np.float64))
        w, state = optimizer.step(w, asarray(g.astype(start.dtype)), state)
        path.append(np.array(to_numpy(w), np.float64))
    return np.array(path)


def by_numpy(name, steps=25, lam=LAM, prox=prox_rows, **mutation):
    """Run a method as its authors write it, on the rows of a group lasso."""
    method, w, state, path = METHODS[name], START.copy(), {}, []
    settings = method.settings | {"lam": lam}
    keep = settings.get("momentum", 0.0) if method.reference.__name__ in AVERAGED else 0.0
    for t in range(1, steps + 1):
        state["t"] = t
        x, d, eta = method.reference(w, gradient(w), state, settings)
        z = prox(x, mutation.get("metric", lambda d: d)(d), mutation.get("step", lambda e: e)(eta), lam)
        w = keep * w + (1 - keep) * z
        path.append(w)
    return np.array(path)


# What they compute


def test_before_its_start_a_penalty_does_nothing():
    """Here no gradient has come yet, the metric is eps, and the least strength would erase everything."""
    w, g, lasso = START, np.zeros_like(START), pl.GroupLasso(1e-6)
    for start, zero in ((1, True), (3, False)):
        optimizer = optim.ProxAdamW(lr=0.1, start=start)
        new, _ = optimizer.step(w, g, optimizer.init(w, lasso))
        assert not new.any() if zero else new.all()
    for name in ("ProxSGD", "ProxAdamW", "RAMDA", "LinBreg"):
        if RULES[name].convex:
            with pytest.raises(ValueError, match=f"start: must be 1, since the state of {name} holds"):
                ONE_EACH[name](start=2)
            continue
        late = run(ONE_EACH[name](start=6), pl.GroupLasso(LAM), steps=8)
        free = run(ONE_EACH[name](), None, steps=8)
        assert np.array_equal(late[:5], free[:5])
        assert not np.allclose(late[5], free[5], atol=1e-6)
    for bad in (0, 1.5, "x"):
        with pytest.raises((TypeError, ValueError), match="start: must be"):
            optim.ProxAdamW(start=bad)


def test_a_ramp_begins_at_the_start():
    target = optim.TargetSparsity(0.5, ramp="linear", ramp_steps=3, every=2)
    optimizer, w = optim.ProxAdamW(lr=1e-2, sparsity=target, start=4), START
    state = optimizer.init(w, pl.GroupL0(1e-3))
    for _ in range(7):
        w, state = optimizer.step(w, gradient(w), state)
    assert [(r["step"], r["sparsity"]) for r in state.history] == [(4, 1 / 6), (6, 0.5)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_is_the_method_of_the_paper(name, sign):
    path = run(METHODS[name](maximize=sign < 0), pl.GroupLasso(LAM), sign=sign)
    expected = by_numpy(name)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-11)
    if METHODS[name].reference.__name__ not in AVERAGED:
        np.testing.assert_array_equal(path == 0, expected == 0)


@pytest.mark.parametrize("name", METHODS)
def test_without_a_penalty_it_is_the_plain_method(name):
    path = run(METHODS[name](), None)
    np.testing.assert_allclose(path, by_numpy(name, lam=0.0, prox=lambda x, *_: x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_other_arrays_take_the_same_path(name, xp):
    path = run(METHODS[name](), pl.GroupLasso(LAM), 8, asarray=xp.asarray, to_numpy=xp.to_numpy)
    np.testing.assert_allclose(path, by_numpy(name, 8), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_near(name):
    path = run(METHODS[name](), pl.GroupLasso(LAM), 10, START.astype(np.float32))
    np.testing.assert_allclose(path, by_numpy(name, 10), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_number_is_a_vector_of_one(name):
    """An array without axes, whose elements NumPy's arithmetic makes numbers of."""
    found = []
    for shape in ((), (1,)):
        optimizer, w = METHODS[name](), np.full(shape, 0.7)
        state = optimizer.init(w, pl.L1(0.3))
        for t in range(1, 6):
            w, state = optimizer.step(w, np.full(shape, np.sin(t)), state)
        assert isinstance(w, np.ndarray)
        assert w.shape == shape
        found.append(float(w.sum()))
    assert found[0] == found[1]


def by_oracle(x, d, step, penalty, parameters):
    return np.array([oracle.solve(penalty, parameters, a, b, step).z for a, b in zip(x, d, strict=True)])


@pytest.mark.parametrize("name", ["sgd", "adamw", "ramda", "rmda", "adam"])
@pytest.mark.parametrize(
    ("penalty", "parameters"),
    [("GroupMCP", {"lam": 0.5, "gamma": 0.7}), ("SparseGroupLasso", {"lam1": 0.1, "lam2": 0.2})],
)
def test_other_penalties_against_the_oracle(name, penalty, parameters):
    path = run(METHODS[name](), getattr(pl, penalty)(**parameters), 6)
    expected = by_numpy(name, 6, prox=lambda x, d, step, _: by_oracle(x, d, step, penalty, parameters))
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-10)


def test_two_steps_of_adamw_by_mpmath():
    """All in 40 digits, on one group of three elements."""
    w0, grads = [0.5, -1.25, 0.75], [[0.3, 0.1, -0.2], [-0.05, 0.4, 0.25]]
    lr, beta1, beta2, eps, decay, lam = 0.02, 0.9, 0.99, 1e-6, 0.1, 0.35
    with mpmath.workdps(40):
        lr_, b1, b2, eps_, decay_, lam_ = (mpmath.mpf(v) for v in (lr, beta1, beta2, eps, decay, lam))
        w, m, v = [mpmath.mpf(a) for a in w0], [mpmath.mpf(0)] * 3, [mpmath.mpf(0)] * 3
        for t, g in enumerate(grads, 1):
            m = [b1 * a + (1 - b1) * mpmath.mpf(b) for a, b in zip(m, g, strict=True)]
            v = [b2 * a + (1 - b2) * mpmath.mpf(b) ** 2 for a, b in zip(v, g, strict=True)]
            d = [mpmath.sqrt(a / (1 - b2**t)) + eps_ for a in v]
            x = [
                a * (1 - lr_ * decay_) - lr_ * (b / (1 - b1**t)) / c for a, b, c in zip(w, m, d, strict=True)
            ]
            b = [p * q for p, q in zip(x, d, strict=True)]

            def excess(r, b=b, d=d):
                return mpmath.fsum((p / (q * r + lr_ * lam_)) ** 2 for p, q in zip(b, d, strict=True)) - 1

            low, high = mpmath.mpf(0), mpmath.norm(x)
            for _ in range(160):
                middle = (low + high) / 2
                low, high = (middle, high) if excess(middle) > 0 else (low, middle)
            w = [p * low / (q * low + lr_ * lam_) for p, q in zip(b, d, strict=True)]
        expected = np.array([float(a) for a in w])
    optimizer = optim.ProxAdamW(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    w = np.array([w0])
    state = optimizer.init(w, pl.GroupLasso(lam))
    for g in grads:
        w, state = optimizer.step(w, np.array([g]), state)
    np.testing.assert_allclose(w[0], expected, rtol=1e-14)


MUTANTS = {
    "the metric of the second moment without its bias corrected": {"metric": lambda d: d * 0.05},
    "the identity in place of the metric": {"metric": np.ones_like},
    "a step of 1": {"step": lambda eta: 1.0},
    "half the strength": {"step": lambda eta: 0.5 * eta},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_scaling_is_told_apart(mutant):
    path = run(METHODS["adamw"](), pl.GroupLasso(LAM))
    assert np.abs(path - by_numpy("adamw", **MUTANTS[mutant])).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_zeros_are_exact_and_can_come_back(name):
    optimizer, w = METHODS[name](), START
    averaged = METHODS[name].reference.__name__ in AVERAGED and "momentum" in name
    state = optimizer.init(w, pl.GroupLasso(30.0))
    for _ in range(60):
        w, state = optimizer.step(w, gradient(w), state)
    if not averaged and "breg" not in name:
        assert not w.any(axis=1).all()
    state = dataclasses.replace(state, penalties={"params": pl.GroupLasso(1e-3)})
    for _ in range(200):
        w, state = optimizer.step(w, gradient(w), state)
    assert w.any(axis=1)[:2].all()


def test_the_learning_rate_may_depend_on_the_step():
    rates = [0.1, 0.0, 0.03]
    optimizer = optim.ProxSGD(lr=lambda t: rates[t - 1])
    w, state, expected = START, optimizer.init(START, pl.GroupLasso(LAM)), START
    for lr in rates:
        expected = prox_rows(expected - lr * gradient(expected), np.ones_like(w), lr, LAM)
        w, state = optimizer.step(w, gradient(w), state)
        np.testing.assert_allclose(w, expected, atol=1e-13)


@pytest.mark.parametrize("name", sorted(ONE_EACH))
def test_the_defaults_are_those_of_the_rule(name):
    fields = {field.name: field.default for field in dataclasses.fields(getattr(optim, name))}
    settings = {key: setting.default for key, setting in RULES[name].settings.items()}
    assert {key: fields[key] for key in settings} == settings
    own = {"root_finder", "inexactness", "certify_every", "sparsity", "start"}
    assert set(fields) == set(settings) | own


def test_every_rule_has_its_optimizer():
    assert set(RULES) == set(ONE_EACH)
    assert set(RULES) <= set(optim.__all__)


def test_a_derived_class_has_the_rule_of_its_base():
    class Mine(optim.ProxSGD):
        pass

    np.testing.assert_array_equal(run(Mine(lr=0.1), pl.L1(0.1), 3), run(optim.ProxSGD(lr=0.1), pl.L1(0.1), 3))
    with pytest.raises(TypeError, match="Optimizer: has no update rule; use one of ProxSGD, "):
        optim.Optimizer()


# Trees


class Layer(typing.NamedTuple):
    weight: np.ndarray
    bias: np.ndarray


def a_tree(rng):
    return {
        "first": Layer(rng.normal(size=(5, 3)), rng.normal(size=5)),
        "rest": [rng.normal(size=(4, 2)), (rng.normal(size=(2, 3)).astype(np.float32), np.zeros((0, 3)))],
    }


def test_a_tree_of_parameters_is_as_each_alone():
    lasso, mcp = pl.GroupLasso(0.2), pl.GroupMCP(0.3, gamma=2.0)
    penalties = {"first": Layer(lasso, None), "rest": [mcp, lasso]}
    optimizer, params = optim.ProxAdamW(lr=0.1), a_tree(np.random.default_rng(0))
    state = optimizer.init(params, penalties)
    alone = {
        "w": (params["first"].weight, lasso),
        "b": (params["first"].bias, None),
        "r": (params["rest"][0], mcp),
        "s": (params["rest"][1][0], lasso),
    }
    states = {k: optimizer.init(w, p) for k, (w, p) in alone.items()}
    weights = {k: w for k, (w, _) in alone.items()}
    for t in range(5):
        grads = a_tree(np.random.default_rng(t + 1))
        params, state = optimizer.step(params, grads, state)
        flat = {
            "w": grads["first"].weight,
            "b": grads["first"].bias,
            "r": grads["rest"][0],
            "s": grads["rest"][1][0],
        }
        for k, g in flat.items():
            weights[k], states[k] = optimizer.step(weights[k], g, states[k])
    assert isinstance(params["first"], Layer)
    assert isinstance(params["rest"][1], tuple)
    np.testing.assert_array_equal(params["first"].weight, weights["w"])
    np.testing.assert_array_equal(params["first"].bias, weights["b"])
    np.testing.assert_array_equal(params["rest"][0], weights["r"])
    np.testing.assert_array_equal(params["rest"][1][0], weights["s"])
    assert params["rest"][1][0].dtype == np.float32
    assert params["rest"][1][1].shape == (0, 3)


def test_a_step_leaves_its_arguments_alone():
    optimizer = optim.ProxAdamW(lr=0.1, certify_every=1, sparsity=optim.TargetSparsity(0.5))
    params = {"w": START.copy()}
    before = optimizer.init(params, pl.GroupLasso(0.1))
    once, state = optimizer.step(params, {"w": gradient(START)}, before)
    again, other = optimizer.step(params, {"w": gradient(START)}, before)
    np.testing.assert_array_equal(params["w"], START)
    np.testing.assert_array_equal(once["w"], again["w"])
    assert state.history == other.history
    assert (before.step, before.history, state.step) == (0, (), 1)
    assert all(not a.any() for a in before.slots["params['w']"].values())


@pytest.mark.parametrize("name", ["RMDA", "RAMDA"])
def test_a_new_stage_starts_anew(name):
    optimizer = ONE_EACH[name](sparsity=optim.TargetSparsity(0.3))
    w, state = START, optimizer.init(START, pl.GroupLasso(0.1))
    for _ in range(5):
        w, state = optimizer.step(w, gradient(w), state)
    fresh = optimizer.init(w, pl.GroupLasso(0.1))
    restarted = optimizer.restart(w, state)
    assert (restarted.step, len(restarted.history)) == (5, 5)
    a, b = w, w
    for _ in range(4):
        a, restarted = optimizer.step(a, gradient(a), restarted)
        b, fresh = optimizer.step(b, gradient(b), fresh)
        np.testing.assert_array_equal(a, b)
    assert restarted.step == 9


# What history holds


def objective(w, lam):
    return 0.5 * np.sum((DATA @ w - TARGET) ** 2) / len(DATA) + lam * np.linalg.norm(w, axis=1).sum()


@pytest.mark.parametrize("maximize", [False, True])
def test_the_objective_its_stationarity_and_the_support(maximize):
    sign = -1.0 if maximize else 1.0
    optimizer = optim.ProxAdam(lr=0.1, maximize=maximize)
    params = {"w": START, "free": np.ones(3)}
    state = optimizer.init(params, {"w": pl.GroupLasso(LAM), "free": None})
    for t in range(30):
        w, free = params["w"], params["free"]
        loss = objective(w, 0.0) + 0.5 * np.sum(free**2)
        grads = {"w": sign * gradient(w), "free": sign * free}
        params, state = optimizer.step(params, grads, state, loss=sign * loss, full_gradient=grads)
        record = state.history[-1]
        assert record["step"] == t + 1
        assert record["objective"] == pytest.approx(objective(w, LAM) + 0.5 * np.sum(free**2), rel=1e-13)
        square = np.sum(free**2)
        for row, g in zip(w, gradient(w), strict=True):
            r = np.linalg.norm(row)
            square += np.sum((g + LAM * row / r) ** 2) if r else max(0.0, np.linalg.norm(g) - LAM) ** 2
        assert record["dist"] == pytest.approx(np.sqrt(square), rel=1e-12)
        assert record["support"] == np.any(params["w"], axis=1).sum()
    assert state.history[-1]["objective"] < state.history[0]["objective"]
    assert 0 < record["support"] < 6


def test_elements_in_no_group_count_for_the_stationarity():
    penalty = pl.GroupLasso(10.0, groups=pl.Groups.labels(np.array([0, 0, -1])))
    optimizer, w = optim.ProxSGD(lr=0.1), np.array([0.0, 0.0, 1.0])
    g = np.array([1.0, 1.0, -3.0])
    _, state = optimizer.step(w, g, optimizer.init(w, penalty), full_gradient=g)
    assert state.history[0]["dist"] == pytest.approx(3.0)


def test_a_plain_run_has_no_history():
    optimizer = optim.ProxAdamW()
    _, state = optimizer.step(START, gradient(START), optimizer.init(START, pl.GroupLasso(LAM)))
    assert state.history == ()


# Inexactness


CRITERIA = {"Distance": "distance", "Stationarity": "stationarity", "Gap": "gap"}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["adamw", "ramda"])
def test_the_tolerance_of_every_step_is_kept(name, criterion):
    """The certificate says so, and the distance to what the oracle finds."""
    schedule = pl.inexactness.SquareSummable(1e-2)
    optimizer = METHODS[name](
        inexactness=(getattr(pl.inexactness, criterion), schedule), root_finder=pl.Bisection()
    )
    params = {"a": START, "b": START[:, ::-1].copy()}
    state = optimizer.init(params, pl.GroupLasso(LAM))
    reference = {"a": {}, "b": {}}
    coarse = 0
    for t in range(1, 9):
        before = params
        grads = {k: gradient(w) for k, w in params.items()}
        params, state = optimizer.step(params, grads, state)
        record = state.history[-1]
        assert record["tolerance"] == schedule(t)
        assert record[CRITERIA[criterion]] <= record["tolerance"]
        assert record["evaluations"] > 0
        square = 0.0
        for k, w in before.items():
            reference[k]["t"] = t
            x, d, eta = METHODS[name].reference(w, grads[k], reference[k], METHODS[name].settings)
            exact = by_oracle(x, d, eta, "GroupLasso", {"lam": LAM})
            square += np.sum((params[k] - exact) ** 2)
        assert np.sqrt(square) <= record["distance"] * (1 + 1e-9) + 1e-11
        coarse += np.sqrt(square) > 1e-6
    assert coarse > 2  # the tolerance was made use of
    assert record["iterations"] < 40


def test_a_tolerance_that_cannot_be_proved_names_the_place():
    optimizer = optim.ProxAdamW(inexactness=(pl.inexactness.Distance, pl.inexactness.Constant(1e-30)))
    params = {"a": np.zeros((2, 2)), "b": [START]}
    state = optimizer.init(params, pl.GroupLasso(1e-3))
    message = r"inexactness: step 1, params\['b'\]\[0\]: the tolerance 1e-30 is not proved.*group \d"
    with pytest.raises(ValueError, match=message):
        optimizer.step(params, {"a": np.zeros((2, 2)), "b": [gradient(START)]}, state)


def test_between_certified_steps_as_many_iterations_are_done():
    options = {"inexactness": (pl.inexactness.Distance, pl.inexactness.Summable(1e-3)), "certify_every": 3}
    optimizer = optim.ProxAdamW(lr=0.05, root_finder=pl.Bisection(), **options)
    w, state = START, optimizer.init(START, pl.GroupLasso(LAM))
    used = []
    for _ in range(9):
        w, state = optimizer.step(w, gradient(w), state)
        used.append(state.iterations)
    assert [r["step"] for r in state.history] == [3, 6, 9]
    assert used[:2] == [1, 1]
    assert used[2] == used[3] == used[4] > 1


# Target sparsity


@pytest.mark.parametrize("name", METHODS)
def test_the_quantile_is_exact_in_every_step(name):
    optimizer = METHODS[name](sparsity=optim.TargetSparsity(0.6))
    params = {"w": START, "v": RNG.normal(size=(9, 2)), "free": np.ones(4)}
    penalty = {"w": pl.GroupLasso(0.1), "v": pl.GroupLasso(0.3), "free": None}
    state = optimizer.init(params, penalty)
    averaged = METHODS[name].reference.__name__ in AVERAGED and "momentum" in name
    for _ in range(6):
        grads = {"w": gradient(params["w"]), "v": params["v"], "free": params["free"] - 2}
        params, state = optimizer.step(params, grads, state)
        zero = sum(int((~params[k].any(axis=1)).sum()) for k in ("w", "v"))
        assert averaged or zero == 9  # of fifteen
        assert state.history[-1]["sparsity"] == pytest.approx(0.6)
        assert averaged or state.history[-1]["support"] == 6


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_moves_where_the_learning_rate_is_zero(name, dtype):
    """To the last bit, from the first step on and after some steps; with a penalty and without."""
    rates = (0.0, METHODS[name].settings["lr"], 0.0, 0.0)
    optimizer = METHODS[name](lr=lambda t: rates[t - 1])
    params = {"w": START.astype(dtype), "free": START[:2].astype(dtype)}
    state = optimizer.init(params, {"w": pl.GroupLasso(LAM), "free": None})
    for lr in rates:
        grads = {k: RNG.normal(size=w.shape).astype(dtype) for k, w in params.items()}
        new, state = optimizer.step(params, grads, state)
        assert [np.array_equal(new[k], params[k]) for k in params] == [lr == 0] * 2
        params = new


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("target", [None, "quantile", "multiplicative"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_gradients_are_errors_where_nothing_moves_too(name, target, bad):
    """No prox would find them, and the state would keep them."""
    sparsity = None if target is None else optim.TargetSparsity(0.5, method=target)
    optimizer = ONE_EACH[name](sparsity=sparsity, lr=lambda t: 0.1 if t == 1 else 0.0)
    params = {"w": START, "free": START}
    state = optimizer.init(params, {"w": pl.GroupLasso(LAM), "free": None})
    params, state = optimizer.step(params, {"w": START, "free": START}, state)
    spoilt = START.copy()
    spoilt[1, 1] = bad
    with pytest.raises(ValueError, match=r"^grads\['w'\]: must be finite, but element \(1, 1\)"):
        optimizer.step(params, {"w": spoilt, "free": START}, state)


@pytest.mark.parametrize("name", ONE_EACH)
@pytest.mark.parametrize("size", [1e150, 1e160, 1e300])
def test_finite_gradients_leave_a_finite_state_or_are_errors(name, size):
    """Squares that leave the range would stop an element for ever."""
    optimizer = ONE_EACH[name]()
    state = optimizer.init(START, pl.GroupLasso(LAM))
    w, state = optimizer.step(START, START, state)
    great = START.copy()
    great[1, 1] = size
    try:
        w, state = optimizer.step(w, great, state)
    except ValueError as error:
        assert "must be finite" in str(error)  # noqa: PT017
        return
    assert np.isfinite(w).all()
    assert all(np.isfinite(a).all() for slots in state.slots.values() for a in slots.values())


def progress_by_oracle(name, w, x, d, step):
    """What the weights, taken for the solution, would be wrong by: all rows together."""
    parts = []
    for row, (point, metric) in zip(w, zip(x, d, strict=True), strict=True):
        r = np.linalg.norm(row)
        if name == "stationarity":
            pull = metric * (row - point) / step
            size = np.linalg.norm(pull + LAM * row / r) if r else max(np.linalg.norm(pull) - LAM, 0.0)
            parts.append(size**2)
            continue
        answer = oracle.solve("GroupLasso", {"lam": LAM}, point, metric, step)
        if name == "distance":
            parts.append(answer.distance(row) ** 2)
        else:
            here = oracle.objective("GroupLasso", {"lam": LAM}, row, point, metric, step)
            parts.append(oracle.to_float(here - answer.objectives[0]) / step)
    return sum(parts) if name == "gap" else np.sqrt(sum(parts))


ADAPTIVE = {
    "distance": pl.inexactness.Distance,
    "stationarity": pl.inexactness.Stationarity,
    "gap": pl.inexactness.Gap,
}


@pytest.mark.parametrize("criterion", ADAPTIVE)
def test_adaptive_tolerances_are_a_share_of_what_is_left(criterion):
    """Against the oracle, which solves each prox; two parameters count together."""
    eps = 0.5 if criterion == "stationarity" else 0.05
    schedule = pl.inexactness.Adaptive(eps, sigma=0.03)
    optimizer = optim.ProxAdamW(
        lr=0.05, inexactness=(ADAPTIVE[criterion], schedule), root_finder=pl.Bisection()
    )
    params, rule = [START[:3], START[3:]], optimizer.rule
    state = optimizer.init(params, pl.GroupLasso(LAM))
    shares = 0
    for t in range(1, 13):
        grads = list(np.split(gradient(np.concatenate(params)), 2))
        asked = [
            rule.propose(optimizer._settings(t), w, g, tuple(slots.values()), t, 0.0)
            for w, g, slots in zip(params, grads, state.slots.values(), strict=True)
        ]
        x, d = (np.concatenate([getattr(a, k) for a in asked]) for k in ("x", "metric"))
        left = progress_by_oracle(criterion, np.concatenate(params), x, d, asked[0].step)
        params, state = optimizer.step(params, grads, state)
        record, slack = state.history[-1], {"stationarity": 1e-9, "distance": 0.03, "gap": 1.0}[criterion]
        # the bounds of a certificate: of what is left, and never less
        assert record["tolerance"] >= min(eps / t, 0.03 * left) * (1 - 1e-12)
        assert record["tolerance"] <= min(eps / t, 0.03 * left * (1 + slack)) * (1 + 1e-12)
        shares += record["tolerance"] < eps / t
        assert record[criterion] <= record["tolerance"]
    assert 3 <= shares < 12


def test_adaptive_tolerances_at_a_fixed_point_fall_back_to_the_cap():
    """A share of what is left cannot be proved once that is rounding."""
    schedule = pl.inexactness.Adaptive(1e-3, sigma=1e-9)
    optimizer = optim.ProxSGD(lr=1.0, inexactness=(pl.inexactness.Distance, schedule))
    w, target = np.array([[3.0, 4.0, 0.5]]), np.array([[5.0, -7.0, 0.25]])
    state = optimizer.init(w, pl.GroupLasso(1.0))
    for _ in range(4):
        w, state = optimizer.step(w, w - target, state)
    tolerances = [record["tolerance"] for record in state.history]
    left = np.linalg.norm(np.array([3.0, 4.0, 0.5]) - w)
    assert 1e-9 * left * (1 - 1e-12) <= tolerances[0] <= 1.1e-9 * left
    assert tolerances[-1] == schedule(4)
    assert all(record["iterations"] <= 3 for record in state.history)


def test_relative_criteria_ask_for_the_cap_of_an_adaptive_schedule():
    schedule = pl.inexactness.Adaptive(0.5)
    optimizer = optim.ProxSGD(lr=0.1, inexactness=(pl.inexactness.RelativeDistance, schedule))
    state = optimizer.init(START, pl.GroupLasso(LAM))
    _, state = optimizer.step(START, gradient(START), state)
    assert state.history[-1]["tolerance"] == 0.5


def test_the_controller_and_a_ramp_count_by_size():
    target = optim.TargetSparsity(
        0.5, method="multiplicative", weighted=True, rate=1.0, every=2, ramp="linear", ramp_steps=10
    )
    optimizer = optim.ProxSGD(lr=0.1, sparsity=target)
    params = [START, RNG.normal(size=(3, 8))]
    state = optimizer.init(params, pl.GroupLasso(0.05))
    lam, before, changes, rate = 0.05, 0.0, 0, 1.0
    for t in range(1, 40):
        zero = sum((~w.any(axis=1)).sum() * w.shape[1] for w in params) / 48
        params, state = optimizer.step(params, [gradient(params[0]), params[1] - 0.1], state)
        if t % 2 == 0:
            assert len(state.history) == t // 2
            continue
        record, gap = state.history[-1], 0.5 * min(t / 10, 1.0) - zero
        assert record["sparsity_gap"] == pytest.approx(gap, abs=1e-15)
        if gap and np.sign(gap) == -before:
            changes += 1
            rate *= 0.95 if changes > 1 else 1.0
        before = np.sign(gap) or before
        lam *= (1 + rate * abs(gap)) ** np.sign(gap)
        assert record["lam"] == pytest.approx(lam, rel=1e-12)


@pytest.mark.parametrize("method", ["quantile", "multiplicative"])
def test_a_classifier_of_digits_reaches_its_target(method):
    """Softmax regression, a group for each pixel: of 64, half are to go, with little lost."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = data.data / 16, np.eye(10)[data.target]
    test = np.arange(len(x)) % 4 == 0
    ramp = {"ramp": "cubic", "ramp_steps": 100} if method == "quantile" else {"rate": 0.5}
    target = optim.TargetSparsity(0.5, method=method, **ramp)
    optimizer = optim.ProxAdamW(lr=0.03, weight_decay=0.0, sparsity=target)
    params = {"w": np.zeros((64, 10)) + 0.01, "b": np.zeros(10)}
    state = optimizer.init(params, {"w": pl.GroupLasso(1e-3), "b": None})
    rng = np.random.default_rng(0)
    for _ in range(300):
        batch = rng.choice(np.flatnonzero(~test), 128)
        logits = x[batch] @ params["w"] + params["b"]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = (p / p.sum(axis=1, keepdims=True) - y[batch]) / len(batch)
        params, state = optimizer.step(params, {"w": x[batch].T @ error, "b": error.sum(axis=0)}, state)
    zero = (~params["w"].any(axis=1)).mean()
    accuracy = ((x[test] @ params["w"] + params["b"]).argmax(axis=1) == data.target[test]).mean()
    assert zero == 0.5 if method == "quantile" else abs(zero - 0.5) < 0.08
    assert accuracy > 0.9


# Errors

ARRAY = np.ones((2, 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr: must be finite and >= 0"),
        ({"lr": "fast"}, TypeError, "lr: must be a real number"),
        ({"lr": lambda t: -t}, ValueError, "lr: must be finite and >= 0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]: must be < 1"),
        ({"eps": 0.0}, ValueError, "eps: must be finite and > 0"),
        ({"amsgrad": 1}, TypeError, "amsgrad: must be True or False"),
        ({"root_finder": "newton"}, TypeError, "root_finder: must be a root finder"),
        ({"inexactness": 1e-3}, TypeError, "inexactness: must be a criterion and a schedule"),
        ({"certify_every": 1.5}, ValueError, "certify_every: must be a whole number"),
        ({"sparsity": 0.9}, TypeError, "sparsity: must be a TargetSparsity"),
        ({"momentum": 0.9}, TypeError, "momentum"),
    ],
)
def test_settings_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        optim.ProxAdamW(**options)


@pytest.mark.parametrize(
    ("make", "params", "penalty", "error", "message"),
    [
        ("ProxSGD", {"a": [[1.0]]}, None, TypeError, r"params\['a'\]\[0\]\[0\]: must be an array"),
        ("ProxSGD", {"a": np.ones(2, int)}, None, TypeError, r"params\['a'\]: must have a real floating"),
        ("ProxSGD", np.ones(2, np.float16), None, TypeError, "params: must be of float32 or float64"),
        ("ProxSGD", {"a": ARRAY}, {"a": 0.1}, TypeError, r"penalty\['a'\]: must be a proxlab penalty"),
        ("ProxSGD", {"a": ARRAY}, {"b": None}, TypeError, r"penalty: must have the structure of params"),
        ("ProxSGD", [ARRAY], {0: None}, TypeError, "penalty: must have the structure of params"),
        (
            "ProxSGD",
            {"a": np.ones(3)},
            pl.GroupLasso(1.0, groups=pl.Groups.over(1)),
            ValueError,
            r"penalty\['a'\]: does not fit params\['a'\]: ",
        ),
        ("LinBreg", ARRAY, pl.GroupMCP(1.0, 2.0), ValueError, "penalty: must be convex"),
    ],
)
def test_parameters_and_penalties_are_checked(make, params, penalty, error, message):
    with pytest.raises(error, match=message):
        getattr(optim, make)().init(params, penalty)


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        ({"b": ARRAY}, TypeError, r"grads: must have the structure of params, here the keys \['a'\]"),
        ({"a": [ARRAY]}, TypeError, r"grads\['a'\]: must be an array"),
        ({"a": np.ones(3)}, ValueError, r"grads\['a'\]: must have the shape of its parameter, \(2, 3\)"),
        ({"a": ARRAY.astype(np.float32)}, TypeError, r"grads\['a'\]: must be an array of the kind and dtype"),
        ({"a": ARRAY * np.nan}, ValueError, r"params\['a'\]: x: must be finite"),
        (None, TypeError, "grads: must have the structure of params"),
    ],
)
def test_gradients_are_checked(grads, error, message):
    optimizer = optim.ProxSGD()
    state = optimizer.init({"a": ARRAY}, pl.GroupLasso(1.0))
    with pytest.raises(error, match=message):
        optimizer.step({"a": ARRAY}, grads, state)


def test_states_and_parameters_of_another_kind_are_refused():
    adam, sgd = optim.ProxAdam(), optim.ProxSGD()
    state = sgd.init({"a": ARRAY})
    with pytest.raises(
        TypeError, match=r"state: must be one that ProxAdam.init has made, got one of ProxSGD"
    ):
        adam.step({"a": ARRAY}, {"a": ARRAY}, state)
    with pytest.raises(TypeError, match=r"params: must have the parameters of the state"):
        sgd.step({"b": ARRAY}, {"b": ARRAY}, state)
    with pytest.raises(TypeError, match="loss: must be a real number"):
        sgd.step({"a": ARRAY}, {"a": ARRAY}, state, loss="low")
    single = sgd.init(ARRAY)
    with pytest.raises(ValueError, match="full_gradient: must have the shape"):
        sgd.step(ARRAY, ARRAY, single, full_gradient=np.ones(2))


def test_what_cannot_be_driven_is_refused():
    optimizer = optim.ProxSGD(sparsity=optim.TargetSparsity(0.5))
    with pytest.raises(ValueError, match="sparsity: needs a penalty to drive"):
        optimizer.init(ARRAY)
    with pytest.raises(ValueError, match=r"penalty\[1\]: must have a strength > 0 to be driven"):
        optimizer.init([ARRAY, ARRAY], [pl.GroupLasso(1.0), pl.GroupLasso(0.0)])
