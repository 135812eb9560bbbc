"""One compiled call for all parameters: the same bits as one by one, few operations, and nothing stale."""

import copy
import gc
import math
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.inexactness import SquareSummable, Stationarity  # noqa: E402
from proxlab.optim import TargetSparsity, fused_cpu  # noqa: E402
from proxlab.optim.rules import RULES, check_settings  # noqa: E402
from proxlab.torch import base  # noqa: E402
from tests.curved_penalties import Smooth, Witch  # noqa: E402
from tests.optim.fused import fused_step  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = [(6, 70), (4, 5), (9,), (5, 4), (3, 66), (4, 6), (5, 4)]


def parameters(shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    return [nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=torch.float32)) for shape in shapes]


def grouped(params):
    """Rows, columns, a free vector, a penalty of elements, weights of groups and joint groups."""
    rows, columns, free, elements, weighted, *both = params
    joint = [pl.Groups.over(1), pl.Groups.over(0)]
    weights = np.array([1.0, 2.0, 0.5])
    return [
        {"params": [rows], "penalty": pl.GroupLasso(0.3)},
        {"params": [columns], "penalty": pl.GroupLasso(0.3, groups=pl.Groups.over(0))},
        {"params": [free]},
        {"params": [elements], "penalty": pl.L1(0.05)},
        {"params": [weighted], "penalty": pl.GroupLasso(0.3, weights=weights)},
        {"params": both, "penalty": pl.GroupLasso(0.3), "joint": joint},
    ]


def push(optimizer, seed, skip=()):
    rng = np.random.default_rng(seed)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for k, p in enumerate(params):
        g = torch.tensor(rng.normal(size=tuple(p.shape), scale=0.3))
        p.grad = None if k in skip else g.to(p.dtype)
    optimizer.step()


def forget(optimizer):
    optimizer._kept = None


def assert_same(a, b):
    ours, theirs = ([p for group in o.param_groups for p in group["params"]] for o in (a, b))
    for p, q in zip(ours, theirs, strict=True):
        assert p.dtype == q.dtype
        assert torch.equal(p, q)
        assert a.state[p].keys() == b.state[q].keys()
        for name, value in a.state[p].items():
            assert torch.equal(value, b.state[q][name])


@pytest.mark.parametrize("name", ["adamw", "rmsprop centered", "rmda momentum", "adabreg"])
def test_what_is_kept_takes_the_same_steps(name):
    ours, theirs = (METHODS[name](grouped(parameters())) for _ in range(2))
    for seed in range(6):
        forget(theirs)
        for optimizer in (ours, theirs):
            push(optimizer, seed)
        assert ours._kept is not None
        assert_same(ours, theirs)


@pytest.mark.parametrize("axis", [0, 1])
def test_many_tensors_take_the_bits_of_one_by_one(axis):
    """Also where a group is left to the general solver, which the compiled call stops for."""
    rng = np.random.default_rng(0)
    rule, threshold = RULES["ProxSGD"], pl.GroupLasso(5.0, groups=pl.Groups.over(axis))
    settings = check_settings(rule, {"lr": 1.0})
    shapes = [(70, 80), (66, 64), (90, 90), (64, 100)]
    single = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for w in single[1:3]:
        # The length of this group is the threshold.
        line = w[7] if axis else w[:, 7]
        line[:] = 0.0
        line[:2] = 3.0, 4.0
    both = [w.copy() for w in single]
    zeros = [np.zeros_like(w) for w in single]
    for w, g in zip(single, zeros, strict=True):
        fused_step(rule, settings, threshold, w, g, (), 1, 0.0, pl.Newton())
    batch = fused_cpu.Batch(rule, settings, threshold, shapes, np.float32, [None] * 4)
    batch.addresses[...] = [[a.ctypes.data for a in pair] for pair in zip(both, zeros, strict=True)]
    batch.step(settings, 1, 0.0, pl.Newton(), str)
    for w, other in zip(single, both, strict=True):
        np.testing.assert_array_equal(w, other)
    for w in single[1:3]:
        assert not (w[7] if axis else w[:, 7]).any()


def operations(optimizer):
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event in ("call", "c_call")

    push(optimizer, 0)
    sys.setprofile(count)
    try:
        optimizer.step()
    finally:
        sys.setprofile(None)
    return counted


TARGETS = [
    None,
    TargetSparsity(0.4, method="multiplicative", rate=0.5),
    TargetSparsity(0.4, method="multiplicative", rate=0.5, every=3),
    TargetSparsity(0.4, every=3),
]


LOOSE = {"inexactness": (Stationarity, SquareSummable(1e3)), "certify_every": 50}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("adamw", "sgd", "rmda")),
        ("adamw", {"sparsity": TARGETS[2]}),
        # What every layer has to say is more, and still few.
        ("adamw", {"sparsity": TargetSparsity(0.4)}),
        ("adamw", {"certify_every": 50}),
        # Between certified steps a compiled pass does not stop early, since it is the pass that costs.
        ("adamw", LOOSE),
    ],
)
def test_a_step_is_few_operations_of_python(name, options):
    def optimizer(n):
        params = parameters([(8, 8)] * n)
        half = n // 2
        groups = [
            {"params": params[:half], "penalty": pl.GroupLasso(0.1, groups=pl.Groups.over(0))},
            {"params": params[half:]},
        ]
        found = METHODS[name](groups, **options)
        for seed in range(3):
            push(found, seed)
        return found

    few, many = operations(optimizer(20)), operations(optimizer(220))
    decides = "sparsity" in options and options["sparsity"].method == "quantile"
    assert (many - few) / 200 < (10 if decides else 3)
    # The groups of columns that are left to the general solver beside.
    assert decides or many / 220 < 10


@given(skips=st.lists(st.sets(st.sampled_from([5, 6])), min_size=3, max_size=3), half=st.booleans())
def test_a_part_without_a_gradient_has_gradient_zero(skips, half):
    """In one pass as in several: whichever parts lack one, in half precision too, unless all do."""

    def made(fused):
        params = parameters()
        params[5:] = [nn.Parameter(p.detach().bfloat16() if half else p.detach()) for p in params[5:]]
        return METHODS["adamw"](grouped(params), fused=fused)

    ours, theirs = made(True), made(False)
    for seed, skip in enumerate(skips):
        for optimizer in (ours, theirs):
            push(optimizer, seed, skip)
    eps = torch.finfo(torch.bfloat16 if half else torch.float32).eps
    for a, b in zip(ours.param_groups[5]["params"], theirs.param_groups[5]["params"], strict=True):
        torch.testing.assert_close(a, b, rtol=20 * eps, atol=20 * eps)
        assert ours.state[a].keys() == theirs.state[b].keys()
        for name, value in ours.state[a].items():
            torch.testing.assert_close(value, theirs.state[b][name], rtol=1e-5, atol=1e-6)


def test_settings_are_validated_when_they_change(monkeypatch):
    checked = []
    check = base.check_settings
    monkeypatch.setattr(base, "check_settings", lambda *given: checked.append(given) or check(*given))
    optimizer = METHODS["adamw"](grouped(parameters()))
    push(optimizer, 0)
    checked.clear()
    for seed in range(4):
        if seed % 2:
            forget(optimizer)
        push(optimizer, seed)
    assert not checked
    optimizer.param_groups[1]["lr"] = 0.02
    push(optimizer, 4)
    assert len(checked) == 1
    optimizer.param_groups[1]["lr"] = math.nan
    with pytest.raises(ValueError, match=r"param group 1: lr: must be"):
        push(optimizer, 5)


def strength(o):
    group = o.param_groups[0]
    group["penalty"] = group["penalty"].with_strength(0.11)


def weights(o):
    group = o.param_groups[4]
    group["penalty"] = pl.GroupLasso(0.2, weights=np.array([0.2, 3.0, 1.0]))


def rate(o):
    o.param_groups[0]["lr"] = 0.031


def rate_tensor(o):
    o.param_groups[1]["lr"] = torch.tensor(0.02)


def rate_in_place(o):
    if isinstance(o.param_groups[1]["lr"], torch.Tensor):
        o.param_groups[1]["lr"].mul_(0.5)


def no_rate(o):
    o.param_groups[2]["lr"] = 0.0


def kind(o):
    group = o.param_groups[3]
    if "amsgrad" in group:
        group["amsgrad"] = not group["amsgrad"]
        for p in group["params"]:
            if group["amsgrad"]:
                o.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
    else:
        group["maximize"] = not group["maximize"]


def memory(o):
    (p,) = o.param_groups[0]["params"]
    p.data = p.data.clone()


def in_place(o):
    (p,) = o.param_groups[0]["params"]
    with torch.no_grad():
        p.mul_(1.5)


def transposed(o):
    (p,) = o.param_groups[1]["params"]
    p.grad = None
    p.data = p.data.t()
    for name, a in o.state[p].items():
        if a.dim():
            o.state[p][name] = a.t()
    group = o.param_groups[1]
    group["penalty"] = pl.GroupLasso(0.3, groups=pl.Groups.over(0))


def precision(o):
    (p,) = o.param_groups[2]["params"]
    p.grad = None
    p.data = p.data.double()
    for name, a in o.state[p].items():
        if a.dim():
            o.state[p][name] = a.double()


def moment(o):
    (p,) = o.param_groups[0]["params"]
    for name, a in o.state[p].items():
        if a.dim():
            o.state[p][name] = a * 0.5


def moment_memory(o):
    (p,) = o.param_groups[0]["params"]
    for a in o.state[p].values():
        if a.dim():
            a.data = a.data * 0.5


def counted(o):
    (p,) = o.param_groups[4]["params"]
    if "step" in o.state[p]:
        o.state[p]["step"].add_(3)


def counted_apart(o):
    p = o.param_groups[5]["params"][1]
    if "step" in o.state[p]:
        o.state[p]["step"].add_(3)


def restarted(o):
    (p,) = o.param_groups[3]["params"]
    if not o.rule.convex:
        o.state[p].clear()


def added(o):
    if len(o.param_groups) < 8:
        o.add_param_group({"params": parameters([(3, 4)], seed=5), "penalty": pl.GroupLasso(0.1)})


def replaced(o):
    (new,) = parameters([(6, 70)], seed=9)
    if not o.rule.convex:
        o.param_groups[0]["params"][0] = new


def loaded(o):
    o.load_state_dict(copy.deepcopy(o.state_dict()))


def saved(o):
    o.kept_by_a_user = o.state_dict()


def by_hand(o):
    o.fused = False if o.fused is None else None


def finder(o):
    o.root_finder = pl.Newton(rtol=1e-3) if o.root_finder == pl.Newton() else pl.Newton()


EVENTS = [
    strength, weights, rate, rate_tensor, rate_in_place, no_rate, kind, memory, in_place, transposed,
    precision, moment, moment_memory, counted, counted_apart, restarted, added, replaced, loaded, saved,
    by_hand, finder,
]  # fmt: skip


@given(
    name=st.sampled_from(["adamw", "sgd", "rmda", "linbreg", "ramda"]),
    target=st.sampled_from(TARGETS),
    events=st.lists(
        st.tuples(st.sampled_from(EVENTS), st.sets(st.integers(0, 6), max_size=2)), min_size=2, max_size=5
    ),
)
def test_nothing_that_changes_between_steps_is_missed(name, target, events):
    ours, theirs = (METHODS[name](grouped(parameters()), sparsity=target) for _ in range(2))
    for optimizer in (ours, theirs):
        push(optimizer, 100)
    for seed, (event, skip) in enumerate(events):
        forget(theirs)
        for optimizer in (ours, theirs):
            event(optimizer)
            # Once the step after what has changed, once more without a change.
            push(optimizer, 2 * seed, skip)
            push(optimizer, 2 * seed + 1)
            if optimizer is theirs:
                forget(theirs)
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    ("door", "open_", "event"),
    [
        ("Kept._found", lambda *_: [], weights),
        ("Kept._settings_fit", lambda *_: True, rate),
        ("_facts", lambda *_: (), memory),
        ("Kept.follow", lambda _: True, lambda _: None),
    ],
)
def test_a_comparison_that_is_left_out_is_found(door, open_, event, monkeypatch):
    monkeypatch.setattr(f"proxlab.torch.together.{door}", open_)
    target = TARGETS[1] if door == "Kept.follow" else None
    ours, theirs = (METHODS["adamw"](grouped(parameters()), sparsity=target) for _ in range(2))
    for optimizer in (ours, theirs):
        push(optimizer, 0)
        # What a mutant writes to has to be there.
        optimizer.old = [p.detach() for group in optimizer.param_groups for p in group["params"]]
        event(optimizer)
        if optimizer is theirs:
            forget(theirs)
        push(optimizer, 1)
    with pytest.raises(AssertionError):
        assert_same(ours, theirs)


@pytest.mark.parametrize("fault", ["shared", "overlapping", "shape", "not finite"])
def test_a_gradient_that_does_not_fit_is_found_in_a_later_step(fault):
    params = parameters([(4, 4), (4, 4), (4, 4)])
    optimizer = pt.ProxAdamW(params, lr=0.1, penalty=pl.GroupLasso(0.1))
    for seed in range(3):
        push(optimizer, seed)
    assert optimizer._kept is not None
    before = [p.detach().clone() for p in params]
    p, other, _ = params
    if fault == "shared":
        p.grad = other.detach()
    elif fault == "overlapping":
        p.grad = optimizer.state[other]["exp_avg"]
    elif fault == "shape":
        p.grad = None
        p.data = torch.zeros(2, 4)
        p.grad = torch.zeros(2, 4)
        before[0] = p.detach().clone()
    else:
        p.grad = torch.full((4, 4), torch.nan)
    message = {"shape": "its state .* must have its shape", "not finite": "x: must be finite"}
    with pytest.raises(ValueError, match=message.get(fault, "must not share memory")) as caught:
        optimizer.step()
    assert "param group 0, parameter" in str(caught.value)
    for q, old in zip(params, before, strict=True):
        assert torch.equal(q.detach(), old)


@pytest.mark.parametrize("fused", [None, False])
def test_a_gradient_that_is_not_finite_is_an_error_where_nothing_moves_too(fused):
    """A warm-up begins at learning rate 0, and moments that are not finite would stay so."""
    params = parameters([(4, 4), (4, 4)])
    optimizer = METHODS["adamw"](params, penalty=pl.GroupLasso(0.1), fused=fused)
    push(optimizer, 0)
    optimizer.param_groups[0]["lr"] = 0.0
    params[1].grad[1, 2] = torch.inf
    before = {name: a.clone() for name, a in optimizer.state[params[1]].items()}
    with pytest.raises(ValueError, match=r"param group 0, parameter 1 .*gradient must be finite"):
        optimizer.step()
    for name, a in optimizer.state[params[1]].items():
        assert torch.equal(a, before[name])


def test_nothing_changes_before_an_error_where_no_pass_is_taken():
    """Another root finder than Newton's is asked for tensor after tensor, of one count of steps."""
    params = parameters([(4, 4), (4, 4), (4, 4)])
    optimizer = METHODS["adamw"](params, penalty=pl.GroupLasso(0.1), root_finder=pl.Bisection())
    push(optimizer, 0)
    before = [[p.detach().clone(), *(a.clone() for a in optimizer.state[p].values())] for p in params]
    for k, p in enumerate(params):
        p.grad = torch.full((4, 4), torch.nan if k == 2 else 1.0)
    message = r"param group 0, parameter 2 .*must be finite.* made of its weight, gradient"
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        assert all(map(torch.equal, [p.detach(), *optimizer.state[p].values()], old))


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("bad", ["gradient", "state"])
@pytest.mark.parametrize("steps", [1, 3])
def test_an_error_in_any_param_group_comes_before_anything_has_changed(fused, bad, steps):
    """Rows, columns, elements, joint groups, half precision and a penalty of several passes."""
    ours = METHODS["adamw"]
    params = [*parameters(), *parameters([(4, 3), (3, 4)])]
    params[-1] = nn.Parameter(params[-1].detach().bfloat16())
    others = [
        {"params": params[-2:-1], "penalty": Smooth(0.1)},
        {"params": params[-1:], "penalty": pl.GroupLasso(0.1)},
    ]
    # A compiled pass finds a state that is not finite when it comes there.
    for last in range(9) if bad == "gradient" else (7, 8) if fused is False else (7,):
        optimizer = ours([*grouped(params[:7]), *others], fused=fused)
        for seed in range(steps):
            push(optimizer, seed)
        if last == 2:
            # Without a penalty it is as in PyTorch.
            continue
        a = params[last].grad if bad == "gradient" else optimizer.state[params[last]]["exp_avg"]
        a[-1, 0] = torch.nan
        before = [[a.clone() for a in (p.detach(), *optimizer.state[p].values())] for p in params]
        with pytest.raises(ValueError, match=r"param group \d+.* must be finite"):
            optimizer.step()
        for p, old in zip(params, before, strict=True):
            for new, was in zip((p.detach(), *optimizer.state[p].values()), old, strict=True):
                torch.testing.assert_close(new, was, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["adamw", "linbreg", "adabreg"])
@pytest.mark.parametrize("target", [None, "quantile", "multiplicative"])
@pytest.mark.parametrize("fused", [None, False])
def test_an_error_in_the_first_step_leaves_no_state(name, target, fused):
    params = parameters([(4, 5), (6, 7)])
    optimizer = METHODS[name](
        [{"params": [p]} for p in params], lr=0.1, penalty=pl.GroupLasso(0.1), fused=fused,
        sparsity=None if target is None else TargetSparsity(0.5, method=target),
    )  # fmt: skip
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    params[1].grad[5, 6] = torch.nan
    with pytest.raises(ValueError, match=r"param group 1, parameter 0 .* must be finite"):
        optimizer.step()
    assert not optimizer.state
    assert all(torch.equal(p.detach(), old) for p, old in zip(params, before, strict=True))


def test_an_error_leaves_a_dual_variable_that_was_there():
    """A joint group of which one part has none starts anew, and not if the step fails."""
    params = parameters([(6, 4), (6, 3)])
    joint = [pl.Groups.over(1), pl.Groups.over(1)]
    optimizer = METHODS["linbreg"]([{"params": params, "joint": joint}], lr=0.1, penalty=pl.GroupLasso(0.1))
    push(optimizer, 0)
    kept, _ = optimizer.state[params[0]], optimizer.state.pop(params[1])
    before = kept["dual"].clone()
    params[1].grad[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"param group 0 .*must be finite"):
        optimizer.step()
    assert optimizer.state[params[0]] is kept
    assert torch.equal(kept["dual"], before)
    assert list(optimizer.state) == params[:1]


@pytest.mark.parametrize("name", ["linbreg", "adabreg"])
@pytest.mark.parametrize("joint", [False, True])
def test_what_rests_follows_a_driven_strength_beside_what_is_kept(name, joint):
    found = []
    for fused in (None, False):
        params = parameters([(8, 5), (6, 4), (6, 3)])
        groups = [{"params": params[:1]}, {"params": params[1:2]}, {"params": params[2:]}]
        if joint:
            groups = [groups[0], {"params": params[1:], "joint": [pl.Groups.over(1), pl.Groups.over(1)]}]
        optimizer = METHODS[name](
            groups, lr=0.03, penalty=pl.GroupLasso(0.1), fused=fused,
            sparsity=TargetSparsity(0.3, method="multiplicative", every=3),
        )  # fmt: skip
        optimizer.param_groups[1]["lr"] = 0.0
        for seed in range(7):
            push(optimizer, seed)
        found.append([p.detach() for p in params])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("where", ["weights", "moments"])
def test_what_is_lazily_negative_is_read_as_what_it_is(where):
    ours, theirs = (METHODS["adamw"](grouped(parameters()), fused=fused) for fused in (None, False))
    for optimizer in (ours, theirs):
        push(optimizer, 0)
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if where == "weights":
                # At the same address, in the same order.
                p.data = torch._neg_view(p.data)
            else:
                optimizer.state[p]["exp_avg"] = torch._neg_view(optimizer.state[p]["exp_avg"])
        for seed in (1, 2):
            push(optimizer, seed)
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        for p, q in zip(a["params"], b["params"], strict=True):
            torch.testing.assert_close(p, q)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_step_between_forward_and_backward_is_no_wrong_gradient(steps):
    """What is saved for the backward pass is written to, of which PyTorch has to be told."""
    params = parameters([(4, 4), (4, 4)])
    optimizer = METHODS["adamw"](params, penalty=pl.GroupLasso(0.1))
    for _ in range(steps):
        loss = (params[0] @ params[1]).square().sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        optimizer.zero_grad()
    assert optimizer._kept is not None


def test_gradients_do_not_live_on():
    params = parameters([(4, 4), (4, 4)])
    optimizer = pt.ProxAdamW(params, lr=0.1, penalty=pl.GroupLasso(0.1))
    push(optimizer, 0)
    gone = [weakref.ref(p.grad) for p in params]
    storages = [p.grad.untyped_storage()._weak_ref() for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert all(reference() is None for reference in gone)
    assert all(torch.UntypedStorage._expired(storage) for storage in storages)


ORDERS = {
    "channels last": lambda a: a.contiguous(memory_format=torch.channels_last),
    "transposed": lambda a: a.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "gaps": lambda a: torch.stack([a, a], -1)[..., 0],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["filter", "channel", "kernel"])
@pytest.mark.parametrize("name", ["adamw", "rmda"])
def test_dense_strides_take_the_steps_of_any_others(order, kind, name):
    rng = np.random.default_rng(0)
    shape, lay = (6, 5, 3, 4), ORDERS[order]
    start = torch.tensor(rng.normal(size=shape), dtype=torch.float64)
    groups = pl.Groups.conv(kind)
    weights = rng.uniform(0.2, 1.8, groups.layout(shape).n_groups)
    penalty = pl.GroupLasso(0.1, groups=groups, weights=weights)
    params = [nn.Parameter(lay(start) if k < 2 else start.clone()) for k in range(3)]
    optimizers = [
        METHODS[name]([p], penalty=penalty, fused=f)
        for p, f in zip(params, (None, False, False), strict=True)
    ]
    for _ in range(4):
        g = torch.tensor(rng.normal(size=shape, scale=0.3))
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = lay(g) if p is not params[2] else g
            optimizer.step()
    assert (optimizers[0]._kept is None) == (order == "gaps")
    for p in params[:2]:
        assert torch.equal(p == 0, params[2] == 0)
        torch.testing.assert_close(p, params[2], rtol=1e-12, atol=1e-13)
        assert p.stride() == lay(start).stride()


@st.composite
def joined(draw):
    """Shapes of parameters, the groups of each, and how they lie in memory."""
    n = draw(st.integers(1, 40))
    size, some = st.integers(1, 12), st.integers(1, 400)
    parts = []
    for kind in draw(
        st.lists(st.sampled_from(["rows", "columns", "scalars", "heads", "channels"]), min_size=1, max_size=3)
    ):
        if kind == "rows":
            parts.append(((n, draw(some)), pl.Groups.over(1)))
        elif kind == "columns":
            parts.append(((draw(some), n), pl.Groups.over(0)))
        elif kind == "scalars":
            parts.append(((n,), pl.Groups.over(())))
        elif kind == "heads":
            parts.append(((draw(size), n, draw(some)), pl.Groups.over((0, 2))))
        else:
            parts.append(((draw(size), n, draw(size), 3), pl.Groups.over((0, 2, 3))))
    return parts, draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))


JOINT = {
    "lasso": lambda k, n: pl.GroupLasso(0.02 * k),
    "weights": lambda k, n: pl.GroupLasso(0.02 * k, weights=np.linspace(0.2, 1.5, n)),
    "sqrt size": lambda k, n: pl.GroupLasso(0.02, weights="sqrt_size"),
    "sparse": lambda k, n: pl.SparseGroupLasso(0.005, 0.015 * k),
    "mcp": lambda k, n: pl.GroupMCP(0.02 * k, gamma=30.0),
    "scad": lambda k, n: pl.GroupSCAD(0.02 * k, 12.0),
    "l0": lambda k, n: pl.GroupL0(0.001 * k**2),
}


@given(
    lying=joined(), kind=st.sampled_from(sorted(JOINT)), bisection=st.booleans(), apart=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_joint_groups_in_one_pass_are_those_of_rule_and_prox(lying, kind, bisection, apart, seed):
    parts, transposed = lying
    rng = np.random.default_rng(seed)
    groups = [g for _, g in parts]
    layouts = [g.layout(shape) for shape, g in parts]
    n, size = layouts[0].n_groups, sum(layout.group_size for layout in layouts)
    lengths = 10.0 ** rng.uniform(-2, 0, n)
    start = [
        torch.tensor(layout.join([lengths[:, None] * rows], w)) * 0.1
        for layout, w in zip(layouts, [rng.normal(size=shape) for shape, _ in parts], strict=True)
        for rows in layout.split(w, 0.0)
    ]
    lay = [
        (lambda a: a.mT.contiguous().mT) if flip and a.dim() > 1 else torch.clone
        for flip, a in zip(transposed, start, strict=True)
    ]
    params = [[nn.Parameter(f(w)) for f, w in zip(lay, start, strict=True)] for _ in range(2)]
    options = {"root_finder": pl.Bisection()} if bisection else {}
    penalty = JOINT[kind](np.sqrt(size), n)
    optimizers = [
        pt.ProxAdamW([{"params": some, "joint": groups, "penalty": penalty}], lr=1e-2, fused=fused, **options)
        for some, fused in zip(params, (None, False), strict=True)
    ]
    for step in range(4):
        gradients = [0.05 * w + 0.02 * torch.tensor(rng.normal(size=tuple(w.shape))) for w in start]
        for some, optimizer in zip(params, optimizers, strict=True):
            for p, g, f in zip(some, gradients, lay, strict=True):
                p.grad = f(g)
            optimizer.step()
            if step == 1 and apart:
                # Another count than that of the others: no pass takes them together.
                optimizer.state[some[-1]]["step"].add_(2)
        for p, q in zip(*params, strict=True):
            assert torch.equal(p == 0, q == 0)
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-13)
            for name, a in optimizers[0].state[p].items():
                torch.testing.assert_close(a, optimizers[1].state[q][name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joint_groups_at_their_threshold(dtype):
    # The lengths are 5·2^k without rounding, and the threshold is 10.
    scales = 2.0 ** torch.arange(6, dtype=dtype)
    rows, columns, scalars = torch.zeros(6, 70, dtype=dtype), torch.zeros(9, 6, dtype=dtype), 4.0 * scales
    rows[:, 3], rows[0] = 3.0 * scales, 0.0
    columns[5, 0] = 3.0
    params = [nn.Parameter(a) for a in (rows, columns, scalars)]
    for p in params:
        p.grad = torch.zeros_like(p)
    joint = [pl.Groups.over(1), pl.Groups.over(0), pl.Groups.over(())]
    pt.ProxSGD([{"params": params, "joint": joint}], lr=1.0, penalty=pl.GroupLasso(10.0), fused=True).step()
    squares = rows.square().sum(1) + columns.square().sum(0) + scalars.square()
    expected = torch.tensor([0, 0, 10, 30, 70, 150], dtype=dtype)
    torch.testing.assert_close(squares.sqrt(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert not any(a.any() for a in (rows[:2], columns[:, :2], scalars[:2]))


@pytest.mark.parametrize("bad", [torch.nan, 1e25])
def test_a_bad_gradient_of_joint_groups_changes_nothing(bad):
    params = parameters([(4, 70), (4,), (5, 4)])
    joint = [pl.Groups.over(1), pl.Groups.over(()), pl.Groups.over(0)]
    optimizer = pt.ProxAdamW([{"params": params, "joint": joint, "penalty": pl.GroupLasso(0.1)}], fused=True)
    push(optimizer, 0)
    before = [[p.detach().clone(), *(a.clone() for a in optimizer.state[p].values())] for p in params]
    params[2].grad[4, 3] = bad
    with pytest.raises(ValueError, match=r"param group 0 \(joint\).* must be finite"):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        assert all(map(torch.equal, [p.detach(), *optimizer.state[p].values()], old))


@pytest.mark.parametrize("penalty", [Smooth(0.1), Witch(0.1)])
def test_points_formed_in_one_pass_are_those_of_the_rule(penalty):
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(7, 9)))
    for name in METHODS:
        if METHODS[name].make in (pt.LinBreg, pt.AdaBreg) and not penalty.is_convex:
            continue
        params = [nn.Parameter(start.clone()) for _ in range(2)]
        optimizers = [
            METHODS[name]([p], penalty=penalty, fused=f) for p, f in zip(params, (None, False), strict=True)
        ]
        for _ in range(3):
            g = torch.tensor(rng.normal(size=(7, 9), scale=0.3))
            for p, optimizer in zip(params, optimizers, strict=True):
                p.grad = g
                optimizer.step()
        torch.testing.assert_close(*params, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("before", [0, 2])
def test_a_setting_that_is_no_number_any_more_names_its_param_group(before):
    """In the first step, and in one for which the last is remembered."""
    params = [nn.Parameter(torch.ones(4, 4)) for _ in range(2)]
    optimizer = pt.ProxAdamW([{"params": [p]} for p in params], lr=1e-2, penalty=pl.GroupLasso(1e-3))
    for p in params:
        p.grad = torch.ones(4, 4)
    for _ in range(before):
        optimizer.step()
    optimizer.param_groups[1]["lr"] = float("nan")
    held = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="param group 1: lr: must be finite"):
        optimizer.step()
    assert all(torch.equal(p, h) for p, h in zip(params, held, strict=True))


@pytest.mark.parametrize("shared", [True, False])
def test_counts_whose_memory_is_replaced(shared):
    """By that of another, or by an integer: they stay the same tensors, and each step is counted once."""
    optimizer = METHODS["adamw"](grouped(parameters()))
    push(optimizer, 0)
    counts = [state["step"] for state in optimizer.state.values()]
    for count in counts:
        count.data = counts[-1].data if shared else torch.tensor(1)
    push(optimizer, 1)
    push(optimizer, 2)
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}
