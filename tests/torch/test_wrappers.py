"""Networks as they are wrapped, and weights that are computed: the same groups, or a refusal by name."""

import copy
import io
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.optim import TargetSparsity  # noqa: E402
from proxlab.torch import ProxAdamW, ProxSGD, compact, group_sparsity, param_groups  # noqa: E402
from proxlab.torch.structures import Attention, conv_norm_pairs, find_attention, match_attention  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.1)


def outline(groups):
    """Names and layouts, without what wrappers put into names."""
    drop = ("_orig_mod.", "_checkpoint_wrapped_module.")
    names = [[n.replace(drop[0], "").replace(drop[1], "") for n in g["names"]] for g in groups]
    return [
        (n, g["penalty"] and g["penalty"].groups, g.get("joint")) for n, g in zip(names, groups, strict=True)
    ]


@pytest.fixture(scope="module")
def one_process():
    """A process group of this process alone."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("PyTorch was built without torch.distributed")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "kind", ["compiled", "data parallel", "inner", "distributed", "checkpointed", "averaged"]
)
def test_wrapped_networks(kind, request):
    plain = models.vgg()
    model = copy.deepcopy(plain)
    if kind == "compiled":
        model = torch.compile(model, backend="eager")
    elif kind == "data parallel":
        model = nn.DataParallel(model)
    elif kind == "averaged":
        model = torch.optim.swa_utils.AveragedModel(torch.compile(model, backend="eager"))
    elif kind == "inner":
        model[4] = torch.compile(model[4], backend="eager")
    elif kind == "distributed":
        request.getfixturevalue("one_process")
        model = nn.parallel.DistributedDataParallel(torch.compile(model, backend="eager"))
    else:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model[4] = checkpoint_wrapper(model[4])
    for options in ({}, {"exclude": "0"}, {"exclude": ["4", "1?.weight"]}, {"exclude": "4.weight"}):
        assert outline(param_groups(model, LASSO, **options)) == outline(
            param_groups(plain, LASSO, **options)
        )
    # The path as the wrapped model spells it.
    name = next(name for name, _ in model.named_parameters() if name.endswith("weight") and "4." in name)
    assert outline(param_groups(model, LASSO, exclude=name)) == outline(
        param_groups(plain, LASSO, exclude="4.weight")
    )
    assert {id(p) for g in param_groups(model, LASSO) for p in g["params"]} == set(
        map(id, model.parameters())
    )
    assert group_sparsity(model).total == group_sparsity(plain).total


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # as PyTorch 2.14 has it
def test_scripted_and_sharded_networks_are_refused(one_process):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = nn.Sequential(torch.jit.script(nn.Linear(3, 4)), nn.Linear(4, 2))
    for function in (
        lambda m: param_groups(m, LASSO),
        group_sparsity,
        lambda m: compact(m, torch.ones(1, 3)),
    ):
        with pytest.raises(ValueError, match="model: '0' is compiled by TorchScript"):
            function(scripted)


ZERO = {
    "plain": {},
    "arguments": {
        "root_finder": pl.Newton(),
        "inexactness": (pl.inexactness.Distance, pl.inexactness.SquareSummable(1e-1)),
        "start": 2,
    },
    "driven": {"sparsity": TargetSparsity(0.4)},
    "ratio": {"sparsity": TargetSparsity(0.6, method="multiplicative", rate=0.5)},
}


@pytest.mark.parametrize("what", ZERO)
def test_a_state_of_zero_loads_without_pickle_and_the_run_goes_on(what, one_process):
    """ZeRO packs its own param groups, which hold the penalties and whatever it was given."""
    zero = pytest.importorskip("torch.distributed.optim").ZeroRedundancyOptimizer

    def make(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        return model, zero(param_groups(model, pl.GroupLasso(1e-2)), ProxAdamW, lr=1e-2, **ZERO[what])

    def train(model, optimizer):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()

    model, optimizer = make(0)
    train(model, optimizer)
    optimizer.consolidate_state_dict()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other, again = make(1)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        train(model, optimizer)
        train(other, again)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    lams = [[g["penalty"] and g["penalty"].lam for g in o.param_groups] for o in (optimizer, again)]
    assert lams[0] == lams[1]


def test_what_a_shard_cannot_decide_is_refused(one_process, monkeypatch):
    zero = pytest.importorskip("torch.distributed.optim").ZeroRedundancyOptimizer
    model = models.vgg()
    monkeypatch.setattr(one_process, "get_world_size", lambda group=None: 2)
    with pytest.raises(ValueError, match=r"param group 0: sparsity: .* gives each process its own"):
        zero(param_groups(model, LASSO), ProxAdamW, lr=1e-2, sparsity=TargetSparsity(0.5))


@pytest.mark.parametrize(
    "own",
    [{"start": 2}, {"root_finder": pl.Brent()}, {"certify_every": 3}, {"sparsity": TargetSparsity(0.5)}],
)
def test_arguments_of_the_whole_optimizer_are_refused_in_a_param_group(own):
    group = {"params": [nn.Parameter(torch.ones(2, 3))], "penalty": LASSO, **own}
    (name,) = own
    with pytest.raises(
        ValueError, match=f"param group 0: {name}: holds for all param groups; give it to Prox"
    ):
        ProxAdamW([group])
    ProxAdamW([group], **own)


MASKED = {
    "prune": lambda m, name: prune.random_unstructured(m, name, amount=0.3),
    "spectral": lambda m, name: parametrizations.spectral_norm(m, name),
}
OTHER = {
    "weight norm": lambda m, name: parametrizations.weight_norm(m, name),
    "orthogonal": lambda m, name: parametrizations.orthogonal(m, name),
    "user": lambda m, name: parametrize.register_parametrization(m, name, nn.Softplus()),
}


@pytest.mark.parametrize("how", [*MASKED, *OTHER])
@pytest.mark.parametrize(
    ("make", "name", "options"),
    [
        (lambda: nn.Linear(6, 5), "weight", {}),
        (lambda: nn.Conv2d(2, 4, 3), "weight", {"conv": "filter"}),
        (lambda: nn.LSTM(3, 4), "weight_hh_l0", {}),
        (lambda: nn.GRU(3, 4), "weight_ih_l0", {"lstm": "output"}),
        (lambda: nn.Embedding(7, 4), "weight", {"embedding": "input"}),
    ],
)
def test_weights_that_are_computed(make, name, options, how):
    plain = nn.ModuleDict({"layer": make(), "head": nn.Linear(4, 2)})
    model = copy.deepcopy(plain)
    (MASKED | OTHER)[how](model["layer"], name)
    expected = {n for g in param_groups(plain, LASSO, **options) if g["penalty"] for n in g["names"]}
    if how in OTHER:
        with pytest.raises(ValueError, match=rf"model: 'layer\.{name}' is computed by .* leaves it free"):
            param_groups(model, LASSO, **options)
        for free in ("layer", f"layer.{name}"):
            groups = param_groups(model, LASSO, exclude=free, **options)
            found = {n for g in groups if g["penalty"] for n in g["names"]}
            assert found == {n for n in expected if n != free and not n.startswith(f"{free}.")}
        return
    groups = param_groups(model, LASSO, **options)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in model.parameters())
    # A prox that leaves nothing: zeros of what is penalised are zeros of the weight that is computed from it.
    optimizer = ProxSGD(
        [g | ({"penalty": g["penalty"].with_strength(1e6)} if g["penalty"] else {}) for g in groups], lr=1.0
    )
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    (row,) = [r for r in group_sparsity(optimizer).layers if name in r.name and "layer" in r.name]
    assert row.sparsity == 1.0
    if how == "prune":
        assert not (
            model["layer"].get_parameter(f"{name}_orig") * model["layer"].get_buffer(f"{name}_mask")
        ).any()


def test_weight_norm_of_old_does_not_make_one_group_of_a_vector():
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with pytest.raises(ValueError, match="'weight_hh_l0' is computed by a weight norm"):
        param_groups(layer, LASSO)
    (group, _) = param_groups(layer, LASSO, exclude="weight_hh_l0")
    assert group["names"] == ["weight_ih_l0"]


def holder(q, k, v, o, **attributes):
    module = nn.Module()
    module.q_proj, module.k_proj, module.v_proj = (nn.Linear(12, n) for n in (q, k, v))
    module.o_proj = nn.Linear(o, 12)
    config = type("Config", (), {})()
    module.config = config
    for name, value in attributes.items():
        target, _, attribute = name.rpartition("__")
        setattr(config if target else module, attribute, value)
    return nn.ModuleDict({"block": module})


HEADS = st.sampled_from(["num_heads", "n_head", "config__num_attention_heads", "config__n_heads"])
SHARED = st.sampled_from(
    ["num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_kv_head", "config__num_key_value_heads"]
)


@given(
    own=st.integers(1, 4), share=st.integers(1, 3), size=st.integers(1, 4), wide=st.integers(1, 4),
    heads=HEADS, shared=st.none() | SHARED, sized=st.booleans(), wrong=st.sampled_from([0, 0, 1]),
)  # fmt: skip
def test_heads_are_counted_from_the_shapes(own, share, size, wide, heads, shared, sized, wrong):
    """Whatever the names: what is found is right, and what disagrees is refused."""
    attributes = {heads: own * share}
    if shared:
        attributes[shared] = own + wrong
    if sized:
        attributes["head_dim"] = size
    model = holder(own * share * size, own * size, own * wide, own * share * wide, **attributes)
    if shared and wrong:
        with pytest.raises(
            ValueError, match=rf"'block' looks like attention, but .*{own + 1} disagrees with {own}"
        ):
            find_attention(model)
        (unknown,) = match_attention(model)[1]
        assert unknown.path == "block"
        return
    (found,) = find_attention(model)
    assert found.heads == own
    (group,) = (g for g in param_groups(model, LASSO, attention="heads") if "joint" in g)
    counts = {g.n_groups(tuple(p.shape)) for g, p in zip(group["joint"], group["params"], strict=True)}
    assert counts == {own}


@pytest.mark.parametrize(
    ("sizes", "attributes", "message"),
    [
        ((12, 5, 5, 12), {"num_heads": 3}, "num_heads = 3 does not fit its layers"),
        ((12, 8, 8, 12), {"num_heads": 3}, "num_heads = 3 does not fit its layers"),
        ((12, 4, 4, 8), {"num_heads": 3}, "8 inputs of output"),
        ((12, 12, 12, 12), {"num_heads": 3, "n_kv_heads": 1}, "n_kv_heads = 1 disagrees with 3"),
        ((12, 12, 12, 12), {"num_heads": 3, "head_dim": 6}, "head_dim = 6 disagrees with 4"),
        ((12, 12, 12, 12), {"num_heads": 3, "n_heads": 4}, "n_heads = 4 disagrees with 3"),
        ((12, 12, 12, 12), {"num_heads": True}, "has none of the attributes"),
        ((12, 12, 12, 12), {"num_heads": 24}, "num_heads = 24 does not fit"),
    ],
)
def test_names_that_do_not_fit_the_shapes(sizes, attributes, message):
    with pytest.raises(ValueError, match=message):
        param_groups(holder(*sizes, **attributes), LASSO, attention="heads")
    (found,) = find_attention(holder(12, 12, 12, 12, head_dim=4))
    assert found.heads == 3


def test_a_projection_named_twice():
    for names in (("a", "a", "a", "b"), ("a", "b", "c", "a"), ("a", "b", "b", "c")):
        with pytest.raises(ValueError, match="attention: query, key, value and output must be four layers"):
            Attention(*names, heads=2)


class NormAct(nn.BatchNorm2d):
    """A batch norm that holds its activation, as in timm."""

    def __init__(self, features):
        super().__init__(features)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


def test_norms_that_hold_modules():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), NormAct(4), nn.Conv2d(4, 5, 3), nn.Identity(), nn.BatchNorm2d(5),
        nn.Conv2d(5, 6, 1), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 7, 1),
    )  # fmt: skip
    assert list(conv_norm_pairs(model)) == [("0", "1"), ("2", "4")]
    joint = [g["names"] for g in param_groups(model, LASSO, conv="filter+norm") if "joint" in g]
    assert joint == [
        ["0.weight", "0.bias", "1.weight", "1.bias"],
        ["2.weight", "2.bias", "4.weight", "4.bias"],
    ]


class Conv1D(nn.Module):
    """The transposed linear layer of the library transformers."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def test_transposed_linear_layers():
    model = nn.Sequential(Conv1D(5, 3), nn.Linear(5, 2))
    found = {g["names"][0]: g["penalty"].groups for g in param_groups(model, LASSO) if g["penalty"]}
    assert found == {"0.weight": pl.Groups.over(-1), "1.weight": pl.Groups.over(0)}
    rows = {
        g["names"][0]: g["penalty"].groups
        for g in param_groups(model, LASSO, linear="output")
        if g["penalty"]
    }
    assert rows == {"0.weight": pl.Groups.over(0), "1.weight": pl.Groups.over(-1)}


def test_weights_that_are_no_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weight = model[0].weight.detach()
    del model[0].weight
    model[0].register_buffer("weight", weight)
    assert [g["names"] for g in param_groups(model, LASSO)] == [["1.weight"], ["0.bias", "1.bias"]]
