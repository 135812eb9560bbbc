"""Build the GPU kernels without a GPU, and read off what they take: registers, memory, barriers, operations.

What is built is what a launch would build: a family is a problem, planned as on a device, and the types of
its arguments.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from proxlab.arguments import Problem, problem
from proxlab.backends.addresses import address
from proxlab.backends.cuda.build import device_source, linked
from proxlab.backends.cuda.plan import Launch, Memory, Place, arrange, launches
from proxlab.backends.records import GroupResults, Options
from proxlab.groups import Groups
from proxlab.penalties import L1, GroupLasso, GroupLinf, GroupSCAD, Penalty, SparseGroupLasso
from proxlab.rootfinders import Brent, Newton, RootFinder

__all__ = ["FAMILIES", "Family", "Figures", "figures", "inspected", "missing", "operations"]

#: Multiprocessors for which launches are planned: an A100 has 108, an H100 132.
PROCESSORS = 108


@dataclass(frozen=True)
class Family:
    """A problem that stands for all that run the same kernel.

    Attributes
    ----------
    groups : str
        What its groups are, in words.
    penalty : Penalty
    shape : tuple of int
    dtype : str
    finder : RootFinder
    dense, explain : bool
        Whether there is a metric per element; whether the result is explained.
    """

    groups: str
    penalty: Penalty
    shape: tuple[int, ...]
    dtype: str = "float32"
    finder: RootFinder = Newton()  # noqa: RUF009 (frozen)
    dense: bool = True
    explain: bool = False

    def launch(self) -> Launch:
        """Return what solves the problem on a device; its arrays are not filled in."""
        x = np.empty(self.shape, self.dtype)
        d = np.empty(self.shape, self.dtype) if self.dense else None
        p = problem(self.penalty, x, 1.0, d, "numba")
        how, shape = arrange(p.layout, x.itemsize, x.itemsize if self.dense else 0)
        flat = x.reshape(-1)
        count = p.layout.n_groups
        results = None
        if self.explain:
            results = GroupResults(*(np.empty(count),) * 3, *(np.empty(count, np.int64),) * 3)
        bad = np.zeros(1, np.int32)
        memory = Memory(flat, flat if d is None else d.reshape(-1), flat, bad, results)
        return launches(p, Options(self.finder, 2.0**-30), how, shape, memory, _place(p))[-1]


def _place(p: Problem) -> Place:
    return Place(p.xp, "cpu", 0, 0, PROCESSORS)


def _columns(*axes: int) -> GroupLasso:
    return GroupLasso(1.0, groups=Groups.over(axes))


_RAGGED = GroupLasso(1.0, groups=Groups.csr(np.arange(0, 65537, 1024)))
#: By name: every kernel, and on the kernel for middling rows every option.
FAMILIES = {
    "elements": Family("elements", L1(1.0), (2**20,)),
    "lane": Family("rows of at most 16", GroupLasso(1.0), (2**16, 16)),
    "lanes": Family("rows of 17 to 64", GroupLasso(1.0), (2**14, 64)),
    "warp": Family("rows of 1025 to 2048", GroupLasso(1.0), (2**10, 2048)),
    "block": Family("longer rows", GroupLasso(1.0), (256, 8192)),
    "grid": Family("few rows of at least 65536", GroupLasso(1.0), (4, 2**20)),
    "strided": Family("runs of at least 32 bytes", _columns(0, 2), (64, 64, 9)),
    "tile": Family("columns", _columns(0), (512, 4096)),
    "gathered": Family("ragged", _RAGGED, (2**16,)),
    "float64": Family("rows of 1025 to 2048", GroupLasso(1.0), (2**10, 2048), "float64"),
    "no metric": Family("rows of 1025 to 2048", GroupLasso(1.0), (2**10, 2048), dense=False),
    "explained": Family("rows of 1025 to 2048", GroupLasso(1.0), (2**10, 2048), explain=True),
    "soft threshold": Family("rows of 1025 to 2048", SparseGroupLasso(0.01, 1.0), (2**10, 2048)),
    "three pieces": Family("rows of 1025 to 2048", GroupSCAD(1.0, a=3.7), (2**10, 2048)),
    "bracketing": Family("rows of 1025 to 2048", GroupLasso(1.0), (2**10, 2048), finder=Brent()),
    "maximum norm": Family("rows of 1025 to 2048", GroupLinf(1.0), (2**10, 2048)),
}


@dataclass(frozen=True)
class Figures:
    """What a kernel takes on an architecture.

    Attributes
    ----------
    entry : bool
        Whether the module has one entry, and nothing else that could be called.
    registers, stack, spills, shared : int
        Registers of a thread; bytes of its stack, of what it spills; bytes of shared memory of a block.
    barriers, shuffles, grid_barriers : int
        Such instructions.
    doubles : int
        Arithmetic instructions in float64.
    wide : int
        Reads and writes of float64 in global memory.
    threads : int
        Threads of a block.
    ptx : str
    """

    entry: bool
    registers: int
    stack: int
    spills: int
    shared: int
    barriers: int
    shuffles: int
    grid_barriers: int
    doubles: int
    wide: int
    threads: int
    ptx: str


def missing() -> str:
    """Return what is not installed that a build needs, or an empty string."""
    if find_spec("numba_cuda") is None:
        return "numba-cuda"
    from numba.cuda.cudadrv import nvvm

    if not nvvm.is_available():
        return "NVVM"
    return "" if _ptxas() else "ptxas"


@lru_cache(maxsize=1)
def _ptxas() -> str | None:
    # That of the environment's own packages is as old as the compiler's output; another may be older.
    nvidia = find_spec("nvidia")
    for folder in (nvidia.submodule_search_locations or ()) if nvidia else ():
        for path in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(path)
    return shutil.which("ptxas")


@contextmanager
def _pretending(cc: tuple[int, int]) -> Iterator[None]:
    """Let numba-cuda compile device functions for an architecture: it asks the current device for its own."""
    from numba.cuda import compiler, dispatcher

    device = types.SimpleNamespace(compute_capability=cc)
    modules, name = (compiler, dispatcher), "get_current_device"
    real = [getattr(module, name) for module in modules]
    for module in modules:
        setattr(module, name, lambda: device)
    try:
        yield
    finally:
        for module, function in zip(modules, real, strict=True):
            setattr(module, name, function)


def figures(launch: Launch, cc: tuple[int, int]) -> Figures:
    """Build a launch's kernel for an architecture.

    Parameters
    ----------
    launch : Launch
    cc : tuple of two int
        The compute capability: (8, 0), (9, 0), ….
    """
    variant = launch.variant
    return inspected(device_source(variant), launch.arguments, cc, variant.registers, launch.threads)


def inspected(
    function: Any, arguments: tuple[Any, ...], cc: tuple[int, int], registers: int | None, threads: int
) -> Figures:
    """Build a kernel's function for arguments like these and an architecture.

    Parameters
    ----------
    function : callable
    arguments : tuple
    cc : tuple of two int
    registers : int or None
        The most that a thread may take.
    threads : int
        Of a block.
    """
    from numba import cuda
    from numba.cuda.typing.typeof import typeof

    signature = tuple(typeof(a) for a in arguments)
    with _pretending(cc):
        ptx, _ = cuda.compile(  # type: ignore[attr-defined]
            function, signature, device=False, cc=cc, output="ptx", abi="numba"
        )
    told = _assembled(ptx, cc, registers)

    def number(pattern: str) -> int:
        return sum(int(k) for k in re.findall(pattern, told))

    def count(pattern: str) -> int:
        return len(re.findall(pattern, ptx, flags=re.MULTILINE))

    called = set(re.findall(r"\bcall(?:\.uni)?\s+(?:\([^)]*\),\s*)?([\w$]+)", ptx))
    return Figures(
        entry=count(r"\.entry\s") == 1 and all(name.startswith("cudaCG") for name in called),
        registers=number(r"[Uu]sed (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame") + number(r"registers.* (\d+) stack"),
        spills=number(r"(\d+) bytes spill"),
        shared=number(r"(\d+) bytes smem"),
        barriers=count(r"^\s*(?:@%p\d+ )?(?:bar\.sync|barrier\.sync)"),
        shuffles=count(r"shfl\.sync"),
        grid_barriers=count(r"^\s*cudaCGSynchronize,"),
        doubles=count(r"^\s*(?:@!?%p\d+ )?(?:add|sub|mul|fma|div|rcp|sqrt)\.\w*\.?f64"),
        wide=count(r"(?:ld|st)\.global\.(?:v2\.)?f64"),
        threads=threads,
        ptx=ptx,
    )


def _assembled(ptx: str, cc: tuple[int, int], registers: int | None) -> str:
    """Assemble a kernel, link it if it needs the device's runtime, and return what the tools say of it."""
    arch = [f"-arch=sm_{cc[0]}{cc[1]}"]
    limit = [] if registers is None else [f"-maxrregcount={registers}"]
    assembler = Path(str(_ptxas()))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)

        def tell(*command: Any) -> str:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{Path(command[0]).name}: {done.stderr or done.stdout}")
            return done.stderr + done.stdout

        if "cudaCGSynchronize" not in ptx:
            return tell(assembler, "-v", *arch, *limit, source, "-o", target)
        from numba.cuda.cuda_paths import get_cuda_paths

        spilled = tell(assembler, "-c", "-v", *arch, *limit, source, "-o", target)
        runtime = Path(get_cuda_paths()["static_cudalib_dir"].info, "libcudadevrt.a")
        linker = assembler.with_name("nvlink")
        linked = tell(linker, "-v", *arch, target, runtime, "-o", Path(folder, "linked.cubin"))
    # The runtime's own functions are not of interest.
    ours = re.findall(r"properties for '[^']*solve_[^']*':\n(.*)", linked)
    return "\n".join([*re.findall(r".*bytes spill.*", spilled), *ours])


class _Counted(float):
    """A number that counts its operations."""

    counts: ClassVar[dict[str, int]] = {}


def _counting(name: str, kind: str) -> Any:
    plain = getattr(float, name)

    def operate(*numbers: Any) -> Any:
        _Counted.counts[kind] += 1
        return _Counted(plain(*numbers))

    return operate


for _kind, _names in {"sums": ("add", "sub"), "products": ("mul",), "quotients": ("truediv",)}.items():
    for _name in _names:
        for _full in (f"__{_name}__", f"__r{_name}__"):
            setattr(_Counted, _full, _counting(_full, _kind))


class _Numbers:
    """An array whose reads count, of one element twice running once."""

    def __init__(self, data: Any) -> None:
        self.data, self.reads, self.last = data, 0, -1

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, k: int) -> float:
        self.reads += k != self.last
        self.last = k
        return float(self.data[k])

    def __setitem__(self, k: int, value: float) -> None:
        self.data[k] = value


def operations(family: Family, n: int = 512) -> dict[str, float]:
    """Count what is done for an element of a random group, which the penalty shrinks to about a half.

    The source is run as it stands, by one thread, on numbers that count.

    Returns
    -------
    dict
        Of an element, its "sums", "products" and "quotients" in float64; and the "passes" over the group.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, n)).astype(family.dtype)
    d = np.exp(rng.normal(size=(1, n))).astype(family.dtype)
    if not family.dense:
        d[:] = 1.0
    alone = family.penalty._on_rows()
    step = 0.5 * float(np.linalg.norm((d * x)[0], {"radial": 2, "clipped": 1}[alone.equation.kernel]))
    # Groups that are rows, whatever they are in the family: the arithmetic is the same.
    p = problem(alone, x, step, d if family.dense else None, "numba")
    memory = Memory(x[0], d[0], np.empty(n), np.zeros(1, np.int32), None)
    options = Options(family.finder, 2.0**-30)
    ready = launches(p, options, "contiguous", (1, 1, 1, n), memory, _place(p))[-1]
    flat = _Numbers(x[0])
    there = {address(a): a for a in ready.arrays} | {address(x[0]): flat}
    one, zero = types.SimpleNamespace(x=1), types.SimpleNamespace(x=0)
    cuda = types.SimpleNamespace(
        threadIdx=zero, blockIdx=zero, blockDim=one, gridDim=one, grid=lambda _: 0, gridsize=lambda _: 1,
        syncthreads=lambda: None, shared=types.SimpleNamespace(array=lambda shape, _: np.zeros(shape)),
    )  # fmt: skip
    numbers = types.SimpleNamespace(
        float64=_Counted, float32=np.float32, int32=np.int32, int64=np.int64, uint32=np.uint32
    )
    kernel = linked(
        replace(ready.variant, width=1, team="lanes"),
        lambda function: function,
        {"cuda": cuda, "math": math, "elements": lambda at, n, one: there.get(at), "np": numbers},
        {},
    )
    _Counted.counts.update(sums=0, products=0, quotients=0)
    kernel(*ready.arguments)
    return {kind: k / n for kind, k in _Counted.counts.items()} | {"passes": flat.reads / n}
