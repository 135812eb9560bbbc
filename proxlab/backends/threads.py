"""A small thread pool: kernels release the GIL, threads split the groups, or take arrays each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Lock, local
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["available", "each", "get_num_threads", "run", "set_num_threads"]

#: Elements below which another thread costs more than it saves.
SMALL = 65536

_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0
_wanted: int | None = None
# Whether this thread is one of several that run `each`.
_beside = local()


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def get_num_threads() -> int:
    """Return how many threads the compiled kernels use.

    By default the number of usable cores, or the environment variable ``PROXLAB_NUM_THREADS``.
    """
    if _wanted is not None:
        return _wanted
    setting = os.environ.get("PROXLAB_NUM_THREADS", "")
    if setting:
        if not (setting.isascii() and setting.isdigit()) or int(setting) < 1:
            raise ValueError(f"PROXLAB_NUM_THREADS: must be a positive integer, got {setting!r}")
        return int(setting)
    return _usable_cores()


def set_num_threads(n: int) -> None:
    """Set how many threads the compiled kernels use.

    Parameters
    ----------
    n : int
        At least 1.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: must be an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"n: must be at least 1, got {n}")
    global _wanted
    _wanted = n


def _forget_pool() -> None:
    """Drop the pool in a forked child: its threads do not exist there."""
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def available() -> int:
    """Return how many threads a call may use here: one where others run beside it."""
    return 1 if getattr(_beside, "busy", False) else get_num_threads()


def _workers(n: int) -> ThreadPoolExecutor:
    """Return the pool, of at least ``n`` threads."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < n:
            from concurrent.futures import ThreadPoolExecutor

            _pool, _size = ThreadPoolExecutor(n, thread_name_prefix="proxlab"), n
        return _pool


def run(task: Callable[[int, int], int], count: int, work: int) -> int:
    """Run ``task(begin, finish)`` over ``range(count)``, split among the threads.

    Parameters
    ----------
    task : callable
        Returns -1, or where it found something invalid.
    count : int
        What to split.
    work : int
        Elements in all; small work stays on the calling thread.

    Returns
    -------
    int
        The least of what the tasks return that is not -1, or -1.
    """
    n = min(available(), count, max(1, work // SMALL))
    if n <= 1:
        return task(0, count)
    pool = _workers(n)
    bounds = [count * k // n for k in range(n + 1)]
    futures = [pool.submit(task, b, f) for b, f in pairwise(bounds[1:])]
    results = [task(bounds[0], bounds[1]), *(future.result() for future in futures)]
    return min((r for r in results if r >= 0), default=-1)


def each(task: Callable[[int], None], sizes: Sequence[int]) -> None:
    """Run ``task(k)`` for every ``k``: large ones one after the other, then others side by side.

    A task that is larger than its share of what is left may use all threads itself. Small ones, which are
    more Python than kernel, are left to the calling thread. An error is raised when no task runs any more;
    the others may have been done or not.

    Parameters
    ----------
    task : callable
    sizes : sequence of int
        Elements of each.
    """
    n = available()
    order = sorted(range(len(sizes)), key=lambda k: -sizes[k])
    shared = [k for k in order if sizes[k] >= SMALL] if n > 1 else []
    alone, left = order[len(shared) :], sum(sizes[k] for k in shared)
    while shared and n * sizes[shared[0]] > left:
        left -= sizes[shared[0]]
        task(shared.pop(0))
    rest = iter(shared)

    def work() -> None:
        _beside.busy = True
        try:
            for k in rest:
                task(k)
        finally:
            _beside.busy = False

    if shared:
        futures = [_workers(n).submit(work) for _ in range(n - 1)]
        try:
            work()
        finally:
            errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
    for k in alone:
        task(k)
