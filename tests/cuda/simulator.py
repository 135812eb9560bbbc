"""Run GPU kernels in numba's CUDA simulator, under watch.

The simulator runs a block's threads as threads of Python and knows barriers; it has no shuffles, one block at
a time, and no opinion on races. This adds shuffles (a rendezvous of the lanes in the mask), barriers of a
whole grid, and arrays that watch who reads and writes what between which barriers, so that a missing barrier,
a barrier that not all threads meet, or an index out of bounds is an error on every schedule.

Needs NUMBA_ENABLE_CUDASIM=1 before numba is imported.
"""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
from numba.cuda.simulator.kernel import BlockManager, BlockThread, _push_kernel_context
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDAModule

from proxlab.backends.cuda import build

PATIENCE = 30.0


class Fault(Exception):
    """What the watch found."""


class Stopped(Exception):
    """Another thread has met a fault."""


@dataclass
class Access:
    """Who touched an element: block and thread, and how many barriers of block and grid they had passed."""

    block: int
    thread: int
    epoch: int
    grid_epoch: int

    def ordered(self, other: Access) -> bool:
        if (self.block, self.thread) == (other.block, other.thread):
            return True
        if self.grid_epoch != other.grid_epoch:
            return True
        return self.block == other.block and self.epoch != other.epoch


class Watched:
    """An array that checks its indices and that conflicting accesses are ordered by a barrier."""

    def __init__(self, name: str, data: Any, device: SimulatedDevice) -> None:
        self.name, self.data, self.device = name, data, device
        self.shape = data.shape
        self.writes: dict[Any, Access] = {}
        self.reads: dict[Any, dict[tuple[int, int], Access]] = {}
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.data)

    def _check(self, index: Any, writes: bool) -> Any:
        key = index if isinstance(index, tuple) else (index,)
        if len(key) != len(self.shape) or not all(
            isinstance(k, (int, np.integer)) and 0 <= k < n for k, n in zip(key, self.shape, strict=True)
        ):
            self.device.fault(f"{self.name}: index {key} is out of bounds of shape {self.shape}")
        key = tuple(int(k) for k in key)
        me = self.device.access()
        with self.lock:
            last = self.writes.get(key)
            if last is not None and not last.ordered(me):
                self.device.fault(f"{self.name}{list(key)}: a race of {last} and {me}")
            if writes:
                for other in self.reads.get(key, {}).values():
                    if not other.ordered(me):
                        self.device.fault(f"{self.name}{list(key)}: a race of {other} and {me}")
                self.writes[key] = me
            else:
                self.reads.setdefault(key, {})[me.block, me.thread] = me
        return key

    def __getitem__(self, index: Any) -> Any:
        return self.data[self._check(index, False)]

    def __setitem__(self, index: Any, value: Any) -> None:
        key = self._check(index, True)
        with np.errstate(all="ignore"):
            self.data[key] = value


@dataclass
class Block:
    """A running block: its shared arrays, and where its threads have met."""

    shared: dict[Any, Watched] = field(default_factory=dict)
    boards: dict[int, tuple[threading.Barrier, dict[int, Any]]] = field(default_factory=dict)
    sites: dict[int, Any] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    votes: dict[int, bool] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)


class _Shared:
    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device

    def array(self, shape: Any, dtype: Any) -> Watched:
        frame = sys._getframe(1)
        block, _ = self.device.here()
        with block.lock:
            key = (frame.f_code, frame.f_lineno)
            if key not in block.shared:
                data = np.full(shape, np.nan, np.dtype(dtype))
                block.shared[key] = Watched(f"shared array of line {frame.f_lineno}", data, self.device)
            return block.shared[key]


class _Atomic:
    lock = threading.Lock()

    def max(self, a: Watched, index: int, value: Any) -> None:
        with self.lock:
            a.data[index] = max(a.data[index], value)


class _Grid:
    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device

    def this_grid(self) -> _Grid:
        return self

    def sync(self) -> None:
        device, thread = self.device, threading.current_thread()
        device.meet(sys._getframe(1))
        if thread.thread_id == 0:
            device.grid_barrier.wait(PATIENCE)
        device.meet(sys._getframe(1))
        thread.grid_epoch = getattr(thread, "grid_epoch", 0) + 1


class SimulatedDevice:
    """What kernels call ``cuda``, and the launch of their grids; in the place of ``launch.Device``."""

    def __init__(self, processors: int = 2) -> None:
        self.processors, self.number, self.stream = processors, 0, 0
        self.shared, self.atomic, self.cg = _Shared(self), _Atomic(), _Grid(self)
        self.local = SimpleNamespace(array=np.zeros)
        self.blocks: dict[int, Block] = {}
        self.grid_barrier: Any = None
        self.launched: list[build.Variant] = []
        self.held: dict[Any, Watched] = {}
        self.together = False
        self.faults: list[str] = []

    def __enter__(self) -> SimulatedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    # -- what a kernel sees ------------------------------------------------------------------------

    @property
    def threadIdx(self) -> Dim3:
        return threading.current_thread().threadIdx

    @property
    def blockIdx(self) -> Dim3:
        return threading.current_thread().blockIdx

    def grid(self, _: int) -> int:
        return self.blockIdx.x * self.blockDim.x + self.threadIdx.x

    def gridsize(self, _: int) -> int:
        return self.gridDim.x * self.blockDim.x

    def here(self) -> tuple[Block, int]:
        thread = threading.current_thread()
        return self.blocks[thread.blockIdx.x], thread.thread_id

    def access(self) -> Access:
        thread = threading.current_thread()
        block, number = self.here()
        return Access(
            thread.blockIdx.x, number, block.counts.get(number, 0), getattr(thread, "grid_epoch", 0)
        )

    def fault(self, what: str) -> NoReturn:
        """Say what is wrong, and wake those who wait for this thread."""
        self.faults.append(what)
        if self.grid_barrier is not None:
            self.grid_barrier.abort()
        for block in self.blocks.values():
            with block.lock:
                for barrier, _ in block.boards.values():
                    barrier.abort()
        raise Fault(what)

    def meet(self, frame: Any) -> None:
        """Wait for the block at a barrier, at which all its threads must be."""
        block, number = self.here()
        site = (frame.f_code.co_name, frame.f_lineno, frame.f_back.f_lineno)
        with block.lock:
            count = block.counts.get(number, 0)
            if block.sites.setdefault(count, site) != site:
                self.fault(f"barrier {count}: threads wait at {block.sites[count]} and at {site}")
        threading.current_thread().syncthreads()
        with block.lock:
            block.counts[number] = count + 1

    def syncthreads(self) -> None:
        self.meet(sys._getframe(1))

    def syncthreads_or(self, value: Any) -> int:
        block, number = self.here()
        block.votes[number] = bool(value)
        self.meet(sys._getframe(1))
        found = any(block.votes.values())
        self.meet(sys._getframe(1))
        return int(found)

    def shfl_xor_sync(self, mask: int, value: Any, distance: int) -> Any:
        block, number = self.here()
        lane = number % 32
        lanes = [k for k in range(32) if mask >> k & 1]
        if lane not in lanes or lane ^ distance not in lanes:
            self.fault(f"shuffle: lane {lane} and its partner {lane ^ distance} are not in the mask {mask:b}")
        with block.lock:
            if self.faults:
                raise Stopped
            key = (number // 32) * 32 + lanes[0]
            if key not in block.boards:
                block.boards[key] = (threading.Barrier(len(lanes)), {})
        barrier, slots = block.boards[key]
        slots[lane] = value
        barrier.wait(PATIENCE)
        other = slots[lane ^ distance]
        barrier.wait(PATIENCE)
        return other

    # -- launching -----------------------------------------------------------------------------------

    def run(self, launches: list[Any]) -> None:
        """Run launches one after the other; as many threads as they ask for."""
        for launch in launches:
            self.launched.append(launch.variant)
            # Of torch's tensors, the same memory.
            arrays = [a.numpy() if hasattr(a, "numpy") else a for a in launch.arrays]
            views = {a.__array_interface__["data"][0]: a for a in arrays}
            watched = {at: Watched(f"array {k}", a, self) for k, (at, a) in enumerate(views.items())}

            def elements(at: int, n: int, one: Any, watched: dict[int, Watched] = watched) -> Any:
                return watched.get(at)

            operations = self.operations | {"elements": elements}
            kernel = build.linked(launch.variant, lambda f: f, operations, {})
            self.together = launch.variant.team == "grid"
            self.launch(kernel, launch.blocks, launch.threads, launch.arguments)

    @property
    def operations(self) -> dict[str, Any]:
        """The modules that the source calls."""
        return {"cuda": self, "math": math, "libdevice": None}

    def view(self, a: Any) -> Any:
        """Return an array of torch as kernels take it; marks are watched."""
        return self.elements_of(a.numpy()) if a.dtype.itemsize == 4 else a.numpy()

    def elements_of(self, a: Any) -> Watched:
        """Return an array under watch, the same for the same memory."""
        key = (a.__array_interface__["data"][0], a.size)
        return self.held.setdefault(key, Watched(f"array {len(self.held)}", a, self))

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: tuple[Any, ...]) -> None:
        """Run a kernel's function by threads of Python."""
        # What one launch has written another may read.
        self.held = {key: Watched(a.name, a.data, self) for key, a in self.held.items()}
        arguments = tuple(
            self.elements_of(a.data) if isinstance(a, Watched) and self.held else a for a in arguments
        )
        self.blockDim, self.gridDim = Dim3(threads, 1, 1), Dim3(blocks, 1, 1)
        self.blocks = {k: Block() for k in range(blocks)}
        self.grid_barrier = threading.Barrier(blocks)
        failures: list[BaseException] = []

        def run_block(number: int) -> None:
            manager = BlockManager(kernel, (blocks, 1, 1), (threads, 1, 1), False)
            try:
                manager.run((number, 0, 0), *arguments)
            except Exception as error:
                failures.append(error)
                self.grid_barrier.abort()

        with _push_kernel_context(FakeCUDAModule((blocks, 1, 1), (threads, 1, 1), 0)):
            if self.together:
                runners = [threading.Thread(target=run_block, args=(k,)) for k in range(blocks)]
                for runner in runners:
                    runner.start()
                for runner in runners:
                    runner.join()
            else:
                for k in range(blocks):
                    run_block(k)
        if failures:
            # Where one thread has failed, the others may still run, and find more.
            for thread in threading.enumerate():
                if isinstance(thread, BlockThread):
                    thread.join(60.0)
        if self.faults:
            raise Fault(self.faults[0])
        if failures:
            raise failures[0]
        for block in self.blocks.values():
            if len({block.counts.get(k, 0) for k in range(threads)}) > 1:
                raise Fault(f"threads passed different numbers of barriers: {block.counts}")
