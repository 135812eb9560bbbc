"""Paths of strengths: against closed forms of linear models, and against training at strengths around."""

import copy
import math
from itertools import cycle, pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.torch import ProxSGD, group_sparsity, param_groups, strengths  # noqa: E402

pytestmark = pytest.mark.torch

PENALTIES = {
    "lasso": pl.GroupLasso(0.3),
    "weighted": pl.GroupLasso(2.0, weights="sqrt_size"),
    "sparse": pl.SparseGroupLasso(0.1, 0.2),
    "mcp": pl.GroupMCP(0.7, gamma=1e6),
    "linf": pl.GroupLinf(0.5),
    "l1": pl.L1(1.0),
    "ridge": pl.GroupElasticNet(0.2, 0.1),
}


def regression(seed=0, outputs=3):
    torch.manual_seed(seed)
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, outputs, dtype=torch.float64)
    return nn.Linear(5, outputs, bias=False).double(), [(x[:20], y[:20]), (x[20:], y[20:])]


def trained(model, groups, loss, batches, steps=60, lr=0.4):
    """Proximal gradient steps on the mean loss from zero."""
    optimizer = ProxSGD(groups, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (sum(loss(model(x), y) for x, y in batches) / len(batches)).backward()
        optimizer.step()
    return group_sparsity(optimizer).total


@pytest.mark.parametrize("name", PENALTIES)
def test_all_groups_of_a_linear_model_are_zero_exactly_from_there_on(name):
    penalty = PENALTIES[name]
    model, batches = regression()
    before = copy.deepcopy(model.state_dict())
    lam_max, grid = strengths(model, param_groups(model, penalty), functional.mse_loss, batches, count=5)
    assert torch.equal(model.weight, before["weight"])
    assert model.weight.grad is None
    np.testing.assert_allclose(grid, lam_max * np.geomspace(1.0, 1e-3, 5))
    for factor, all_zero in ((1.0 + 1e-6, True), (1.0 - 1e-3, False)):
        model, _ = regression()
        nn.init.zeros_(model.weight)
        total = trained(
            model, param_groups(model, penalty.with_strength(lam_max * factor)), functional.mse_loss, batches
        )
        assert (total.zero_groups == total.groups) == all_zero


def test_the_closed_form_of_the_group_lasso():
    model, batches = regression(1)
    x, y = (torch.cat(a) for a in zip(*batches, strict=True))
    lam_max, _ = strengths(model, param_groups(model, pl.GroupLasso(1.0)), functional.mse_loss, batches)
    expected = (2 * y.T @ x / y.numel()).norm(dim=0).max()
    assert lam_max == pytest.approx(float(expected), rel=1e-12)
    optimizer = ProxSGD(param_groups(model, pl.GroupLasso(1.0)), lr=0.1)
    again = strengths(model, optimizer, functional.mse_loss, cycle(batches))
    assert again.lam_max == pytest.approx(lam_max, rel=1e-12)
    # A function of the model and a batch is the same.

    def loss(model, batch):
        return functional.mse_loss(model(batch[0]), batch[1])

    assert strengths(model, param_groups(model, pl.GroupLasso(1.0)), loss, batches).lam_max == lam_max


def test_groups_looked_at_alone_vanish_alone_from_there_on():
    """Brute force: train one group of the last layer, in which the loss is convex."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    groups = param_groups(model, pl.GroupLasso(1.0), exclude="0")
    lam_max, _ = strengths(model, groups, functional.mse_loss, [(x, y)], at="weights")
    needed = []
    for k in range(6):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other[2].weight[:, k] = 0
        functional.mse_loss(other(x), y).backward()
        needed.append(float(other[2].weight.grad[:, k].norm()))
    assert lam_max == pytest.approx(max(needed), rel=1e-9)
    k = int(np.argmax(needed))
    for factor, zero in ((1.01, True), (0.99, False)):
        column = model[2].weight.detach()[:, [k]].clone().requires_grad_()
        penalty = pl.GroupLasso(lam_max * factor, groups=pl.Groups.over(0))
        optimizer = ProxSGD([column], lr=0.3, penalty=penalty)
        for _ in range(100):
            optimizer.zero_grad()
            weight = model[2].weight.detach().clone()
            weight[:, [k]] = column
            functional.mse_loss(model[:2](x) @ weight.T + model[2].bias, y).backward()
            optimizer.step()
        assert (not column.detach().any()) == zero


def test_joint_groups_are_looked_at_on_their_way_to_zero():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 2, dtype=torch.float64)
    groups = param_groups(model, pl.GroupLasso(1.0), ffn="neurons")
    lam_max, _ = strengths(model, groups, functional.mse_loss, [(x, y)])
    slopes = []
    for k in range(3):
        losses = []
        for left in (1.0, 0.5, 0.0):
            other = copy.deepcopy(model)
            with torch.no_grad():
                parts = (other[0].weight[k], other[0].bias[k : k + 1], other[2].weight[:, k])
                norm = float(torch.cat(parts).norm())
                for part in parts:
                    part *= left
            losses.append(functional.mse_loss(other(x), y).item())
        slopes += [(b - a) / (0.5 * norm) for a, b in pairwise(losses)]
    assert lam_max == pytest.approx(max(slopes), rel=1e-9)


def test_penalties_keep_their_proportion_and_nothing_is_left_changed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(3)]
    loss = nn.CrossEntropyLoss()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = ({"params": [model[k].weight], "penalty": pl.GroupLasso(s, groups=pl.Groups.over(0))}
                     for k, s in ((0, 1.0), (4, 1.0)))  # fmt: skip
    model.eval()
    alone = [strengths(model, [g], loss, batches, at="weights").lam_max for g in (first, second)]
    both = strengths(
        model, [first, {**second, "penalty": second["penalty"].with_strength(4.0)}], loss, batches
    )
    assert both.lam_max == pytest.approx(max(alone[0], alone[1] / 4.0))
    model.train()
    model[4].weight.requires_grad_(False)
    strengths(model, [first, second], loss, batches)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_a_curve_counts_by_its_slope_at_zero():
    """Mutant: by the strength at which its values decide, which those of a gradient are not."""
    model, batches = regression()
    by_lasso, by_log = (
        strengths(model, param_groups(model, h), functional.mse_loss, batches).lam_max
        for h in (pl.GroupLasso(1.0), pl.GroupLog(1.0, 0.01))
    )
    assert by_log == pytest.approx(0.01 * by_lasso, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batches": []}, ValueError, "batches: must hold at least one"),
        ({"batches": [torch.ones(2, 5)]}, TypeError, "batches: must be pairs of inputs and targets"),
        ({"groups": [{"params": [nn.Parameter(torch.ones(2))]}]}, ValueError, "groups: none of them"),
        ({"groups": [torch.ones(2)]}, TypeError, r"groups\[0\]: must be a param group"),
        ({"groups": 3}, TypeError, "groups: must hold param groups, dicts with the key 'params', got 3"),
        ({"loss_fn": 3}, TypeError, "loss_fn: must be a function of outputs and targets, .*, got 3"),
        ({"batches": 3}, TypeError, "batches: must be pairs of inputs and targets, got 3"),
        ({"penalty": pl.GroupL0(1.0)}, ValueError, r"param group 0.*GroupL0 has no slope at zero"),
        ({"penalty": pl.GroupLq(1.0, 0.5)}, ValueError, r"param group 0.*GroupLq has no slope at zero"),
        ({"at": "home"}, ValueError, 'at: must be "weights", "zero" or None'),
        ({"ratio": 1.0}, ValueError, "ratio: must be < 1"),
        ({"count": 0}, ValueError, "count: must be"),
        ({"loss_fn": lambda a, b: (a - b).abs()}, TypeError, "loss_fn: must return a tensor of one element"),
        ({"loss_fn": lambda a, b: a.sum() * 0.0}, ValueError, "model: the gradients give 0 as the strength"),
        (
            {"loss_fn": lambda a, b: a.square().sum().sqrt()},
            ValueError,
            r"gradient of the loss by parameter 0 \('weight', .*not where the groups are zero.*at=",
        ),
        (
            {
                "batches": [(torch.full((4, 5), math.inf).double(), torch.ones(4, 3).double())],
                "at": "weights",
            },
            ValueError,
            r"gradient of the loss by parameter 0 \('weight', .*where the weights are.*; look for",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    model, batches = regression()
    with pytest.raises(TypeError, match=r"model: must be a torch\.nn\.Module, got int"):
        strengths(3, [], functional.mse_loss, batches)
    given = {"loss_fn": functional.mse_loss, "batches": batches} | change
    given.setdefault("groups", param_groups(model, given.pop("penalty", pl.GroupLasso(1.0))))
    with pytest.raises(error, match=message):
        strengths(model, **given)


def test_a_loss_that_is_not_finite_is_named_for_joint_groups():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = param_groups(model, pl.GroupLasso(1.0), ffn="neurons")
    batches = [(torch.full((2, 3), math.nan), torch.ones(2, 2))]
    with pytest.raises(ValueError, match=r"loss_fn: must be finite, got nan with a group of parameter 0"):
        strengths(model, groups, functional.mse_loss, batches)
