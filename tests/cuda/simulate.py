"""Run tiny cases of every kernel family in the simulator; prints one line of JSON a case.

NUMBA_ENABLE_CUDASIM=1 python -m tests.cuda.simulate FAMILY
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import proxlab as pl
from proxlab import arguments
from proxlab.arguments import Problem, float_bits, problem
from proxlab.backends.cuda import build, launch, plan, source
from proxlab.backends.records import Options, Solved
from tests import table
from tests.cuda.simulator import Fault, SimulatedDevice

#: Teams of 1, 2 and 4 lanes, blocks of two warps of four, and groups that are giant from 24 elements.
SMALL = {"LIMITS": (1, 4, 10), "LANES": (1, 2, 4), "GIANT": 24, "PER_BLOCK": 16, "TILE_BYTES": 640}
THREADS = {"lanes": 8, "block": 8, "grid": 4}

#: How often parameters are of float32, float64, bfloat16, float16.
PARTS = (0.45, 0.25, 0.15, 0.15)
#: A barrier of the fused step's source.
WAIT = "        cuda.syncthreads()\n"

rng = np.random.default_rng(20261125)


def data(shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[Any, Any]:
    return rng.normal(size=shape).astype(dtype), np.exp(rng.normal(size=shape)).astype(dtype)


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b))


def simulated(device: SimulatedDevice, p: Problem, options: Options) -> Solved:
    with mock.patch.object(launch, "Device", return_value=device):
        return launch.solve(p, options)


def solved(
    penalty: pl.Penalty,
    x: Any,
    d: Any,
    step: Any = 0.9,
    finder: Any = None,
    processors: int = 2,
    out: Any = None,
) -> dict[str, Any]:
    """Solve in the simulator and by the array form; return what differs, and which kernels ran."""
    finder, x_before = finder or pl.Newton(), x.copy()
    rtol = finder.relative_tolerance(float_bits(x))
    host = pl.solve(penalty, x.copy(), step, metric=d, root_finder=finder, backend="array_api")
    explaining, plain = SimulatedDevice(processors), SimulatedDevice(processors)
    p = problem(penalty, x, step, d, "numba")
    z, found = simulated(explaining, p, Options(finder, rtol, out, explain=True, check=True))
    assert found is not None
    radius, lower, upper, status, iterations, _ = found
    size = np.where(x_before == 0, 1.0, np.abs(x_before.astype(float)))
    again = simulated(plain, p, Options(finder, rtol)).z
    kernels = [f"{v.kernel} {v.team} {v.index} {v.width}" for v in explaining.launched + plain.launched]
    return {
        "kernels": sorted(set(kernels)),
        "error": float((np.abs(z.astype(float) - host.z) / size).max(initial=0.0)),
        "bound": float(8 * np.finfo(x.dtype).eps),
        "status": same(status, host.status),
        "brackets": bool(
            (np.maximum(lower, host.bracket[0]) <= np.minimum(upper, host.bracket[1])).all()
            and (lower <= radius).all()
            and (radius <= upper).all()
        ),
        "plain": same(again, z) or out is not None,
        "kept": z.dtype == x.dtype and z.shape == x.shape and (out is None or z is out),
        "iterations": int(iterations.max(initial=0)),
    }


def penalties() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every penalty, by one lane, by lanes of a warp, by a block."""
    cases = [(n, np.float64) for n in (1, 3, 7, 17)] + [(n, np.float32) for n in (7, 17)]
    for row in table.TABLED:
        for n, dtype in cases:
            x, d = data((3, n), dtype)
            groups = {} if row.name == "L1" else {"groups": pl.Groups.over(-1)}
            yield f"{row.id} {n}", solved(row.build(**groups), x, d)


def finders() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every root finder."""
    for finder in table.ROOT_FINDERS:
        for penalty in (pl.GroupLasso(0.7), pl.GroupSCAD(0.7, a=2.4), pl.GroupLinf(0.5)):
            x, d = data((2, 5))
            yield f"{type(finder).__name__} {type(penalty).__name__}", solved(penalty, x, d, finder=finder)


def layouts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every arrangement of groups, in both dtypes, with a step and a weight a group."""
    for name, (make, shape) in table.GROUPS.items():
        for dtype in (np.float32, np.float64):
            x, d = data(shape, dtype)
            groups = make()
            count = groups.n_groups(shape)
            penalty = pl.GroupLasso(0.4, groups=groups, weights=rng.uniform(0.5, 1.5, count))
            yield f"{name} {dtype.__name__}", solved(penalty, x, d, rng.uniform(0.5, 1.5, count))
    shapes = {
        "tall columns": (40, 3),
        "short columns": (6, 9),
        "middling columns": (11, 3),
        "runs": (3, 5, 2, 8),
        "many axes": (2, 2, 2, 2, 2, 2),
    }
    axes: dict[str, Any] = {
        "tall columns": 0,
        "short columns": 0,
        "middling columns": 0,
        "runs": (1, 3),
        "many axes": (0, 2, 4),
    }
    for name, shape in shapes.items():
        x, d = data(shape)
        yield name, solved(pl.GroupMCP(0.8, gamma=1.3, groups=pl.Groups.over(axes[name])), x, d)
    x, d = data((4, 5))
    yield "one number as metric", solved(pl.GroupLasso(0.8), x, 1.7)
    yield "no metric", solved(pl.SparseGroupLasso(0.2, 0.5, groups=pl.Groups.over(0)), x, None)
    yield "a metric a column", solved(pl.GroupLasso(0.8), x, d[:1])
    yield "not contiguous", solved(pl.GroupLasso(0.8), np.asfortranarray(x), d)
    yield "empty", solved(pl.GroupLasso(0.8), np.zeros((3, 0)), np.zeros((3, 0)))
    sizes = np.array([0, 30, 1, 12, 0, 3, 5, 26, 2])
    ragged = pl.Groups.csr(np.concatenate([[0], np.cumsum(sizes)]), rng.permutation(85)[: sizes.sum()])
    x, d = data((85,))
    yield (
        "ragged, all teams",
        solved(pl.GroupMCP(0.6, gamma=1.3, groups=ragged, weights="sqrt_size"), x, d, processors=5),
    )


def giants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Groups that several blocks share."""
    for penalty in (pl.GroupLasso(0.7), pl.GroupSCAD(0.7, a=2.4), pl.GroupLinf(0.3)):
        x, d = data((2, 25))
        yield type(penalty).__name__, solved(penalty, x, d, processors=4)


def extremes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Zero groups, scales near the ends of float64, and strengths at the edge of zero."""
    for n in (1, 7, 17):
        x, d = data((4, n))
        x[0] = 0.0
        x[1] *= 1e-170
        x[2] *= 1e150
        d[2] *= 1e40
        yield f"scales {n}", solved(pl.GroupLasso(0.7), x, d, processors=5)
        x, d = data((2, n))
        # The metric of a zero vanishes in the units of the rest.
        x[:, 0], d[:, 0] = 0.0, 1e-300
        d[:, 1:] *= 1e200
        yield f"a zero aside {n}", solved(pl.GroupLasso(1e200), x, d, processors=5)
        x, d = data((2, n))
        for name, penalty in (("lasso", pl.GroupLasso), ("linf", pl.GroupLinf)):
            edge = np.linalg.norm(d[0] * x[0], 2 if name == "lasso" else 1)
            for k in (-1, 0, 1):
                lam = float(edge * (1 + k * 2.0**-51))
                yield f"edge {name} {n} {k}", solved(penalty(lam), x, d, 1.0)
        x, d = data((4, n), np.float32)
        x[0] *= np.float32(1e-38)
        x[1] *= np.float32(1e30)
        d[2:] *= np.float32(1e35)
        yield f"scales in float32 {n}", solved(pl.GroupLasso(0.7), x, d, processors=5)
    for dtype in (np.float32, np.float64):
        for n in (7, 17):
            x, d = data((2, n), dtype)
            yield f"no strength {n} {dtype.__name__}", solved(pl.GroupLasso(0.0), x, d)
            yield f"no strength, maximum {n} {dtype.__name__}", solved(pl.GroupLinf(0.0), x, d)
    x, d = data((1, 25))
    yield "edge of a giant", solved(pl.GroupLasso(float(np.linalg.norm(d * x))), x, d, 1.0)


def memory() -> Iterator[tuple[str, dict[str, Any]]]:
    """Results in place and into arrays that overlap the input."""
    for axis, shape in ((1, (3, 7)), (0, (6, 9)), (0, (17, 4))):
        penalty = pl.GroupLasso(0.8, groups=pl.Groups.over(axis))
        x, d = data(shape)
        yield f"in place {shape}", solved(penalty, x, d, out=x, processors=5)
        store = np.zeros((shape[0] + 1, shape[1]))
        store[:-1] = x
        yield f"overlapping {shape}", solved(penalty, store[:-1], d, out=store[1:], processors=5)
        x, d = data(shape)
        yield f"over the metric {shape}", solved(penalty, x, d.copy(), out=d, processors=5)
    x, d = data((9,))
    x_before = x.copy()
    free = pl.Groups.csr([0, 3, 5], [8, 0, 3, 1, 2])
    found = solved(pl.GroupLasso(0.8, groups=free), x, d, out=x)
    found["status"] &= same(x[4:8], x_before[4:8])
    yield "free elements in place", found


def invalid() -> Iterator[tuple[str, dict[str, Any]]]:
    """Invalid input is found, named where that is asked for, and contained in its group where it is not."""
    for n in (1, 7, 17):
        spreads = [("x, metric", 1e300)] if n > 1 else []
        for what, value in (
            ("x", np.nan), ("x", np.inf), ("metric", 0.0), ("metric", np.nan), *spreads
        ):  # fmt: skip
            for axis in (1, 0):
                x, d = data((3, n))
                (x if what == "x" else d)[1, n // 2] = value
                if what == "x, metric":
                    x[:, n // 2], d[1] = x[:, n // 2] * 1e-200, 1e-100
                    d[1, n // 2] = value
                penalty = pl.GroupLasso(0.8, groups=pl.Groups.over(axis))
                message = ""
                device = SimulatedDevice(5)
                p = problem(penalty, x, 1.0, d, "numba")
                try:
                    simulated(device, p, Options(pl.Newton(), 2.0**-50, check=True))
                except ValueError as error:
                    message = str(error)
                z = simulated(device, p, Options(pl.Newton(), 2.0**-50)).z
                group = (1, slice(None)) if axis else (slice(None), n // 2)
                rest = np.ones(x.shape, bool)
                rest[group] = False
                good = np.isnan(z[group]).all() and np.isfinite(z[rest]).all()
                yield (
                    f"{what} {value} {n} {axis}",
                    {"message": message, "what": what, "contained": bool(good)},
                )


def tensors() -> Iterator[tuple[str, dict[str, Any]]]:
    """The public verbs on torch tensors that are taken for ones on a GPU."""
    import torch

    from proxlab.torch import ProxAdamW, problems

    devices: list[SimulatedDevice] = []

    def device(_: Any) -> SimulatedDevice:
        devices.append(SimulatedDevice(5))
        return devices[-1]

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(launch, "Device", device))
    stack.enter_context(mock.patch.object(launch, "check_device"))
    stack.enter_context(mock.patch.object(launch, "_interface", lambda a: a.numpy().__array_interface__))
    stack.enter_context(mock.patch.object(arguments, "on_gpu", lambda a: isinstance(a, torch.Tensor)))
    stack.enter_context(mock.patch.object(arguments, "has_kernels", return_value=True))

    def launched() -> int:
        found = sum(len(d.launched) for d in devices)
        devices.clear()
        return found

    def close(a: Any, b: Any) -> bool:
        return bool(torch.allclose(a.detach(), b.detach(), rtol=1e-12, atol=0.0))

    def message(call: Any) -> str:
        try:
            call()
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    penalty = pl.GroupLasso(0.8)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((3, 7), generator=generator, dtype=torch.float64)
    d = torch.exp(torch.randn((3, 7), generator=generator, dtype=torch.float64))
    right = pl.prox(penalty, x, metric=d, backend="array_api")
    assert launched() == 0
    for dtype, count in ((torch.float64, 1), (torch.float32, 1), (torch.float16, 0)):
        z = pl.prox(penalty, x.to(dtype), metric=d.to(dtype))
        good = z.dtype == dtype and launched() == count
        yield f"prox of {dtype}", {"good": good and bool(torch.allclose(z.double(), right, atol=3e-3))}
    z = pl.prox(penalty, x, metric=d.to(torch.float16))
    yield "a metric in float16", {"good": launched() == 1 and bool(torch.allclose(z, right, rtol=1e-2))}
    s, t = pl.solve(penalty, x, metric=d), pl.solve(penalty, x, metric=d, backend="array_api")
    good = launched() == 1 and close(s.z, t.z) and close(s.value, t.value) and torch.equal(s.status, t.status)
    yield "solve", {"good": good}
    e = pl.envelope(penalty, x, metric=d)
    good = launched() == 1 and close(e, pl.envelope(penalty, x, metric=d, backend="array_api"))
    yield "envelope", {"good": good}
    certificate = pl.certify(penalty, z := pl.prox(penalty, x, metric=d), x, metric=d)
    tight = certificate.distance <= 1e-13 * torch.linalg.vector_norm(z, dim=1)
    yield "certify", {"good": launched() == 1 and bool(tight.all())}

    for name, view in (("transposed", x.T.contiguous().T), ("every other", torch.cat([x, x])[::2])):
        other = d if name == "transposed" else torch.cat([d, d])[::2]
        out = torch.empty_like(view)
        z = pl.prox(penalty, view, metric=other, out=out)
        wanted = pl.prox(penalty, view, metric=other, backend="array_api")
        yield name, {"good": launched() == 1 and z is out and close(z, wanted)}
    parameter = torch.nn.Parameter(x.clone())
    with torch.no_grad():
        pl.prox(penalty, parameter, metric=d, out=parameter)
    yield "a parameter in place", {"good": launched() == 1 and close(parameter, right)}

    leaf = x.clone().requires_grad_()
    z = pl.prox(penalty, leaf, metric=d)
    good = launched() == 1 and z.requires_grad and close(z, right)
    yield "what requires a gradient is solved by the kernels", {"good": good}
    z.sum().backward()
    _, pullback = pl.prox_vjp(penalty, x, metric=d, backend="array_api")
    good = close(leaf.grad, pullback(torch.ones_like(x)).x)
    yield "and differentiated by the array form", {"good": good}

    steps = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    z = pl.prox(penalty, x, steps, metric=d)
    good = launched() == 1 and close(z, pl.prox(penalty, x, steps, metric=d, backend="array_api"))
    yield "steps of groups", {"good": good}
    z = pl.prox(penalty, x, torch.tensor(0.5), metric=d)
    good = launched() == 1 and close(z, pl.prox(penalty, x, 0.5, metric=d, backend="array_api"))
    yield "a step without dimensions", {"good": good}
    steps[1] = -1.0
    z = pl.prox(penalty, x, steps, metric=d)
    good = bool(z[1].isnan().all()) and bool(z[[0, 2]].isfinite().all())
    yield "an invalid step is contained", {"good": good}
    told = message(lambda: pl.prox(penalty, x, steps, metric=d, check=True))
    yield "an invalid step is named", {"good": told.startswith("step: ") and "element (1,)" in told}
    devices.clear()

    weights = []
    for kernels in (True, False):
        w = torch.nn.Parameter(x.clone())
        optimizer = ProxAdamW([w], lr=0.05, penalty=penalty, fused=False)
        with mock.patch.object(problems, "on_host", return_value=not kernels):
            for _ in range(2):
                optimizer.zero_grad()
                (d * w**2).sum().backward()
                optimizer.step()
        weights.append(w)
    yield "an optimizer", {"good": launched() == 2 and close(*weights)}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    """Fused steps of optimizers, in small forms, on torch tensors that are taken for ones on a GPU."""
    import torch

    from proxlab import torch as pt
    from proxlab.linker import Target
    from proxlab.optim import fused_block, fused_cuda, fused_many
    from proxlab.torch import launched as launching
    from proxlab.torch import obstacles, step, together, widened
    from tests.torch.methods import METHODS

    device = SimulatedDevice()

    def elements(address: int, n: int, one: Any) -> Any:
        return device.elements_of(fused_many.elements(address, n, one))

    target = Target(lambda function, _: function, operations={fused_many.elements: elements})
    launched: list[str] = []

    def compiled(kernel: Any) -> Any:
        launched.append(f"{kernel.name} {kernel.lies} {kernel.form.side_by_side} {kernel.form.rows}")
        return fused_cuda.linked(kernel, target, device.operations)

    Form = fused_cuda.Form
    stack = contextlib.ExitStack()
    for module, name, value in (
        (launching, "Device", lambda _: device), (launching, "compiled", compiled),
        (fused_cuda, "ROWS", (Form(16, 1, 4), Form(8, 4, 4), Form(2, 32, 4), Form(1, 64, 4))),
        (fused_cuda, "COLUMNS", (Form(32, 2, 4, True), Form(8, 8, 4, True), Form(2, 32, 4, True))),
        (fused_cuda, "FINISHING", 32), (launching, "FINISHING", 32), (obstacles, "has_kernels", lambda: True),
        (obstacles, "on_host", lambda _: False), (together, "on_host", lambda _: False),
        (step, "on_host", lambda _: False),
    ):  # fmt: skip
        stack.enter_context(mock.patch.object(module, name, value))
    generator = torch.Generator().manual_seed(3)
    # Kernels know addresses only, and threads that met a fault may still go on.
    alive: list[Any] = []

    def draw(*shape: int, dtype: Any = torch.float32) -> Any:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def compared(
        make: Any,
        shapes: Any,
        dtype: Any = torch.float32,
        scale: float = 1.0,
        count: int = 2,
        turned: bool = False,
    ) -> dict[str, Any]:
        dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(shapes)
        start = [scale * draw(*n, dtype=kind) for n, kind in zip(shapes, dtypes, strict=True)]
        params: list[Any] = []
        optimizers: list[Any] = []
        if turned:
            start = [a.mT.contiguous().mT for a in start]
        launched.clear()
        for fused in (True, False):
            params.append([torch.nn.Parameter(a.clone()) for a in start])
            optimizers.append(make(params[-1], fused))
        for _ in range(count):
            for pair in zip(*params, strict=True):
                g = (
                    torch.empty_like(pair[0])
                    .copy_(scale * draw(*pair[0].shape, dtype=pair[0].dtype))
                    .detach()
                )
                for p in pair:
                    p.grad = g.clone()
                    alive.append(p.grad)
            for optimizer in optimizers:
                optimizer.step()
        alive.append((params, optimizers))
        apart = max(
            float((a - b).detach().double().abs().max() / b.detach().double().abs().max().clamp_min(1e-300))
            for a, b in zip(*params, strict=True)
        )
        for group in optimizers[0].param_groups:
            for p, q in zip(group["params"], params[1], strict=False):
                for name, a in optimizers[0].state[p].items():
                    b = optimizers[1].state[q][name]
                    good = len(shapes) > 1 or torch.allclose(a.to(b.dtype), b, rtol=1e-5)
                    apart = apart if good else np.inf
        zeros = float(torch.cat([(a == 0).reshape(-1) for a in params[1]]).double().mean())
        # Single precision, but for what was rounded to less: another number where it lay between two.
        usual = {torch.float64: 1e-13, torch.float32: 2e-6}
        most = max(usual.get(kind, torch.finfo(kind).eps) for kind in dtypes)
        halves = [(a != b).double() for a, b in zip(*params, strict=True) if a.dtype not in usual]
        other = float(torch.cat([a.reshape(-1) for a in halves]).mean()) if halves else 0.0
        return {
            "apart": apart, "most": most, "other": other, "zeros": zeros, "kernels": sorted(set(launched)),
        }  # fmt: skip

    def over(axis: Any, penalty: Any = pl.GroupLasso, **options: Any) -> Any:
        def make(params: Any, fused: bool) -> Any:
            chosen = penalty(groups=pl.Groups.over(axis), **options)
            return pt.ProxAdamW(params, lr=0.1, penalty=chosen, fused=fused)

        return make

    cases: dict[str, tuple[Any, Any]] = {
        "rows": (1, [(5, 3), (3, 13), (2, 100), (1, 250)]),
        "columns": (0, [(6, 33), (30, 5), (64, 2)]),
        "runs": ((0, 2), [(9, 2, 9)]),
        "short runs": ((0, 2), [(4, 5, 3)]),
    }
    for name, (axis, shapes) in cases.items():
        yield name, compared(over(axis, lam=3.0), shapes, count=2 if name == "rows" else 1)
    yield "rows, and their state", compared(over(1, lam=3.0), [(5, 3)])
    yield "float64", compared(over(1, lam=4.0), [(5, 13)], torch.float64)
    with mock.patch.object(widened, "LARGEST_THERE", 100):
        # In three batches, whose copies take turns.
        shapes = [(5, 13), (9, 11), (4, 8)]
        yield "bfloat16", compared(over(1, lam=3.0), shapes, torch.bfloat16)

        def mixed(params: Any, fused: bool) -> Any:
            return pt.ProxAdamW(params, lr=0.1, penalty=pl.GroupLasso(3.0), fused=fused)

        yield "float16 and float32", compared(mixed, shapes, (torch.float16, torch.float32, torch.float16))
    made: list[Any] = [
        lambda s: pl.GroupLasso(s), lambda s: pl.GroupLasso(s, weights="sqrt_size"),
        lambda s: pl.GroupLasso(s, nonnegative=True), lambda s: pl.GroupElasticNet(s, s),
        lambda s: pl.SparseGroupLasso(0.02 * s, s), lambda s: pl.L1(0.1 * s), lambda s: None,
        lambda s: pl.GroupMCP(s, 3.0), lambda s: pl.GroupSCAD(s, 3.7), lambda s: pl.GroupCapped(s, 1.0),
        lambda s: pl.GroupL0(s),
    ]  # fmt: skip
    names = sorted(METHODS)
    for k in range(28):
        name = names[int(rng.integers(len(names)))]
        # The state of Bregman iterations is a subgradient, of convex penalties.
        build = made[k % (7 if "breg" in name else len(made))]
        shape = tuple(int(n) for n in np.exp(rng.uniform(0.0, 3.3, size=int(rng.integers(1, 4)))))
        axes = tuple(i for i in range(len(shape)) if rng.random() < 0.5)
        strength, turned = 10.0 ** rng.uniform(-2.0, 0.5), len(shape) > 1 and rng.random() < 0.3
        dtype = (torch.float32, torch.float64, torch.bfloat16, torch.float16)[int(rng.choice(4, p=PARTS))]

        def drawn(params: Any, fused: bool) -> Any:
            penalty = build(strength)  # noqa: B023 (called at once)
            if penalty is not None and not isinstance(penalty, pl.L1):
                penalty = replace(penalty, groups=pl.Groups.over(axes))  # noqa: B023
            return METHODS[name](params, penalty=penalty, fused=None if fused else False)  # noqa: B023

        found = compared(drawn, [shape], dtype, count=2, turned=turned)
        yield f"drawn {name} {k}, {shape} over {axes} {dtype}", found
    for axis, shape in ((1, (7, 13)), (0, (30, 5))):
        own = np.linspace(0.2, 4.0, shape[1 - axis])
        yield f"weights of groups {axis}", compared(over(axis, lam=1.0, weights=own), [shape], count=1)
    rest = (pt.ProxSGD, {"lr": 1.0}), (pt.RAMDA, {"lr": 0.1}), (pt.ProxRMSprop, {"lr": 0.1, "centered": True})
    for method, options in rest:

        def make(params: Any, fused: bool, method: Any = method, options: Any = options) -> Any:
            groups = [{"params": params[:1], "penalty": None}, {"params": params[1:], "penalty": pl.L1(0.1)}]
            return method(groups, fused=None if fused else False, **options)

        yield f"{method.__name__} without groups", compared(make, [(70,), (40, 30)])
    for name, axis, scale, build in (
        ("RMDA", 1, 1.0, lambda s, **own: pl.GroupMCP(s, 3.0, **own)),
        ("RAMDA", 0, 1.0, lambda s, **own: pl.GroupLasso(s, nonnegative=True, **own)),
        ("RMDA", 0, 1e18, lambda s, **own: pl.SparseGroupLasso(0.1 * s, s, **own)),
        ("RMDA", 1, 1e-30, lambda s, **own: pl.GroupLasso(s, **own)),
    ):

        def averaging(params: Any, fused: bool) -> Any:
            penalty = build(2.0 * scale, groups=pl.Groups.over(axis))  # noqa: B023
            return getattr(pt, name)(params, lr=1.0, momentum=0.5, penalty=penalty, fused=fused)  # noqa: B023

        yield f"averages of {name}, {scale:g}", compared(averaging, [(9, 13), (13, 9)], scale=scale)
    for scale in (1e-30, 1e18):

        def extreme(params: Any, fused: bool, scale: float = scale) -> Any:
            return pt.ProxSGD(params, lr=1.0, penalty=pl.GroupLasso(5.0 * scale), fused=fused)

        yield (
            f"left to the general solver, {scale:g}",
            compared(extreme, [(9, 13), (3, 100)], scale=scale, count=1),
        )

    for name, function, old, new in (
        ("no barrier after the sums are read", fused_block.combine, WAIT + "    return", "    return"),
        ("an element too many", fused_block.step_groups, "if live and i < n:", "if live and i <= n:"),
    ):
        text = inspect.getsource(function).replace(old, new)
        assert text != inspect.getsource(function)
        scope: dict[str, Any] = {}
        exec(compile("from __future__ import annotations\n" + text, fused_block.__file__, "exec"), scope)
        planted = types.FunctionType(scope[function.__name__].__code__, vars(fused_block), function.__name__)
        found = ""
        with mock.patch.object(fused_block, function.__name__, planted):
            try:
                compared(over(1, lam=3.0), [(2, 250)], count=1)
            except Fault as fault:
                found = str(fault)
            device.faults.clear()
        yield name, {"found": found}

    p = torch.nn.Parameter(draw(3, 5))
    optimizer = pt.ProxAdamW([p], penalty=pl.GroupLasso(0.1), fused=True)
    said = []
    for value in (np.nan, 1e19, 1e30, 1.0):
        p.grad = torch.full_like(p, value)
        try:
            optimizer.step()
            said.append("")
        except ValueError as error:
            said.append(str(error))
    yield "what is not finite", {"said": said}
    for penalty in (pl.L1(0.1), pl.GroupLasso(0.1)):
        # A state that is loaded ends what a step has kept.
        p = torch.nn.Parameter(draw(3, 5))
        optimizer = pt.ProxSGD([p], lr=1e10, penalty=penalty, fused=True)
        said = []
        for k in range(3):
            p.grad = torch.full_like(p, 1e30 if k == 1 else 1.0)
            if k == 2:
                optimizer.load_state_dict(optimizer.state_dict())
            try:
                optimizer.step()
                said.append("")
            except ValueError as error:
                said.append(str(error))
        yield f"what a step left, {type(penalty).__name__}", {"left": said}


def planted() -> Iterator[tuple[str, dict[str, Any]]]:
    """Faults that the watch has to find."""
    wait = "    cuda.syncthreads()\n"
    some = "    if cuda.threadIdx.x > 0:\n        cuda.syncthreads()\n"
    grid = "    cuda.cg.this_grid().sync()\n"
    leader = "if lane() == 0:\n            explained"
    faults: dict[str, Any] = {
        "index beyond the group": ("index_contiguous", "o.begin + i", "o.begin + i + 1"),
        "negative index": ("index_contiguous", "UINT(o.begin + i)", "o.begin + i - 1"),
        "no barrier before the sums are read": ("combine_block", wait, "", 1),
        "no barrier after the sums are read": ("combine_block", wait + "    return", "    return"),
        "no barrier of the grid": ("combine_grid", grid, "", 1),
        "no barrier before the tile is read": ("solve_tile", wait + "    for k", "    for k"),
        "no barrier before the tile is written": ("solve_tile", wait + "    p = mine", "    p = mine"),
        "a barrier for some": ("combine_block", wait, some, 1),
        "lanes of another team": ("exchange", "~(WIDTH - 1)", "~(WIDTH + 1)"),
        "every lane writes": ("solve_here", leader, leader.replace("== 0", "< 2")),
    }
    cases = {"combine_block": ((2, 17), 1), "combine_grid": ((1, 30), 1), "solve_tile": ((6, 9), 0)}
    for name, (function, old, new, *count) in faults.items():
        original = build._FUNCTIONS[function]
        text = inspect.getsource(original)
        assert old in text, f"{function} no longer contains {old!r}"
        scope: dict[str, Any] = {}
        exec(
            compile(
                "from __future__ import annotations\n" + text.replace(old, new, *count),
                source.__file__,
                "exec",
            ),
            scope,
        )
        build._FUNCTIONS[function] = types.FunctionType(scope[function].__code__, vars(source), function)
        shape, axis = cases.get(function, ((3, 7), 1))
        try:
            x, d = data(shape)
            p = problem(pl.GroupLasso(0.8, groups=pl.Groups.over(axis)), x, 1.0, d, "numba")
            simulated(SimulatedDevice(5), p, Options(pl.Newton(), 2.0**-50, None, explain=True, check=True))
            found = ""
        except Fault as fault:
            found = str(fault)
        finally:
            build._FUNCTIONS[function] = original
        yield name, {"found": found}


FAMILIES = {
    f.__name__: f
    for f in (penalties, finders, layouts, giants, extremes, memory, invalid, tensors, steps, planted)
}


def main(family: str) -> None:
    sys.setswitchinterval(1e-5)
    # Threads do not inherit NumPy's error state; what overflows is not selected.
    warnings.simplefilter("ignore")
    vars(plan).update(SMALL)
    plan.THREADS.update(THREADS)
    for name, result in FAMILIES[family]():
        print(json.dumps({"case": name, **result}), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception:
        traceback.print_exc()
        sys.exit(1)
