"""What an optimizer does beside its steps: driven strengths, certified steps, dual variables."""

import copy
import dataclasses
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.torch import dual  # noqa: E402
from tests.torch.methods import METHODS, ONE_EACH, prox_rows  # noqa: E402

pytestmark = pytest.mark.torch


@dataclasses.dataclass(frozen=True, eq=False)
class Lasso(pl.GroupLasso):
    """The group lasso with its strength as a penalty that can be driven has it."""

    @property
    def strength(self):
        return self.lam

    def with_strength(self, lam):
        return dataclasses.replace(self, lam=lam)


class Controller:
    """Stands for a TargetSparsity: a tenth more while half of the groups are not zero, else a tenth less."""

    weighted = False

    def init(self, lam0):
        return {"lam": lam0, "calls": 0, "points": 0}

    def update(self, state, t, problems, sparsity):
        reached = sparsity()
        lam = state["lam"] * (1.1 if reached < 0.5 else 1 / 1.1)
        assert t == state["calls"] + 1
        new = {"lam": lam, "calls": t, "points": len(problems), "sparsity": reached, "gap": 0.5 - reached}
        return lam, new


def start(method, sparsity=None, **options):
    rng = np.random.default_rng(0)
    params = [nn.Parameter(torch.tensor(rng.normal(size=shape))) for shape in ((8, 3), (6, 2), (4,))]
    groups = [
        {"params": params[:1], "penalty": Lasso(0.02)},
        {"params": params[1:2], "penalty": Lasso(0.06)},
        {"params": params[2:]},
    ]
    return params, method(groups, sparsity=sparsity, **options)


def run(params, optimizer, steps, seed=1):
    """Pull each row towards a target of its own size."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p in params:
            scale = torch.linspace(0.0, 1.0, p.shape[0], dtype=p.dtype).reshape(-1, *[1] * (p.ndim - 1))
            noise = torch.tensor(rng.normal(size=p.shape, scale=0.01))
            p.grad = p.detach() - scale + noise
        optimizer.step()


@pytest.mark.parametrize("name", sorted(ONE_EACH))
def test_one_strength_is_driven_and_ratios_stay(name):
    params, optimizer = start(ONE_EACH[name], Controller())
    run(params, optimizer, 40)
    history = optimizer.history
    assert [record["step"] for record in history] == list(range(1, 41))
    assert all(record["gap"] == 0.5 - record["sparsity"] for record in history)
    lam = 0.02
    for record in history:
        lam *= 1.1 if record["sparsity"] < 0.5 else 1 / 1.1
        assert record["lam"] == pytest.approx(lam, rel=1e-12)
    first, second, free = (group["penalty"] for group in optimizer.param_groups)
    assert (first.lam, second.lam) == pytest.approx((lam, 3 * lam), rel=1e-12)
    assert free is None


def test_the_strength_of_a_step_is_decided_on_before_its_prox():
    class Jump(Controller):
        def update(self, state, t, problems, sparsity):
            ((_, x, metric, step), _) = problems
            # the least strength at which every row of the first parameter vanishes
            norms = np.linalg.norm(metric * x, axis=1) / step
            return float(norms.max()) * (1 + 1e-12), state

    params, optimizer = start(METHODS["adamw"], Jump())
    run(params, optimizer, 1)
    assert not params[0].any()
    assert params[2].all()


@pytest.mark.parametrize("name", ["ProxAdamW", "RAMDA", "LinBreg"])
def test_a_driven_strength_is_saved(name):
    params, optimizer = start(ONE_EACH[name], Controller(), certify_every=3)
    run(params, optimizer, 10)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["strength"]["lam"] == optimizer.history[-1]["lam"]
    others, resumed = start(ONE_EACH[name], Controller(), certify_every=3)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    resumed.load_state_dict(state)
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
    params, optimizer = start(METHODS["adamw"], Controller())
    run(params, optimizer, 2)
    late = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer.add_param_group({"params": [late], "penalty": Lasso(0.01)})
    run([*params, late], optimizer, 2)
    assert optimizer.param_groups[3]["penalty"].lam == pytest.approx(optimizer.history[-1]["lam"] / 2)


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
        set(r) == {"step", "distance", "metric_distance", "stationarity", "gap"} for r in optimizer.history
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

CONVEX = [
    pl.L1(0.3),
    pl.GroupLasso(0.3),
    pl.GroupLasso(0.3, groups=pl.Groups.over(0), weights="sqrt_size"),
    pl.GroupLasso(0.3, groups=pl.Groups.csr([0, 3, 5, 12], list(range(12)))),
    pl.GroupElasticNet(0.3, kappa=0.5),
    pl.SparseGroupLasso(0.2, 0.3),
    pl.GroupLinf(0.3),
]


@pytest.mark.parametrize("penalty", CONVEX, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_the_prox_of_the_first_dual_variable_is_the_start(penalty, delta):
    w = np.random.default_rng(0).normal(size=(6, 4))
    w[[1, 3]] = 0.0
    w[:, 2] = 0.0
    for a in (w, torch.tensor(w)):
        v = dual.start(penalty, a, delta)
        z = pl.prox(penalty, delta * v, delta)
        np.testing.assert_allclose(np.asarray(z), w, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(np.asarray(z) == 0, w == 0)


@pytest.mark.parametrize("name", ["linbreg", "adabreg"])
def test_weights_stay_where_they_are_when_the_strength_changes(name):
    class Later(Controller):
        def update(self, state, t, problems, sparsity):
            return (0.02 if t < 10 else 0.5), state

    params, optimizer = start(METHODS[name], Later())
    run(params, optimizer, 9)
    before = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    run(params, optimizer, 3)
    assert optimizer.param_groups[0]["penalty"].lam == 0.5
    for p, q in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=0, atol=1e-14)
        assert torch.equal(p == 0, q == 0)


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
