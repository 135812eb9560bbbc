"""What reaches compiled code, or is written in place, is refused by name where it does not fit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import fused_arrays, fused_cpu  # noqa: E402
from proxlab.optim.rules import RULES, check_settings  # noqa: E402
from tests.curved_penalties import Smooth  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.01)
OVER = pl.Groups.over
KEPT = ["sgd momentum", "rmsprop centered", "adamw", "ramda momentum", "linbreg"]  # with arrays of state


def groups_of(how, p, other):
    if how == "joint":
        return [{"params": [p, other], "penalty": LASSO, "joint": [OVER(-1), OVER(-1)]}]
    penalty = {"rows": LASSO, "columns": pl.GroupLasso(0.01, groups=OVER(0)), "free": None}[how]
    return [{"params": [p, other], "penalty": penalty}]


def stepped(name, how, fused):
    """An optimizer of two parameters after a step."""
    p, other = (nn.Parameter(torch.randn(4, 4)) for _ in range(2))
    optimizer = METHODS[name](groups_of(how, p, other), fused=fused)
    for q in (p, other):
        q.grad = torch.randn(4, 4)
    optimizer.step()
    return optimizer, p, other


def guarded(shape, dtype=torch.float32):
    """A tensor in front of memory that must stay as it is."""
    arena = torch.full((200,), 7.0, dtype=dtype)
    n = int(np.prod(shape))
    return arena[:n].view(shape).fill_(0.5), arena[n:]


def slot(optimizer, p, pick):
    names = [name for name, a in optimizer.state[p].items() if torch.is_tensor(a) and a.ndim]
    return names[pick % len(names)]


def fault_state_shape(optimizer, p, other, pick, guard):
    name = slot(optimizer, p, pick)
    shape = [(2, 2), (4,), (1, 4), (5, 4), (0,), (16,)][pick % 6]
    optimizer.state[p][name], tail = guarded(shape)
    guard.append(tail)
    return "must have its shape"


def fault_state_dtype(optimizer, p, other, pick, guard):
    name = slot(optimizer, p, pick)
    optimizer.state[p][name] = optimizer.state[p][name].to([torch.float64, torch.bfloat16][pick % 2])
    return "must be of torch.float32"


def fault_parameter(optimizer, p, other, pick, guard):
    shape, dtype = [((8, 4), torch.float32), ((4, 4), torch.float64), ((3, 4), torch.float32)][pick % 3]
    p.data, tail = guarded(shape, dtype)
    guard.append(tail)
    p.grad = torch.ones_like(p)
    if pick % 2 and "joint" in optimizer.param_groups[0]:
        other.data = p.data.clone()
        other.grad = torch.ones_like(other)
    return "must have its shape|must be of torch.float64"


def fault_gradient(optimizer, p, other, pick, guard):
    # PyTorch looks at a gradient that is set, not at a parameter that changes under it.
    p.data, tail = guarded((6, 4))
    guard.append(tail)
    for name, a in optimizer.state[p].items():
        if torch.is_tensor(a) and a.ndim:
            optimizer.state[p][name] = torch.zeros(6, 4)
    return "its gradient must have its shape"


def fault_expanded(optimizer, p, other, pick, guard):
    p.data = torch.zeros(4, 1).expand(4, 4) if pick % 2 else torch.as_strided(torch.zeros(9), (4, 4), (1, 1))
    return "must have memory for each of its elements"


def fault_shared(optimizer, p, other, pick, guard):
    name = slot(optimizer, p, pick)
    buffer = torch.zeros(40)
    optimizer.state[p][name] = [p.detach(), optimizer.state[other][name], buffer[3:19].view(4, 4)][pick % 3]
    if pick % 3 == 2:
        other.data = buffer[10:26].view(4, 4)
    return "must not share memory"


def fault_number(optimizer, p, other, pick, guard):
    key = "weight_sum" if "weight_sum" in optimizer.state[p] and pick % 2 else "step"
    if key not in optimizer.state[p]:
        return fault_state_shape(optimizer, p, other, pick, guard)
    optimizer.state[p][key] = [torch.tensor(float("nan")), -1.0, torch.ones(2), "1"][pick % 4]
    return f"its state '{key}' must be a"


def fault_missing(optimizer, p, other, pick, guard):
    if "momentum_buffer" in optimizer.state[p]:  # PyTorch's SGD makes a new one
        return fault_number(optimizer, p, other, pick, guard)
    names = sorted(optimizer.state[p])
    name = names[pick % len(names)]
    del optimizer.state[p][name]
    return f"its state has no '{name}', but '"


def fault_entry(optimizer, p, other, pick, guard):
    optimizer.state[p] = [optimizer.state[p], 3][pick % 2 :]
    return "its state must be a dict, got list"


def fault_sparse(optimizer, p, other, pick, guard):
    p.grad = None
    p.grad = torch.eye(4).to_sparse()
    return "does not support sparse gradients"


FAULTS = [value for name, value in list(globals().items()) if name.startswith("fault_")]


@given(
    fault=st.sampled_from(FAULTS),
    name=st.sampled_from(KEPT),
    how=st.sampled_from(["rows", "columns", "free", "joint"]),
    fused=st.sampled_from([None, False]),
    pick=st.integers(0, 5),
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(fault, name, how, fused, pick):
    optimizer, p, other = stepped(name, how, fused)
    guard = []
    message = fault(optimizer, p, other, pick, guard)
    before = [q.detach().clone() for q in (p, other)]
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message) as caught:
        optimizer.step()
    assert "param group 0, parameter" in str(caught.value)
    for q, old in zip((p, other), before, strict=True):
        assert torch.equal(q.detach(), old)
    for tail in guard:
        assert (tail == 7.0).all()


@pytest.mark.parametrize("fused", [None, False])
def test_gradients_of_odd_memory_are_read_as_they_are(fused):
    """Expanded, or the parameter's own memory, or one for two parameters: nothing of these is written."""
    start = torch.randn(4, 4)
    grads = [torch.randn(4, 1).expand(4, 4), None, torch.randn(8, 8)[::2, ::2], torch.randn(4, 4)]
    found = []
    for odd in (True, False):
        params = [nn.Parameter(start.clone()) for _ in grads]
        optimizer = pt.ProxAdamW(params, lr=0.1, penalty=LASSO, fused=fused)
        for p, g in zip(params, grads, strict=True):
            p.grad = p.data if g is None else g
            if not odd:
                p.grad = p.grad.clone()
        optimizer.step()
        found.append(torch.stack([p.detach() for p in params]))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_views_of_one_buffer_that_are_apart_are_taken():
    buffer = torch.randn(4, 6)
    columns = [nn.Parameter(buffer[:, k::2]) for k in (0, 1)]
    apart = [nn.Parameter(p.detach().clone()) for p in columns]
    for params in (columns, apart):
        optimizer = pt.ProxAdamW(params, lr=0.1, penalty=LASSO)
        for p in params:
            p.grad = torch.ones(4, 3)
        optimizer.step()
    for p, q in zip(columns, apart, strict=True):
        torch.testing.assert_close(p, q)
    for p in columns:
        p.data = buffer[:, :3]
        p.grad = torch.ones(4, 3)
    optimizer = pt.ProxAdamW(columns, lr=0.1)
    with pytest.raises(ValueError, match=r"parameter 0 .* and .*parameter 1 .* must not share memory"):
        optimizer.step()


ARRAYS = [
    ({"w": np.zeros((4, 4), np.float16)}, TypeError, "w: must be an array of float32 or float64"),
    ({"w": np.zeros((4, 8))[:, ::2]}, ValueError, "w: must be in C order"),
    ({"grad": np.zeros((4, 4), np.float32)}, TypeError, "grad: .*float32"),
    ({"grad": np.zeros((2, 4))}, ValueError, r"grad: must have the shape of w, \(4, 4\), got \(2, 4\)"),
    ({"slots": (np.zeros((4, 4)),)}, ValueError, "slots: must be exp_avg, exp_avg_sq, got 1 arrays"),
    ({"slots": (np.zeros((4, 4)), np.zeros(2))}, ValueError, "exp_avg_sq: must have the shape of w"),
    ({"slots": (np.zeros((4, 4)), [0.0])}, TypeError, "exp_avg_sq: .* got list"),
    ({"slots": (np.zeros((4, 4)),) * 2}, ValueError, "exp_avg_sq: must not share memory"),
]


@pytest.mark.parametrize(("bad", "error", "message"), ARRAYS, ids=lambda v: str(v)[:30])
def test_the_compiled_pass_has_a_door_of_its_own(bad, error, message):
    rule = RULES["ProxAdamW"]
    given_ = {"w": np.ones((4, 4)), "grad": np.ones((4, 4)), "slots": (np.zeros((4, 4)), np.zeros((4, 4)))}
    w, grad, slots = (given_ | bad).values()
    with pytest.raises(error, match=message):
        fused_arrays.propose(rule, check_settings(rule, {}), w, grad, slots, 1, 0.0, lambda: np.empty((4, 4)))


def test_a_penalty_without_a_fused_pass_is_refused():
    rule = RULES["ProxAdamW"]
    with pytest.raises(ValueError, match="penalty: has no fused pass over an array of shape"):
        fused_cpu.Batch(rule, check_settings(rule, {}), Smooth(0.1), [(4, 4)], np.float64, [None])


@pytest.mark.parametrize("door", ["check_tensors", "check_apart"])
def test_a_door_that_stands_open_is_found(door, monkeypatch):
    """A mutant of each: something that must be refused then goes through, on the path that PyTorch guards."""
    monkeypatch.setattr(f"proxlab.torch.step.{door}", lambda *_: None)
    optimizer, p, other = stepped("adamw", "free", False)
    if door == "check_apart":
        other.data = p.data
    else:
        optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"][:1].clone()
    with pytest.raises(pytest.fail.Exception), pytest.raises((ValueError, TypeError, RuntimeError)):
        optimizer.step()


@pytest.mark.parametrize("fused", [None, False])
def test_what_is_put_in_the_place_of_a_penalty(fused):
    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = pt.ProxSGD([p], lr=0.1, penalty=pl.GroupLasso(0.1), fused=fused)
    p.grad = torch.ones(3, 2)
    optimizer.param_groups[0]["penalty"] = "group lasso"
    with pytest.raises(
        TypeError, match=r"param group 0: penalty: must be a proxlab penalty .* got 'group lasso'"
    ):
        optimizer.step()
    assert torch.equal(p, torch.ones(3, 2))
