"""The compiled pass behind the optimizers: where it is taken, and that it takes the same steps."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import fused_cpu  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "penalty", [None, pl.GroupLasso(0.05), pl.GroupLasso(0.05, groups=pl.Groups.over(0))]
)
def test_fused_and_unfused_take_the_same_steps(name, dtype, penalty):
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(12, 8)), dtype=dtype)
    params = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [
        METHODS[name]([p], penalty=penalty, fused=f) for p, f in zip(params, (None, False), strict=True)
    ]
    for _ in range(10):
        grad = torch.tensor(rng.normal(size=start.shape, scale=0.3), dtype=dtype)
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = grad.clone()
            optimizer.step()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(*params, rtol=100 * eps, atol=100 * eps)
    a, b = (o.state[p] for o, p in zip(optimizers, params, strict=True))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=100 * eps, atol=100 * eps)


def test_it_is_taken_where_it_can_be(monkeypatch):
    taken = []
    step = fused_cpu.Batch.step
    monkeypatch.setattr(
        fused_cpu.Batch, "step", lambda batch, *args: taken.extend(batch.shapes) or step(batch, *args)
    )
    shapes = (4, 3), (5, 3), (6, 3)
    a, b, c = (nn.Parameter(torch.randn(shape)) for shape in shapes)
    c.data = torch.randn(6, 6)[:, ::2]
    half = nn.Parameter(torch.randn(2, 2, dtype=torch.bfloat16))
    optimizer = pt.ProxAdamW([a, b, c, half], penalty=pl.GroupLasso(0.1))
    for p in (a, c, half):
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert taken == [(4, 3)]
    for group in optimizer.param_groups:
        group["penalty"] = None
    optimizer.fused = False
    optimizer.step()
    assert taken == [(4, 3)]


CANNOT = [
    ({"params": [torch.randn(3, 4, dtype=torch.bfloat16)]}, r"parameter 0 .* is of torch\.bfloat16 on cpu"),
    ({"params": [torch.randn(3, 8)[:, ::2]]}, "parameter 0 .* has gaps in memory"),
    ({"params": [torch.randn(3, 4)], "joint": [pl.Groups.over(0)]}, r"\(joint\) has joint groups"),
]


@pytest.mark.parametrize(("group", "message"), CANNOT)
def test_asked_for_where_it_cannot_be(group, message):
    (p,) = group["params"]
    optimizer = pt.ProxAdamW([group | {"penalty": pl.GroupLasso(0.1)}], fused=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"fused=True: param group 0.*{message}"):
        optimizer.step()


def test_parameters_side_by_side_take_the_same_steps():
    """A large one that all threads share, several that they take each, and small ones."""
    shapes = [(900, 700), (300, 500), (400, 300), (70000,), (20, 30), (7,)]
    start = [torch.randn(shape) for shape in shapes]
    grads = [0.1 * torch.randn(shape) for shape in shapes]
    found = []
    before = pl.get_num_threads()
    for threads, fused in ((1, False), (1, True), (3, True)):
        pl.set_num_threads(threads)
        params = [nn.Parameter(w.clone()) for w in start]
        groups = [{"params": params[:3], "penalty": pl.GroupLasso(0.1)}, {"params": params[3:]}]
        optimizer = pt.ProxAdamW(groups, fused=fused)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        for _ in range(3):
            optimizer.step()
        found.append([p.detach() for p in params])
    pl.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_an_error_beside_other_threads_names_its_parameter(bad):
    params = [nn.Parameter(torch.ones(shape)) for shape in ((300, 500), (400, 300), (300, 300), (4, 3))]
    optimizer = pt.ProxAdamW(params, penalty=pl.GroupLasso(0.1))
    for p in params:
        p.grad = torch.ones_like(p)
    params[bad].grad[2, 1] = torch.nan
    before = pl.get_num_threads()
    pl.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match=rf"param group 0, parameter {bad}.*\(2, 1\) is nan"):
            optimizer.step()
    finally:
        pl.set_num_threads(before)
    assert (params[bad] == 1).all()
