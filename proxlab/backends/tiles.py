"""Copies of groups that are no rows, some neighbours at once: square tiles of a matrix."""

from __future__ import annotations

from typing import Any

__all__ = ["ROOM", "TILE", "collect", "spread"]

#: Groups copied together at most, and rows of a tile.
TILE, HEIGHT = 64, 64
#: The distance of a tile's rows in the first cache: no power of two, whose columns would evict each other.
PITCH = TILE + 1
#: Elements of scratch.
ROOM = HEIGHT * PITCH


def collect(source: Any, out: Any, shape: Any, across: int, begin: int, finish: int, room: Any) -> None:
    """Copy the tiles ``begin … finish - 1`` of ``across`` neighbouring groups to the first rows of ``out``.

    Tiles use every cache line that they fetch; they are turned in ``room``, in which they stay in the
    first cache whatever the stride. ``shape`` is (outer kept, outer reduced, inner kept, inner reduced).
    """
    rows, inner, run = shape[1], shape[2], shape[3]
    stride, n = inner * run, rows * run
    tiles = (inner + across - 1) // across
    high = max(8, HEIGHT // run)
    target = 0
    for tile in range(begin, finish):
        outer, first = tile // tiles, (tile % tiles) * across
        width = min(across, inner - first)
        base = outer * rows * stride + first * run
        for top in range(0, rows, high):
            height = min(high, rows - top)
            place = base + top * stride
            if run == 1:
                for i in range(height):
                    segment = source[place + i * stride : place + i * stride + width]
                    turned = room[i * PITCH : i * PITCH + width]
                    for k in range(width):
                        turned[k] = segment[k]
                for k in range(width):
                    row = out[target + k * n + top : target + k * n + top + height]
                    column = room[k:]
                    for i in range(height):
                        row[i] = column[i * PITCH]
            else:
                for k in range(width):
                    row = out[target + k * n + top * run : target + k * n + (top + height) * run]
                    for i in range(height):
                        o = place + k * run + i * stride
                        segment = source[o : o + run]
                        for t in range(run):
                            row[i * run + t] = segment[t]
        target += width * n


def spread(source: Any, out: Any, shape: Any, across: int, begin: int, finish: int, room: Any) -> None:
    """Undo :func:`collect`: copy the first rows of ``source`` to tiles of ``out``."""
    rows, inner, run = shape[1], shape[2], shape[3]
    stride, n = inner * run, rows * run
    tiles = (inner + across - 1) // across
    high = max(8, HEIGHT // run)
    origin = 0
    for tile in range(begin, finish):
        outer, first = tile // tiles, (tile % tiles) * across
        width = min(across, inner - first)
        base = outer * rows * stride + first * run
        for top in range(0, rows, high):
            height = min(high, rows - top)
            place = base + top * stride
            if run == 1:
                for k in range(width):
                    row = source[origin + k * n + top : origin + k * n + top + height]
                    column = room[k:]
                    for i in range(height):
                        column[i * PITCH] = row[i]
                for i in range(height):
                    segment = out[place + i * stride : place + i * stride + width]
                    turned = room[i * PITCH : i * PITCH + width]
                    for k in range(width):
                        segment[k] = turned[k]
            else:
                for k in range(width):
                    row = source[origin + k * n + top * run : origin + k * n + (top + height) * run]
                    for i in range(height):
                        o = place + k * run + i * stride
                        segment = out[o : o + run]
                        for t in range(run):
                            segment[t] = row[i * run + t]
        origin += width * n
