"""Everything that people do with an optimizer, for every optimizer, as PyTorch tests its own."""

import copy
import inspect
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.torch.methods import METHODS, NAMES, ONE_EACH  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.02)
#: One variant of each optimizer has its kernels compiled here, the others in ``make test-kernels``.
VARIANTS = [name for name, method in METHODS.items() if method not in ONE_EACH.values()]


def named(name, *more, apart=False):
    """A method as a parameter of a test; apart, its kernels are those of ``make test-kernels``."""
    return pytest.param(name, *more, marks=[pytest.mark.kernels] if apart or name in VARIANTS else [])


def is_among_few(name):
    """Whether the variant of an optimizer that is tested has its kernels compiled here in every type."""
    return ONE_EACH[name] in [METHODS[few] for few in FEW]


every = pytest.mark.parametrize("name", [named(name) for name in METHODS])
each = pytest.mark.parametrize("name", NAMES)
#: As the two before, in a type of which few methods have kernels compiled here.
every_seldom = pytest.mark.parametrize("name", [named(name, apart=name not in FEW) for name in METHODS])
each_seldom = pytest.mark.parametrize("name", [named(name, apart=not is_among_few(name)) for name in NAMES])


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def grouped(model, penalty=LASSO):
    """Weights with a penalty on columns, biases without."""
    return pt.param_groups(model, penalty)


def train(model, optimizer, steps=4, scheduler=None, seed=1):
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(8, 5, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def penalties(optimizer):
    return [group["penalty"] for group in optimizer.param_groups]


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(a, b):
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# State


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        named(name, dtype, apart=name not in FEW)
        for name in METHODS
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    ],
)
def test_resumed_equals_uninterrupted(name, dtype):
    method, model = METHODS[name], network(dtype)
    optimizer = method(grouped(model))
    train(model, optimizer)
    other = copy.deepcopy(model)
    resumed = method(grouped(other))
    resumed.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    train(model, optimizer, seed=2)
    train(other, resumed, seed=2)
    assert_equal(weights(model), weights(other))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        a, b = optimizer.state[p], resumed.state[q]
        assert a.keys() == b.keys()
        for key in a:
            assert type(a[key]) is type(b[key])
            if isinstance(a[key], torch.Tensor):
                assert a[key].dtype == b[key].dtype
                assert torch.equal(a[key], b[key])
            else:
                assert a[key] == b[key]


@every
def test_a_state_dict_holds_no_objects_and_keeps_ours(name):
    method, model = METHODS[name], network()
    optimizer = method(grouped(model))
    train(model, optimizer)
    state = optimizer.state_dict()
    # What is no number is said in words.
    assert [group["penalty"] for group in state["param_groups"]] == [repr(p) for p in penalties(optimizer)]
    assert [g["penalty"] is None for g in optimizer.param_groups] == [False, True]
    penalty = optimizer.param_groups[0]["penalty"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["penalty"] is penalty
    assert optimizer.param_groups[0]["names"] == ["0.weight", "2.weight"]


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.torch])
def test_states_go_to_and_from_pytorch(name):
    method, model = METHODS[name], network()
    theirs = method.plain(model.parameters())
    train(model, theirs)
    other = copy.deepcopy(model)
    ours = method(other.parameters())
    ours.load_state_dict(saved_and_loaded(theirs.state_dict()))
    assert "foreach" not in ours.param_groups[0]
    train(model, theirs, seed=2)
    train(other, ours, seed=2)
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)
    back = method.plain(other.parameters())
    back.load_state_dict(ours.state_dict())
    train(model, theirs, seed=3)
    train(other, back, seed=3)
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_a_hook_may_change_what_is_loaded():
    model = network(torch.bfloat16)
    optimizer = pt.ProxAdamW(model.parameters())
    train(model, optimizer)
    saved = optimizer.state_dict()
    scaled = copy.deepcopy(saved)
    for state in scaled["state"].values():
        state["exp_avg"] *= 1 + 2**-20  # not a bfloat16 number
    optimizer.register_load_state_dict_pre_hook(lambda _, state: scaled)
    optimizer.load_state_dict(saved)
    for p, state in zip(model.parameters(), scaled["state"].values(), strict=True):
        assert torch.equal(optimizer.state[p]["exp_avg"], state["exp_avg"])
        assert optimizer.state[p]["exp_avg"] is not state["exp_avg"]


@each
@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_their_own_way(name, how):
    model = network()
    optimizer = ONE_EACH[name](grouped(model), root_finder=pl.Brent(), fused=False)
    train(model, optimizer)
    before = weights(model)
    twin, twin_optimizer = how((model, optimizer))
    assert twin_optimizer.root_finder == pl.Brent()
    assert twin_optimizer.fused is False
    assert twin_optimizer.param_groups[0]["penalty"].lam == LASSO.lam
    train(twin, twin_optimizer, seed=2)
    assert_equal(before, weights(model))
    train(model, optimizer, seed=2)
    assert_equal(weights(twin), weights(model))


# Schedulers

SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "warmup from zero": lambda o: lr_scheduler.LambdaLR(o, lambda t: t / 4),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[3],
    ),
    "cosine restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
}


# SequentialLR of PyTorch 2.8 warns of itself.
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
@every
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_schedulers_are_followed(name, schedule):
    method, model = METHODS[name], network()
    optimizer = method(grouped(model))
    train(model, optimizer, 8, SCHEDULERS[schedule](optimizer))
    other = network()
    by_hand = method(grouped(other))
    rates, probe = [], torch.optim.SGD([torch.zeros(1)], lr=method.settings["lr"])
    scheduler = SCHEDULERS[schedule](probe)
    for _ in range(8):
        rates.append(probe.param_groups[0]["lr"])
        probe.step()
        scheduler.step()
    generator = torch.Generator().manual_seed(1)
    for rate in rates:
        for group in by_hand.param_groups:
            group["lr"] = rate
        x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        by_hand.zero_grad()
        (other(x) ** 2).mean().backward()
        by_hand.step()
    assert_equal(weights(model), weights(other))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.torch and "adagrad" not in n])
def test_one_cycle_moves_momentum_too(name):
    method, ours, theirs = METHODS[name], network(), network()
    optimizer, plain = method(ours.parameters()), method.plain(theirs.parameters())
    for model, o in ((ours, optimizer), (theirs, plain)):
        train(model, o, 5, lr_scheduler.OneCycleLR(o, 0.05, total_steps=6))
    key = "betas" if "betas" in optimizer.defaults else "momentum"
    assert optimizer.param_groups[0][key] == plain.param_groups[0][key] != optimizer.defaults[key]
    for p, q in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_the_scheduler_that_reduces_on_a_plateau():
    model = network()
    optimizer = pt.ProxAdamW(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(3):
        train(model, optimizer, 1)
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] < 0.1


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_learning_rate_may_be_a_tensor(name, dtype):
    a, b = network(), network()
    rate = torch.tensor(0.03125, dtype=dtype)
    tensor, number = (ONE_EACH[name](grouped(m), lr=lr) for m, lr in ((a, rate), (b, 0.03125)))
    train(a, tensor)
    train(b, number)
    assert_equal(weights(a), weights(b))
    assert isinstance(saved_and_loaded(tensor.state_dict())["param_groups"][0]["lr"], torch.Tensor)


# Param groups and gradients


@each
def test_param_groups_may_be_added_and_have_their_own_settings(name):
    method, model, apart = ONE_EACH[name], network(), network()
    optimizer = method(model[0].parameters(), lr=0.01)
    optimizer.add_param_group({"params": model[2].weight, "lr": 0.02, "penalty": LASSO})
    optimizer.add_param_group({"params": [model[2].bias]})
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.02, 0.01]
    three = [
        method(apart[0].parameters(), lr=0.01),
        method([apart[2].weight], lr=0.02, penalty=LASSO),
        method([apart[2].bias], lr=0.01),
    ]
    train(model, optimizer)

    class Together:
        def zero_grad(self):
            apart.zero_grad()

        def step(self):
            for o in three:
                o.step()

    train(apart, Together())
    assert_equal(weights(model), weights(apart))


@each
def test_named_parameters_are_taken(name):
    model = network()
    optimizer = ONE_EACH[name](model.named_parameters())
    train(model, optimizer)
    assert optimizer.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"


@each
def test_a_parameter_without_a_gradient_is_left_alone(name):
    model = network()
    optimizer = ONE_EACH[name](grouped(model))
    model[0].weight.requires_grad_(False)
    before = weights(model)
    train(model, optimizer)
    assert torch.equal(before[0], model[0].weight)
    assert model[0].weight not in optimizer.state
    assert not torch.equal(before[2], model[2].weight)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    before = weights(model)
    optimizer.step()
    assert_equal(before, weights(model))


@each
def test_hooks_of_a_step(name):
    model, seen = network(), []
    optimizer = ONE_EACH[name](grouped(model))
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(model, optimizer, 2)
    assert seen == ["before", "after"] * 2
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 3, sparse=True)
    optimizer = pt.ProxSGD(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"ProxSGD does not support sparse gradients.*param group 0.*0"):
        optimizer.step()


@each_seldom
def test_a_gradient_scaler_skips_what_overflowed(name):
    model = network(torch.float32)
    optimizer = ONE_EACH[name](grouped(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(8, 5)
    for factor in (1.0, float("inf"), 1.0):
        before = weights(model)
        optimizer.zero_grad()
        scaler.scale((model(x) ** 2).mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        changed = any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
        assert changed == (factor == 1.0)
    plain, other = network(torch.float32), ONE_EACH[name]
    other = other(grouped(plain))
    for _ in range(2):
        other.zero_grad()
        (plain(x) ** 2).mean().backward()
        other.step()
    for p, q in zip(weights(model), weights(plain), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@each
def test_gradients_that_are_not_finite_are_an_error_that_names_the_place(name):
    model = network()
    optimizer = ONE_EACH[name](grouped(model))
    train(model, optimizer, 1)
    optimizer.zero_grad()
    model(torch.ones(1, 5, dtype=torch.float64)).sum().backward()
    model[2].weight.grad[0, 3] = float("nan")
    with pytest.raises(
        ValueError, match=r"param group 0, parameter 1 \('2.weight', shape \(3, 7\)\): x: .*nan"
    ):
        optimizer.step()


# Shapes, layouts and dtypes


SHAPES = [(), (3,), (4, 3), (2, 3, 4), (3, 4, 2, 2), (2, 3, 2, 2, 2), (0,), (3, 0), (0, 4)]


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("penalty", [None, pl.L1(0.05), pl.GroupLasso(0.05)], ids=["none", "l1", "lasso"])
def test_parameters_of_any_shape(name, shape, penalty):
    if shape == () and isinstance(penalty, pl.GroupLasso):
        with pytest.raises(ValueError, match=r"param group 0: parameter 0 \(shape \(\)\): groups: axis -1"):
            ONE_EACH[name]([torch.zeros(())], penalty=penalty)
        return
    rng = np.random.default_rng(0)
    p = nn.Parameter(torch.tensor(rng.normal(size=shape)))
    flat = nn.Parameter(p.detach().clone().reshape(-1, shape[-1] if shape and shape[-1] else 1))
    a, b = (ONE_EACH[name]([q], penalty=penalty) for q in (p, flat))
    for _ in range(3):
        grad = torch.tensor(rng.normal(size=shape))
        p.grad, flat.grad = grad, grad.reshape(flat.shape)
        a.step()
        b.step()
    assert p.shape == shape
    assert torch.equal(p.detach().reshape(flat.shape), flat.detach())


def transposed(a):
    return a.transpose(0, 1).contiguous().transpose(0, 1)


def channels_last(a):
    return a.to(memory_format=torch.channels_last)


def sliced(a):
    wide = torch.zeros(a.shape[0], 2 * a.shape[1], *a.shape[2:], dtype=a.dtype)
    wide[:, ::2] = a
    return wide[:, ::2]


@every
@pytest.mark.parametrize("layout", [transposed, channels_last, sliced])
@pytest.mark.parametrize("same", [True, False])
def test_parameters_of_any_layout(name, layout, same):
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(4, 3, 2, 2)))
    p, plain = nn.Parameter(layout(start)), nn.Parameter(start.clone())
    assert not p.is_contiguous()
    strides, penalty = p.stride(), pl.GroupMCP(0.05, gamma=3.0, groups=pl.Groups.conv("channel"))
    if "breg" in name:
        penalty = pl.GroupLasso(0.05, groups=pl.Groups.conv("channel"))
    a, b = (METHODS[name]([q], penalty=penalty) for q in (p, plain))
    for _ in range(4):
        grad = torch.tensor(rng.normal(size=start.shape))
        p.grad = layout(grad) if same else grad
        plain.grad = grad
        a.step()
        b.step()
    assert p.stride() == strides
    torch.testing.assert_close(p, plain, rtol=1e-12, atol=1e-13)


@every_seldom
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_state_in_float32_and_is_rounded_on_write(name, dtype):
    rng = np.random.default_rng(0)
    half = nn.Parameter(torch.tensor(rng.normal(size=(6, 4))).to(dtype))
    single = nn.Parameter(half.detach().float())
    a, b = (METHODS[name]([p], penalty=pl.GroupLasso(0.05)) for p in (half, single))
    for _ in range(3):
        grad = torch.tensor(rng.normal(size=(6, 4))).to(dtype)
        half.grad, single.grad = grad, grad.float()
        a.step()
        b.step()
        assert torch.equal(half.detach(), single.detach().to(dtype))
        single.data = half.detach().float()
    tensors = [v for v in a.state[half].values() if v.ndim]
    assert all(v.dtype == torch.float32 for v in tensors)


@each
def test_state_is_that_of_pytorch_and_a_few_numbers(name):
    """No array per element beyond those of the method."""
    arrays = {"ProxSGD": 1, "ProxAdagrad": 1, "ProxRMSprop": 3, "RMDA": 2, "RAMDA": 3, "LinBreg": 2}
    arrays |= {"ProxAdam": 3, "ProxAdamW": 3, "ProxAMSGrad": 3, "AdaBreg": 3}
    model = network()
    optimizer = ONE_EACH[name](grouped(model))
    train(model, optimizer)
    for p in model.parameters():
        state = optimizer.state[p]
        large = [v for v in state.values() if isinstance(v, torch.Tensor) and v.ndim]
        assert len(large) <= arrays[name]
        assert all(v.shape == p.shape for v in large)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        named(name, dtype, apart=dtype is not torch.float64 and not is_among_few(name))
        for name in NAMES
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    ],
)
def test_other_devices_take_the_array_form(name, dtype, monkeypatch):
    """There may be no other device here; what runs on one is compared on the CPU."""
    from proxlab.torch import obstacles, problems, together

    a, b = network(dtype), network(dtype)
    penalty = pl.GroupLasso(0.1)
    train(a, ONE_EACH[name](grouped(a, penalty)))
    for module in (obstacles, problems, together):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    monkeypatch.setattr("proxlab.arguments.is_plain_tensor", lambda tensor: False)
    monkeypatch.setattr(torch.Tensor, "numpy", None)
    train(b, ONE_EACH[name](grouped(b, penalty)))
    for p, q in zip(weights(a), weights(b), strict=True):
        torch.testing.assert_close(p, q, rtol=10 * torch.finfo(dtype).eps, atol=10 * torch.finfo(dtype).eps)


# Joint groups


def joint_parts(rng):
    """Row of a matrix, element of its bias, column of a second matrix."""
    return [torch.tensor(rng.normal(size=s)) for s in ((5, 3), (5,), (2, 5))]


JOINT = [pl.Groups.over(-1), pl.Groups.over(()), pl.Groups.over(0)]


@every
@pytest.mark.parametrize("weights", [None, "sqrt_size", np.arange(1.0, 6.0)], ids=str)
def test_a_joint_group_is_one_group_of_all_its_parts(name, weights):
    rng = np.random.default_rng(0)
    parts = [nn.Parameter(a) for a in joint_parts(rng)]
    whole = nn.Parameter(torch.cat([parts[0], parts[1][:, None], parts[2].T], dim=1).detach())
    penalty = pl.GroupLasso(0.1, weights=weights)
    a = METHODS[name]([{"params": parts, "penalty": penalty, "joint": JOINT}])
    b = METHODS[name]([whole], penalty=penalty)
    for _ in range(5):
        grads = joint_parts(rng)
        for p, g in zip(parts, grads, strict=True):
            p.grad = g
        whole.grad = torch.cat([grads[0], grads[1][:, None], grads[2].T], dim=1)
        a.step()
        b.step()
    together = torch.cat([parts[0], parts[1][:, None], parts[2].T], dim=1)
    torch.testing.assert_close(together, whole, rtol=1e-12, atol=1e-14)


@each
def test_a_gradient_that_is_missing_in_a_joint_group_is_zero(name):
    rng = np.random.default_rng(0)
    first = [nn.Parameter(a) for a in joint_parts(rng)]
    second = copy.deepcopy(first)
    a, b = (ONE_EACH[name]([{"params": ps, "penalty": LASSO, "joint": JOINT}]) for ps in (first, second))
    before = weights_of(first)
    a.step()
    assert_equal(before, weights_of(first))
    first[0].grad = second[0].grad = torch.ones(5, 3, dtype=torch.float64)
    second[1].grad, second[2].grad = torch.zeros_like(second[1]), torch.zeros_like(second[2])
    a.step()
    b.step()
    # Which passes are taken may differ.
    for p, q in zip(first, second, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)


def weights_of(params):
    return [p.detach().clone() for p in params]


def test_joint_groups_vanish_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    groups = pt.param_groups(model, pl.GroupLasso(0.05), ffn=[("0", "2")])
    optimizer = pt.ProxAdamW(groups, lr=0.01)
    x = torch.randn(64, 4)
    for _ in range(200):
        optimizer.zero_grad()
        ((model(x)[:, 0] - x[:, 0]) ** 2).mean().backward()
        optimizer.step()
    zero = ~model[0].weight.any(dim=1)
    assert 0 < int(zero.sum()) < 16
    assert torch.equal(zero, ~model[2].weight.any(dim=0))
    assert not model[0].bias[zero].any()


# Stages of dual averaging


@pytest.mark.parametrize("name", ["RMDA", "RAMDA"])
def test_a_restart_begins_at_the_weights_as_they_are(name):
    method, model = ONE_EACH[name], network()
    optimizer = method(grouped(model))
    train(model, optimizer)
    optimizer.restart()
    other = copy.deepcopy(model)
    fresh = method(grouped(other))
    train(model, optimizer, seed=2)
    train(other, fresh, seed=2)
    assert_equal(weights(model), weights(other))


# Errors

BAD = [
    ({"lr": -1.0}, ValueError, r"lr: must be finite and >= 0, got -1\.0"),
    ({"lr": float("nan")}, ValueError, "lr: must be finite"),
    ({"lr": "fast"}, TypeError, "lr: must be a real number, got 'fast'"),
    ({"lr": torch.ones(2)}, ValueError, r"lr: must have one element, got a tensor of shape \(2,\)"),
    ({"maximize": 1}, TypeError, "maximize: must be True or False, got 1"),
    ({"penalty": 0.1}, TypeError, r"param group 0: penalty: .*GroupLasso.*0\.1"),
    ({"root_finder": pl.Newton}, TypeError, "root_finder: .*Newton"),
    ({"fused": "yes"}, TypeError, "fused: must be True, False or None, got 'yes'"),
]
BAD_OF = [
    ("ProxSGD", {"momentum": -0.1}, ValueError, r"momentum: .*>= 0.*-0\.1"),
    ("ProxSGD", {"dampening": 1.0}, ValueError, r"dampening: must be < 1, got 1\.0"),
    ("ProxSGD", {"weight_decay": -1}, ValueError, "weight_decay: .*>= 0, got -1"),
    ("ProxSGD", {"nesterov": True}, ValueError, "nesterov: needs momentum > 0 and dampening = 0"),
    ("ProxSGD", {"nesterov": 1}, TypeError, "nesterov: must be True or False, got 1"),
    ("ProxAdagrad", {"lr_decay": -1}, ValueError, "lr_decay: .*>= 0, got -1"),
    ("ProxAdagrad", {"eps": 0.0}, ValueError, r"eps: .*> 0, got 0\.0"),
    ("ProxAdagrad", {"initial_accumulator_value": -1.0}, ValueError, "initial_accumulator_value: .*-1"),
    ("ProxRMSprop", {"alpha": -1}, ValueError, "alpha: .*-1"),
    ("ProxRMSprop", {"centered": 0}, TypeError, "centered: must be True or False, got 0"),
    ("ProxAdam", {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\]: must be < 1, got 1\.0"),
    ("ProxAdam", {"betas": 0.9}, TypeError, r"betas: must be 2 numbers, got 0\.9"),
    ("ProxAdamW", {"amsgrad": None}, TypeError, "amsgrad: must be True or False, got None"),
    ("ProxAMSGrad", {"eps": -1.0}, ValueError, r"eps: .*-1\.0"),
    ("RMDA", {"momentum": 1.0}, ValueError, r"momentum: must be < 1, got 1\.0"),
    ("RAMDA", {"eps": 0}, ValueError, "eps: .*> 0, got 0"),
    ("LinBreg", {"delta": 0.0}, ValueError, r"delta: .*> 0, got 0\.0"),
    ("AdaBreg", {"delta": -1.0}, ValueError, r"delta: .*> 0, got -1\.0"),
    ("LinBreg", {"penalty": pl.GroupMCP(0.1, 3.0)}, ValueError, "penalty: must be convex.*GroupMCP"),
    ("AdaBreg", {"penalty": pl.GroupL0(0.1)}, ValueError, "penalty: must be convex.*GroupL0"),
]


@each
@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=lambda v: str(v)[:30])
def test_shared_keywords_are_checked(name, bad, error, message):
    with pytest.raises(error, match=message):
        getattr(pt, name)([torch.zeros(2, 2)], **bad)


@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD_OF, ids=lambda v: str(v)[:30])
def test_keywords_are_checked(name, bad, error, message):
    with pytest.raises(error, match=message):
        getattr(pt, name)([torch.zeros(2, 2)], **bad)
    optimizer = getattr(pt, name)([torch.zeros(2, 2)])
    with pytest.raises(error, match=f"param group 1: {message}"):
        optimizer.add_param_group({"params": [torch.zeros(2, 2)], **bad})
    assert len(optimizer.param_groups) == 1


@each
@pytest.mark.parametrize("flag", ["foreach", "capturable", "differentiable"])
def test_flags_of_pytorch_that_do_not_exist_here(name, flag):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{flag}'"):
        getattr(pt, name)([torch.zeros(2, 2)], **{flag: True})
    with pytest.raises(ValueError, match=f"param group 0: {flag}: is no setting of {name}, got True"):
        getattr(pt, name)([{"params": [torch.zeros(2, 2)], flag: True}])
    # As copied from PyTorch's own param groups.
    getattr(pt, name)([{"params": [torch.zeros(2, 2)], flag: False, "lr_scale": 0.5, "name": "head"}])


@pytest.mark.parametrize("flag", ["amsgrad", "maximize", "nesterov", "dampening", "centered", "penalties"])
def test_what_a_param_group_asks_for_in_vain_is_named(flag):
    kinds = {name: getattr(pt, name) for name in ONE_EACH if flag not in name.lower()}
    for name, kind in kinds.items():
        group = {"params": [torch.zeros(2, 2)], flag: True}
        if flag in kind(group["params"]).defaults:
            continue
        with pytest.raises(ValueError, match=f"param group 0: {flag}: is no setting of {name}"):
            kind([group])


def test_parameters_on_the_meta_device_are_named():
    p = torch.nn.Parameter(torch.zeros(2, 2, device="meta"))
    p.grad = torch.zeros(2, 2, device="meta")
    optimizer = pt.ProxAdamW([p], penalty=pl.GroupLasso(0.1))
    with pytest.raises(ValueError, match=r"parameter 0 .* must not be on the meta device"):
        optimizer.step()


@each
def test_signatures_are_those_of_pytorch(name):
    reference = ONE_EACH[name].torch
    ours = inspect.signature(getattr(pt, name)).parameters
    assert ours["penalty"].kind is inspect.Parameter.KEYWORD_ONLY
    if reference is not None:
        flags = {"foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
        flags |= {"amsgrad"} if name == "ProxAMSGrad" else set()
        theirs = [p for p in inspect.signature(reference).parameters.values() if p.name not in flags]
        assert [p.name for p in ours.values()][: len(theirs)] == [p.name for p in theirs]
        assert all(ours[p.name].default == p.default for p in theirs)


@each
def test_parameters_that_cannot_be_optimised(name):
    make = getattr(pt, name)
    with pytest.raises(TypeError, match=r"param group 0: parameter 1 \(shape \(2,\)\).*complex64"):
        make([torch.zeros(2), torch.zeros(2, dtype=torch.complex64)])
    with pytest.raises(TypeError, match=r"param group 0: parameter 0.*int64"):
        make([torch.zeros(2, dtype=torch.int64)])
    with pytest.raises(ValueError, match="empty parameter list"):
        make([])
    with pytest.raises(TypeError, match="iterable of Tensors"):
        make(torch.zeros(2))


CONV = pl.GroupLasso(0.1, groups=pl.Groups.conv("channel"))
ROWS, ROWS_AND_BIAS = [pl.Groups.over(-1)], [pl.Groups.over(-1), pl.Groups.over(())]
MISFITS = [
    (
        {"penalty": CONV, "params": [torch.zeros(2, 2, 1, 1), torch.zeros(3)]},
        r"parameter 1 \(shape \(3,\)\): groups: .*3 to 5",
    ),
    ({"penalty": pl.GroupLasso(0.1, weights=[1.0])}, r"parameter 0 .*: weights: .*2 groups and 1"),
    ({"penalty": None, "joint": ROWS}, "joint: needs a penalty"),
    ({"penalty": CONV, "joint": ROWS}, r"penalty: must have the default groups.*conv\('channel'\)"),
    ({"joint": ROWS_AND_BIAS}, "joint: must hold groups for each of the 1 parameters"),
    ({"joint": [pl.Groups.conv("filter")]}, r"joint\[0\]: groups: Groups.conv"),
    ({"joint": [pl.Groups.csr([0, 1, 4])]}, r"joint\[0\]: must be groups by axes, got Groups.csr"),
    (
        {"joint": ROWS_AND_BIAS, "params": [torch.zeros(2, 2), torch.zeros(3)]},
        r"joint: every parameter.*\[2, 3\]",
    ),
    (
        {"joint": ROWS_AND_BIAS, "params": [torch.zeros(2, 2), torch.zeros(2).double()]},
        "joint: the parameters must be on one device and of one dtype",
    ),
]


@pytest.mark.parametrize(("group", "message"), MISFITS, ids=lambda v: str(v)[:40])
def test_penalties_that_do_not_fit(group, message):
    optimizer = pt.ProxAdamW([torch.zeros(1)])
    with pytest.raises(ValueError, match=f"param group 1: {message}"):
        optimizer.add_param_group({"params": [torch.zeros(2, 2)], "penalty": LASSO, **group})
    assert len(optimizer.param_groups) == 1


def test_joint_groups_must_be_groups():
    with pytest.raises(TypeError, match=r"param group 0: joint: must hold proxlab\.Groups"):
        pt.ProxSGD([{"params": [torch.zeros(2, 2)], "penalty": LASSO, "joint": [0]}])
    with pytest.raises(TypeError, match=r"param group 0: joint: must be a list of proxlab\.Groups, got 3"):
        pt.ProxSGD([{"params": [torch.zeros(2, 2)], "penalty": LASSO, "joint": 3}])


def test_a_setting_that_a_scheduler_breaks_is_named():
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer = pt.ProxSGD([p])
    p.grad = torch.zeros(2, 2)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr: must be finite and >= 0"):
        optimizer.step()
