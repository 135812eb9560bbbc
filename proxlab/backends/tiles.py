"""Copies of groups that are no rows, some neighbours at once, and back: square tiles of a matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ROOM", "TILE", "from_rows", "over_tiles", "to_rows"]

#: Groups copied together at most, and rows of a tile.
TILE, HEIGHT = 64, 64
#: The distance of a tile's rows in the first cache: no power of two, whose columns would evict each other.
PITCH = TILE + 1
#: Elements of scratch.
ROOM = HEIGHT * PITCH


class Tile(NamedTuple):
    """Where a tile lies: ``height`` runs of ``run`` elements of each of ``width`` groups.

    Attributes
    ----------
    place, stride : int
        Where it begins in the array, and from one run of a group to the next.
    row, n : int
        Where it begins among the rows, and from one row to the next.
    """

    place: int
    stride: int
    row: int
    n: int
    width: int
    height: int
    run: int


def over_tiles(source: Any, out: Any, shape: Any, across: int, begin: int, finish: int, room: Any) -> None:
    """Move ``begin … finish - 1`` of ``across`` neighbouring groups between an array and its first rows.

    Tiles use every cache line that they fetch; they are turned in ``room``, in which they stay in the
    first cache whatever the stride. ``shape`` is (outer kept, outer reduced, inner kept, inner reduced).
    """
    rows, inner, run = shape[1], shape[2], shape[3]
    stride, n = inner * run, rows * run
    tiles = (inner + across - 1) // across
    high = max(8, HEIGHT // run)
    first_row = 0
    for k in range(begin, finish):
        outer, first = k // tiles, (k % tiles) * across
        width = min(across, inner - first)
        place = outer * rows * stride + first * run
        for top in range(0, rows, high):
            height = min(high, rows - top)
            tile = Tile(place + top * stride, stride, first_row + top * run, n, width, height, run)
            move(source, out, tile, room)
        first_row += width * n


def to_rows(source: Any, out: Any, t: Tile, room: Any) -> None:
    """Copy a tile of an array to rows."""
    if t.run == 1:
        for i in range(t.height):
            segment = source[t.place + i * t.stride : t.place + i * t.stride + t.width]
            turned = room[i * PITCH : i * PITCH + t.width]
            for k in range(t.width):
                turned[k] = segment[k]
        for k in range(t.width):
            row = out[t.row + k * t.n : t.row + k * t.n + t.height]
            column = room[k:]
            for i in range(t.height):
                row[i] = column[i * PITCH]
    else:
        for k in range(t.width):
            row = out[t.row + k * t.n : t.row + k * t.n + t.height * t.run]
            for i in range(t.height):
                o = t.place + k * t.run + i * t.stride
                segment = source[o : o + t.run]
                for j in range(t.run):
                    row[i * t.run + j] = segment[j]


def from_rows(source: Any, out: Any, t: Tile, room: Any) -> None:
    """Undo :func:`to_rows`."""
    if t.run == 1:
        for k in range(t.width):
            row = source[t.row + k * t.n : t.row + k * t.n + t.height]
            column = room[k:]
            for i in range(t.height):
                column[i * PITCH] = row[i]
        for i in range(t.height):
            segment = out[t.place + i * t.stride : t.place + i * t.stride + t.width]
            turned = room[i * PITCH : i * PITCH + t.width]
            for k in range(t.width):
                segment[k] = turned[k]
    else:
        for k in range(t.width):
            row = source[t.row + k * t.n : t.row + k * t.n + t.height * t.run]
            for i in range(t.height):
                o = t.place + k * t.run + i * t.stride
                segment = out[o : o + t.run]
                for j in range(t.run):
                    segment[j] = row[i * t.run + j]


# Set by the target: which way tiles go.
move: Any = to_rows
