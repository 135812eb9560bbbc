"""The compiled pass behind the optimizers: where it is taken, and that it takes the same steps."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
fused_cpu = pytest.importorskip("proxlab.optim.fused_cpu")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
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
    step = fused_cpu.step
    monkeypatch.setattr(fused_cpu, "step", lambda *args: taken.append(args[3].shape) or step(*args))
    shapes = (4, 3), (5, 3), (6, 3)
    a, b, c = (nn.Parameter(torch.randn(shape)) for shape in shapes)
    c.data = torch.randn(3, 6).T
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
    ({"params": [torch.randn(3, 4).T]}, "parameter 0 .* is not contiguous"),
    ({"params": [torch.randn(3, 4)], "joint": [pl.Groups.over(0)]}, r"\(joint\) has joint groups"),
]


@pytest.mark.parametrize(("group", "message"), CANNOT)
def test_asked_for_where_it_cannot_be(group, message):
    (p,) = group["params"]
    optimizer = pt.ProxAdamW([group | {"penalty": pl.GroupLasso(0.1)}], fused=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"fused=True: param group 0.*{message}"):
        optimizer.step()
