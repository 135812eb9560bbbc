"""Compacting: the smaller network computes what the masked one does, and says what it kept and why."""

import copy
import dataclasses
import importlib
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.torch import channels, heads  # noqa: E402
from proxlab.torch.compaction import compact  # noqa: E402
from proxlab.torch.networks import param_groups  # noqa: E402
from proxlab.torch.structures import Attention  # noqa: E402
from proxlab.torch.tracing import labels  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch

IMAGES = (3, 3, 8, 8)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    return torch.randint(0, 11, (3, 5))


def shrink(model, inputs, **options):
    """Compact, compare the outputs on inputs that `compact` has not seen, and return model and report."""
    before = copy.deepcopy(model.state_dict())
    small, report = compact(model, inputs, **options)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    fresh = inputs.flip(0) if not inputs.is_floating_point() else 3.0 * torch.randn_like(inputs) + 1.0
    for x in (inputs, fresh):
        wide, narrow = copy.deepcopy(model).eval().double(), copy.deepcopy(small).eval().double()
        x = x.double() if x.is_floating_point() else x
        with torch.no_grad():
            expected, found = wide(x), narrow(x)
        # Folded biases are rounded to the model's float32.
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    assert report.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (model, small))
    return small, report


def reasons(report):
    return {(k.layer, k.what): (k.count, k.reason) for k in report.kept}


def zero(*parts):
    """Set views to zero; a tensor with an index stands for the elements there."""
    with torch.no_grad():
        for part in parts:
            tensor, index = part if isinstance(part, tuple) else (part, ...)
            tensor[index] = 0


def test_linear_layers_against_slices_by_hand():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6, bias=False), nn.Sigmoid(), nn.Linear(6, 3)
    )
    zero((model[2].weight, np.s_[:, [1, 4]]), model[0].weight[6], model[2].weight[3])
    small, report = shrink(model, torch.randn(5, 4))
    w0, b0, w2, w4, b4 = (p.detach().double().numpy() for p in model.parameters())
    keep, kept = [0, 2, 3, 5, 7], [0, 1, 2, 4, 5]
    # The hidden unit 6 is tanh(b), which goes to the next bias; unit 3 there is then a constant, too.
    shift = w2[:, 6] * np.tanh(b0[6])
    sigmoid = 1 / (1 + np.exp(-shift[3]))
    expected = [
        w0[keep], b0[keep], w2[np.ix_(kept, keep)], w4[:, kept], b4 + w4[:, 3] * sigmoid, shift[kept],
    ]  # fmt: skip
    found = dict(small.named_parameters())
    names = ("0.weight", "0.bias", "2.weight", "4.weight", "4.bias", "2.bias")
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name].detach().numpy(), value, rtol=1e-5, atol=1e-7)
    assert {(r.layer, r.what, r.before, r.after) for r in report.removed} == {
        ("0", "outputs", 8, 5),
        ("2", "outputs", 6, 5),
    }
    assert not report.kept
    assert report.flops[1] < report.flops[0]
    assert "parameters" in str(report)
    assert min(report.latency) > 0


def test_vgg_by_input_channels_and_columns():
    model = models.settle(models.vgg())
    # What the paper's groups leave: zero columns and input channels, whose makers are not zero.
    zero(
        (model[4].weight, np.s_[:, [0, 3]]),
        (model[9].weight.view(10, 16, 4), np.s_[:, [1, 5]]),
        model[12].weight[:, 2],
    )
    small, report = shrink(model, torch.randn(IMAGES))
    assert [small[k].weight.shape for k in (0, 4, 9, 12)] == [(6, 3, 3, 3), (14, 6, 3, 3), (9, 56), (3, 9)]
    assert not report.kept
    assert small.training is False


def test_vgg_by_joint_filters():
    model = models.settle(models.vgg())
    zero(model[0].weight[2], model[0].bias[2], model[1].weight[2], model[1].bias[2])
    small, report = shrink(model, torch.randn(IMAGES))
    assert small[4].in_channels == small[1].num_features == 7
    assert not report.kept


def test_zeros_cascade():
    model = models.settle(models.vgg())
    # Without its only reader the second convolution is dead, and then what makes its input is.
    zero(model[4].weight[:12])
    zero(model[9].weight.view(10, 16, 4)[:, 12:], model[5].bias[:12], model[5].running_mean[:12])
    small, _ = shrink(model, torch.randn(IMAGES))
    # Every layer keeps one channel.
    assert [small[k].weight.shape[0] for k in (0, 4)] == [1, 1]


@pytest.mark.parametrize(
    ("padding", "mode", "folds"), [(0, "zeros", True), (1, "zeros", False), (1, "reflect", True)]
)
def test_a_constant_channel_folds_unless_zeros_are_padded(padding, mode, folds):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=padding, padding_mode=mode), nn.Flatten()
    )
    zero(model[0].weight[1], model[0].weight[2])
    with torch.no_grad():
        model[0].bias[1:3] = torch.tensor([0.7, -0.7])  # the second is zero after ReLU
    small, report = shrink(model, torch.randn(IMAGES))
    assert small[0].out_channels == (2 if folds else 3)
    if not folds:
        assert reasons(report)[("0", "outputs")] == (
            1,
            "it is a constant other than zero, which '2' cannot take into its bias",
        )


def test_residual_connections_couple_layers():
    model = models.settle(models.ResNet())
    first, second = model.layer1, model.layer2
    zero(first.conv1.weight[2], first.bn1.weight[2], first.bn1.bias[2], second.conv2.weight[:, 4])
    # A channel of the stream goes if all that add to it are zero, and not otherwise.
    for conv, norm in ((model.conv1, model.bn1), (first.conv2, first.bn2)):
        zero(conv.weight[1], norm.weight[1], norm.bias[1])
    zero(model.conv1.weight[0])
    # The classifier's zero column frees a channel whatever makes it.
    zero(model.fc.weight[:, 3])
    # Constants before the average are folded into the classifier.
    zero(second.conv2.weight[7], second.downsample[0].weight[7])
    small, report = shrink(model, torch.randn(IMAGES))
    assert small.conv1.out_channels == small.layer1.conv2.out_channels == 5
    assert small.layer1.conv1.out_channels == 5
    assert small.layer2.conv1.out_channels == 11
    assert small.layer2.conv2.out_channels == small.layer2.downsample[0].out_channels == 10
    assert reasons(report) == {
        ("conv1", "outputs"): (1, "it is coupled with 'layer1.conv2', which is not zero")
    }


def test_a_batch_norm_of_scale_zero_frees_its_convolution():
    model = models.settle(models.vgg())
    zero((model[5].weight, [3, 9]))
    small, _ = shrink(model, torch.randn(IMAGES))
    assert small[4].out_channels == 14


@pytest.mark.parametrize("slopes", [1, 6])
def test_the_slopes_of_prelu(slopes):
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(slopes, init=0.3), nn.Conv2d(6, 4, 1))
    zero(model[0].weight[2], (model[2].weight, np.s_[:, [0, 4]]))
    small, report = shrink(model, torch.randn(IMAGES))
    assert small[0].out_channels == 3
    assert small[1].weight.unique().tolist() == model[1].weight.unique().tolist()
    assert not report.kept


def test_depthwise_convolutions_pass_channels_on():
    model = models.settle(
        nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 4, 1),
        )
    )
    # What batch norm makes of a constant is the same in both modes where its scale is zero.
    zero(model[0].weight[1], model[3].weight[1], model[4].weight[:, 2])
    small, report = shrink(model, torch.randn(IMAGES))
    assert small[2].groups == small[0].out_channels == 4
    assert not report.kept


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.c = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(torch.cat([x, F.relu(self.b(x))], 1))


def test_concatenated_channels():
    model = Dense()
    zero((model.c.weight, np.s_[:, [1, 5, 6]]), model.b.weight[:, 1], model.c.weight[:, 2])
    small, report = shrink(model, torch.randn(IMAGES))
    assert (small.a.out_channels, small.b.out_channels, small.c.in_channels) == (3, 3, 6)
    assert reasons(report) == {("c", "inputs"): (1, "'b' reads it too")}


def test_encoder_with_attention_of_linear_layers(tokens):
    model = models.Encoder()
    attention = model.attention
    zero(attention.out_proj.weight[:, 4:8], attention.v_proj.weight[:4])
    zero(
        model.fc1.weight[:3],
        model.fc2.weight[:, 5:7],
        attention.q_proj.weight[:, 3],
        attention.k_proj.weight[9],
    )
    small, report = shrink(model, tokens)
    assert (small.attention.num_heads, small.attention.q_proj.out_features) == (1, 4)
    assert small.fc1.out_features == 11
    assert reasons(report) == {
        ("attention.q_proj", "inputs"): (1, "LayerNorm 'norm1' normalises it together with others"),
        ("attention.k_proj", "outputs"): (
            1,
            "it is in an attention head, of which only the whole is removed",
        ),
    }


def test_the_user_names_attention(tokens):
    model = models.Encoder()
    attention = model.attention
    attention.pos = nn.Linear(1, 1)  # no layer of it
    zero(attention.out_proj.weight[:, 4:8])
    for new, old in (("a", "q_proj"), ("b", "k_proj"), ("c", "v_proj"), ("d", "out_proj")):
        attention.add_module(new, getattr(attention, old))
    paths = [f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    with pytest.raises(ValueError, match=r"no module 'attention\.z'"):
        compact(model, tokens, attention=[Attention("attention.z", *paths[1:], heads=3)])
    with pytest.raises(ValueError, match=r"5 heads do not divide the 12 outputs of 'attention\.q_proj'"):
        compact(model, tokens, attention=[Attention(*paths, heads=5)])
    with pytest.raises(TypeError, match="attention: must hold"):
        compact(model, tokens, attention=[paths])


def test_bert():
    model = models.Bert()
    zero(model.attention.output.dense.weight[:, 4:8], model.output.dense.weight[:, :4])
    small, report = shrink(model, torch.randn(2, 5, 12))
    own = small.get_submodule("attention.self")
    assert (own.num_attention_heads, own.all_head_size, own.query.out_features) == (2, 8, 8)
    assert small.intermediate.dense.out_features == 12
    assert not report.kept


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"num_attention_heads": 2, "num_key_value_heads": 1}),
        ({"num_key_value_heads": 4}, {"num_attention_heads": 2, "num_key_value_heads": 2}),
        ({"num_heads": 8}, {"num_heads": 4}),
        ({"head_dim": 4}, {"head_dim": 4}),
    ],
)
def test_what_is_remembered_of_heads(own, expected):
    """A module that knows their number or size itself gets no other number, which a checkpoint would miss."""
    module = nn.Module()
    module.config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)
    for name, n in own.items():
        setattr(module, name, n)
    heads.scale_counts(module, 1, 2)
    assert {name: n for name, n in vars(module).items() if type(n) is int} == expected


class Configured(models.SelfAttention):
    """Attention of heads of four, which a configuration of all layers counts."""

    def forward(self, x):
        q, k, v = (
            p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_heads_that_a_configuration_counts(tokens):
    """Pruned, compacted, and pruned again: groups were of heads that were gone, or refused."""
    model = models.Encoder()
    model.attention = Configured()
    del model.attention.num_heads
    config = SimpleNamespace(num_attention_heads=3, num_key_value_heads=3)
    model.attention.config = config
    for left in (2, 1):
        with torch.no_grad():
            model.attention.out_proj.weight[:, :4] = 0
        model, _ = shrink(model, tokens)
        own = model.attention
        assert (own.num_attention_heads, own.num_key_value_heads) == (left, left)
        for options in ({}, {"example_inputs": tokens}):
            groups = param_groups(model, pl.GroupLasso(0.1), attention="heads", **options)
            joint = next(g for g in groups if "joint" in g)
            parts = zip(joint["params"], joint["joint"], strict=True)
            assert {part.n_groups(tuple(p.shape)) for p, part in parts} == {left}
    assert config.num_attention_heads == 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_encoder_layers(bias, batch_first):
    layer = nn.TransformerEncoderLayer(12, 3, 16, bias=bias, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    with torch.no_grad():
        for block in model.layers:
            if bias:
                block.self_attn.in_proj_bias.normal_()
            block.self_attn.in_proj_weight.view(3, 3, 4, 12)[2, 0] = 0  # the values of one head
            block.self_attn.out_proj.weight[:, 4:8] = 0
            block.linear2.weight[:, :6] = 0
    small, report = shrink(model, torch.randn(4, 5, 12))
    assert [m.self_attn.num_heads for m in small.layers] == [1, 1]
    assert [m.linear1.out_features for m in small.layers] == [10, 10]
    assert small.training
    assert all(m.training for m in small.modules())
    assert not report.kept


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_stacks_of_encoder_layers_with_padding():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 16, batch_first=True), 2).eval()
    zero(*(block.self_attn.out_proj.weight[:, :6] for block in model.layers))
    x, padding = torch.randn(3, 5, 12), torch.arange(5) > torch.tensor([[4], [2], [3]])
    small, report = compact(model, {"src": x, "src_key_padding_mask": padding})
    assert [r.after for r in report.removed] == [1, 1]
    expected = model(x, src_key_padding_mask=padding)[~padding]
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            found = small(x, src_key_padding_mask=padding)[~padding]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "heads", "float"])
@pytest.mark.parametrize("weights", [False, True])
def test_the_stand_in_attends_as_pytorch_does(mask, weights):
    old = nn.MultiheadAttention(12, 3, kdim=7, vdim=8, batch_first=True).double()
    x, k, v = (torch.randn(4, n, w, dtype=torch.float64) for n, w in ((5, 12), (6, 7), (6, 8)))
    with torch.no_grad():
        old.in_proj_bias.normal_()
        old.out_proj.weight[:, 8:] = 0
    model = nn.ModuleDict({"attention": old})
    options = {
        "none": {},
        "causal": {"attn_mask": torch.ones(5, 6, dtype=torch.bool).triu(2)},
        "padding": {"key_padding_mask": torch.arange(6) > torch.tensor([[2], [3], [4], [5]])},
        "heads": {"attn_mask": torch.rand(12, 5, 6) > 0.8},
        "float": {"attn_mask": torch.randn(5, 6, dtype=torch.float64)},
    }[mask]
    options |= {"need_weights": weights, "average_attn_weights": False}
    expected, each = old(x, k, v, **options)
    single = old(x[0], k[0], v[0])[0]
    heads.stand_in(model, "attention")
    new = model["attention"]
    torch.testing.assert_close(new(x, k, v, **options)[0], expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for layer in (new.q_proj, new.k_proj, new.v_proj):
            layer.weight, layer.bias = nn.Parameter(layer.weight[:8]), nn.Parameter(layer.bias[:8])
        new.out_proj.weight = nn.Parameter(new.out_proj.weight[:, :8])
    new.keep([0, 1])
    assert new.num_heads == 2
    found, fewer = new(x, k, v, **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new(x[0], k[0], v[0])[0], single, rtol=1e-12, atol=1e-12)
    if weights:
        torch.testing.assert_close(fewer, each[:, :2], rtol=1e-12, atol=1e-12)
    else:
        assert fewer is None


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("state", [False, True])
def test_recurrent_layers(kind, state, tokens):
    class LastState(models.Recurrent):
        def forward(self, tokens):
            states = self.rnn(self.embedding(tokens))[1]
            return self.head(states[0][-1] if isinstance(states, tuple) else states[-1])

    model = (LastState if state else models.Recurrent)(kind)
    rnn = model.rnn
    # Unit 2 is zero in all its gates; unit 4 is read by nobody; unit 5 by another unit.
    for name, p in rnn.named_parameters():
        zero(p.view(-1, 6, *p.shape[1:])[:, 2])
        if name.startswith("weight_hh"):
            zero(p[:, 4])
    zero(model.head.weight[:, 4:6], rnn.weight_ih_l0[:, 3], model.embedding.weight[:, 1])
    small, report = shrink(model, tokens)
    assert (small.rnn.input_size, small.rnn.hidden_size, small.embedding.embedding_dim) == (3, 4, 3)
    assert reasons(report) == {("head", "inputs"): (1, "other hidden units read it")}


def test_recurrent_layers_that_are_not_cut(tokens):
    class Deep(models.Recurrent):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)

    model = Deep()
    zero(model.head.weight[:, 1], model.rnn.weight_ih_l0[:, 3], model.rnn.weight_ih_l0_reverse[:, 3])
    small, report = shrink(model, tokens)
    assert small.rnn.input_size == small.embedding.embedding_dim == 4
    assert reasons(report) == {("head", "inputs"): (1, "other hidden units read it")}


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def test_what_mixes_channels_keeps_them():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), RootMeanSquare(), nn.Linear(6, 3))
    zero(model[4].weight[:, 2], model[2].weight[:, 3])
    small, report = shrink(model, torch.randn(5, 4))
    # The column before is still removed.
    assert (small[0].out_features, small[2].out_features) == (7, 6)
    reason = "the operation 'mean' computes it together with others"
    assert reasons(report) == {("4", "inputs"): (1, reason)}


def test_attention_whose_code_fixes_the_heads(tokens):
    class Fixed(models.SelfAttention):
        def forward(self, x):
            assert self.q_proj.out_features == 12, "three heads of four"
            return super().forward(x)

    model = models.Encoder()
    model.attention.__class__ = Fixed
    zero(model.attention.out_proj.weight[:, 4:8], model.fc2.weight[:, 5:7])
    small, report = shrink(model, tokens)
    assert small.attention.num_heads == 3
    assert small.fc1.out_features == 14
    message = "the network cannot be called without it (AssertionError: three heads of four)"
    assert reasons(report)[("attention", "heads")] == (1, message)


def test_shared_parameters_are_cut_together(tokens):
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 11, bias=False))
    model[2].weight = model[0].weight
    zero(model[0].weight[:, 3])
    small, report = shrink(model, tokens)
    assert small[2].weight is small[0].weight
    assert small[1].weight.shape == (5, 5)
    assert not report.kept


def test_grouped_convolutions_and_outputs_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
    zero(model[0].weight[1], model[0].bias[1], model[2].weight[3])
    _, report = shrink(model, torch.randn(IMAGES))
    assert not report.removed
    assert reasons(report)[("0", "outputs")][1] == "'2' is a grouped convolution"


def test_an_output_that_is_read_too_stays():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            h = self.a(x)
            return {"hidden": h, "out": (self.b(h), None)}

    model = Two()
    zero(model.b.weight[:, 1])
    small, report = compact(model, {"x": torch.randn(3, 4)})
    assert small.a.out_features == 5
    assert reasons(report) == {("b", "inputs"): (1, "it is an output of the model")}


def test_dtype_flags_and_modes_are_kept(tokens):
    model = models.Encoder().train()
    model.norm1.eval()
    model.embedding.requires_grad_(False)
    zero(model.fc2.weight[:, :4])
    small, _ = compact(model, tokens)
    assert small.training
    assert not small.norm1.training
    assert [n for n, p in small.named_parameters() if not p.requires_grad] == ["embedding.weight"]
    half, report = compact(copy.deepcopy(model).bfloat16(), tokens)
    assert half.fc1.weight.dtype == torch.bfloat16
    assert half.fc1.out_features == 12
    assert report.difference < 0.05


def test_nothing_to_remove():
    small, report = shrink(nn.Linear(3, 2), torch.randn(2, 3))
    assert report.difference == 0.0
    assert not report.removed + report.kept
    assert isinstance(small, nn.Linear)


def test_groups_that_a_prox_sets_to_zero_are_what_is_removed():
    model = models.settle(models.vgg())
    groups = param_groups(model, pl.GroupLasso(1.0, weights="sqrt_size"), exclude="0")
    removed = 0
    with torch.no_grad():
        for group in groups[:-1]:
            for p in group["params"]:
                rows = group["penalty"].groups.layout(tuple(p.shape)).split(p, 0.0)[0]
                step = 1.001 * float(rows.norm(dim=1).median()) / rows.shape[1] ** 0.5
                p.copy_(torch.as_tensor(pl.prox(group["penalty"], p.numpy(), step)))
                removed += int((p == 0).sum())
    assert removed
    small, report = shrink(model, torch.randn(IMAGES))
    # Half of all groups: a zero input channel of a linear layer behind an image needs all its columns.
    assert small[0].out_channels == 4
    assert report.parameters[1] < report.parameters[0]


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.1, 0.9))
def test_any_pattern_of_zeros(seed, share):
    generator = torch.Generator().manual_seed(seed)
    model = [models.vgg, models.ResNet, models.Encoder][seed % 3]()
    models.settle(model)
    with torch.no_grad():
        for p in model.parameters():
            # Slices across each axis, independently of what belongs together.
            for axis in range(min(p.dim(), 2)):
                if float(torch.rand((), generator=generator)) < 0.5:
                    chosen = torch.rand(p.shape[axis], generator=generator) < share
                    p.movedim(axis, 0)[chosen] = 0
    inputs = torch.randint(0, 11, (3, 5)) if isinstance(model, models.Encoder) else torch.randn(IMAGES)
    _, report = shrink(model, inputs)
    assert report.parameters[1] <= report.parameters[0]


# ----------------------------------------------------------------------------------------------------
# Wrong versions of each step are found out.


def folded_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
    zero(model[0].weight[1])
    with torch.no_grad():
        model[0].bias[1] = 0.7
    return model


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_can_fold", lambda model, read: True),
        ("_zero_columns", lambda read, weight: torch.ones(len(read.ids), dtype=torch.bool)),
    ],
)
def test_mutants_of_channels_are_rejected(monkeypatch, name, wrong):
    monkeypatch.setattr(channels, name, wrong)
    small, report = compact(folded_model(), torch.randn(IMAGES))
    assert not report.removed
    assert small[0].out_channels == 4


def test_a_fold_that_forgets_the_constant_is_rejected(monkeypatch):
    model = folded_model()
    model[2].padding = (0, 0)
    assert compact(model, torch.randn(IMAGES))[0][0].out_channels == 3
    fold = channels._fold

    def forget(model, read, *rest):
        fold(model, dataclasses.replace(read, low=0 * read.low), *rest)

    monkeypatch.setattr(channels, "_fold", forget)
    small, report = compact(model, torch.randn(IMAGES))
    assert small[0].out_channels == 4
    assert any("of their size without it" in k.reason for k in report.kept)


def test_what_differs_in_the_models_own_precision_is_kept(monkeypatch):
    target = importlib.import_module("proxlab.torch.compaction")

    def spoil(small, model):
        small.float()
        if small[0].out_channels < 4:
            small[2].bias.data += 1e-3

    monkeypatch.setattr(target, "_restore", spoil)
    model = folded_model()
    model[2].padding = (0, 0)
    small, report = compact(model, torch.randn(IMAGES))
    assert small[0].out_channels == 4
    assert report.difference == 0
    assert any("without it, in the model's own precision" in k.reason for k in report.kept)


class Jump(nn.Module):
    """Rounding decides what it does with a channel that is a constant."""

    def forward(self, x):
        return torch.where(x > x.mean((2, 3), keepdim=True), x, 0.1 * x)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=11)
def test_a_jump_takes_nothing_else_down(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid(), Jump(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[1].weight[torch.rand(4) < 0.6] = 0
        model[6].weight[:2] = 0
    _, report = compact(model, torch.randn(4, 3, 7, 8))
    assert report.difference < 2e-3
    assert report.parameters[1] < report.parameters[0] or report.kept


def test_a_model_that_is_random_is_left_as_it_is():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), Noise())
    with torch.no_grad():
        model[2].weight[:, :2] = 0
    small, report = compact(model, torch.randn(8, 4))
    assert report.parameters == (51, 51)
    assert small[0].out_features == 6
    assert any(note.startswith("nothing was removed, since ") for note in report.notes)
    assert [(k.layer, k.what, k.count) for k in report.kept] == [("2", "inputs", 2)]


def ln_structured(module):
    prune.ln_structured(module, "weight", 0.5, 2, 0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("run", [None, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize(
    "compute",
    [ln_structured, torch.nn.utils.spectral_norm, torch.nn.utils.weight_norm],
    ids=lambda f: f.__name__,
)
def test_weights_that_are_computed_before_each_call(compute, run):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        model[4].weight[:, :2] = 0
    compute(model[0])
    x = torch.randn(8, 4)
    if run is not None:
        with run():
            model(x)
    small, report = compact(model, x)
    torch.testing.assert_close(small(x), model(x))
    assert [(r.layer, r.before, r.after) for r in report.removed] == [("2", 5, 3)]
    masked = reasons(report).get(("0", "outputs"), (0, ""))
    assert masked[0] == (3 if compute is ln_structured else 0)
    assert "torch.nn.utils.prune.remove" in masked[1] or masked[0] == 0
    assert small[0].weight.dtype == torch.float32
    assert small[0].weight.shape == (6, 4)
    small(x).sum().backward()


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (lambda x: x, torch.ones(2), TypeError, "model: must be a torch.nn.Module, got function"),
        (nn.Linear(2, 2), 3.0, TypeError, "example_inputs: .*got float"),
        (nn.Linear(2, 2), [], TypeError, "example_inputs: .*got list"),
        (nn.Linear(2, 2), "xy", TypeError, "example_inputs: .*got str"),
        (nn.Identity(), torch.ones(2, 2, dtype=torch.int64), ValueError, "model: must return"),
    ],
)  # fmt: skip
def test_errors(model, inputs, error, message):
    with pytest.raises(error, match=message):
        compact(model, inputs)


@given(st.lists(st.tuples(st.integers(-2, 2**30), st.integers(-2, 2**30) | st.integers(-2, 3)), max_size=20))
def test_pairs_of_labels_are_those_that_occur(met):
    """Fixed and uniform labels are negative, and two labels are told apart by one number."""
    a, b = (torch.tensor([pair[k] for pair in met * 2], dtype=torch.int64) for k in (0, 1))
    assert labels.pairs(a, b) == sorted(set(met))
