"""The optimizer of a compacted network: the moments of what is left, and the steps of the large network."""

import copy
import gc
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import ProxAdamW, ProxSGD, compact, param_groups  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def network():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    return model.double()


def steps(model, optimizer, x, count=3):
    for _ in range(count):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def silence(model):
    """Units that nothing reads and that make nothing: their gradients are zero, so that they stay silent."""
    with torch.no_grad():
        for conv, norm, after, k in ((model[0], model[1], model[3], 2), (model[3], None, None, 5)):
            for p in (conv.weight, conv.bias, *(norm.parameters() if norm else ())):
                p[k] = 0
            if after is not None:
                after.weight[:, k] = 0
        model[6].weight.view(5, 8, 4)[:, 5] = 0


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "ProxSGD": lambda p: ProxSGD(p, lr=0.1, momentum=0.9, penalty=None),
    "ProxAdamW": lambda p: ProxAdamW(p, lr=1e-2, penalty=None),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_small_network_goes_on_as_the_large_one(kind):
    model, x = network(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    silence(model)
    optimizer = OPTIMIZERS[kind](model.parameters())
    steps(model, optimizer, x)
    small, report = compact(model, x)
    assert (small[0].out_channels, small[3].out_channels) == (5, 7)
    new = report.transfer(optimizer, small)
    assert type(new) is type(optimizer)
    assert {id(p) for g in new.param_groups for p in g["params"]} == {id(p) for p in small.parameters()}
    if kind == "Adafactor":
        return  # its factors are means over rows, of which zero rows are a part
    steps(model, optimizer, x)
    steps(small, new, x)
    torch.testing.assert_close(small(x), model(x), rtol=1e-9, atol=1e-11)
    # The original is as it was.
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}


def test_penalties_names_strengths_and_joint_groups_come_along():
    model, x = network(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    silence(model)
    groups = param_groups(model, pl.GroupLasso(1e-3, weights="sqrt_size"), conv="filter+norm")
    optimizer = ProxAdamW(groups, lr=1e-2, sparsity=TargetSparsity(0.3))
    steps(model, optimizer, x)
    silence(model)
    small, report = compact(model, x)
    new = report.transfer(optimizer, small)
    names = {name: id(p) for name, p in small.named_parameters()}
    for group in new.param_groups:
        assert [names[name] for name in group["names"]] == [id(p) for p in group["params"]]
    steps(small, new, x, 2)
    assert len(new.history) == len(optimizer.history) + 2


def test_heads_and_neurons_with_a_view():
    model = models.Encoder().double()
    tokens = torch.randint(0, 11, (3, 5))
    groups = param_groups(model, pl.GroupLasso(1e-3), attention="heads", ffn="neurons")
    optimizer = ProxAdamW(groups, lr=1e-2)
    steps(model, optimizer, tokens)
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
        model.fc2.weight[:, :5] = 0
    small, report = compact(model, tokens)
    new = report.transfer(optimizer, small)
    heads = next(g for g in new.param_groups if "attention.q_proj.weight" in g["names"])
    for groups, p in zip(heads["joint"], heads["params"], strict=True):
        assert groups.n_groups(tuple(p.shape)) == 2
    rows = np.r_[0:4, 8:12]
    moment = optimizer.state[model.attention.q_proj.weight]["exp_avg"][rows]
    assert torch.equal(new.state[small.attention.q_proj.weight]["exp_avg"], moment)
    steps(small, new, tokens, 2)


def test_a_stand_in_takes_the_moments_of_the_stacked_projection():
    layer = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True)
    x = torch.randn(2, 5, 12)
    optimizer = torch.optim.AdamW(layer.parameters())
    steps(layer, optimizer, x)
    with torch.no_grad():
        layer.self_attn.out_proj.weight[:, 4:8] = 0
    small, report = compact(layer, x)
    new = report.transfer(optimizer, small)
    stacked = optimizer.state[layer.self_attn.in_proj_weight]["exp_avg"]
    found = new.state[small.self_attn.k_proj.weight]["exp_avg"]
    assert torch.equal(found, stacked[12:24][np.r_[0:4, 8:12]])
    steps(small, new, x)
    penalised = ProxAdamW(param_groups(layer, pl.GroupLasso(1e-3)), lr=1e-3)
    with pytest.raises(ValueError, match=r"'self_attn\.in_proj_weight' became"):
        report.transfer(penalised, small)


@pytest.mark.parametrize("grouping", ["view", "weights", "labels", "joint"])
@pytest.mark.parametrize("freezes", [False, True])
def test_the_groups_of_a_wrapper_are_cut_too(grouping, freezes):
    """They are its own, beside the param groups of the optimizer within: small and large go on alike."""
    torch.manual_seed(0)
    if grouping == "view":
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()
        x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
        groups = param_groups(model, pl.GroupLasso(1e-2), exclude="0", example_inputs=x)
        last = model[3].weight.data.view(3, 8, 4)
    else:
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
        x, last = torch.randn(5, 4, dtype=torch.float64), model[2].weight.data
        kinds = {
            "weights": pl.GroupLasso(1e-2, groups=pl.Groups.over(0), weights=np.arange(8.0) + 1.0),
            "labels": pl.GroupLasso(1e-2, groups=pl.Groups.labels(np.tile(np.arange(8) // 2, (3, 1)))),
        }
        groups = [{"params": [model[2].weight], "penalty": kinds.get(grouping)}]
        if grouping == "joint":
            groups = param_groups(model, pl.GroupLasso(1e-2), ffn="neurons")
    for part in (model[0].weight.data, model[0].bias.data):
        part[2:6] = 0.0
    last[:, 2:6] = 0.0
    optimizer = pt.ProxWrapper(torch.optim.Adam(model.parameters(), lr=1e-2), groups)

    def step(net, own):
        own.zero_grad()
        net(x).square().sum().backward()
        own.step()

    step(model, optimizer)
    if freezes:
        optimizer.freeze()
    small, report = compact(model, x)
    other = report.transfer(optimizer, small)
    assert report.parameters[1] < report.parameters[0]
    for _ in range(3):
        step(model, optimizer)
        step(small, other)
        torch.testing.assert_close(model(x), small(x), rtol=1e-12, atol=1e-12)
    zeros = [pt.group_sparsity(o).total.zero_groups for o in (optimizer, other)]
    assert zeros[0] > zeros[1] == 0


def test_a_wrapper_around_a_projection_that_is_divided_is_refused():
    torch.manual_seed(0)

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.m, self.h = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.h(self.m(x, x, x, need_weights=False)[0])

    model, x = Alone(), torch.randn(2, 5, 8)
    with torch.no_grad():
        for k in range(3):
            model.m.in_proj_weight[8 * k : 8 * k + 4] = 0.0
            model.m.in_proj_bias[8 * k : 8 * k + 4] = 0.0
        model.m.out_proj.weight[:, :4] = 0.0
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = pt.ProxWrapper(inner, param_groups(model, pl.GroupLasso(1e-2), exclude="h"))
    small, report = compact(model, x)
    with pytest.raises(ValueError, match=r"^optimizer: groups\[0\], .* 'm.in_proj_weight' became"):
        report.transfer(optimizer, small)


def test_a_new_bias_joins_its_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        model[0].weight[1] = 0
    small, report = compact(model, torch.randn(2, 3))
    new = report.transfer(optimizer, small)
    assert any(p is small[2].bias for p in new.param_groups[0]["params"])
    prox = ProxSGD([{"params": [model[2].weight], "penalty": pl.GroupLasso(0.1)}], lr=0.1)
    new = report.transfer(prox, small)
    assert [g["penalty"] is None for g in new.param_groups] == [False, True]


def test_what_cannot_be_carried_over_says_so():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    small, report = compact(model, torch.randn(2, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer: must be a torch\.optim\.Optimizer, got str"):
        report.transfer("SGD", small)
    with pytest.raises(ValueError, match="small: must be the network that compact returned"):
        report.transfer(optimizer, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="LBFGS"):
        report.transfer(torch.optim.LBFGS(model.parameters()), small)
    with pytest.raises(ValueError, match=r"param group 0, parameter 0 \(shape \(2, 2\)\) is not one of"):
        report.transfer(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), small)
    optimizer.state[model[0].weight]["sketch"] = torch.ones(7)
    with pytest.raises(ValueError, match="its state 'sketch' has shape"):
        report.transfer(optimizer, small)
    with pytest.raises(ValueError, match="report: must be the one that compact returned"):
        pickle.loads(pickle.dumps(report)).transfer(optimizer, small)
    assert copy.deepcopy(report) == report
    gc.collect()


def test_a_saved_small_network_loads(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    x = torch.randn(2, 3)
    small, _ = compact(model, x)
    torch.save(small, tmp_path / "small.pt")
    loaded = torch.load(tmp_path / "small.pt", weights_only=False)
    assert torch.equal(loaded(x), small(x))
    program = torch.export.export(small.eval(), (x,))
    torch.export.save(program, tmp_path / "small.pt2")
    found = torch.export.load(tmp_path / "small.pt2").module()(x)
    torch.testing.assert_close(found, F.linear(small[:2](x), small[2].weight, small[2].bias))
