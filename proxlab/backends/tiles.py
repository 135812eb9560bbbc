"""Copies of groups that are no rows, some neighbours at once: square tiles of a matrix."""

from __future__ import annotations

from typing import Any

__all__ = ["TILE", "collect"]

#: Groups copied together.
TILE = 32


def collect(source: Any, out: Any, shape: Any, begin: int, finish: int) -> None:
    """Copy the tiles ``begin … finish - 1`` of ``TILE`` neighbouring groups to the first rows of ``out``.

    Square tiles use every cache line that they fetch, whatever the stride. ``shape`` is (outer kept, outer
    reduced, inner kept, inner reduced).
    """
    rows, inner, run = shape[1], shape[2], shape[3]
    stride, n = inner * run, rows * run
    tiles = (inner + TILE - 1) // TILE
    target = 0
    for tile in range(begin, finish):
        outer, first = tile // tiles, (tile % tiles) * TILE
        width = min(TILE, inner - first)
        base = outer * rows * stride + first * run
        for top in range(0, rows, TILE):
            height = min(TILE, rows - top)
            for k in range(width):
                row = out[target + k * n + top * run : target + k * n + (top + height) * run]
                place = base + top * stride + k * run
                if run == 1:
                    column = source[place : place + (height - 1) * stride + 1]
                    for i in range(height):
                        row[i] = column[i * stride]
                else:
                    for i in range(height):
                        segment = source[place + i * stride : place + i * stride + run]
                        for t in range(run):
                            row[i * run + t] = segment[t]
        target += width * n
