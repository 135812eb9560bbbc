"""Run GPU kernels on arrays of CuPy and torch where they lie, on the caller's current stream."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import sys
import warnings
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import array_api_compat

from proxlab.arguments import Problem, check_values, dtype_name
from proxlab.backends.addresses import address
from proxlab.backends.cuda.build import compiled
from proxlab.backends.cuda.plan import Launch, Memory, Place, arrange, launches
from proxlab.backends.records import GroupResults, Options, Solved
from proxlab.groups import IndexLayout
from proxlab.rootfinders import Status
from proxlab.types import Array

__all__ = ["Device", "check_device", "solve"]


@lru_cache(maxsize=1)
def check_device() -> None:
    """Raise an error that says what to install or to change, unless GPU kernels can run here."""
    if find_spec("numba_cuda") is None:
        raise ImportError(
            'backend: "cuda" needs CuPy and numba-cuda; install proxlab[cuda13] or, for a driver of CUDA 12, '
            "proxlab[cuda12]"
        )
    from numba import cuda

    if not cuda.is_available():
        try:
            cuda.current_context()
        except Exception as error:  # whatever the driver says
            reason = " ".join(str(error).split()).rstrip(" :") or type(error).__name__
            raise RuntimeError(
                f'backend: "cuda" finds no device to run on ({reason}); install NVIDIA\'s driver, or make a '
                "device visible (CUDA_VISIBLE_DEVICES), or use arrays of NumPy"
            ) from error
        raise RuntimeError(
            'backend: "cuda" finds a device but no compiler (NVVM); install proxlab[cuda13] or, for a driver '
            "of CUDA 12, proxlab[cuda12]"
        )


class Device:
    """The GPU that an array is on, and the caller's current stream there; a context in which it is current.

    Attributes
    ----------
    number, stream, processors : int
        Of the device: its number, the handle of the stream, its multiprocessors.
    """

    def __init__(self, x: Array) -> None:
        check_device()
        from numba import cuda

        self._cuda = cuda
        if array_api_compat.is_torch_array(x):
            torch = sys.modules["torch"]
            self._library: Any = torch.cuda.device(x.device)
            self.number: int = x.device.index
            self.stream: int = torch.cuda.current_stream(x.device).cuda_stream
        else:
            self._library, self.number = x.device, x.device.id
            with x.device:
                self.stream = sys.modules["cupy"].cuda.get_current_stream().ptr

    def __enter__(self) -> Device:
        self._contexts = ExitStack()
        self._contexts.enter_context(self._library)
        try:
            self._contexts.enter_context(self._cuda.gpus[self.number])
        except Exception as error:
            self._contexts.close()
            raise RuntimeError(
                f"backend: numba cannot use CUDA device {self.number}: {error}; make the device's primary "
                'context current, or use backend="array_api"'
            ) from error
        self.processors = int(self._cuda.get_current_device().MULTIPROCESSOR_COUNT)
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.close()

    def run(self, launches: list[Launch]) -> None:
        """Launch kernels in order; nothing is copied and nothing waits."""
        for launch in launches:
            arguments, kernel, blocks = launch.arguments, compiled(launch.variant), launch.blocks
            if launch.variant.team == "grid":
                built = kernel.compile(tuple(kernel.typeof_pyval(a) for a in arguments))
                blocks = min(blocks, built.max_cooperative_grid_blocks(launch.threads))
            self.launch(kernel, blocks, launch.threads, arguments)

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: tuple[Any, ...]) -> None:
        """Launch a compiled kernel on the caller's stream."""
        from numba.cuda.core.errors import NumbaPerformanceWarning

        stream = self._cuda.external_stream(self.stream) if self.stream else 0
        with warnings.catch_warnings():
            # A few large groups make a small grid, and there is nothing that the caller could do about it.
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            configured = kernel[blocks, threads, stream]
        configured(*arguments)

    def view(self, a: Any) -> Any:
        """Return an array as kernels take it; anything else as it is."""
        # The streams are the same: numba need not wait for what is under way.
        return self._cuda.as_cuda_array(a, sync=False) if hasattr(a, "__cuda_array_interface__") else a


def solve(p: Problem, options: Options) -> Solved:
    """Solve a validated problem of arrays on a GPU.

    With ``check``, wait for the result and raise an error if input was invalid.
    """
    out = options.out
    metric = _detached(p.metric)
    if _dense(p) and dtype_name(metric.dtype) not in ("float32", "float64"):
        metric = p.xp.astype(metric, p.xp.float32)
    p = replace(p, x=_detached(p.x), metric=metric, step=_detached(p.step))
    with Device(p.x) as here:
        solved = _solve(p, options._replace(out=_detached(out)), here)
    return solved if out is None else solved._replace(z=out)


def _detached(a: Any) -> Any:
    # Kernels see memory, not a graph.
    return a.detach() if array_api_compat.is_torch_array(a) else a


def _solve(p: Problem, options: Options, here: Any) -> Solved:
    out, check = options.out, bool(options.check)
    xp, layout, count = p.xp, p.layout, p.layout.n_groups
    device = array_api_compat.device(p.x)
    overlap = out is not None and _overlap(out, p.x)
    if check and (
        overlap or (isinstance(layout, IndexLayout) and len(layout.indices) < math.prod(layout.shape))
    ):
        # Nothing may be overwritten before it is known to be valid; kernels do not see elements of no group.
        check_values(p)
    results = None
    if options.explain:
        numbers = (xp.zeros((count,), dtype=xp.float64, device=device) for _ in range(3))
        counts = (xp.zeros((count,), dtype=xp.int64, device=device) for _ in range(3))
        results = GroupResults(*numbers, *counts)
    size_d = p.metric.dtype.itemsize if _dense(p) else 0
    how, shape = arrange(layout, p.x.dtype.itemsize, size_d)
    x = p.x
    d = xp.broadcast_to(p.metric, tuple(x.shape)) if _dense(p) else x
    if how == "transposed":
        x, d = (layout.split(a, 0.0)[0] for a in (x, d))
    x, d = _row(xp, x), _row(xp, d)
    if not isinstance(p.step, float):
        p = replace(p, step=_row(xp, xp.astype(p.step, xp.float64, copy=False)))
    direct = out is not None and how != "transposed" and _flat(out)
    if direct and (_same(out, p.x) or not (overlap or (_dense(p) and _overlap(out, p.metric)))):
        z = xp.reshape(out, (-1,))
    else:
        z = xp.empty_like(x)
        direct = False
    if how == "gathered" and not (direct and _same(out, p.x)):
        z[...] = x
    if x.shape[0]:
        place = Place(xp, device, here.number, here.stream, here.processors)
        bad = xp.zeros((1,), dtype=xp.int32, device=device)
        here.run(launches(p, options, how, shape, Memory(x, d, z, bad, results), place))
        if check and int(bad[0]):
            check_values(p)
            raise ValueError(
                "x, metric: the elements of a group must not spread over more than some 240 decades in the "
                'metric, where x is not zero, for kernels on a GPU; use backend="array_api"'
            )
    elif results is not None:
        results.status[...] = int(Status.ZERO)
    if direct:
        return Solved(out, results)
    if how == "transposed":
        z = layout.join([xp.reshape(z, (count, -1))], p.x)
    z = xp.reshape(z, tuple(p.x.shape))
    if out is not None:
        out[...] = z
    return Solved(z, results)


def _dense(p: Problem) -> bool:
    return p.metric is not None and not isinstance(p.metric, float)


def _interface(a: Array) -> Any:
    return a.__array_interface__ if array_api_compat.is_numpy_array(a) else a.__cuda_array_interface__


def _row(xp: Any, a: Array) -> Array:
    """Return an array's elements one after the other, copied where they do not lie so."""
    a = xp.reshape(a, (-1,))
    return a if _flat(a) else xp.concat([a])


def _flat(a: Array) -> bool:
    """Tell whether an array's elements lie one after the other."""
    return bool(_interface(a)["strides"] is None if not hasattr(a, "is_contiguous") else a.is_contiguous())


def _same(a: Array, b: Array) -> bool:
    """Tell whether two arrays are the same elements of memory in the same order."""
    return address(a) == address(b) and _flat(a) and _flat(b) and a.dtype == b.dtype


def _overlap(a: Array, b: Array) -> bool:
    """Tell whether two arrays may share memory: whether their extents meet."""
    (first, last), (begin, end) = _extent(a), _extent(b)
    return first < end and begin < last


def _extent(a: Array) -> tuple[int, int]:
    interface, size = _interface(a), a.dtype.itemsize
    shape, strides = interface["shape"], interface.get("strides")
    if 0 in shape:
        return 0, 0
    if strides is None:
        strides = [size * math.prod(shape[k + 1 :]) for k in range(len(shape))]
    reach = [s * (n - 1) for s, n in zip(strides, shape, strict=True)]
    begin = interface["data"][0]
    return begin + sum(r for r in reach if r < 0), begin + sum(r for r in reach if r > 0) + size
