"""A small thread pool: kernels release the GIL, threads split the groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["get_num_threads", "run", "set_num_threads"]

#: Elements below which another thread costs more than it saves.
SMALL = 65536

_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0
_wanted: int | None = None


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
    n = min(get_num_threads(), count, max(1, work // SMALL))
    if n <= 1:
        return task(0, count)
    pool = _workers(n)
    bounds = [count * k // n for k in range(n + 1)]
    futures = [pool.submit(task, b, f) for b, f in pairwise(bounds[1:])]
    results = [task(bounds[0], bounds[1]), *(future.result() for future in futures)]
    return min((r for r in results if r >= 0), default=-1)
