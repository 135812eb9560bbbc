"""The groups of a part of an array: of a box of it, as a process or a chunk has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from proxlab.groups import AxisLayout, Groups, IntArray, Layout

__all__ = ["Part", "coordinate", "part_of_box", "ravel"]


class Part(NamedTuple):
    """The groups of a part of an array.

    Attributes
    ----------
    layout : Layout
        The groups that the part has elements of, bound to its shape.
    ids : array of int64 or None
        Which groups of the whole array they are; None for all, in order.
    n_groups : int
        Number of groups of the whole array.
    size : int
        Elements of a group of the whole array; of the largest, if they differ.
    """

    layout: Layout
    ids: IntArray | None
    n_groups: int
    size: int


def part_of_box(
    groups: Groups, shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> Part:
    """Find the groups of the elements in a box of an array.

    Parameters
    ----------
    groups : Groups
    shape : tuple of int
        Shape of the whole array.
    offsets, sizes : tuple of int
        Where the box begins, and its shape.
    """
    whole = groups.layout(shape)
    if isinstance(whole, AxisLayout):
        if whole.shape == shape:
            # Where a box begins along the groups makes no difference.
            offsets = tuple(o if a in whole.kept else 0 for a, o in enumerate(offsets))
        return _by_axes(whole, shape, offsets, sizes)
    indptr, indices = whole.csr()
    lengths = np.diff(indptr)
    flat = ravel([np.arange(o, o + n) for o, n in zip(offsets, sizes, strict=True)], shape)
    group_of = np.full(math.prod(shape), -1, np.int64)
    group_of[indices] = np.repeat(np.arange(len(lengths)), lengths)
    return _of_labels(group_of[flat], sizes, len(lengths), int(lengths.max(initial=0)))


@lru_cache(maxsize=4096)
def _by_axes(
    whole: AxisLayout, shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> Part:
    n_groups, size = whole.n_groups, whole.group_size
    if whole.shape == shape:
        ranges = [np.arange(offsets[a], offsets[a] + sizes[a]) for a in whole.kept]
        ids = ravel(ranges, [whole.shape[a] for a in whole.kept])
        return Part(AxisLayout(sizes, whole.reduced, whole.kept), ids, n_groups, size)
    # Groups of another view of the array: element by element.
    flat = ravel([np.arange(o, o + n) for o, n in zip(offsets, sizes, strict=True)], shape)
    return _of_labels(coordinate(flat, whole, whole.kept), sizes, n_groups, size)


def _of_labels(labels: IntArray, shape: tuple[int, ...], n_groups: int, size: int) -> Part:
    """Return the part whose elements have these groups; -1 is none."""
    ids, own = np.unique(labels, return_inverse=True)
    free = int(ids[:1].sum() == -1) if len(ids) else 0
    own = own.reshape(shape) - free
    return Part(Groups.labels(own).layout(shape), ids[free:], n_groups, size)


def coordinate(flat: IntArray, layout: AxisLayout, axes: Sequence[int]) -> IntArray:
    """Return where elements of flat indices are along some axes of a layout, counted in C order."""
    found = np.zeros_like(flat)
    for a in axes:
        found = found * layout.shape[a] + flat // math.prod(layout.shape[a + 1 :]) % layout.shape[a]
    return found


def ravel(ranges: Sequence[IntArray], shape: Sequence[int]) -> IntArray:
    """Return the flat index of every combination of the ranges, in C order."""
    found: IntArray = np.zeros(1, np.int64)
    for k, values in enumerate(ranges):
        found = (found[:, None] + values[None, :] * math.prod(shape[k + 1 :])).reshape(-1)
    return found
