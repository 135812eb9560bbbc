"""Speed on a GPU: the fused kernels and the array form against a copy on the device and a fused AdamW; steps.

What is printed is a record: date, device, versions and a table in Markdown.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

import proxlab as pl

#: Shape, dtype, and the axes that a group takes.
CASES: dict[str, tuple[tuple[int, ...], str, tuple[int, ...]]] = {
    "rows": ((16384, 2048), "float32", (1,)),
    "short rows": ((2**21, 16), "float32", (1,)),
    "long rows": ((512, 65536), "float32", (1,)),
    "one group": ((1, 2**25), "float32", (1,)),
    "columns": ((2048, 16384), "float32", (0,)),
    "input channels": ((1024, 2048, 3, 3), "float32", (0, 2, 3)),
    "rows in float64": ((8192, 2048), "float64", (1,)),
}
REPEATS = 20
#: Copies that keep a device busy while the host gets ahead of it.
AHEAD = 40


class NoDeviceError(Exception):
    """There is nothing to measure on."""


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise NoDeviceError(f"CuPy is not installed ({error}): pip install 'proxlab[cuda13]'") from None
    try:
        cupy.zeros(1)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise NoDeviceError(f"CuPy finds no CUDA device: {error}") from None
    return cupy


def seconds(
    cupy: Any, call: Callable[[], object], repeats: int = REPEATS, ahead: Callable[[], object] | None = None
) -> float:
    """Return the least time of a call from an idle device on; behind other work, that of the device alone.

    The first two do not count.
    """
    best = np.inf
    for k in range(repeats + 2):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        if ahead is not None:
            ahead()
        begin.record()
        call()
        end.record()
        end.synchronize()
        if k > 1:
            best = min(best, 1e-3 * cupy.cuda.get_elapsed_time(begin, end))
    return float(best)


def adamw(size: int) -> Callable[[], object] | None:
    """Return a step of torch's fused AdamW on so many float32 parameters, if torch has a device."""
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    parameter = torch.nn.Parameter(torch.zeros(size, device="cuda"))
    parameter.grad = torch.full_like(parameter, 1e-3)
    step: Callable[[], object] = torch.optim.AdamW([parameter], fused=True).step
    return step


def run(say: Callable[[str], None]) -> None:
    """Measure, and say the record line by line."""
    cupy = _cupy()
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    versions: dict[str, object] = {
        "proxlab": pl.__version__,
        "CuPy": cupy.__version__,
        "numba-cuda": version("numba-cuda"),
        "CUDA": cupy.cuda.runtime.runtimeGetVersion(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
    }
    say(
        f"{datetime.date.today()} · {properties['name'].decode()} · "
        + ", ".join(f"{name} {number}" for name, number in versions.items())
    )
    say("")
    columns = (
        "case", "shape", "copy", "fused", "on the device", "in copies", "checked", "explained", "array form",
        "AdamW",
    )  # fmt: skip
    say("Milliseconds, from an idle device on; on the device, in copies of as many bytes: behind other work.")
    say("\n| " + " | ".join(columns) + " |")
    say("|" + "---|" * len(columns))
    rng = np.random.default_rng(0)
    for name, (shape, dtype, axes) in CASES.items():
        x = cupy.asarray(0.02 * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
        d = cupy.exp(cupy.asarray(rng.standard_normal(shape, dtype=np.float32))).astype(dtype)
        lam = float(cupy.median(cupy.sqrt(cupy.sum((x * d) ** 2, axis=axes))))
        penalty = pl.GroupLasso(lam, groups=pl.Groups.over(axes))
        z = cupy.empty_like(x)
        # What has to pass: x and d are read, z is written. A copy of three halves of x does as much.
        source = cupy.empty(x.size * 3 // 2, dtype)
        target = cupy.empty_like(source)
        fused = partial(pl.prox, penalty, x, metric=d, out=z, backend="cuda")
        calls: dict[str, Callable[[], object]] = {
            "copy": partial(cupy.copyto, target, source),
            "fused": fused,
            "checked": partial(fused, check=True),
            "explained": partial(pl.solve, penalty, x, metric=d, out=z, backend="cuda"),
            "array form": partial(pl.prox, penalty, x, metric=d, out=z, backend="array_api"),
        }
        taken = {key: 1e3 * seconds(cupy, call) for key, call in calls.items()}

        def ahead(calls: dict[str, Callable[[], object]] = calls) -> None:
            for _ in range(AHEAD):
                calls["copy"]()

        alone = 1e3 * seconds(cupy, fused, ahead=ahead)
        step = adamw(x.size)
        yardstick = f"{1e3 * seconds(cupy, step):.3f}" if step else "no torch"
        say(
            f"| {name} | {'×'.join(map(str, shape))} | {taken['copy']:.3f} | {taken['fused']:.3f} | "
            f"{alone:.3f} | {alone / taken['copy']:.2f} | {taken['checked']:.3f} | "
            f"{taken['explained']:.3f} | {taken['array form']:.3f} | {yardstick} |"
        )
    steps(say)


def networks() -> dict[str, Callable[[], Any]]:
    """Return what makes the networks whose steps are measured."""
    from torch import nn

    def layers() -> Any:
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True), 12)

    made: dict[str, Callable[[], Any]] = {
        "200 matrices of 64 × 64": lambda: nn.Sequential(
            *[nn.Linear(64, 64, bias=False) for _ in range(200)]
        ),
        "a matrix of 8192 × 8192": lambda: nn.Linear(8192, 8192, bias=False),
        "12 layers of an encoder of 768": layers,
    }
    if find_spec("torchvision") is not None:
        made["ResNet-50"] = import_module("torchvision").models.resnet50
    return made


def steps(say: Callable[[str], None], device: str = "cuda") -> None:
    """Measure steps of optimizers, after those at whose start PyTorch and proxlab look at more than later."""
    if find_spec("torch") is None:
        say("\nno torch")
        return
    import torch

    from proxlab.torch import ProxAdamW, param_groups

    if device == "cuda" and not torch.cuda.is_available():
        say("\ntorch has no device")
        return
    say(f"\nMilliseconds of a step, PyTorch {torch.__version__}.\n")
    say("| network | AdamW, fused | AdamW, foreach | ProxAdamW, no penalty | with `param_groups` |")
    say("|---|---|---|---|---|")
    made: dict[str, Callable[[Any], Any]] = {
        "fused": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True),
        "foreach": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True),
        "free": lambda model: ProxAdamW(model.parameters(), lr=1e-4),
        "groups": lambda model: ProxAdamW(param_groups(model, pl.GroupLasso(1e-3)), lr=1e-4),
    }
    for name, network in networks().items():
        taken = []
        for make in made.values():
            model = network().to(device)
            for p in model.parameters():
                p.grad = 1e-3 * torch.randn_like(p)
            taken.append(1e3 * _step_seconds(make(model).step, device))
        say(f"| {name} | " + " | ".join(f"{t:.2f}" for t in taken) + " |")


#: Steps before those that are measured, and those.
FIRST, MEASURED = 104, 10


def _step_seconds(step: Callable[[], object], device: str) -> float:
    """Return the median time of a step, from an idle device to an idle one."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(FIRST + MEASURED):
        wait()
        begin = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - begin)
    return float(np.median(times[FIRST:]))
