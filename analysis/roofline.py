"""What the machine can do: a pass over memory, and divisions and square roots, from kernels of a few lines.

The cost of a pass is the larger of what its bytes and what its operations take; a figure that is held against
it means the same on machines with fast and with slow memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Elements of a kernel that stays in the first cache, and how often it goes over them.
ELEMENTS, ROUNDS = 1024, 200
REPEATS = 15


class Throughput(NamedTuple):
    """Nanoseconds an element on one thread, where nothing waits for memory."""

    division: float
    root: float


def _triad(x: Array, d: Array, z: Array) -> None:
    for i in range(len(z)):
        z[i] = x[i] * d[i]


def _divide(x: Array, y: Array, rounds: int) -> None:
    for _ in range(rounds):
        for i in range(len(x)):
            x[i] = y[i] / x[i]


def _root(x: Array, y: Array, rounds: int) -> None:
    for _ in range(rounds):
        for i in range(len(x)):
            x[i] = np.sqrt(x[i] + y[i])


@lru_cache(maxsize=4)
def _compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    made: Callable[..., None] = numba.njit(nogil=True, error_model="numpy")(kernel)
    return made


@lru_cache(maxsize=2)
def throughput(dtype: str) -> Throughput:
    """Measure divisions and square roots, each beside a read, a write and nothing or a sum."""
    number = np.dtype(dtype).type
    x, y = np.full(ELEMENTS, number(1.5)), np.full(ELEMENTS, number(1.25))
    found = []
    for kernel in (_divide, _root):
        run = _compiled(kernel)
        run(x, y, 1)
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            run(x, y, ROUNDS)
            times.append(time.perf_counter() - started)
        # The least: what else runs only adds.
        found.append(1e9 * min(times) / (ELEMENTS * ROUNDS))
    return Throughput(*found)


def memory_pass(x: Array, d: Array, z: Array, threads: int) -> Callable[[], None]:
    """Return what multiplies two arrays into a third, each thread a part: the bytes of a prox."""
    run = _compiled(_triad)
    flat = [a.reshape(-1) for a in (x, d, z)]
    bounds = [x.size * k // threads for k in range(threads + 1)]
    parts = [[a[b:e] for a in flat] for b, e in pairwise(bounds)]
    if threads == 1:
        return lambda: run(*parts[0])
    pool = ThreadPoolExecutor(threads - 1)

    def call() -> None:
        others = [pool.submit(run, *part) for part in parts[1:]]
        run(*parts[0])
        for other in others:
            other.result()

    return call


class Operations(NamedTuple):
    """What a pass computes for each element, on average."""

    divisions: float
    roots: float = 0.0

    def nanoseconds(self, dtype: str, threads: int) -> float:
        """What they take where all threads divide the elements."""
        each = throughput(dtype)
        return (self.divisions * each.division + self.roots * each.root) / threads
