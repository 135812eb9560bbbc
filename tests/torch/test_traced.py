"""Groups that a run of the network shows: against what zeroing a group by hand does to the outputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import ProxAdamW, compact, group_sparsity, param_groups  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.1)


def members(groups, shape):
    """The group of each element."""
    start, places = groups.indices(shape)
    labels = np.full(int(np.prod(shape)), -1)
    labels[places] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return torch.tensor(labels.reshape(shape))


class Flat(nn.Module):
    """Convolutions, flattened in some order, beside inputs that no layer makes."""

    def __init__(self, channels, size, last, beside):
        super().__init__()
        self.conv, self.last, self.beside = nn.Conv2d(1, channels, 3, padding=1), last, beside
        self.out = nn.Linear(channels * size * size + beside, 3)

    def forward(self, x):
        h = self.conv(x).relu()
        h = (h.permute(0, 2, 3, 1) if self.last else h).flatten(1)
        return self.out(torch.cat([h, x[:, 0, 0, : self.beside]], dim=1))


@given(st.integers(2, 5), st.integers(2, 4), st.booleans(), st.integers(0, 2))
@settings(max_examples=15)
def test_columns_that_read_one_channel(channels, size, last, beside):
    torch.manual_seed(0)
    model, x = Flat(channels, size, last, beside), torch.rand(2, 1, size, size)
    group = next(g for g in param_groups(model, LASSO, example_inputs=x) if "out.weight" in g["names"])
    labels = members(group["penalty"].groups, tuple(model.out.weight.shape))
    assert int(labels.max()) + 1 == channels + beside
    for channel in range(channels):
        # By hand: the columns that see the bias of a channel.
        with torch.no_grad():
            for p in model.conv.parameters():
                p.zero_()
            model.conv.bias[channel] = 1.0
            columns = hidden(model, x) != 0
        assert len(set(labels[:, columns].unique().tolist())) == 1
        assert int((labels == labels[0, columns.nonzero()[0, 0]]).sum()) == 3 * int(columns.sum())


def hidden(model, x):
    """What the last layer of a network reads, for the first example, without what no layer makes."""
    found = []
    handle = model.out.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model(torch.zeros_like(x))
    handle.remove()
    return found[0][0]


@pytest.mark.parametrize("followed", [False, True])
def test_a_channel_behind_flatten_goes_with_its_columns(followed):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    x = torch.rand(4, 1, 8, 8)
    example = {"example_inputs": x} if followed else {}
    groups = param_groups(model, pl.GroupL0(1e-2), exclude="0", **example)
    optimizer = ProxAdamW(groups, lr=1e-3, sparsity=TargetSparsity(0.5))
    model(x).square().sum().backward()
    optimizer.step()
    small, _ = compact(model, x)
    assert (small[0].out_channels <= 4) == followed


class Fused(nn.Module):
    """Attention with one projection, whose heads lie apart or together."""

    def __init__(self, heads, together, bias):
        super().__init__()
        self.heads, self.together = heads, together
        self.qkv, self.proj = nn.Linear(12, 3 * 4 * heads, bias=bias), nn.Linear(4 * heads, 12)

    def forward(self, x):
        n, t, _ = x.shape
        y = self.project(x)
        if self.together:
            q, k, v = y.view(n, t, self.heads, 12).transpose(1, 2).chunk(3, -1)
        else:
            q, k, v = y.view(n, t, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj(y.transpose(1, 2).reshape(n, t, -1))

    def project(self, x):
        return self.qkv(x)


class Normed(Fused):
    """With a batch norm over queries, keys and values, as in LeViT."""

    def __init__(self, affine):
        super().__init__(3, True, False)
        self.norm = nn.BatchNorm1d(36, affine=affine)

    def project(self, x):
        return self.norm(self.qkv(x).flatten(0, 1)).view(*x.shape[:2], -1)


@pytest.mark.parametrize("affine", [True, False])
def test_heads_with_a_norm_of_batches(affine):
    """Statistics are cut with the heads, and are in no group."""
    model, x = nn.Sequential(nn.Linear(6, 12), Normed(affine)), torch.randn(2, 5, 6)
    groups = param_groups(model, LASSO, attention="heads", example_inputs=x)
    (joint,) = [g for g in groups if "joint" in g]
    norm = ["1.norm.weight", "1.norm.bias"] if affine else []
    assert sorted(joint["names"]) == sorted(["1.qkv.weight", *norm, "1.proj.weight"])
    assert {
        part.n_groups(tuple(p.shape)) for p, part in zip(joint["params"], joint["joint"], strict=True)
    } == {3}


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_of_a_projection_that_is_shared(heads, together, bias):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 12), Fused(heads, together, bias)), torch.randn(2, 5, 6)
    groups = param_groups(model, LASSO, attention="heads", example_inputs=x)
    (joint,) = [g for g in groups if "joint" in g]
    assert joint["names"] == ["1.qkv.weight", *(["1.qkv.bias"] if bias else []), "1.proj.weight"]
    for head in range(heads):
        # What a head contributes goes with it, and nothing else.
        expected = contribution_of_all_but(model, head, x)
        saved = [p.detach().clone() for p in joint["params"]]
        with torch.no_grad():
            for p, part in zip(joint["params"], joint["joint"], strict=True):
                p[members(part, tuple(p.shape)) == head] = 0
            assert torch.allclose(model(x), expected, atol=1e-6)
            for p, old in zip(joint["params"], saved, strict=True):
                assert (p == 0).sum() > 0
                p.copy_(old)
    with pytest.raises(ValueError, match=r"attention: '1.qkv' looks like .* give example_inputs"):
        param_groups(model, LASSO, attention="heads")


def contribution_of_all_but(model, head, x):
    """The outputs where the output layer does not read a head."""
    weight = model[1].proj.weight
    saved = weight.detach().clone()
    with torch.no_grad():
        weight[:, 4 * head : 4 * head + 4] = 0
        out = model(x)
        weight.copy_(saved)
    return out


def test_channels_that_only_go_together_are_groups_of_their_own():
    """A norm, or a head, couples channels that are several outputs of a layer: their columns are columns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.LayerNorm(12), Fused(2, False, True), nn.Linear(12, 3))
    groups = param_groups(model, LASSO, example_inputs=torch.randn(2, 5, 4))
    for group in groups[:-1]:
        assert group["penalty"].groups == pl.Groups.over(0)


def test_heads_that_do_not_lie_regularly_are_refused():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 4 * 4 + 2 * 4 + 2 * 4), nn.Linear(16, 8)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = self.qkv(x).split([16, 8, 8], -1)
            q, k, v = (a.view(n, t, -1, 4).transpose(1, 2) for a in (q, k, v))
            y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.proj(y.transpose(1, 2).reshape(n, t, 16))

    with pytest.raises(ValueError, match=r"attention: the heads of .* do not lie in 'qkv.weight'"):
        param_groups(Uneven(), LASSO, attention="heads", example_inputs=torch.randn(2, 3, 8))


def test_feed_forward_blocks_that_are_a_sequential_or_transposed():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Dropout(0.1), nn.Linear(10, 6))
            self.head = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2))

        def forward(self, x):
            return self.head(x + self.mlp(x))

    (joint,) = [g for g in param_groups(Block(), LASSO, ffn="neurons") if "joint" in g]
    assert joint["names"] == ["mlp.0.weight", "mlp.0.bias", "mlp.3.weight"]
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=9, n_positions=5, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2Model(config).eval()
    tokens = {"input_ids": torch.randint(0, 9, (2, 5))}
    groups = param_groups(model, LASSO, attention="heads", ffn="neurons", example_inputs=tokens)
    heads, neurons = [g for g in groups if "joint" in g]
    with torch.no_grad():
        for group, which in ((heads, [1]), (neurons, [0, 5, 7])):
            for p, part in zip(group["params"], group["joint"], strict=True):
                p[torch.isin(members(part, tuple(p.shape)), torch.tensor(which))] = 0
    small, report = compact(model, tokens)
    gone = {(r.what, r.before - r.after) for r in report.removed}
    assert gone >= {("heads", 1), ("outputs", 3)}
    assert torch.allclose(small(**tokens)[0], model(**tokens)[0], atol=1e-5)


def test_uses_are_what_the_flop_counter_counts():
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Flatten(),
        nn.Linear(3 * 36, 5), nn.ReLU(), nn.Linear(5, 2),
    ).eval()  # fmt: skip
    x = torch.rand(3, 2, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    groups = param_groups(model, LASSO, example_inputs=x)
    total = sum(
        2 * p.numel() * uses
        for g in groups
        for p, uses in zip(g["params"], g["uses"], strict=True)
        if p.dim() > 1
    )
    assert total == counter.get_total_flops()
    optimizer = ProxAdamW(groups, lr=1e-3, sparsity=TargetSparsity(0.4, budget="flops"))
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
    # By hand: operations of the weights in groups that are zero.
    zero = sum(
        2 * int((members(g["penalty"].groups, tuple(p.shape)) >= 0)[p == 0].sum()) * uses
        for g in groups
        if g["penalty"] is not None
        for p, uses in zip(g["params"], g["uses"], strict=True)
    )
    assert optimizer.history[-1]["sparsity"] == pytest.approx(zero / total)
    assert zero >= 0.4 * total
    assert group_sparsity(optimizer).total.zero_groups


@pytest.mark.parametrize("rule", [{"multiple_of": 4, "budget": "flops"}, {"per": "layer"}])
def test_an_optimizer_of_channels_goes_over_to_the_small_network(rule):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip
    x = torch.rand(4, 1, 8, 8)
    groups = param_groups(model, pl.GroupL0(1e-2), exclude="0", example_inputs=x)
    optimizer = ProxAdamW(groups, lr=1e-3, sparsity=TargetSparsity(0.4, **rule))
    model(x).square().sum().backward()
    optimizer.step()
    small, report = compact(model, x)
    new = report.transfer(optimizer, small)
    moved = {n: u for g in new.param_groups for n, u in zip(g["names"], g["uses"], strict=True)}
    assert moved == {n: u for g in groups for n, u in zip(g["names"], g["uses"], strict=True)}
    assert group_sparsity(new).layers[1].groups == small[2].out_channels < 8
    small(x).square().sum().backward()
    new.step()


def test_a_layer_whose_weight_is_computed_keeps_its_columns():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    nn.utils.parametrizations.spectral_norm(model[2])
    x = torch.rand(2, 1, 8, 8)
    groups = param_groups(model, LASSO, exclude="0", example_inputs=x)
    assert groups[0]["penalty"].groups == pl.Groups.over(0)


@pytest.mark.parametrize("uses", ["a", [-1.0], [None], 3.0, [float("nan")]])
def test_uses_are_checked(uses):
    model = nn.Linear(3, 2)
    group = param_groups(model, LASSO, example_inputs=torch.ones(1, 3))[0] | {"uses": uses}
    with pytest.raises(ValueError, match=r"param group 0: uses: must be a number >= 0 for each parameter"):
        ProxAdamW([group])


def test_a_network_that_cannot_be_run_says_so():
    with pytest.raises(TypeError, match="example_inputs: must be a tensor"):
        param_groups(nn.Linear(2, 2), LASSO, example_inputs=3)
    wrong = r"example_inputs: must be arguments of a call of the model, which fails with them \(Runtime"
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    for inputs in (torch.ones(2, 1, 9, 9), torch.ones(2, 3, 8, 8), {"input": torch.ones(2)}):
        with pytest.raises(ValueError, match=wrong):
            param_groups(model, LASSO, example_inputs=inputs)
        with pytest.raises(ValueError, match=wrong):
            compact(model, inputs)
