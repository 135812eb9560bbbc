"""States that are saved, carried by others, loaded into other param groups, rolled back, or refused."""

import copy
import io
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import TargetSparsity, bregman  # noqa: E402
from proxlab.torch import vanishing  # noqa: E402
from proxlab.torch.vanishing import SAMPLE, sampled  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.torch.methods import METHODS, ONE_EACH  # noqa: E402

pytestmark = pytest.mark.torch


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def train(model, optimizer, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn(8, 5, generator=generator).to(dtype)) ** 2).mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def assert_same(a, b):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


OPTIONS = [
    {},
    {"start": 4},
    {"certify_every": 3},
    {"sparsity": TargetSparsity(0.4, ramp="linear", ramp_steps=9)},
    {"sparsity": TargetSparsity(0.4, method="multiplicative", every=2, rate=0.5)},
    {"inexactness": (pl.inexactness.Distance, pl.inexactness.SquareSummable(1e-1)), "certify_every": 4},
]


def by_torch(first, optimizer, second, other):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    return second, other


def by_copy(first, optimizer, second, other):
    return copy.deepcopy((first, optimizer))


def by_pickle(first, optimizer, second, other):
    return pickle.loads(pickle.dumps((first, optimizer)))


def by_checkpoint(first, optimizer, second, other, flatten=False):
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(first, optimizer, options=options))
    dcp.set_optimizer_state_dict(second, other, saved, options=options)
    return second, other


def by_flat_checkpoint(first, optimizer, second, other):
    return by_checkpoint(first, optimizer, second, other, flatten=True)


DOORS = [by_torch, by_copy, by_pickle, by_checkpoint, by_flat_checkpoint]


SOME = ["sgd momentum", "adamw", "ramda momentum", "linbreg"]


@settings(max_examples=15)
@given(
    name=st.sampled_from(SOME),
    options=st.sampled_from(OPTIONS),
    door=st.sampled_from(DOORS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    joint=st.booleans(),
    fused=st.sampled_from([None, False]),
    first=st.integers(0, 5),
)
def test_a_run_that_was_interrupted_is_the_run(name, options, door, dtype, joint, fused, first):
    if "start" in options and "breg" in name:
        options = {}
    if name != "adamw" and "sparsity" in options and fused is None:
        # Whose passes are compiled, and tell of their groups, stands for the others.
        name = "adamw"

    def make(model):
        groups = pt.param_groups(model, pl.GroupLasso(2e-2), **({"ffn": [("0", "2")]} if joint else {}))
        return METHODS[name](groups, fused=fused, **options)

    whole = network(dtype=dtype)
    optimizer = make(whole)
    train(whole, optimizer, first, 1)
    part, again = network(dtype=dtype), network(seed=1, dtype=dtype)
    before = make(part)
    train(part, before, first, 1)
    again.load_state_dict(part.state_dict())
    again, after = door(part, before, again, make(again))
    train(whole, optimizer, 6, 2)
    train(again, after, 6, 2)
    assert_same(whole, again)
    # And who was asked goes on as if nobody had asked.
    train(part, before, 6, 2)
    assert_same(whole, part)
    penalties = [[g["penalty"] and g["penalty"].lam for g in o.param_groups] for o in (optimizer, after)]
    assert penalties[0] == penalties[1]


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: state])
def test_a_step_can_be_taken_back(name, fused, copied):
    model = network()
    optimizer = METHODS[name](pt.param_groups(model, pl.GroupLasso(1e-2)), fused=fused)
    train(model, optimizer, 2, 1)
    weights, state = copy.deepcopy(model.state_dict()), copied(optimizer.state_dict())
    kept = copy.deepcopy(state)
    found = []
    for _ in range(2):
        train(model, optimizer, 3, 2)
        found.append(copy.deepcopy(model.state_dict()))
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        for k, entry in kept["state"].items():
            assert all(torch.equal(entry[key], state["state"][k][key]) for key in entry)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("fused", [None, False])
def test_a_dual_variable_starts_again_where_the_first_step_failed(fused, monkeypatch):
    one, other = network(), network()
    first, second = (pt.AdaBreg(pt.param_groups(m, pl.GroupLasso(1e-2)), fused=fused) for m in (one, other))
    start, left = bregman.dual_start, [None]

    def fails(*arguments):
        if not left:
            raise ZeroDivisionError
        left.pop()
        return start(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(bregman, "dual_start", fails)
        with pytest.raises(ZeroDivisionError) as caught:
            train(other, second, 1, 1)
    assert "param group 0, parameter 1" in caught.value.__notes__[0]
    assert not second.state
    with torch.no_grad():
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            q.copy_(p.mul_(2.0))
    train(one, first, 2, 1)
    train(other, second, 2, 1)
    assert_same(one, other)


# States of other param groups

NAMED = [True, False]
TORCH = ["sgd momentum", "adagrad", "rmsprop", "adamw amsgrad"]


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("named", NAMED)
def test_a_state_of_pytorch_loads_into_param_groups_with_penalties(name, named):
    method, model = METHODS[name], network()
    theirs = method.plain(model.named_parameters() if named else model.parameters())
    train(model, theirs, 3, 1)
    other = network(seed=1)
    ours = method(pt.param_groups(other, pl.GroupLasso(0.0), ffn=[("0", "2")]))
    other.load_state_dict(model.state_dict())
    ours.load_state_dict(theirs.state_dict())
    train(model, theirs, 3, 2)
    train(other, ours, 3, 2)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert ours.param_groups[0]["names"] == ["0.weight", "0.bias", "2.weight"]


@settings(max_examples=15)
@given(st.data())
def test_states_are_found_by_name_and_by_order(data):
    model = network()
    names = [name for name, _ in model.named_parameters()]

    def divided(model, named):
        params, order = dict(model.named_parameters()), data.draw(st.permutations(names))
        cut = data.draw(st.integers(1, len(names) - 1))
        groups = [order[:cut], order[cut:]]
        return [{"params": [(n, params[n]) if named else params[n] for n in part]} for part in groups], order

    named = data.draw(st.booleans())
    groups, order = divided(model, named)
    first = pt.ProxAdamW(groups, lr=1e-2)
    train(model, first, 2, 1)
    other = network()
    groups, new_order = divided(other, named)
    second = pt.ProxAdamW(groups, lr=1e-2)
    mine, theirs = dict(other.named_parameters()), dict(model.named_parameters())
    source = dict(zip(new_order, new_order if named else order, strict=True))
    if any(mine[n].shape != theirs[source[n]].shape for n in new_order):
        with pytest.raises(ValueError, match=r"param group \d, parameter \d .* must have its shape"):
            second.load_state_dict(first.state_dict())
        assert not second.state
        return
    second.load_state_dict(first.state_dict())
    for n in new_order:
        assert torch.equal(second.state[mine[n]]["exp_avg"], first.state[theirs[source[n]]]["exp_avg"])


def stepped(optimizer, *params):
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer.state_dict()


def of(make, *shapes, **options):
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    return stepped(make(params, **options), *params)


def without(name):
    saved = copy.deepcopy(of(pt.ProxAdamW, (4, 4), (3,)))
    del saved["state"][1][name]
    return saved


REFUSED = {
    "smaller": (lambda: of(pt.ProxAdamW, (2, 2), (3,)), r"'exp_avg' must have its shape, got \(2, 2\)"),
    "other order": (lambda: of(pt.ProxAdamW, (3,), (4, 4)), r"must have its shape, got \(3,\)"),
    "more": (lambda: of(pt.ProxAdamW, (4, 4), (3,), (1,)), "optimizer's 2 parameters, but has 3"),
    "sgd": (
        lambda: of(torch.optim.SGD, (4, 4), (3,), momentum=0.9),
        "has 'momentum_buffer', which ProxAdamW",
    ),
    "adagrad": (lambda: of(torch.optim.Adagrad, (4, 4), (3,)), "has 'sum', which ProxAdamW does not keep"),
    "ramda": (lambda: of(pt.RAMDA, (4, 4), (3,)), "which ProxAdamW does not keep; it is of another"),
    "no moment": (lambda: without("exp_avg"), r"param group 0, parameter 1 .* has no 'exp_avg'"),
    "no count": (lambda: without("step"), r"param group 0, parameter 1 .* has no 'step', but 'exp_avg'"),
    "no eps": (
        lambda: of(torch.optim.AdamW, (4, 4), (3,), eps=0.0),
        "param group 0: eps: must be finite and > 0",
    ),
    "list": (lambda: of(pt.ProxAdamW, (4, 4), (3,)) | {"state": [1]}, "'state' must be a dict with a dict"),
    "entry": (lambda: of(pt.ProxAdamW, (4, 4), (3,)) | {"state": {0: [1]}}, "'state' must be a dict with a"),
    "groups": (
        lambda: of(pt.ProxAdamW, (4, 4), (3,)) | {"param_groups": [{"lr": 1.0}]},
        "'param_groups' must be a list of dicts with 'params'",
    ),
    "number": (
        lambda: of(pt.ProxAdamW, (4, 4), (3,)) | {"param_groups": 3},
        "must be a list of dicts with 'params', got 3",
    ),
    "nothing": (lambda: {"model": 1}, "state_dict: must be a dict with 'state'"),
    "no dict": (lambda: 3, "state_dict: must be a dict with 'state' and 'param_groups', got 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_of_this_optimizer_is_refused_and_nothing_changes(what):
    make, message = REFUSED[what]
    params = [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(3))]
    optimizer = pt.ProxAdamW(params)
    before = copy.deepcopy(stepped(optimizer, *params))
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(make())
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    for k, entry in before["state"].items():
        assert all(torch.equal(entry[key], after["state"][k][key]) for key in entry)


def test_a_state_is_refused_that_cannot_be_told_apart():
    model = network()
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    theirs = torch.optim.AdamW([{"params": weights, "weight_decay": 0.1}, {"params": biases}])
    train(model, theirs, 1, 1)
    ours = pt.ProxAdamW(pt.param_groups(model, pl.GroupLasso(1e-3), ffn=[("0", "2")]))
    with pytest.raises(ValueError, match="must have names, or be of one param group"):
        ours.load_state_dict(theirs.state_dict())
    named = [(n, p) for n, p in model.named_parameters()]
    theirs = torch.optim.AdamW(
        [{"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
         {"params": [(n, p) for n, p in named if p.ndim == 1]}]
    )  # fmt: skip
    train(model, theirs, 1, 1)
    with pytest.raises(ValueError, match="saved param groups 0 and 1, whose weight_decay differ"):
        ours.load_state_dict(theirs.state_dict())


# What belongs to whom


@pytest.mark.parametrize("method", ["quantile", "multiplicative"])
def test_a_driven_penalty_stays_in_its_optimizer(method):
    p = nn.Parameter(torch.randn(8, 8))
    groups = [{"params": [p], "penalty": pl.GroupL0(1e-3)}]
    target = TargetSparsity(0.5, method=method)
    first = pt.ProxAdamW(groups, lr=1e-2, sparsity=target)
    for _ in range(3):
        stepped(first, p)
    assert groups[0]["penalty"].lam == 1e-3
    assert first.param_groups[0]["penalty"].lam != 1e-3
    second = pt.ProxAdamW(groups, lr=1e-2)
    third = pt.ProxAdamW(groups, lr=1e-2, sparsity=target)
    stepped(first, p)
    for optimizer in (second, third):
        assert optimizer.param_groups[0]["penalty"].lam == 1e-3
    # A penalty that is set later is driven from then on, in its own proportion.
    lam = first.history[-1]["lam"]
    first.param_groups[0]["penalty"] = pl.GroupLasso(2e-3)
    stepped(first, p)
    now = first.param_groups[0]["penalty"]
    assert isinstance(now, pl.GroupLasso)
    # Which is what the history tells: the strength of the first penalty.
    assert now.lam == first.history[-1]["lam"]
    assert lam > 0


def test_the_strength_can_be_set_and_is_saved():
    p, q, free = (nn.Parameter(torch.randn(6, 4)) for _ in range(3))
    groups = [
        {"params": [p], "penalty": pl.GroupLasso(0.1)},
        {"params": [q], "penalty": pl.GroupMCP(0.2, gamma=3.0)},
        {"params": [free]},
    ]
    optimizer = pt.ProxAdamW(groups, lr=1e-3)
    optimizer.set_strength(0.05)
    assert [g["penalty"] and g["penalty"].lam for g in optimizer.param_groups] == [0.05, 0.05, None]
    assert optimizer.param_groups[1]["penalty"].gamma == pytest.approx(3.0)
    optimizer.set_strength(0.07, group=1)
    assert [g["penalty"].lam for g in groups[:2]] == [0.1, 0.2]
    other = pt.ProxAdamW(groups, lr=1e-3)
    other.load_state_dict(optimizer.state_dict())
    assert [g["penalty"] and g["penalty"].lam for g in other.param_groups] == [0.05, 0.07, None]
    for bad, error in (("x", TypeError), (-1.0, ValueError), (float("nan"), ValueError)):
        with pytest.raises(error, match="strength: "):
            optimizer.set_strength(bad)
    for bad in (2, 3, -1, True):
        with pytest.raises(ValueError, match="group: "):
            optimizer.set_strength(0.1, group=bad)
    driven = pt.ProxAdamW(groups, lr=1e-3, sparsity=TargetSparsity(0.5))
    with pytest.raises(ValueError, match="strength: is driven by sparsity="):
        driven.set_strength(0.1)


# The first steps


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", ["ProxSGD", "ProxAdamW", "RAMDA"])
def test_before_its_start_a_penalty_does_nothing(name, fused):
    penalised, plain = network(), network()
    a = ONE_EACH[name](pt.param_groups(penalised, pl.GroupLasso(0.05)), start=4, fused=fused)
    b = ONE_EACH[name](pt.param_groups(plain, pl.GroupLasso(0.0)), fused=fused)
    train(penalised, a, 3, 1)
    train(plain, b, 3, 1)
    for p, q in zip(penalised.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    train(penalised, a, 1, 2)
    train(plain, b, 1, 2)
    assert not torch.allclose(penalised[0].weight, plain[0].weight, atol=1e-6)


def test_a_ramp_begins_at_the_start():
    model = network()
    target = TargetSparsity(0.5, ramp="linear", ramp_steps=4)
    optimizer = pt.ProxAdamW(pt.param_groups(model, pl.GroupL0(1e-3)), sparsity=target, start=3)
    train(model, optimizer, 6, 1)
    assert [r["step"] for r in optimizer.history] == [3, 4, 5, 6]
    assert [r["sparsity"] + r["sparsity_gap"] for r in optimizer.history] == pytest.approx(
        [0.125, 0.25, 0.375, 0.5]
    )


def test_the_start_is_checked():
    for bad in (0, 1.5, "x"):
        with pytest.raises((TypeError, ValueError), match="start: must be"):
            pt.ProxAdamW([nn.Parameter(torch.ones(2))], start=bad)
    with pytest.raises(ValueError, match="start: must be 1, since the state of LinBreg"):
        pt.LinBreg([nn.Parameter(torch.ones(2))], start=2)


def dormant(**options):
    """A network whose last layer starts at zero: the others have gradients that are exactly zero."""
    model = network()
    nn.init.zeros_(model[4].weight)
    nn.init.zeros_(model[4].bias)
    optimizer = pt.ProxAdamW(pt.param_groups(model, pl.GroupLasso(1e-6)), lr=1e-2, **options)
    x, y = torch.randn(16, 5), torch.randn(16, 3)

    def step():
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()

    return model, optimizer, step


@pytest.mark.parametrize("fused", [None, False])
def test_weights_that_vanish_at_once_are_warned_of_once(fused):
    model, _, step = dormant(fused=fused)
    with pytest.warns(UserWarning, match=r"step 1: 100% of the penalised weights.*'0.weight'.*start="):
        step()
    assert not model[0].weight.any()
    step()
    model, _, step = dormant(fused=fused, start=5)
    for _ in range(8):
        step()
    assert model[0].weight.all()


def test_samples_of_weights_keep_to_no_columns():
    """Of any shape, the columns of one half, and every other one, have their share of the sample."""
    rng, i = np.random.default_rng(0), np.arange(SAMPLE)
    usual = [1, 2, 3, 5, 9, 27, 64, 255, 256, 257, 512, 768, 1000, 1024, 2048, 3072, 4096, 4608]
    drawn = zip(*np.exp(rng.uniform(0.7, 10.0, (2, 2000))).astype(int), strict=True)
    for rows, columns in [*itertools.product(usual, usual[1:]), *drawn]:
        n = int(rows) * int(columns)
        places = sampled(i, n)
        assert 0 <= places.min() <= places.max() < n
        assert (np.diff(places) >= 0).all()
        if n >= 4 * SAMPLE and columns > 1:
            lies = places % columns
            for chosen, share in (
                (lies < columns // 2, (columns // 2) / columns),
                (lies % 2 == 0, -(-columns // 2) / columns),
            ):
                # Beyond five standard deviations of a random sample.
                assert abs(chosen.mean() - share) < 2.5 / np.sqrt(SAMPLE), (rows, columns)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("shape", [(256, 255), (768, 767), (256, 3), (8192, 5), (300, 40), (1024, 1)])
def test_columns_that_vanish_are_seen_whatever_the_shape(shape, fused):
    """Samples of the weights keep to no columns: those of 256 rows, at a distance of an odd row, would."""
    for still in (slice(0, 1), slice(1, None)):
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(shape))
        w.grad = torch.randn(shape)
        w.grad[:, still] = 0.0
        groups = [{"params": [w], "penalty": pl.GroupLasso(1e-3, groups=pl.Groups.over(0))}]
        optimizer = pt.ProxAdam(groups, lr=1e-2, fused=fused)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            optimizer.step()
        gone = float((w == 0).float().mean())
        assert abs(gone - 0.5) > 0.1
        assert bool(seen) == (gone > 0.5), (still, gone)


@pytest.mark.parametrize("fused", [None, False])
def test_only_parameters_without_gradients_are_counted(fused, monkeypatch):
    """Until some come: then the others are, and what is known of the first counts in the share."""
    torch.manual_seed(0)
    first, second = nn.Parameter(torch.randn(40, 30)), nn.Parameter(torch.randn(60, 50))
    groups = [{"params": [first, second], "penalty": pl.GroupLasso(1e-30)}]
    optimizer = pt.ProxAdam(groups, lr=1e-2, fused=fused)
    counts = []

    def alive(looked, count=vanishing._alive):
        counts.append([one.parameter for one in looked])
        return count(looked)

    monkeypatch.setattr(vanishing, "_alive", alive)
    first.grad, second.grad = torch.randn(40, 30), torch.zeros(60, 50)
    for _ in range(3):
        optimizer.step()
    assert (optimizer._kept is None) == (fused is False)
    assert [len(c) for c in counts] == [2, 2, 1, 1, 1, 1]
    assert all(c[0] is second for c in counts[2:])
    optimizer.param_groups[0]["penalty"] = pl.GroupLasso(1e-4)
    # 3000 of 4200 weights.
    with pytest.warns(
        UserWarning, match=r"step 4: 71% of the penalised weights.*parameter 1 \(shape \(60, 50\)\)\."
    ):
        optimizer.step()
    assert first.any()
    assert not second.any()


@pytest.mark.parametrize("fused", [None, False])
def test_a_state_that_is_loaded_has_had_no_gradients_again(fused):
    w = nn.Parameter(torch.randn(40, 30))
    optimizer = pt.ProxAdam([{"params": [w], "penalty": pl.GroupLasso(1e-30)}], lr=1e-2, fused=fused)
    w.grad = torch.zeros(40, 30)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    w.grad = torch.randn(40, 30)
    for _ in range(2):
        optimizer.step()
    optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["penalty"] = pl.GroupLasso(1e-4)
    w.grad = torch.zeros(40, 30)
    with pytest.warns(UserWarning, match="step 2: 100% of the penalised weights"):
        optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize(("shape", "axis"), [((300, 9), 1), ((30, 40), 1), ((40, 30), 0)])
def test_weights_that_are_not_finite_are_an_error_where_a_point_is_formed_of_them(name, shape, axis, fused):
    w = nn.Parameter(torch.randn(shape))
    penalty = pl.GroupLasso(1e-3, groups=pl.Groups.over(axis))
    optimizer = METHODS[name]([{"params": [w], "penalty": penalty}], fused=fused)
    w.grad = torch.randn(shape)
    optimizer.step()
    with torch.no_grad():
        w[5, 5] = math.nan
    if name == "ramda momentum":
        optimizer.step()
        assert torch.nonzero(w.isnan()).tolist() == [[5, 5]]
        return
    # Nobody gives an optimizer a point: each form says what that is.
    told = "must be finite, but element .* is made of its weight, gradient and state"
    if fused is None:
        told = f"({told}|the prox's point must be finite)"
    with pytest.raises(ValueError, match=rf"parameter 0 \(shape .*{told}"):
        optimizer.step()


class Residual(nn.Module):
    """A block whose last batch norm starts at zero, as those of ResNets do."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("conv", ["filter", "filter+norm"])
def test_convolutions_behind_a_norm_that_starts_at_zero(conv, fused):
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), *(Residual() for _ in range(4)))
    model = nn.Sequential(blocks, nn.Flatten(), nn.Linear(4 * 36, 2))
    groups = pt.param_groups(model, pl.GroupLasso(1e-6), conv=conv, exclude=["0.0", "2"])
    optimizer = pt.ProxAdamW(groups, lr=2e-2, fused=fused)

    def step():
        optimizer.zero_grad()
        (model(torch.randn(8, 3, 6, 6)) ** 2).mean().backward()
        optimizer.step()

    # Of a joint group the second norm keeps what it has: its own gradients are not zero.
    with pytest.warns(
        UserWarning, match=r"penalised weights became zero in one step.*'0.1.conv1.weight'"
    ) as seen:
        step()
    assert not model[0][1].conv1.weight.any()
    # Errors otherwise: it is said once.
    for _ in range(3):
        step()
    assert len(seen) == 1


def test_a_shard_is_refused_by_name():
    p = nn.Parameter(torch.randn(8))
    p._fsdp_flattened = True
    with pytest.raises(
        ValueError, match=r"param group 0: parameter 0 .* is a flat parameter, a shard of Fully"
    ):
        pt.ProxAdamW([p])
