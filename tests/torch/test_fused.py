"""The compiled pass behind the optimizers: where it is taken, and that it takes the same steps."""

import dataclasses
import math
import os
import random
import re
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab import torch as pt  # noqa: E402
from proxlab.optim import fused_cpu  # noqa: E402
from tests.curved_penalties import Laplace, Smooth  # noqa: E402
from tests.optim.methods import FEW  # noqa: E402
from tests.optim.test_fused_cpu import Own  # noqa: E402
from tests.torch.methods import METHODS  # noqa: E402

pytestmark = pytest.mark.torch


LASSOS = {"none": None, "rows": pl.GroupLasso(0.05), "columns": pl.GroupLasso(0.05, groups=pl.Groups.over(0))}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        pytest.param(name, k, marks=[pytest.mark.kernels] if k == "columns" and name not in FEW else [])
        for name in METHODS
        for k in LASSOS
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_and_unfused_take_the_same_steps(name, dtype, groups):
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.normal(size=(12, 8)), dtype=dtype)
    params = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [
        METHODS[name]([p], penalty=LASSOS[groups], fused=f)
        for p, f in zip(params, (None, False), strict=True)
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


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("name", "penalty"),
    [(name, curve) for name in FEW for curve in (pl.GroupLog(0.02, 0.05), pl.GroupLq(0.03, 0.5))]
    # What is clipped is so for every rule.
    + [("adam", pl.GroupLinf(0.5))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_other_penalties_take_the_same_steps_however_groups_lie(name, dtype, penalty):
    """Joint groups, kernels side by side, channels in another order, with weights; averages too."""
    penalty = penalty.with_strength({"rmsprop centered": 2.5}.get(name, 1.0) * penalty.strength)
    rng = np.random.default_rng(0)
    shapes = (40, 30), (40,), (20, 40), (6, 50, 3, 3), (20, 15, 3, 3)
    start = [
        torch.tensor(rng.normal(size=s, scale=0.1) * rng.uniform(size=s[:1] + (1,) * (len(s) - 1)))
        for s in shapes
    ]
    joint = [pl.Groups.over(1), pl.Groups.over(()), pl.Groups.over(0)]
    channels = dataclasses.replace(
        penalty, groups=pl.Groups.over((0, 2, 3)), weights=np.linspace(0.5, 2.0, 50)
    )
    kernels = dataclasses.replace(penalty, groups=pl.Groups.over((2, 3)))
    sides = []
    for fused in (None, False):
        params = [nn.Parameter(a.to(dtype)) for a in start]
        params[3].data = params[3].data.contiguous(memory_format=torch.channels_last)
        groups = [
            {"params": params[:3], "joint": joint, "penalty": penalty},
            {"params": params[3:4], "penalty": channels},
            {"params": params[4:], "penalty": kernels},
        ]
        sides.append((params, METHODS[name](groups, fused=fused)))
    for _ in range(8):
        grads = [torch.tensor(rng.normal(size=s, scale=0.05)).to(dtype) for s in shapes]
        for params, optimizer in sides:
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.empty_like(p).copy_(g)
            optimizer.step()
    eps = torch.finfo(dtype).eps
    zero = []
    for a, b in zip(*(params for params, _ in sides), strict=True):
        torch.testing.assert_close(a, b, rtol=200 * eps, atol=200 * eps)
        assert torch.equal(a == 0, b == 0)
        zero.append(float((a == 0).double().mean()))
    # Averages leave no weight zero.
    assert (0 < np.mean(zero) < 1) != (name == "ramda momentum")


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
    assert taken == [(4, 3), (2, 2)]
    for group in optimizer.param_groups:
        group["penalty"] = None
    optimizer.fused = False
    optimizer.step()
    assert taken == [(4, 3), (2, 2)]


CANNOT = [
    ({"params": [torch.randn(3, 8)[:, ::2]]}, "parameter 0 .* has gaps in memory"),
    (
        {"params": [torch.randn(3, 8)[:, ::2]], "joint": [pl.Groups.over(0)]},
        r"\(joint\) has gaps in memory",
    ),
    (
        {"params": [torch.randn(3, 4)], "joint": [pl.Groups.over(0)], "penalty": Smooth(0.1)},
        r"\(joint\) has joint groups without a compiled pass, Smooth",
    ),
]


@pytest.mark.parametrize(("group", "message"), CANNOT)
def test_asked_for_where_it_cannot_be(group, message):
    (p,) = group["params"]
    optimizer = pt.ProxAdamW([{"penalty": pl.GroupLasso(0.1)} | group], fused=True)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=f"fused=True: param group 0.*{message}"):
        optimizer.step()


def test_parameters_side_by_side_take_the_same_steps():
    """A large one that all threads share, several that they take each, and small ones."""
    shapes = [(900, 700), (300, 500), (400, 300), (70000,), (20, 30), (7,), (300, 400), (300,), (350, 300)]
    start = [torch.randn(shape) for shape in shapes]
    grads = [0.1 * torch.randn(shape) for shape in shapes]
    found = []
    before = pl.get_num_threads()
    for threads, fused in ((1, False), (1, True), (3, True)):
        pl.set_num_threads(threads)
        params = [nn.Parameter(w.clone()) for w in start]
        groups = [{"params": params[:3], "penalty": pl.GroupLasso(0.1)}, {"params": params[3:6]}]
        neurons = [pl.Groups.over(1), pl.Groups.over(()), pl.Groups.over(0)]
        groups.append({"params": params[6:], "joint": neurons, "penalty": pl.GroupLasso(0.1)})
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


LASSO = pl.GroupLasso(0.1)
ROWS = {
    "no penalty, L1": [{"penalty": None}, {"penalty": pl.L1(0.1)}],
    "GroupLasso, GroupElasticNet, SparseGroupLasso": [
        {"penalty": p} for p in (LASSO, pl.GroupElasticNet(0.1, 0.1), pl.SparseGroupLasso(0.1, 0.1))
    ],
    "GroupMCP, GroupSCAD, GroupCapped, GroupL0": [
        {"penalty": p}
        for p in (pl.GroupMCP(0.1, 2.0), pl.GroupSCAD(0.1, 3.7), pl.GroupCapped(0.1, 1.0), pl.GroupL0(0.1))
    ],
    "pieces of one's own ([](adding_a_penalty.md)): a slope that nowhere jumps up; one that does": [
        {"penalty": Own(rows=((0.0, 0.1, 0.0), (1.0, after, 0.0)))} for after in (0.05, 0.2)
    ],
    "GroupLog, GroupLq, GroupLinf": [
        {"penalty": p} for p in (pl.GroupLog(0.1, 0.5), pl.GroupLq(0.1, 0.5), pl.GroupLinf(0.1))
    ],
    "a curve of one's own ([](adding_a_penalty.md)): a slope that falls and is convex; another": [
        {"penalty": p} for p in (Laplace(0.1, 0.5), Smooth(0.1))
    ],
    "groups that are axes: rows, columns, filters, channels, kernels": [
        {"penalty": pl.GroupLasso(0.1, groups=pl.Groups.over(axes))}
        for axes in (-1, 0, (1, 2, 3), (0, 2, 3), (2, 3))
    ],
    "groups by labels or indices": [
        {"penalty": pl.GroupLasso(0.1, groups=pl.Groups.labels(np.arange(360).reshape(6, 5, 3, 4) % 7))},
        {"penalty": pl.GroupLasso(0.1, groups=pl.Groups.csr([0, 3, 5], [0, 1, 2, 3, 4]))},
    ],
    "joint groups": [{"penalty": LASSO, "joint": [pl.Groups.over((1, 2, 3))]}],
    "memory without gaps in any order, as channels_last": [
        {"lay": lambda a: a.contiguous(memory_format=torch.channels_last)},
        {"lay": lambda a: a.permute(3, 0, 1, 2)},
    ],
    "memory with gaps": [{"lay": lambda a: torch.stack([a, a], -1)[..., 0]}],
    "float32, float64": [{"dtype": torch.float32}, {"dtype": torch.float64}],
    "float16, bfloat16": [{"dtype": torch.float16}, {"dtype": torch.bfloat16}],
}  # fmt: skip


def documented():
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    table = text.split("## Which steps are one pass")[1].split("|---|---|")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return {re.sub(r"\{class\}`~proxlab\.(\w+)`|`", r"\1", what): how for what, how in rows}


def test_the_table_of_the_documentation_is_true():
    """Which steps are one pass: as it says, and nothing else."""
    rows = documented()
    assert rows.keys() == ROWS.keys()
    for what, how in rows.items():
        # One answer for all, or one for each.
        answers = how.split("; ")
        for given, how in zip(ROWS[what], cycle(answers)):
            lay = given.get("lay", lambda a: a)
            p = nn.Parameter(lay(torch.randn(6, 5, 3, 4, dtype=given.get("dtype", torch.float32))))
            p.grad = torch.randn_like(p)
            group = {"params": [p], "penalty": LASSO} | {
                k: v for k, v in given.items() if k in ("penalty", "joint")
            }
            optimizer = pt.ProxAdamW([group], fused=True)
            if how.split(",")[0] == "one":
                optimizer.step()
            else:
                assert how == "several"
                with pytest.raises(RuntimeError, match="fused=True: "):
                    optimizer.step()


def placed_steps(rooms, method, penalty, shape, seed):
    """Steps with everything in rooms of one block of memory, in this order."""
    generator = torch.Generator().manual_seed(seed)
    rooms = [room.view(shape) for room in rooms]
    p = torch.nn.Parameter(rooms[0])
    p.data.copy_(torch.randn(shape, generator=generator))
    optimizer = method([p], penalty=penalty, fused=True)
    for t in range(4):
        p.grad = rooms[1].copy_(torch.randn(shape, generator=generator))
        optimizer.step()
        if t == 0:
            state = optimizer.state[p]
            for room, name in zip(rooms[2:], [n for n, v in state.items() if v.shape == shape], strict=False):
                state[name] = room.copy_(state[name])
    return p.detach().clone()


@pytest.mark.parametrize("groups", LASSOS)
def test_steps_do_not_depend_on_where_tensors_lie(groups):
    """Neighbours in memory, which vectors of several elements would reach, are computed as others are."""
    draw, penalty = random.Random(groups), LASSOS[groups]
    for name in FEW:
        for seed in range(6):
            shape = draw.randint(1, 9), draw.randint(1, 40)
            n = math.prod(shape)
            size, found = -(-n // 16) * 16, []
            for place in range(4):
                memory, starts, end = torch.zeros(8 * (size + 320)), [], 0
                for _ in range(5):
                    starts.append(end)
                    end += size + (16 * draw.randint(0, 8) if place else 0)
                if place:
                    draw.shuffle(starts)
                rooms = [memory[start : start + n] for start in starts]
                found.append(placed_steps(rooms, METHODS[name], penalty, shape, seed))
            assert all(torch.equal(found[0], w) for w in found[1:]), (name, shape)


FIRST_STEPS = """
import torch
import proxlab as pl
from proxlab import torch as pt

found = []
for method, axis in ((pt.ProxAdamW, -1), (pt.ProxSGD, 0), (pt.ProxSGD, -1)):
    generator = torch.Generator().manual_seed(0)
    w = torch.nn.Parameter(torch.randn(9, 33, generator=generator))
    optimizer = method([w], lr=0.01, penalty=pl.GroupLasso(0.1, groups=pl.Groups.over(axis)))
    for _ in range(30):
        w.grad = torch.randn(9, 33, generator=generator)
        optimizer.step()
    found.append(w.detach().numpy().tobytes().hex())
print(found)
"""


@pytest.mark.kernels
def test_a_process_that_compiles_takes_the_steps_of_those_that_load(tmp_path):
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"}
    ends = [
        subprocess.run(
            [sys.executable, "-c", FIRST_STEPS], env=env, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert "compiling kernels" in ends[0].stderr
    assert "compiling kernels" not in ends[1].stderr
    assert ends[0].stdout == ends[1].stdout
