"""A prox behind optimizers of PyTorch: equal to ours where ours exist, and to the formula where not."""

import copy
import io
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.torch import ProxWrapper, group_sparsity, param_groups  # noqa: E402

pytestmark = pytest.mark.torch

PAIRS = {
    "sgd": (torch.optim.SGD, pt.ProxSGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (torch.optim.Adagrad, pt.ProxAdagrad, {"lr": 0.1, "lr_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, pt.ProxRMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}),
    "adam": (torch.optim.Adam, pt.ProxAdam, {"lr": 0.01, "betas": (0.8, 0.95)}),
    "adamw": (torch.optim.AdamW, pt.ProxAdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "amsgrad": (torch.optim.AdamW, pt.ProxAMSGrad, {"lr": 0.01, "weight_decay": 0.0}),
}


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)


def train(model, optimizer, steps, seed=1, closure=False):
    torch.manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 6, dtype=next(model.parameters()).dtype)

        def loss(x=x):
            optimizer.zero_grad()
            value = (model(x) - x[:, :2]).square().mean()
            value.backward()
            return value

        if closure:
            assert optimizer.step(loss).ndim == 0
        else:
            loss()
            optimizer.step()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.kernels] if name in ("adagrad", "amsgrad") else [])
        for name in PAIRS
    ],
)
@pytest.mark.parametrize("penalty", [pl.GroupLasso(0.02), pl.GroupMCP(0.02, gamma=3.0), pl.L1(0.005)])
def test_equals_the_optimizer_with_a_prox_of_its_own(name, penalty):
    plain, own, settings = PAIRS[name]
    ours, theirs = network(), network()
    mine = own(param_groups(ours, penalty), **settings)
    extra = {"amsgrad": True} if name == "amsgrad" else {}
    wrapped = ProxWrapper(plain(theirs.parameters(), **settings, **extra), param_groups(theirs, penalty))
    train(ours, mine, 12)
    train(theirs, wrapped, 12, closure=True)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-12)
    assert group_sparsity(wrapped).total == group_sparsity(mine).total
    assert "metric identity" in repr(wrapped) if name == "sgd" else "metric sqrt" in repr(wrapped)


def own_rule():
    """A user's optimizer: signs of the gradient, in no metric."""

    class Signs(torch.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(group["lr"] * p.grad.sign())

    return Signs


OTHERS = {
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.02),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.02),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.02),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], lr=0.02),
    "user": lambda p: own_rule()(p, lr=0.01),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_step_of_any_optimizer_and_then_the_prox(name):
    if not hasattr(torch.optim, name) and name != "user":
        pytest.skip(f"this torch has no {name}")
    model, plain = network(), network()
    optimizer = ProxWrapper(OTHERS[name](list(model.parameters())), param_groups(model, pl.GroupLasso(0.3)))
    alone = OTHERS[name](list(plain.parameters()))
    train(model, optimizer, 1)
    train(plain, alone, 1)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        if p.ndim == 1:
            assert torch.equal(p, q)
            continue
        d, lr = np.ones(p.shape), optimizer.param_groups[0]["lr"]
        if name == "NAdam":
            state = alone.state[q]
            d = np.sqrt(state["exp_avg_sq"].numpy() / (1 - 0.999)) + 1e-8
        # Columns by the formula z = x d / (d + lr λ/‖z‖), to a fixed point.
        x = q.detach().numpy()
        for j in range(x.shape[1]):
            r, bound = np.linalg.norm(x[:, j]), np.linalg.norm(d[:, j] * x[:, j])
            if bound <= lr * 0.3:
                assert not p[:, j].any()
                continue
            for _ in range(2000):
                r = np.linalg.norm(x[:, j] * d[:, j] * r / (d[:, j] * r + lr * 0.3))
            z = x[:, j] * d[:, j] * r / (d[:, j] * r + lr * 0.3)
            np.testing.assert_allclose(p.detach().numpy()[:, j], z, rtol=1e-7, atol=1e-9)
    assert ("identity" in repr(optimizer)) == (name != "NAdam")


def test_joint_groups_and_half_precision():
    torch.manual_seed(0)
    model = network(dtype=torch.bfloat16)
    groups = param_groups(model, pl.GroupLasso(0.3), ffn=[("0", "2")])
    optimizer = ProxWrapper(torch.optim.AdamW(model.parameters(), lr=0.1), groups)
    train(model, optimizer, 10)
    row = next(r for r in group_sparsity(optimizer).layers if "+" in r.name)
    assert row.zero_groups > 0
    dead = ~(model[0].weight.any(dim=1) | model[0].bias.bool() | model[2].weight.any(dim=0))
    assert int(dead.sum()) == row.zero_groups
    assert "joint parameters" in repr(optimizer)


def test_schedulers_scalers_and_checkpoints_pass_through():
    model = network()
    optimizer = ProxWrapper(
        torch.optim.AdamW(model.parameters(), lr=0.1), param_groups(model, pl.GroupLasso(0.1))
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for _ in range(4):
        train(model, optimizer, 1)
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.optimizer.param_groups[0]["lr"] == 0.025
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 3, seed=5)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = network(3)
    second.load_state_dict(saved["model"])
    other = ProxWrapper(
        torch.optim.AdamW(second.parameters(), lr=1.0), param_groups(second, pl.GroupLasso(0.1))
    )
    other.load_state_dict(saved["optimizer"])
    train(second, other, 3, seed=5)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), second.parameters(), strict=True))
    twin_model, twin = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2)
    train(twin_model, twin, 2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin_model.parameters(), strict=True))


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.AdamW(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)]
)
@pytest.mark.parametrize("early", [False, True])
def test_frozen_groups_stay_zero_and_the_rest_heals(make, early):
    model = network()
    with torch.no_grad():
        model[2].weight[:, :2] = 0.0
    optimizer = ProxWrapper(make(model.parameters()), param_groups(model, pl.GroupLasso(0.5)))
    if not early:
        train(model, optimizer, 5)
    before = group_sparsity(optimizer)
    assert before.total.zero_groups >= 2
    optimizer.freeze()
    train(model, optimizer, 5)
    assert group_sparsity(optimizer) == before
    # A checkpoint keeps the mask, and the other groups are without a penalty.
    second = copy.deepcopy(model)
    other = ProxWrapper(make(second.parameters()), param_groups(second, pl.GroupLasso(1e9)))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 4, seed=7)
    train(second, other, 4, seed=7)
    assert group_sparsity(other) == before
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9)])
@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_frozen_is_saved_at_once(make, steps):
    """Before the next step, and of parts that have no state yet."""

    def made():
        torch.manual_seed(0)
        a, b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
        joint = {"params": [a, b], "joint": [pl.Groups.over(1), pl.Groups.over(())]}
        return (a, b), ProxWrapper(make([a, b], lr=0.05), [{**joint, "penalty": pl.GroupLasso(1.0)}])

    def step(params, optimizer, seed, some=2):
        generator = torch.Generator().manual_seed(seed)
        for k, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator)
            p.grad = g if k < some else None
        optimizer.step()

    params, optimizer = made()
    for k in range(steps):
        step(params, optimizer, k, some=1)
    with torch.no_grad():
        params[0][1], params[1][1] = 0.0, 0.0
    optimizer.freeze()
    others, other = made()
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.detach())
    with pytest.raises(TypeError, match="state_dict: must be a dict, got None"):
        other.load_state_dict(None)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.frozen.keys() == set(others)
    for k in range(steps, steps + 3):
        step(params, optimizer, k)
        step(others, other, k)
        assert not params[0][1].any()
        assert all(map(torch.equal, params, others))


def test_param_groups_added_later():
    model = network()
    first, second = model[0], model[2]
    optimizer = ProxWrapper(
        torch.optim.SGD(first.parameters(), lr=0.1), param_groups(first, pl.GroupLasso(0.1))
    )
    for group in param_groups(second, pl.GroupLasso(5.0)):
        optimizer.add_param_group(group)
    train(model, optimizer, 3)
    assert not second.weight.any()
    assert second.bias.any()
    with pytest.raises(
        ValueError, match=r"groups\[0\]: parameter 0 .*'weight'.* is not one of the optimizer's"
    ):
        ProxWrapper(torch.optim.SGD(first.parameters(), lr=0.1), param_groups(second, pl.GroupLasso(0.1)))


def test_errors():
    model = network()
    inner, groups = torch.optim.SGD(model.parameters(), lr=0.1), param_groups(model, pl.GroupLasso(0.1))
    with pytest.raises(TypeError, match=r"optimizer: must be a torch\.optim\.Optimizer, got list"):
        ProxWrapper([], groups)
    for other in (pt.ProxSGD(model.parameters(), lr=0.1), ProxWrapper(inner, groups)):
        with pytest.raises(TypeError, match="has a prox of its own"):
            ProxWrapper(other, groups)
    with pytest.raises(ValueError, match="groups: none of them has a penalty"):
        ProxWrapper(inner, [{"params": [model[0].weight]}])
    with pytest.raises(ValueError, match=r"groups\[1\]: .* is penalised twice"):
        ProxWrapper(inner, [groups[0], groups[0]])
    with pytest.raises(TypeError, match=r"groups\[0\]: must be a param group"):
        ProxWrapper(inner, [model[0].weight])
    with pytest.raises(TypeError, match=r"groups: must hold param groups, .* got 3"):
        ProxWrapper(inner, 3)
    with pytest.raises(TypeError, match=r"groups\[0\]: params\[1\]: must be a tensor, got 3"):
        ProxWrapper(inner, [{"params": [model[0].weight, 3], "penalty": pl.GroupLasso(0.1)}])
    joint = param_groups(model, pl.GroupLasso(0.1), ffn=[("0", "2")])
    split = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}]
    optimizer = ProxWrapper(torch.optim.SGD(split), joint[:1])
    with pytest.raises(
        ValueError, match=r"joint: the parameters must have one learning rate, got \[0.1, 0.2\]"
    ):
        train(model, optimizer, 1)
