"""Which groups of arrays are not zero: of all arrays in memory in one compiled call.

Kernels read an element as a word, of which all bits but the sign tell whether it is zero, and stop at the
first sign of life: a group that is zero is read whole, of others hardly anything. Linked as
:mod:`proxlab.optim.fused_elements` is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.arguments import compiles
from proxlab.backends import threads
from proxlab.backends.addresses import address
from proxlab.groups import AxisLayout, Groups, Layout
from proxlab.namespaces import namespace, to_numpy
from proxlab.optim.fused_elements import UINT
from proxlab.optim.fused_many import elements
from proxlab.types import Array

__all__ = ["living_groups"]

Living = npt.NDArray[np.bool_]

# Neighbouring groups that are read side by side.
TILE = 256
# After how many elements of a group, or rows of neighbours, is looked whether all is known.
AHEAD = 32
_WORDS: dict[int, Any] = {2: np.uint16(1), 4: np.uint32(1), 8: np.uint64(1)}


class Lie(NamedTuple):
    """How groups lie in memory, with strides in elements.

    Attributes
    ----------
    outer, kept : int
        Sizes of the axes that number the groups.
    far, near : int
        Sizes of the axes inside a group, in the order in which they lie.
    outer_stride, kept_stride, far_stride, near_stride : int
    """

    outer: int
    kept: int
    far: int
    near: int
    outer_stride: int
    kept_stride: int
    far_stride: int
    near_stride: int


def lie_at(table: Any, k: int) -> Lie:
    """Return how the groups of array ``k`` lie."""
    own = table[k]
    return Lie(own[0], own[1], own[2], own[3], own[4], own[5], own[6], own[7])


def united(words: Any, o: Any, n: Any, stride: Any) -> Any:
    """Return the bits that any of ``n`` words has."""
    bits = words[o] ^ words[o]
    for i in range(n):
        bits |= words[o + i * stride]
    return bits


def lives(words: Any, o: int, lie: Lie, mask: Any) -> bool:
    """Say whether the group at word ``o`` is not zero."""
    for i in range(lie.far):
        for first in range(0, lie.near, AHEAD):
            here = o + i * lie.far_stride + first * lie.near_stride
            n = min(AHEAD, lie.near - first)
            if united(words, UINT(here), UINT(n), UINT(lie.near_stride)) & mask != 0:
                return True
    return False


def unite_row(words: Any, o: Any, n: Any, stride: Any, bits: Any) -> None:
    """Add the bits of a word of each of ``n`` neighbours."""
    for j in range(n):
        bits[j] |= words[o + j * stride]


def all_live(bits: Any, n: Any, mask: Any) -> bool:
    """Say whether all of ``n`` neighbours have some bit."""
    zeros = 0
    for j in range(n):
        zeros += bits[j] & mask == 0
    return zeros == 0


def unite_rows(words: Any, o: int, lie: Lie, n: int, mask: Any, bits: Any) -> None:
    """Unite the bits of each of ``n`` neighbours, the first at word ``o``, as long as one may be zero."""
    rows = 0
    for i in range(lie.far):
        for r in range(lie.near):
            if rows % AHEAD == 0 and all_live(bits, UINT(n), mask):
                return
            here = o + i * lie.far_stride + r * lie.near_stride
            unite_row(words, UINT(here), UINT(n), UINT(lie.kept_stride), bits)
            rows += 1


def mark_tile(words: Any, o: int, lie: Lie, n: int, mask: Any, bits: Any, alive: Any) -> None:
    """Say which of ``n`` neighbours, the first at word ``o``, are not zero."""
    if lie.near_stride < lie.kept_stride:
        for j in range(n):
            alive[j] = lives(words, o + j * lie.kept_stride, lie, mask)
        return
    bits[:n] = 0
    unite_rows(words, o, lie, n, mask, bits)
    for j in range(n):
        alive[j] = bits[j] & mask != 0


def mark_living(
    addresses: Any, table: Any, tiles: Any, places: Any, begin: int, finish: int, mask: Any, bits: Any,
    alive: Any,
) -> None:  # fmt: skip
    """Say of the groups of tiles ``begin … finish - 1`` whether they are not zero.

    ``tiles`` has where those of each array begin and those of the last end, ``places`` its first group.
    """
    k = 0
    for tile in range(begin, finish):
        while tiles[k + 1] <= tile:
            k += 1
        lie = lie_at(table, k)
        per_row = -(-lie.kept // TILE)
        outer, first = (tile - tiles[k]) // per_row, (tile - tiles[k]) % per_row * TILE
        n = min(TILE, lie.kept - first)
        extent = 1 + (lie.outer - 1) * lie.outer_stride + (lie.kept - 1) * lie.kept_stride
        extent += (lie.far - 1) * lie.far_stride + (lie.near - 1) * lie.near_stride
        o, here = outer * lie.outer_stride + first * lie.kept_stride, places[k] + outer * lie.kept + first
        mark_tile(elements(addresses[k], extent, mask), o, lie, n, mask, bits, alive[here : here + n])


@lru_cache(maxsize=1)
def _kernel() -> Any:
    from proxlab.backends.compiling import outermost
    from proxlab.optim.fused_kernels import TARGET

    return outermost(TARGET, mark_living, {})


@lru_cache(maxsize=512)
def _lie(layout: AxisLayout, shape: tuple[int, ...], strides: tuple[int, ...]) -> Lie | None:
    """Return how groups lie in an array; None where it takes more axes to tell."""
    if layout.shape != shape:
        if strides != _in_order(shape):
            return None
        strides = _in_order(layout.shape)
    # Inside a group the order does not matter.
    inside = sorted(((layout.shape[a], strides[a]) for a in layout.reduced), key=lambda axis: -axis[1])
    kept, reduced = _merged([(layout.shape[a], strides[a]) for a in layout.kept]), _merged(inside)
    axes = [*kept, *reduced]
    if len(kept) > 2 or len(reduced) > 2 or any(stride <= 0 for _, stride in axes):
        return None
    # An axis of one element has no neighbours.
    alone = 1, 1 + max((size * stride for size, stride in axes), default=0)
    (outer, outer_stride), (inner, inner_stride) = [alone, alone, *kept][-2:]
    (far, far_stride), (near, near_stride) = [alone, alone, *reduced][-2:]
    return Lie(outer, inner, far, near, outer_stride, inner_stride, far_stride, near_stride)


def _in_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of an array in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _merged(axes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge neighbouring axes, given by size and stride, that are walked as one."""
    found: list[tuple[int, int]] = []
    for size, stride in axes:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = found[-1][0] * size, stride
        else:
            found.append((size, stride))
    return found


class _Memory(NamedTuple):
    """Where an array lies: its strides in elements, and the bytes of an element."""

    address: int
    strides: tuple[int, ...]
    width: int


def _memory(a: Array) -> _Memory | None:
    """Return where an array lies; None where that is not all that there is to know of it."""
    if array_api_compat.is_torch_array(a):
        # One of another class may mean something by its memory, and one that is kept elsewhere has none.
        plain = type(a).__module__ == "torch" and a.is_cpu and a.is_floating_point()
        if not (plain and str(a.layout) == "torch.strided" and a.element_size() in _WORDS and address(a)):
            return None
        return _Memory(address(a), a.stride(), a.element_size())
    if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.itemsize not in _WORDS:
        return None
    strides = tuple(n // a.itemsize for n in a.strides)
    whole = all(n * a.itemsize == own for n, own in zip(strides, a.strides, strict=True))
    plain = whole and a.flags.aligned and a.dtype.isnative
    return _Memory(address(a), strides, a.itemsize) if plain else None


class _Known(NamedTuple):
    """An array that a kernel takes: its place among all, and how its groups lie."""

    place: int
    address: int
    lie: Lie


def living_groups(pairs: Sequence[tuple[Groups, Array]]) -> list[Living]:
    """Return which groups of arrays are not zero, an array of shape (n_groups,) in NumPy for each."""
    found: list[Any] = [None] * len(pairs)
    compiled = compiles()
    alike: dict[int, list[_Known]] = {}
    for k, (groups, a) in enumerate(pairs):
        layout = groups.layout(tuple(a.shape))
        memory = _memory(a) if compiled and isinstance(layout, AxisLayout) else None
        lie = None if memory is None else _lie(layout, tuple(a.shape), memory.strides)
        if memory is None or lie is None:
            found[k] = _any(layout, a)
        else:
            alike.setdefault(memory.width, []).append(_Known(k, memory.address, lie))
    for width, some in alike.items():
        places = np.cumsum([0, *(known.lie.outer * known.lie.kept for known in some)], dtype=np.int64)
        alive = _marked(some, places, _WORDS[width])
        for known, begin, end in zip(some, places, places[1:], strict=False):
            found[known.place] = alive[begin:end]
    return found


def _marked(some: Sequence[_Known], places: npt.NDArray[np.int64], one: Any) -> Living:
    """Say of all groups of arrays of one width whether they are not zero."""
    lies = np.array([known.lie for known in some], np.int64)
    addresses = np.array([known.address for known in some], np.int64)
    outer, kept = lies[:, 0], lies[:, 1]
    tiles = np.cumsum([0, *(outer * -(-kept // TILE))], dtype=np.int64)
    alive, kernel = np.empty(int(places[-1]), np.bool_), _kernel()
    mask = ~(one << type(one)(8 * one.itemsize - 1))

    def mark(begin: int, finish: int) -> int:
        kernel(addresses, lies, tiles, places, begin, finish, mask, np.empty(TILE, one.dtype), alive)
        return -1

    threads.run(mark, int(tiles[-1]), int(lies[:, :4].prod(axis=1).sum()))
    return alive


def _any(layout: Layout, w: Array) -> Living:
    """Return which groups of an array of any namespace are not zero."""
    xp, rows = namespace(w), layout.split(w, 0.0)
    if not rows:
        return np.zeros(0, np.bool_)
    return to_numpy(layout.join_groups([xp.any(matrix != 0, axis=1) for matrix in rows]))
