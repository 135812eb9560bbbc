"""Groups that are no rows, solved or certified in copies of some at a time that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from proxlab.backends import threads
from proxlab.backends.compiling import TARGET, outermost, read_only
from proxlab.backends.tiles import ROOM, TILE, from_rows, over_tiles, to_rows

__all__ = ["CACHED", "group_rows", "over_copies"]

#: Elements of an array that are copied together.
CACHED = 1 << 17
#: Neighbouring groups that are copied together at least, for the sake of cache lines.
NARROWEST = 16


def group_rows(a: Any, shape: tuple[int, int, int, int], groups: Any) -> Any:
    """Return some groups of a contiguous array as rows; ``shape`` is its canonical one."""
    _, height, inner, run = shape
    return a.reshape(shape)[groups // inner, :, groups % inner, :].reshape(len(groups), height * run)


@lru_cache(maxsize=2)
def mover(move: Callable[..., Any]) -> Any:
    """Compile what goes over tiles and moves each."""
    return outermost(TARGET, over_tiles, {"move": move})


def over_copies(
    shape: tuple[int, int, int, int], sources: Sequence[Any], results: Sequence[Any],
    work: Callable[..., int],
) -> int:  # fmt: skip
    """Work on copies of groups, a group a row, split among the threads.

    Parameters
    ----------
    shape : tuple of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    sources, results : sequence of array
        What is read, and what is written: contiguous, of this shape and one dtype.
    work : callable
        ``work(low, high, *rows)`` has the groups ``low … high - 1`` of each of the sources, and what it fills
        of each of the results; returns -1, or which of its rows is invalid.

    Returns
    -------
    int
        The first group that was found invalid, or -1.
    """
    outer, height, inner, run = shape
    n, across = height * run, min(TILE, max(NARROWEST, -(-inner // threads.get_num_threads())))
    tiles, together = -(-inner // across), max(1, CACHED // max(1, across * n))
    geometry = np.array(shape, dtype=np.int64)
    read, written = [read_only(a.reshape(-1)) for a in sources], [a.reshape(-1) for a in results]
    dtype, gather, scatter = sources[0].dtype, mover(to_rows), mover(from_rows)

    def group(tile: int) -> int:
        return (tile // tiles) * inner + (tile % tiles) * across

    def task(begin: int, finish: int) -> int:
        most = min(together, finish - begin) * across
        copies = [np.empty((most, n), dtype) for _ in range(len(read) + len(written))]
        room = np.empty(ROOM, dtype)
        for tile in range(begin, finish, together):
            last = min(tile + together, finish)
            low, high = group(tile), group(last)
            for source, rows in zip(read, copies, strict=False):
                gather(source, rows.reshape(-1), geometry, across, tile, last, room)
            given = [read_only(rows[: high - low]) for rows in copies[: len(read)]]
            filled = [rows[: high - low] for rows in copies[len(read) :]]
            bad = work(low, high, *given, *filled)
            if bad >= 0:
                return low + bad
            for rows, result in zip(filled, written, strict=True):
                scatter(read_only(rows.reshape(-1)), result, geometry, across, tile, last, room)
        return -1

    return threads.run(task, outer * tiles, sources[0].size)
