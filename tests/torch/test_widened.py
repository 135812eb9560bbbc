"""Parameters in half precision: the compiled step in single precision, rounded once, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.torch import widened  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402
from tests.torch.test_together import grouped, push  # noqa: E402

pytestmark = pytest.mark.torch

SHAPES = [(6, 70), (4, 5), (9,), (5, 4), (3, 66), (4, 6), (5, 4)]
LAYOUTS = {"C": lambda a: a, "transposed": lambda a: a.t().contiguous().t()}


def weights_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def some(rng, shape, dtype, lay):
    """Weights of which some groups are zero."""
    w = rng.normal(size=shape)
    if w.ndim == 2:
        w[rng.random(shape[0]) < 0.3] = 0.0
    return lay(torch.tensor(w).to(dtype))


@given(
    name=st.sampled_from(["adamw", "rmsprop centered", "rmda momentum", "adabreg"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    largest=st.sampled_from([1, 30, widened.LARGEST]),
    full=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_step_is_that_in_single_precision_rounded(name, dtype, layout, largest, full, seed):
    """Whatever the batches are, and whether gradients are in half precision too."""
    rng, before = np.random.default_rng(seed), widened.LARGEST
    lay = LAYOUTS[layout] if name == "adamw" else LAYOUTS["C"]
    start = [some(rng, shape, dtype, lay if len(shape) == 2 else LAYOUTS["C"]) for shape in SHAPES]
    more = [some(rng, (4, 5), dtype, lay) for _ in range(3)]

    def made(cast):
        groups = grouped([nn.Parameter(cast(w)) for w in start])
        groups[1]["params"] += [nn.Parameter(cast(w)) for w in more]
        return METHODS[name](groups, fused=True)

    half, single = made(lambda w: w.clone()), made(torch.Tensor.float)
    try:
        widened.LARGEST = largest
        for _ in range(3):
            for p, q in zip(weights_of(half), weights_of(single), strict=True):
                q.data.copy_(p)
                grad = torch.tensor(rng.normal(size=tuple(p.shape), scale=0.3)).to(dtype)
                if hasattr(p, "grad_dtype"):
                    p.grad_dtype = None
                p.grad = torch.empty_like(p, dtype=torch.float32 if full else dtype).copy_(grad)
                q.grad = torch.empty_like(q).copy_(grad)
            half.step()
            single.step()
            for p, q in zip(weights_of(half), weights_of(single), strict=True):
                assert torch.equal(p.detach(), q.detach().to(dtype))
                for a, b in zip(half.state[p].values(), single.state[q].values(), strict=True):
                    assert torch.equal(a, b)
            assert half._kept is not None
    finally:
        widened.LARGEST = before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [0, 1, 4, 6])
def test_a_gradient_that_is_not_finite_changes_nothing(dtype, bad, monkeypatch):
    monkeypatch.setattr(widened, "LARGEST", 30)
    rng = np.random.default_rng(bad)
    optimizer = METHODS["adamw"](
        grouped([nn.Parameter(torch.tensor(rng.normal(size=s)).to(dtype)) for s in SHAPES])
    )
    for kept in (False, True):
        push(optimizer, 1)
        params = weights_of(optimizer)
        before = [p.detach().clone() for p in params]
        state = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params]
        params[bad].grad.view(-1)[3] = torch.inf if kept else torch.nan
        with pytest.raises(ValueError, match=r"param group .*must be finite"):
            optimizer.step()
        for p, w, s in zip(params, before, state, strict=True):
            assert torch.equal(p.detach(), w)
            assert all(torch.equal(optimizer.state[p][k], v) for k, v in s.items())


def test_gradients_whose_squares_overflow():
    """bfloat16 goes as far as float32: such a group is left to the solver that scales."""
    p, q = (nn.Parameter(torch.ones(3, 4, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32))
    for w in (p, q):
        w.grad = torch.zeros_like(w)
        w.grad[1] = 2.0**100
        METHODS["sgd"]([w], penalty=pl.GroupLasso(0.1)).step()
    assert torch.equal(p.detach(), q.detach().bfloat16())


def test_backward_does_not_take_new_weights_for_old():
    p = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = pt.ProxAdamW([p], penalty=pl.GroupLasso(0.1), fused=True)
    for _ in range(3):
        loss = (p * p).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
