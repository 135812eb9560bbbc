"""The fused step on a GPU against the plain form of a step on the CPU; `make test-gpu` runs these."""

import copy
import dataclasses
import math

import numpy as np
import pytest

import proxlab as pl
from proxlab.optim.fused_cuda import COLUMNS, ROWS
from tests import table

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pt = pytest.importorskip("proxlab.torch")
METHODS = pytest.importorskip("tests.torch.methods").METHODS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.torch,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device for torch"),
    # What CuPy and numba-cuda deprecate is theirs to change.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]
CUDA = "cuda"
PENALTIES = {
    "lasso": lambda s: pl.GroupLasso(s),
    "weighted": lambda s: pl.GroupLasso(s, weights="sqrt_size"),
    "nonnegative": lambda s: pl.GroupLasso(s, nonnegative=True),
    "elastic": lambda s: pl.GroupElasticNet(s, s),
    "sparse": lambda s: pl.SparseGroupLasso(0.02 * s, s),
    "mcp": lambda s: pl.GroupMCP(s, gamma=3.0),
    "scad": lambda s: pl.GroupSCAD(s, a=3.7),
    "capped": lambda s: pl.GroupCapped(s, 1.0),
    "l0": lambda s: pl.GroupL0(s),
    "l1": lambda s: pl.L1(s),
}


def twins(shapes, make, seed=0, dtype=torch.float32, scale=1.0):
    """Make the same parameters on both devices; ``make(params, fused)`` makes the optimizer."""
    r = torch.Generator().manual_seed(seed)
    start = [scale * torch.randn(shape, generator=r, dtype=dtype) for shape in shapes]
    params = {d: [torch.nn.Parameter(a.clone().to(d)) for a in start] for d in (CUDA, "cpu")}
    return params, {d: make(params[d], d == CUDA) for d in params}, r


def take(params, optimizers, r, steps=4, scale=0.1):
    for _ in range(steps):
        for k, p in enumerate(params["cpu"]):
            g = scale * torch.randn(p.shape, generator=r, dtype=p.dtype)
            for d in params:
                params[d][k].grad = g.to(d)
        for optimizer in optimizers.values():
            optimizer.step()


def agree(params, rtol=2e-5):
    for a, b in zip(params[CUDA], params["cpu"], strict=True):
        here, there = a.detach().cpu().double(), b.detach().double()
        size = there.abs().max()
        assert torch.isfinite(here).all()
        assert (here - there).abs().max() <= rtol * size + 1e-30, ((here - there).abs().max(), size)


def shapes_of(form, side_by_side):
    """Shapes whose groups the form takes: as large as it may, one less, and few of them."""
    n = form.size
    if side_by_side:
        return [((n, 37), 0), ((n - 1, 5), 0), ((3, n // 2, 7, 2), (1, 3))]
    return [((13, n), 1), ((5, n - 1), 1), ((max(1, n // 9), 3, 9), (0, 2))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", [*ROWS, *COLUMNS], ids=str)
def test_every_form(form, dtype):
    for seed, (shape, axis) in enumerate(shapes_of(form, form in COLUMNS)):
        groups = pl.Groups.over(axis)
        strength = 0.6 * math.sqrt(form.size) * 1e-2
        for penalty in (pl.GroupLasso(strength, groups=groups), pl.GroupMCP(strength, 3.0, groups=groups)):

            def make(params, fused):
                return pt.ProxAdamW(params, lr=1e-2, penalty=penalty, fused=fused)  # noqa: B023

            params, optimizers, r = twins([shape], make, seed, dtype, scale=1e-2)
            take(params, optimizers, r)
            agree(params, 3e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method(name):
    shapes = [(40, 30), (7, 300), (12,), (6, 5, 3, 3)]

    def make(params, fused):
        penalty = pl.GroupLasso(0.05, groups=pl.Groups.over(0))
        groups = [
            {"params": params[:2], "penalty": penalty}, {"params": params[2:3], "penalty": None},
            {"params": params[3:], "penalty": pl.GroupLasso(0.05, groups=pl.Groups.over((0, 2, 3)))},
        ]  # fmt: skip
        return METHODS[name](groups, fused=None if fused else False)

    params, optimizers, r = twins(shapes, make)
    take(params, optimizers, r)
    agree(params, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("most", [100, 1 << 24])
def test_half_precision(dtype, most, monkeypatch):
    """Rounded last, so that it is another number only where it lay between two; in one batch or several."""
    monkeypatch.setattr("proxlab.torch.widened.LARGEST_THERE", most)

    def make(params, fused):
        return pt.ProxAdamW(params, lr=1e-2, penalty=pl.GroupLasso(0.3), fused=fused)

    params, optimizers, r = twins([(40, 30), (7, 300), (12, 5)], make, dtype=dtype)
    take(params, optimizers, r)
    agree(params, 4 * torch.finfo(dtype).eps)
    other = [(a.detach().cpu() != b.detach()).double().mean() for a, b in zip(*params.values(), strict=True)]
    assert max(other) <= 0.02


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_over_random_shapes(name, seed):
    r = np.random.default_rng([seed, len(name)])
    shapes = [tuple(int(n) for n in np.exp(r.uniform(0, 4.5, size=2))) for _ in range(5)]
    axis, strength = int(r.integers(2)), 10.0 ** r.uniform(-3, 0)

    def make(params, fused):
        penalty = PENALTIES[name](strength)
        if name != "l1":
            penalty = dataclasses.replace(penalty, groups=pl.Groups.over(axis))
        return pt.ProxAdam(params, lr=1e-2, penalty=penalty, fused=fused)

    params, optimizers, generator = twins(shapes, make, seed)
    take(params, optimizers, generator, steps=3)
    agree(params, 1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e18])
def test_groups_left_to_the_general_solver(scale):
    def make(params, fused):
        return pt.ProxSGD(params, lr=1.0, penalty=pl.GroupLasso(9.5 * scale), fused=fused)

    params, optimizers, r = twins([(200, 50), (30, 700)], make, scale=scale)
    take(params, optimizers, r, steps=1, scale=scale)
    agree(params, 1e-5)
    assert 0 < int((params["cpu"][0] == 0).all(1).sum()) < 200


def test_groups_at_the_threshold():
    """Groups whose norm is the strength to rounding are not decided by sums in single precision."""
    w = torch.nn.functional.normalize(torch.randn(500, 64, dtype=torch.float64), dim=1)

    def make(params, fused):
        return pt.ProxSGD(params, lr=1.0, penalty=pl.GroupLasso(1.0), fused=fused)

    params = {d: [torch.nn.Parameter(w.float().to(d))] for d in (CUDA, "cpu")}
    optimizers = {d: make(params[d], d == CUDA) for d in params}
    for d in params:
        params[d][0].grad = torch.zeros_like(params[d][0])
        optimizers[d].step()
    a, b = (params[d][0].detach().cpu() for d in (CUDA, "cpu"))
    assert torch.equal(a == 0, b == 0)
    assert 0 < int((a == 0).all(1).sum()) < 500


def test_a_gradient_that_is_not_finite_changes_nothing():
    p = torch.nn.Parameter(torch.randn(30, 20, device=CUDA))
    optimizer = pt.ProxAdamW([p], penalty=pl.GroupLasso(0.1), fused=True)
    p.grad = torch.randn_like(p)
    optimizer.step()
    before, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict()["state"])
    p.grad[3, 4] = math.nan
    with pytest.raises(ValueError, match="its gradient must be finite"):
        optimizer.step()
    assert torch.equal(p.detach(), before)
    for name, a in optimizer.state_dict()["state"][0].items():
        assert torch.equal(a, state[0][name])
    p.grad = torch.full_like(p, 1e19)  # whose norm overflows
    optimizer.step()
    assert torch.isfinite(p).all()
    p.grad = torch.full_like(p, 1e30)  # whose square does, so that there is no metric
    optimizer.step()
    with pytest.raises(ValueError, match="in the step before"):
        optimizer.step()


def test_steps_after_memory_has_moved():
    """Gradients made anew, parameters whose data are replaced, a state that was loaded, a changed rate."""

    def make(params, fused):
        return pt.ProxAdamW(params, lr=1e-2, penalty=pl.GroupLasso(0.05), fused=fused)

    params, optimizers, r = twins([(30, 40), (50, 33)], make)
    take(params, optimizers, r)
    for d in params:
        params[d][0].data = params[d][0].data.clone()
        optimizers[d].load_state_dict(copy.deepcopy(optimizers[d].state_dict()))
        optimizers[d].param_groups[0]["lr"] = 3e-3
    take(params, optimizers, r)
    agree(params, 1e-4)


def test_channels_last_and_orders():
    def make(params, fused):
        penalty = pl.GroupLasso(0.05, groups=pl.Groups.over((0, 2, 3)))
        return pt.ProxAdamW(params, lr=1e-2, penalty=penalty, fused=fused)

    r = torch.Generator().manual_seed(1)
    start = torch.randn(16, 12, 3, 3, generator=r)
    params = {
        d: [torch.nn.Parameter(start.clone().to(d).to(memory_format=torch.channels_last))]
        for d in (CUDA, "cpu")
    }
    optimizers = {d: make(params[d], d == CUDA) for d in params}
    for _ in range(3):
        g = torch.randn(start.shape, generator=r).to(memory_format=torch.channels_last)
        for d in params:
            params[d][0].grad = g.to(d)
            optimizers[d].step()
    agree(params)


@pytest.mark.parametrize("target", [None, "multiplicative", "quantile"])
def test_a_target_of_sparsity(target):
    from proxlab.optim import TargetSparsity

    def make(params, fused):
        sparsity = None if target is None else TargetSparsity(0.5, method=target)
        return pt.ProxAdamW(
            params, lr=1e-2, penalty=pl.GroupLasso(0.05), sparsity=sparsity, fused=None if fused else False
        )

    params, optimizers, r = twins([(30, 40), (64, 33)], make)
    take(params, optimizers, r, steps=6)
    agree(params, 1e-4)
    if target == "quantile":
        zeros = sum(int((p == 0).all(1).sum()) for p in params[CUDA])
        assert zeros >= 47


def test_table_is_complete():
    """Every penalty with groups that the table of tests has is stepped with here or not fused."""
    named = {type(make(1.0)).__name__ for make in PENALTIES.values()}
    assert {row.name for row in table.PENALTIES} - named == {"GroupLinf", "GroupLog", "GroupLq"}
