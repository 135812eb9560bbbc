"""Compacting attention whose queries and keys are normalised: head by head with one weight, or otherwise."""

import copy
import importlib

import pytest

torch = pytest.importorskip("torch")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from proxlab.torch import compact  # noqa: E402

pytestmark = pytest.mark.torch

SIZE, WIDTH = 4, 6


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Times are not looked at here.
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "_RUNS", 1)


class Written(nn.Module):
    """A norm in plain operations, with one weight for all heads or one for each."""

    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


# What is normalised, for a number of heads.
SHARED = {
    "rms": lambda n: nn.RMSNorm(SIZE),
    "rms without weight": lambda n: nn.RMSNorm(SIZE, elementwise_affine=False),
    "layer": lambda n: nn.LayerNorm(SIZE),
    "layer without shift": lambda n: nn.LayerNorm(SIZE, bias=False),
    "layer without weight": lambda n: nn.LayerNorm(SIZE, elementwise_affine=False),
    "written": lambda n: Written(SIZE),
}
OWN = {"own weights": lambda n: Written(n, SIZE)}


class Normed(nn.Module):
    """Attention with grouped queries; `first` puts heads before tokens ahead of the norms."""

    def __init__(self, norm, keys, each, first=False, bias=False, whole=False):
        super().__init__()
        heads = keys * each
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(WIDTH, n * SIZE, bias=bias) for n in (heads, keys, keys)
        )
        self.o_proj = nn.Linear(heads * SIZE, WIDTH, bias=bias)
        self.q_norm, self.k_norm = norm(heads), norm(keys)
        self.each, self.first, self.whole = each, first, whole

    def normed(self, norm, x):
        if self.whole:
            return norm(x).unflatten(-1, (-1, SIZE)).transpose(1, 2)
        x = x.unflatten(-1, (-1, SIZE))
        return norm(x.transpose(1, 2)) if self.first else norm(x).transpose(1, 2)

    def forward(self, x):
        q = self.normed(self.q_norm, self.q_proj(x))
        k = self.normed(self.k_norm, self.k_proj(x)).repeat_interleave(self.each, 1)
        v = self.v_proj(x).unflatten(-1, (-1, SIZE)).transpose(1, 2).repeat_interleave(self.each, 1)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def draw(self):
        """Give all parameters values, those of the norms and the biases too."""
        with torch.no_grad():
            for p in self.parameters():
                p.normal_()
        return self.eval()

    def clear(self, keys, layers):
        """Set to zero what is named of the heads that share these keys."""
        with torch.no_grad():
            for k in keys:
                one, shared = (slice(n * k, n * (k + 1)) for n in (SIZE, self.each * SIZE))
                for name in layers:
                    layer = self.get_submodule(f"{name}_proj")
                    where = shared if name in "qo" else one
                    parts = [layer.weight[:, where]] if name == "o" else [layer.weight[where]]
                    if name != "o" and layer.bias is not None:
                        parts.append(layer.bias[where])
                    for part in parts:
                        part.zero_()


def agree(model, small):
    x = 3.0 * torch.randn(3, 7, WIDTH, dtype=torch.float64) + 0.5
    for training in (False, True):
        wide, narrow = (copy.deepcopy(m).double().train(training) for m in (model, small))
        with torch.no_grad():
            torch.testing.assert_close(narrow(x), wide(x), rtol=1e-6, atol=1e-6)


@settings(max_examples=12)
@given(
    norm=st.sampled_from([*SHARED, *OWN]),
    each=st.integers(1, 2),
    dead=st.lists(st.booleans(), min_size=2, max_size=4).filter(lambda dead: not all(dead)),
    layers=st.sampled_from(["qkvo", "v", "o"]),
    first=st.booleans(),
    bias=st.booleans(),
)
@example("layer", 1, [False, True], "v", True, True)
@example("layer without weight", 2, [True, False, True], "o", False, False)
@example("rms", 2, [True, False], "qkvo", False, False)
@example("written", 1, [False, True, True], "v", False, False)
def test_heads_that_are_normed_go(norm, each, dead, layers, first, bias):
    torch.manual_seed(0)
    model = Normed((SHARED | OWN)[norm], len(dead), each, first and norm in SHARED, bias).draw()
    model.clear([k for k, gone in enumerate(dead) if gone], layers)
    small, report = compact(model, torch.randn(2, 5, WIDTH))
    left = len(dead) - sum(dead)
    assert small.k_proj.out_features == small.v_proj.out_features == SIZE * left
    assert small.q_proj.out_features == small.o_proj.in_features == SIZE * each * left
    for name, n in (("q_norm", each * left), ("k_norm", left)):
        for before, after in zip(
            model.get_submodule(name).parameters(), small.get_submodule(name).parameters(), strict=True
        ):
            assert after.shape == ((n, SIZE) if norm in OWN else before.shape)
    assert not report.kept
    agree(model, small)


@pytest.mark.parametrize("norm", SHARED)
@pytest.mark.parametrize("layers", ["q", "k", "qk"])
def test_heads_that_contribute_stay_whatever_queries_and_keys_are(norm, layers):
    torch.manual_seed(0)
    model = Normed(SHARED[norm], 3, 1).draw()
    model.clear([1], layers)
    small, report = compact(model, torch.randn(2, 5, WIDTH))
    assert report.parameters[0] == report.parameters[1]
    assert {(k.layer, k.count) for k in report.kept} == {(f"{name}_proj", SIZE) for name in layers}
    agree(model, small)


def test_a_part_of_a_head_stays():
    torch.manual_seed(0)
    model = Normed(SHARED["rms"], 3, 1).draw()
    with torch.no_grad():
        for layer in (model.q_proj, model.k_proj, model.v_proj):
            layer.weight[SIZE : 2 * SIZE - 1] = 0
        model.o_proj.weight[:, SIZE : 2 * SIZE - 1] = 0
        model.q_norm.weight[:-1] = 0
    small, report = compact(model, torch.randn(2, 5, WIDTH))
    assert report.parameters[0] == report.parameters[1]
    agree(model, small)


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
def test_heads_that_are_normed_together_stay(kind):
    torch.manual_seed(0)
    model = Normed(lambda n: kind(n * SIZE), 3, 1, whole=True).draw()
    model.clear([0, 2], "qkvo")
    small, report = compact(model, torch.randn(2, 5, WIDTH))
    assert report.parameters[0] == report.parameters[1]
    assert report.kept
    agree(model, small)


@pytest.mark.parametrize("before", [False, True])
def test_a_weight_shared_by_heads_and_channels_stays_whole(before):
    class Both(Normed):
        """The weight that all heads share also scales the channels of a layer, which it would be cut with."""

        def __init__(self):
            super().__init__(SHARED["written"], 3, 1)
            self.up, self.down = nn.Linear(WIDTH, SIZE), nn.Linear(SIZE, WIDTH)

        def forward(self, x):
            heads = None if before else super().forward(x)
            channels = self.down(self.up(x) * self.q_norm.weight)
            return channels + (super().forward(x) if before else heads)

    torch.manual_seed(0)
    model = Both().draw()
    model.clear([1], "o")
    with torch.no_grad():
        model.down.weight[:, 2] = 0
    small, report = compact(model, torch.randn(2, 5, WIDTH))
    assert small.q_proj.out_features == 2 * SIZE
    assert small.up.out_features == SIZE
    assert [k.reason for k in report.kept] == ["'q_norm.weight' meets all channels of another layer alike"]
    agree(model, small)


def test_a_query_that_is_a_parameter_is_named():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.probe = nn.Parameter(torch.randn(1, 1, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(self.probe.repeat(len(x), 1, 1), x, x, need_weights=False)[0]

    torch.manual_seed(0)
    model = Pooling().eval()
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:] = 0
    _, report = compact(model, torch.randn(2, 5, 8))
    assert report.parameters[0] == report.parameters[1]
    why = "'attention.in_proj_weight' is multiplied by 'probe', not by what depends on the input"
    assert why in {k.reason for k in report.kept}
