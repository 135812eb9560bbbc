"""What an optimizer does beside its steps: driven strengths, certified steps, dual variables."""

import copy
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import group_sparsity  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.torch.methods import METHODS, ONE_EACH, prox_rows  # noqa: E402

pytestmark = pytest.mark.torch


def start(method, sparsity=None, **options):
    rng = np.random.default_rng(0)
    params = [nn.Parameter(torch.tensor(rng.normal(size=shape))) for shape in ((8, 3), (6, 2), (4,))]
    groups = [
        {"params": params[:1], "penalty": pl.GroupLasso(0.02)},
        {"params": params[1:2], "penalty": pl.GroupLasso(0.06)},
        {"params": params[2:]},
    ]
    return params, method(groups, sparsity=sparsity, **options)


def run(params, optimizer, steps, seed=1):
    """Pull each row towards a target of its own size."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p in params:
            scale = torch.linspace(0.0, 1.0, p.shape[0], dtype=p.dtype).reshape(-1, *[1] * (p.ndim - 1))
            noise = torch.tensor(rng.normal(size=p.shape, scale=0.01), dtype=p.dtype)
            p.grad = p.detach() - scale + noise
        optimizer.step()


def zero_rows(params):
    """How many of the fourteen penalised rows are zero."""
    return sum(int((~p.detach().any(dim=1)).sum()) for p in params[:2])


def quantile(target=0.5, **options):
    return TargetSparsity(target, **options)


def controller(target=0.5, **options):
    return TargetSparsity(target, method="multiplicative", **options)


# Passes of these are compiled in the ordinary suite.
PASSES = ("ProxAdamW",)


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        pytest.param(name, fused, marks=[pytest.mark.kernels] if fused is None and name not in PASSES else [])
        for name in sorted(ONE_EACH)
        for fused in (None, False)
    ],
)
def test_the_quantile_reaches_its_target_in_every_step(name, fused):
    params, optimizer = start(ONE_EACH[name], quantile(0.6), fused=fused, **NO_AVERAGE.get(name, {}))
    for _ in range(10):
        run(params, optimizer, 1)
        record = optimizer.history[-1]
        assert zero_rows(params) == 9  # the least number that is 60 % of fourteen
        assert record["sparsity"] == pytest.approx(9 / 14)
        assert record["sparsity_gap"] == pytest.approx(0.6 - 9 / 14)
    first, second, free = (group["penalty"] for group in optimizer.param_groups)
    assert (first.lam, second.lam) == pytest.approx((record["lam"], 3 * record["lam"]), rel=1e-12)
    assert free is None
    assert params[2].all()


NO_AVERAGE = {name: {"momentum": 0.0} for name in ("RMDA", "RAMDA")}


@pytest.mark.parametrize("name", sorted(ONE_EACH))
def test_the_controller_follows_the_sparsity_of_the_weights(name):
    params, optimizer = start(ONE_EACH[name], controller(rate=0.5), **NO_AVERAGE.get(name, {}))
    lam, rate, changes, before = 0.02, 0.5, 0, 0.0
    for t in range(1, 41):
        gap = 0.5 - zero_rows(params) / 14
        run(params, optimizer, 1, seed=t)
        record = optimizer.history[-1]
        assert record["sparsity_gap"] == pytest.approx(gap, abs=1e-15)
        if gap and np.sign(gap) == -before:
            changes += 1
            rate *= 0.95 if changes > 1 else 1.0
        before = np.sign(gap) or before
        lam *= (1 + rate * abs(gap)) ** np.sign(gap)
        assert record["lam"] == pytest.approx(lam, rel=1e-12)
    assert optimizer.param_groups[1]["penalty"].lam == pytest.approx(3 * lam, rel=1e-12)
    assert abs(gap) < 0.3


def test_joint_groups_and_their_sizes_are_driven():
    params, joint = [nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8))], pl.Groups.over
    group = {"params": params, "penalty": pl.GroupMCP(1.0, gamma=3.0), "joint": [joint(1), joint(())]}
    other = nn.Parameter(torch.randn(4, 10))
    groups = [group, {"params": [other], "penalty": pl.GroupLasso(0.5)}]
    optimizer = METHODS["adamw"](groups, sparsity=quantile(0.5, weighted=True))
    for p in (*params, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    total = group_sparsity(optimizer).total
    assert 0.5 <= total.weighted < 0.5 + 10 / 72
    assert optimizer.history[-1]["sparsity"] == pytest.approx(total.weighted)
    assert torch.equal(params[0].any(dim=1), params[1] != 0)


def test_half_precision_and_steps_between_decisions():
    params, optimizer = start(METHODS["adamw"], quantile(0.5, every=3, ramp="linear", ramp_steps=4))
    for p in params:
        p.data = p.data.to(torch.bfloat16)
    run(params, optimizer, 7)
    assert [(r["step"], r["sparsity"]) for r in optimizer.history] == [
        (1, pytest.approx(2 / 14)),
        (4, pytest.approx(0.5)),
        (7, pytest.approx(0.5)),
    ]
    assert zero_rows(params) >= 7


@pytest.mark.parametrize("name", ["ProxAdamW", "RAMDA", "LinBreg"])
@pytest.mark.parametrize("make", [quantile, controller])
def test_a_driven_strength_is_saved(name, make):
    options = {"certify_every": 3, "fused": None if name in PASSES else False}
    params, optimizer = start(ONE_EACH[name], make(), **options)
    run(params, optimizer, 10)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["param_groups"][1]["sparsity"]["lam"] == optimizer.history[-1]["lam"]
    others, resumed = start(ONE_EACH[name], make(), **options)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(state)
    assert resumed.param_groups[1]["penalty"].lam == optimizer.param_groups[1]["penalty"].lam
    twins, twin = pickle.loads(pickle.dumps((params, optimizer)))
    run(params, optimizer, 10, seed=2)
    run(others, resumed, 10, seed=2)
    run(twins, twin, 10, seed=2)
    assert resumed.history == optimizer.history[10:]
    assert twin.history == optimizer.history
    for p, q, r in zip(params, others, twins, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


def test_a_group_that_is_added_later_is_driven_too():
    params, optimizer = start(METHODS["adamw"], controller())
    run(params, optimizer, 2)
    late = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer.add_param_group({"params": [late], "penalty": pl.GroupLasso(0.01)})
    lam = optimizer.history[-1]["lam"]
    assert optimizer.param_groups[3]["penalty"].lam == pytest.approx(lam / 2)
    run([*params, late], optimizer, 2)
    assert optimizer.param_groups[3]["penalty"].lam == pytest.approx(optimizer.history[-1]["lam"] / 2)


@pytest.mark.parametrize("make", [quantile, controller])
@pytest.mark.parametrize("weighted", [False, True])
def test_frozen_parameters_count_as_group_sparsity_counts_them(make, weighted):
    """One definition: `history`, both methods and `group_sparsity` agree, also where a layer is frozen."""
    params, optimizer = start(METHODS["adamw"], make(0.5, weighted=weighted, rate=0.5))
    params[1].requires_grad_(False)
    with torch.no_grad():
        params[1][:2] = 0.0
    rng = np.random.default_rng(0)
    for _ in range(30):
        before = group_sparsity(optimizer).total
        for p in (params[0], params[2]):
            p.grad = torch.tensor(rng.normal(size=p.shape))
        optimizer.step()
        total = before if make is controller else group_sparsity(optimizer).total
        expected = total.weighted if weighted else total.sparsity
        assert optimizer.history[-1]["sparsity"] == pytest.approx(expected, abs=1e-15)
    assert zero_rows(params) >= (7 if make is quantile else 3)


def test_a_share_that_frozen_parameters_keep_from_vanishing_is_said_once():
    params, optimizer = start(METHODS["adamw"], quantile(0.9))
    params[0].grad = torch.ones_like(params[0])
    with pytest.warns(UserWarning, match=r"target: a sparsity of 0.9 cannot be reached, only 0\.5: .* rest"):
        optimizer.step()
    optimizer.step()
    for record in optimizer.history:
        assert record["reachable"] == record["sparsity"] == group_sparsity(optimizer).total.sparsity == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "fused"),
    [
        pytest.param(name, fused, marks=[] if name in FEW or fused is False else [pytest.mark.kernels])
        for name in sorted(METHODS)
        for fused in (None, False)
    ],
)
def test_nothing_moves_where_the_learning_rate_is_zero(name, dtype, fused):
    """To the last bit, from the first step on and after some steps; with a penalty and without."""
    rng = np.random.default_rng(0)
    params = [nn.Parameter(torch.tensor(rng.normal(size=(9, 5))).to(dtype)) for _ in range(2)]
    groups = [{"params": params[:1], "penalty": pl.GroupLasso(0.02)}, {"params": params[1:]}]
    method = METHODS[name]
    optimizer = method(groups, fused=fused)
    for lr in (0.0, method.settings["lr"], 0.0, 0.0):
        for group in optimizer.param_groups:
            group["lr"] = lr
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.tensor(rng.normal(size=p.shape)).to(dtype)
        optimizer.step()
        moved = [not torch.equal(p, q) for p, q in zip(params, before, strict=True)]
        assert moved == [lr > 0] * 2


@pytest.mark.parametrize("make", [quantile, controller])
def test_weights_follow_a_driven_strength_alone_where_the_learning_rate_is_zero(make):
    params, optimizer = start(METHODS["linbreg"], make(0.5, every=2), lr=0.0)
    for t in range(1, 7):
        before, lam = [p.detach().clone() for p in params], optimizer.param_groups[0]["penalty"].lam
        run(params, optimizer, 1)
        same = optimizer.param_groups[0]["penalty"].lam == lam
        assert same or t % 2 == 1
        assert torch.equal(params[0], before[0]) == same
        assert torch.equal(params[2], before[2])


def test_a_strength_of_zero_and_anything_else_are_refused():
    with pytest.raises(ValueError, match="param group 0: penalty: must have a strength > 0 to be driven"):
        METHODS["sgd"]([nn.Parameter(torch.ones(2, 2))], penalty=pl.GroupLasso(0.0), sparsity=quantile())
    for bad in (0.9, "quantile", TargetSparsity):
        with pytest.raises(TypeError, match="sparsity: must be a TargetSparsity such as"):
            start(METHODS["sgd"], bad)


def test_a_param_group_that_is_refused_leaves_the_strength_as_it_was():
    params, optimizer = start(METHODS["adamw"], quantile(0.5))
    more = nn.Parameter(torch.ones(4, 5))
    with pytest.raises(ValueError, match="param group 3: penalty: must have a strength > 0"):
        optimizer.add_param_group({"params": [more], "penalty": pl.GroupLasso(0.0)})
    run(params, optimizer, 2)
    optimizer.add_param_group({"params": [more], "penalty": pl.GroupLasso(1.0)})
    run(params, optimizer, 1)
    assert len(optimizer.history) == 3


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("make", [quantile, controller])
def test_a_step_that_fails_leaves_the_strength_as_it_was(make, fused):
    found = []
    for fails in (False, True):
        params, optimizer = start(METHODS["adamw"], make(0.5), fused=fused)
        run(params, optimizer, 3)
        if fails:
            before, weights = copy.deepcopy((optimizer.param_groups[0]["sparsity"], params))
            grads = [p.grad.clone() for p in params]
            for p in params[:2]:
                p.grad[0] = float("nan")
            with pytest.raises(ValueError, match="param group 0"):
                optimizer.step()
            assert optimizer.param_groups[0]["sparsity"] == before
            assert all(torch.equal(p, q) for p, q in zip(params, weights, strict=True))
            for p, g in zip(params, grads, strict=True):
                p.grad = g
        run(params, optimizer, 3)
        found.append(([h["lam"] for h in optimizer.history], params))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(p, q) for p, q in zip(found[0][1], found[1][1], strict=True))


def test_no_strength_is_driven_where_nothing_moves():
    params, optimizer = start(METHODS["adamw"], quantile(), lr=0.0)
    run(params, optimizer, 1)
    with torch.no_grad():
        params[0][:3] = 0.0
    run(params, optimizer, 1)
    optimizer.zero_grad()
    optimizer.step()
    # What is zero, is.
    first, *others = optimizer.history
    assert first == {"step": 1, "lam": 0.02, "sparsity": 0.0, "sparsity_gap": 0.5}
    share = group_sparsity(optimizer).total.sparsity
    assert share > 0
    for k, record in enumerate(others, 2):
        assert record == {"step": k, "lam": 0.02, "sparsity": share, "sparsity_gap": 0.5 - share}


# Certified steps


@pytest.mark.parametrize("name", [n for n in METHODS if "breg" not in n])
def test_certified_bounds_are_true(name):
    """The largest error of a coarse root finder is below what the history says, and not far below."""
    rng = np.random.default_rng(0)
    p = nn.Parameter(torch.tensor(rng.normal(size=(6, 4))))
    coarse = pl.Bisection(max_iterations=4)
    optimizer = METHODS[name]([p], penalty=pl.GroupLasso(0.3), root_finder=coarse, certify_every=2)
    for t in range(1, 6):
        twin = nn.Parameter(p.detach().clone())
        exact = METHODS[name]([twin], penalty=pl.GroupLasso(0.3))
        exact.state[twin] = copy.deepcopy(optimizer.state.get(p, {}))
        p.grad = twin.grad = torch.tensor(rng.normal(size=(6, 4)))
        optimizer.step()
        exact.step()
        if t % 2 == 0:
            keep = optimizer.param_groups[0]["momentum"] if optimizer.rule.averages else 0.0
            error = float((p - twin).detach().norm()) / (1 - keep)
            record = optimizer.history[-1]
            assert record["step"] == t
            assert error * (1 - 1e-10) <= record["distance"] <= 100 * error + 1e-12
    assert len(optimizer.history) == 2


def test_the_default_root_finder_is_exact():
    params, optimizer = start(METHODS["adamw"], certify_every=1)
    run(params, optimizer, 5)
    assert all(0 < record["distance"] < 1e-13 for record in optimizer.history)
    assert all(
        set(r) == {"step", "distance", "metric_distance", "stationarity", "gap", "evaluations"}
        for r in optimizer.history
    )


def test_a_plain_run_has_no_history():
    params, optimizer = start(METHODS["adamw"])
    run(params, optimizer, 3)
    assert optimizer.history == []
    assert set(optimizer.state_dict()) == {"state", "param_groups"}


@pytest.mark.parametrize(("bad", "error"), [(0, ValueError), (1.5, ValueError), ("x", TypeError)])
def test_certify_every_is_checked(bad, error):
    with pytest.raises(error, match=f"certify_every: must be .*{bad}"):
        start(METHODS["sgd"], certify_every=bad)


# Dual variables


@pytest.mark.parametrize("name", ["linbreg", "adabreg"])
def test_weights_are_read_off_the_dual_variable_with_the_new_strength(name):
    params, optimizer = start(METHODS[name], quantile(0.8), lr=0.0)
    delta = optimizer.param_groups[0]["delta"]
    w = params[0].detach().numpy().copy()
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    run(params, optimizer, 1)
    lam = optimizer.history[-1]["lam"]
    expected = prox_rows(w + delta * 0.02 * unit, np.ones_like(w), delta, lam)
    np.testing.assert_allclose(params[0].detach().numpy(), expected, rtol=0, atol=1e-13)
    dual_before = optimizer.state[params[0]]["dual"].clone()
    run(params, optimizer, 2)
    assert torch.equal(optimizer.state[params[0]]["dual"], dual_before)


def test_the_references_of_these_tests_agree_with_the_package():
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(5, 3)), rng.uniform(0.1, 2.0, size=(5, 3))
    np.testing.assert_allclose(
        prox_rows(x, d, 0.7, 0.9), pl.prox(pl.GroupLasso(0.9), x, 0.7, metric=d), atol=1e-13
    )


def test_optimizers_are_exported():
    for method in METHODS.values():
        assert method.make.__name__ in pt.__all__


# Steps that are solved just well enough

CRITERIA = [
    (pl.inexactness.Distance, "distance"),
    (pl.inexactness.Stationarity, "stationarity"),
    (pl.inexactness.Gap, "gap"),
]


@pytest.mark.parametrize(("criterion", "bound"), CRITERIA)
@pytest.mark.parametrize("name", ["sgd", "adamw", "ramda"])
def test_the_tolerance_of_every_step_is_kept(name, criterion, bound):
    schedule = pl.inexactness.SquareSummable(1e-3)
    params, optimizer = start(METHODS[name], inexactness=(criterion, schedule), root_finder=pl.Bisection())
    run(params, optimizer, 20)
    assert len(optimizer.history) == 20
    for record in optimizer.history:
        assert record["tolerance"] == schedule(record["step"])
        assert record[bound] <= record["tolerance"] * (1 + 1e-12)
    exact, other = start(METHODS[name], root_finder=pl.Bisection(), certify_every=1)
    run(exact, other, 20)
    assert optimizer.history[0]["iterations"] < 40
    if name != "sgd":  # with the identity for a metric the first point is the solution
        assert optimizer.history[0][bound] > 10 * other.history[0][bound]


def test_a_tolerance_that_cannot_be_proved_is_an_error_that_names_the_place():
    criterion, schedule = pl.inexactness.Distance, pl.inexactness.Constant(1e-30)
    params, optimizer = start(METHODS["adamw"], inexactness=(criterion, schedule))
    before = [p.detach().clone() for p in params]
    message = r"step 1, param group 0, parameter 0 \(shape \(8, 3\)\): the tolerance 1e-30 .* group \d"
    with pytest.raises(ValueError, match=message):
        run(params, optimizer, 1)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_a_resumed_run_knows_how_many_iterations_were_enough():
    options = {"inexactness": (pl.inexactness.Distance, pl.inexactness.Summable(1e-2)), "certify_every": 4}
    params, optimizer = start(METHODS["adamw"], root_finder=pl.Bisection(), **options)
    run(params, optimizer, 6)
    assert [r["step"] for r in optimizer.history] == [4]
    others, resumed = start(METHODS["adamw"], root_finder=pl.Bisection(), **options)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(params, optimizer, 6, seed=2)
    run(others, resumed, 6, seed=2)
    assert resumed.history == optimizer.history[1:]
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("bad", [1e-3, pl.inexactness.Distance, (pl.inexactness.Distance(0.1), 0.1)])
def test_inexactness_is_checked(bad):
    with pytest.raises(TypeError, match="inexactness: must be a criterion and a schedule"):
        start(METHODS["sgd"], inexactness=bad)
