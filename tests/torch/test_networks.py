"""Param groups of networks: every parameter once, and each group the weights that it is meant to be."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.torch.networks import param_groups  # noqa: E402
from proxlab.torch.optimizers import ProxAdamW  # noqa: E402
from proxlab.torch.structures import Attention, conv_norm_pairs, find_attention, find_ffn  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.1, weights="sqrt_size")


def by_name(model, **options):
    """The groups of each penalised parameter; parameters in joint groups with their groups there."""
    found = {}
    for group in param_groups(model, LASSO, **options):
        assert [id(p) for p in group["params"]] == [
            id(dict(model.named_parameters())[n]) for n in group["names"]
        ]
        if group["penalty"] is None:
            continue
        assert (type(group["penalty"]), group["penalty"].lam) == (pl.GroupLasso, 0.1)
        assert group["penalty"].weights == "sqrt_size"
        groups = group.get("joint", [group["penalty"].groups] * len(group["params"]))
        for name, p, part in zip(group["names"], group["params"], groups, strict=True):
            indptr, indices = part.indices(tuple(p.shape))
            found[name] = [set(indices[a:b].tolist()) for a, b in itertools.pairwise(indptr)]
    return found


def slices(weight, axis):
    """Flat indices of the slices across an axis."""
    flat = np.arange(weight.numel()).reshape(weight.shape)
    return [set(np.take(flat, k, axis=axis).ravel().tolist()) for k in range(weight.shape[axis])]


ALL = [
    (models.vgg, {}),
    (models.vgg, {"conv": "filter+norm"}),
    (models.ResNet, {"conv": "kernel", "linear": None}),
    (models.ResNet, {"conv": "filter+norm", "linear": "output"}),
    (models.Encoder, {"attention": "heads", "ffn": "neurons", "embedding": "input"}),
    (models.Bert, {"attention": "heads", "ffn": "neurons"}),
    (models.Recurrent, {"lstm": "unit", "embedding": "output"}),
    (lambda: nn.Transformer(12, 4, 1, 1, 16, batch_first=True), {"attention": "heads", "ffn": "neurons"}),
    (lambda: nn.Linear(2, 3), {"linear": "output"}),
]


@pytest.mark.parametrize(("make", "options"), ALL)
@pytest.mark.parametrize("penalty", [LASSO, pl.SparseGroupLasso(0.1, 0.2), pl.GroupMCP(0.1, gamma=3.0)])
def test_every_parameter_occurs_once(make, options, penalty):
    model = make()
    groups = param_groups(model, penalty, **options)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    torch.optim.SGD([{"params": group["params"]} for group in groups], lr=0.1)
    for group in groups:
        if "joint" in group:
            # One number of groups, and the penalty's own are rows: one norm over all parts.
            counts = {
                g.n_groups(tuple(p.shape)) for g, p in zip(group["joint"], group["params"], strict=True)
            }
            assert len(counts) == 1
            assert group["penalty"].groups == pl.Groups.over(-1)
        elif group["penalty"] is not None:
            for p in group["params"]:
                assert group["penalty"].value(p.detach()).shape[0] > 0


def test_the_defaults_are_the_groups_of_the_paper():
    model = models.vgg()
    found = by_name(model)
    assert set(found) == {"0.weight", "4.weight", "9.weight", "12.weight"}
    for name, groups in found.items():
        assert groups == slices(model.get_parameter(name), 1), name
    attention = by_name(models.Bert())
    assert len(attention) == 6
    assert all(groups == slices(torch.empty(1, len(groups)).expand(n, -1), 1) for groups, n in (
        (attention["intermediate.dense.weight"], 16), (attention["attention.self.key.weight"], 12),
    ))  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", ["filter", "channel", "kernel"])
def test_convolutions_by_what_a_channel_touches(dims, transposed, groups, kind):
    kinds = {
        False: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
        True: (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    }
    layer = kinds[transposed][dims - 1](4, 8, 2, groups=groups, bias=False).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
    ((_, found),) = by_name(layer, conv=kind).items()
    x = torch.rand(1, 4, *(3,) * dims, dtype=torch.float64) + 0.5
    assert sorted(i for g in found for i in g) == list(range(layer.weight.numel()))
    if kind == "kernel":
        assert len(found) == layer.weight.shape[0] * layer.weight.shape[1]
        return
    # Which weights does an output channel use, or multiply an input channel? The gradient says.
    y = layer(x)
    for k, group in enumerate(found):
        if kind == "filter":
            used = torch.autograd.grad(y[:, k].sum(), layer.weight, retain_graph=True)[0]
        else:
            alone = torch.zeros_like(x)
            alone[:, k] = x[:, k]
            used = torch.autograd.grad(layer(alone).sum(), layer.weight)[0]
        assert set(torch.nonzero(used.reshape(-1)).flatten().tolist()) == group
    assert len(found) == (8 if kind == "filter" else 4)


def test_linear_embedding_and_attention_by_sides():
    model = models.Encoder()
    columns, rows = by_name(model, embedding="output"), by_name(model, linear="output", embedding="input")
    for name in ("fc1.weight", "attention.q_proj.weight", "embedding.weight"):
        assert columns[name] == slices(model.get_parameter(name), 1)
        assert rows[name] == slices(model.get_parameter(name), 0)
    stacked = nn.MultiheadAttention(12, 3)
    assert by_name(stacked)["in_proj_weight"] == slices(stacked.in_proj_weight, 1)
    apart = nn.MultiheadAttention(12, 3, kdim=5, vdim=6)
    found = by_name(apart, linear="output")
    assert set(found) == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}
    assert found["k_proj_weight"] == slices(apart.k_proj_weight, 0)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind, gates):
    layer = kind(3, 5, num_layers=2, bidirectional=True)
    columns = by_name(layer)
    assert len(columns) == 8
    assert columns["weight_hh_l1_reverse"] == slices(layer.weight_hh_l1_reverse, 1)
    rows, units = by_name(layer, lstm="output"), by_name(layer, lstm="unit")
    assert set(rows) == set(columns)
    for name, groups in units.items():
        p = layer.get_parameter(name)
        flat = torch.arange(p.numel()).reshape(p.shape)
        expected = [
            set(torch.cat([flat[g * 5 + unit].reshape(-1) for g in range(gates)]).tolist())
            for unit in range(5)
        ]
        assert groups == expected
        assert rows.get(name, expected) == expected
    assert set(units) == set(dict(layer.named_parameters()))
    assert len(param_groups(layer, LASSO, lstm="unit")) == 4


def test_a_projected_lstm():
    layer = nn.LSTM(3, 5, proj_size=2)
    units = by_name(layer, lstm="unit")
    assert units["weight_hr_l0"] == slices(layer.weight_hr_l0, 1)
    assert {len(groups) for groups in units.values()} == {5}


def joint_parts(groups, names):
    (group,) = (g for g in groups if set(names) <= set(g["names"]))
    return {n: (p, part) for n, p, part in zip(group["names"], group["params"], group["joint"], strict=True)}


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (models.Encoder(), "attention."),
        (nn.MultiheadAttention(12, 3), ""),
        (nn.MultiheadAttention(12, 3, kdim=5), ""),
    ],
)
def test_heads_are_what_one_head_computes_with(model, prefix):
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(0.5, 1.5)
    groups = param_groups(model, LASSO, attention="heads")
    (group,) = (g for g in groups if "joint" in g)
    # By hand, with the head's rows and columns written out.
    size = 4
    for head in range(3):
        mine = slice(head * size, (head + 1) * size)
        for name, p, part in zip(group["names"], group["params"], group["joint"], strict=True):
            used = torch.zeros(p.shape, dtype=torch.bool)
            if name.startswith(f"{prefix}out_proj"):
                used[:, mine] = True
            elif "in_proj" in name:
                for block in range(3):
                    used[block * 12 + head * size : block * 12 + (head + 1) * size] = True
            else:
                used[mine] = True
            indptr, indices = part.indices(tuple(p.shape))
            found = set(indices[indptr[head] : indptr[head + 1]].tolist())
            assert found == set(torch.nonzero(used.reshape(-1)).flatten().tolist()), name
    assert not any("out_proj.bias" in name for name in group["names"])


def test_shared_keys_and_values():
    holder = nn.Module()
    holder.q_proj, holder.o_proj = nn.Linear(8, 8), nn.Linear(8, 8)
    holder.k_proj, holder.v_proj = nn.Linear(8, 4), nn.Linear(8, 4)
    holder.num_heads, holder.num_key_value_heads = 4, 2
    model = nn.ModuleDict({"layer": holder})
    assert find_attention(model) == [
        Attention("layer.q_proj", "layer.k_proj", "layer.v_proj", "layer.o_proj", heads=2)
    ]
    found = by_name(model, attention="heads")
    assert found["layer.q_proj.weight"][0] == set(range(32))
    assert found["layer.k_proj.bias"] == [{0, 1}, {2, 3}]


def test_neurons_and_filters_as_by_hand():
    model = models.Bert()
    parts = joint_parts(param_groups(model, LASSO, ffn="neurons"), ["intermediate.dense.weight"])
    assert list(parts) == ["intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight"]
    rng = torch.Generator().manual_seed(0)
    x = {name: torch.randn(p.shape, generator=rng, dtype=torch.float64) for name, (p, _) in parts.items()}
    w1, b1, w2 = (x[name] for name in parts)
    by_hand = torch.cat([w1, b1[:, None], w2.T], dim=1)
    split = [part.layout(tuple(p.shape)).split(x[name], 0.0)[0] for name, (p, part) in parts.items()]
    assert torch.equal(torch.cat(split, dim=1), by_hand)

    model = models.ResNet()
    parts = joint_parts(param_groups(model, LASSO, conv="filter+norm"), ["layer1.conv2.weight"])
    assert list(parts) == ["layer1.conv2.weight", "layer1.bn2.weight", "layer1.bn2.bias"]
    split = [part.layout(tuple(p.shape)).split(p.detach(), 0.0)[0] for p, part in parts.values()]
    w, scale, shift = (p.detach() for p, _ in parts.values())
    assert torch.equal(
        torch.cat(split, dim=1), torch.cat([w.flatten(1), scale[:, None], shift[:, None]], dim=1)
    )


def test_what_is_found():
    assert find_ffn(models.Bert()) == [("intermediate.dense", "output.dense")]
    assert find_ffn(models.Encoder()) == [("fc1", "fc2")]
    gated = nn.Module()
    gated.w1, gated.w3, gated.w2 = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 3)
    assert find_ffn(gated) == [("w1", "w3", "w2")]
    for names in (("wi_0", "wi_1", "wo"), ("fc_in", "fc_out"), ("intermediate_dense", "output_dense")):
        block = nn.Module()
        for name in names:
            setattr(block, name, nn.Linear(5, 3) if name == names[-1] else nn.Linear(3, 5))
        assert find_ffn(block) == [names]
    assert find_attention(models.Bert()) == [
        Attention(
            *(f"attention.self.{n}" for n in ("query", "key", "value")), "attention.output.dense", heads=3
        )
    ]
    pairs = list(conv_norm_pairs(models.ResNet()))
    assert ("conv1", "bn1") in pairs
    assert ("layer2.downsample.0", "layer2.downsample.1") in pairs
    assert len(pairs) == 6


def test_what_the_user_names():
    model = models.Encoder()
    paths = [f"attention.{n}_proj" for n in ("q", "k", "v", "out")]
    same = param_groups(model, LASSO, attention=[Attention(*paths, heads=3)], ffn=[("fc1", "fc2")])
    found = param_groups(model, LASSO, attention="heads", ffn="neurons")
    assert [g["names"] for g in same] == [g["names"] for g in found]
    assert [g.get("joint") for g in same] == [g.get("joint") for g in found]


def test_exclude():
    model = models.ResNet()
    everything = by_name(model)
    assert set(everything) - set(by_name(model, exclude="layer1")) == {
        "layer1.conv1.weight",
        "layer1.conv2.weight",
    }
    assert set(by_name(model, exclude=["*.downsample", "fc.weight", "conv1"])) == {
        "layer1.conv1.weight", "layer1.conv2.weight", "layer2.conv1.weight", "layer2.conv2.weight",
    }  # fmt: skip
    joint = by_name(models.Encoder(), ffn="neurons", exclude="*.bias")
    assert "fc1.bias" not in joint
    assert "fc2.weight" in joint


def test_shared_parameters_go_with_the_first_module():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    model[1].weight = model[0].weight
    groups = param_groups(model, LASSO, embedding="input")
    assert [g["names"] for g in groups] == [["0.weight"], ["1.bias"]]
    with pytest.raises(
        ValueError, match=r"nothing is penalised; .* goes with its first name: '0.weight' and"
    ):
        param_groups(model, LASSO)  # the embedding's weight is not penalised, and is the linear layer's too
    tied = models.Encoder()
    tied.extra = nn.Linear(12, 16)
    tied.extra.weight = tied.fc1.weight
    assert "fc1.weight" in by_name(tied, ffn="neurons")
    with pytest.raises(ValueError, match=r"ffn: 'extra\.weight' is shared with 'fc1\.weight'"):
        param_groups(tied, LASSO, ffn=[("extra", "fc2")])
    with pytest.raises(ValueError, match=r"ffn: 'fc1\.weight' is shared with another joint group"):
        param_groups(tied, LASSO, ffn=[("fc1", "fc2"), ("fc1", "fc2")])


def test_l1_is_elementwise():
    groups = param_groups(models.vgg(), pl.L1(0.1))
    assert [type(g["penalty"]) for g in groups] == [pl.L1, type(None)]
    assert len(groups[0]["params"]) == 4
    with pytest.raises(ValueError, match="ffn: joint groups need a penalty on groups"):
        param_groups(models.Encoder(), pl.L1(0.1), ffn="neurons")


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: 3, {}, TypeError, "model: must be a torch.nn.Module, got int"),
        (models.vgg, {"penalty": 0.1}, TypeError, "penalty: must be a proxlab penalty.*got 0.1"),
        (
            models.vgg,
            {"penalty": pl.GroupLasso(1.0, weights=np.ones(3))},
            ValueError,
            "penalty: weights must be",
        ),
        (models.vgg, {"conv": "filters"}, ValueError, "conv: must be one of 'filter', .* got 'filters'"),
        (models.vgg, {"linear": "row"}, ValueError, "linear: must be one of 'input', 'output' or None"),
        (models.vgg, {"embedding": "row"}, ValueError, "embedding: must be one of"),
        (models.vgg, {"lstm": "cell"}, ValueError, "lstm: must be one of"),
        (models.vgg, {"attention": "head"}, ValueError, "attention: must be .*got 'head'"),
        (models.vgg, {"attention": "heads"}, ValueError, "attention: the model has no attention layer"),
        (models.vgg, {"attention": [("a", "b")]}, TypeError, "attention: must hold proxlab.torch.Attention"),
        (models.vgg, {"ffn": "neuron"}, ValueError, "ffn: must be .*got 'neuron'"),
        (models.vgg, {"ffn": "neurons"}, ValueError, "ffn: the model has no feed-forward block"),
        (models.vgg, {"ffn": [("9",)]}, TypeError, "ffn: must list tuples of two or more"),
        (models.vgg, {"ffn": [("9", "99")]}, ValueError, "ffn: the model has no module '99'"),
        (
            models.vgg,
            {"ffn": [("0", "9")]},
            ValueError,
            "ffn: '0' must be a torch.nn.Linear, but is a Conv2d",
        ),
        (models.vgg, {"ffn": [("12", "9")]}, ValueError, "ffn: '12' has 3 outputs, but '9' has 64 inputs"),
        (models.vgg, {"exclude": "layer9"}, ValueError, "exclude: 'layer9' fits no module or parameter"),
        (models.vgg, {"exclude": [3]}, TypeError, "exclude: must hold paths"),
        (models.vgg, {"ffn": [("9", "9")]}, ValueError, "ffn: must name different layers"),
        (lambda: nn.Linear(2, 3), {"linear": None}, ValueError, "model: nothing is penalised; looked for"),
        (
            nn.ReLU,
            {},
            ValueError,
            r"nothing is penalised; looked for convolutions \(conv='channel'\), linear",
        ),
        (lambda: nn.Linear(2, 3), {"exclude": "*"}, ValueError, r"nothing is .* outside of exclude=\['\*'\]"),
        (models.vgg, {"embedding": "input"}, ValueError, "embedding: the model has no embeddings"),
        (models.vgg, {"lstm": "unit"}, ValueError, "lstm: the model has no recurrent layers"),
        (models.Encoder, {"conv": "filter+norm"}, ValueError, "conv: the model has no convolutions"),
        (lambda: nn.LazyLinear(3), {}, ValueError, "model: 'weight' is not initialised yet"),
    ],
)
def test_errors(make, options, error, message):
    with pytest.raises(error, match=message):
        param_groups(make(), options.pop("penalty", LASSO), **options)


def test_attention_that_does_not_say_its_heads():
    model = models.Encoder()
    del model.attention.num_heads
    with pytest.raises(
        ValueError, match=r"attention: 'attention' looks like attention, but has none of .*num_heads"
    ):
        param_groups(model, LASSO, attention="heads")
    for options, error in (
        ({"heads": 0}, ValueError),
        ({"heads": 2.0}, ValueError),
        ({"query": 1}, TypeError),
    ):
        fields = {"query": "a", "key": "b", "value": "c", "output": "d", "heads": 2} | options
        with pytest.raises(error, match=next(iter(options))):
            Attention(**fields)


class Tied(nn.Module):
    """A language model whose last layer has the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.tokens, self.hidden, self.norm = nn.Embedding(6, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.logits = nn.Linear(4, 6)
        self.logits.weight = self.tokens.weight


def test_what_stays_free_and_why():
    groups = param_groups(Tied(), LASSO, exclude="logits.bias")
    assert groups.free == {
        "tokens.weight": "shared by tokens.weight and logits.weight; it goes with the first, embedding=None",
        "hidden.bias": "bias of a Linear",
        "norm.weight": "weight of a LayerNorm",
        "norm.bias": "bias of a LayerNorm",
        "logits.bias": "excluded",
    }
    assert set(groups.free) == set(groups[-1]["names"])
    for said in (*groups.free, *groups.free.values(), "hidden.weight", "GroupLasso(lam="):
        assert said in repr(groups)
    assert "tokens.weight" not in param_groups(Tied(), LASSO, embedding="output").free
    joint = param_groups(nn.TransformerEncoderLayer(8, 2, 16), LASSO, ffn="neurons")
    assert "16 joint groups  linear1.weight, linear1.bias, linear2.weight" in repr(joint)


def test_param_groups_of_one_layer_join_an_optimizer_later():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = ProxAdamW(param_groups(model, LASSO, only="0"))
    for group in param_groups(model, LASSO, only=["2"]):
        optimizer.add_param_group(group)
    whole = param_groups(model, LASSO)
    listed = [set(group["names"]) for group in optimizer.param_groups]
    assert listed == [{"0.weight"}, {"0.bias"}, {"2.weight"}, {"2.bias"}]
    places = {n: k for g in (*optimizer.param_groups,) for n, k in zip(g["names"], g["places"], strict=True)}
    assert places == {n: k for g in whole for n, k in zip(g["names"], g["places"], strict=True)}
    with pytest.raises(ValueError, match="only: '7' fits no module or parameter"):
        param_groups(model, LASSO, only="7")
    with pytest.raises(ValueError, match=r"model: nothing is penalised.*only=\['0.bias'\]"):
        param_groups(model, LASSO, only="0.bias")
