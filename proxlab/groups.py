"""Which elements of an array belong together: the groups that a structured penalty acts on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.namespaces import namespace
from proxlab.types import Array
from proxlab.values import check_plain

__all__ = ["AxisLayout", "Groups", "IndexLayout", "Layout"]

IntArray = npt.NDArray[np.int64]
ConvKind = Literal["filter", "channel", "kernel"]


@dataclass(frozen=True)
class AxisLayout:
    """Groups that reduce some axes of an array of a known shape.

    Attributes
    ----------
    shape : tuple of int
        Shape in which the axes are counted: that of the array, or another with as many elements.
    reduced, kept : tuple of int
        The axes inside a group, and the axes that number the groups (C order).
    """

    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return math.prod(self.shape[a] for a in self.kept)

    @property
    def group_size(self) -> int:
        """Number of elements of each group."""
        return math.prod(self.shape[a] for a in self.reduced)

    def sizes(self) -> IntArray:
        """Number of elements of each group, shape (n_groups,)."""
        return np.full(self.n_groups, self.group_size, dtype=np.int64)

    @property
    def free(self) -> IntArray:
        """Flat indices of the elements in no group: none."""
        return np.zeros(0, np.int64)

    def csr(self) -> tuple[IntArray, IntArray]:
        """Groups as ``(indptr, indices)`` into the C-order flattened array."""
        flat = np.arange(math.prod(self.shape), dtype=np.int64).reshape(self.shape)
        indices = flat.transpose(self.kept + self.reduced).reshape(-1)
        indptr = np.arange(self.n_groups + 1, dtype=np.int64) * self.group_size
        return indptr, indices

    def canonical_shape(self) -> tuple[int, int, int, int] | None:
        """Merge axes to (outer kept, outer reduced, inner kept, inner reduced); None if that is too few."""
        runs: list[tuple[bool, int]] = []
        for axis, size in enumerate(self.shape):
            if size == 1:
                continue
            reduced = axis in self.reduced
            if runs and runs[-1][0] == reduced:
                runs[-1] = (reduced, runs[-1][1] * size)
            else:
                runs.append((reduced, size))
        shape, k = [1, 1, 1, 1], 4
        for reduced, size in reversed(runs):
            k -= 1
            if (k % 2 == 1) != reduced:
                k -= 1
            if k < 0:
                return None
            shape[k] = size
        if shape[1] == 1:
            # (kept, 1, kept, reduced): one axis of groups.
            shape = [shape[0] * shape[2], 1, 1, shape[3]]
        return shape[0], shape[1], shape[2], shape[3]

    def split(self, x: Array, fill: float) -> list[Array]:
        """Arrange an array as matrices with a group per row; ``fill`` pads ragged groups."""
        del fill
        xp = namespace(x)
        viewed = xp.permute_dims(xp.reshape(x, self.shape), self.kept + self.reduced)
        return [xp.reshape(viewed, (self.n_groups, self.group_size))]

    def split_groups(self, values: Array) -> list[Array]:
        """Arrange one value per group to go with the matrices of :meth:`split`."""
        return [values]

    def join(self, rows: list[Array], free: Array) -> Array:
        """Undo :meth:`split`; the array's shape is that of ``free``."""
        xp = namespace(rows[0])
        order = self.kept + self.reduced
        inverse = tuple(order.index(a) for a in range(len(order)))
        viewed = xp.permute_dims(xp.reshape(rows[0], tuple(self.shape[a] for a in order)), inverse)
        return xp.reshape(viewed, tuple(free.shape))

    def join_groups(self, values: list[Array]) -> Array:
        """Undo :meth:`split_groups`."""
        return values[0]


@dataclass(frozen=True, eq=False)
class IndexLayout:
    """Groups given by indices into the C-order flattened array.

    Attributes
    ----------
    shape : tuple of int
        Shape of the array.
    indptr : ndarray of int64, shape (n_groups + 1,)
    indices : ndarray of int64
        Group ``g`` is ``flat[indices[indptr[g]:indptr[g + 1]]]``.
    """

    shape: tuple[int, ...]
    indptr: IntArray
    indices: IntArray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.indptr) - 1

    def sizes(self) -> IntArray:
        """Number of elements of each group, shape (n_groups,)."""
        return np.diff(self.indptr)

    def csr(self) -> tuple[IntArray, IntArray]:
        """Groups as ``(indptr, indices)`` into the C-order flattened array."""
        return self.indptr, self.indices

    @cached_property
    def free(self) -> IntArray:
        """Flat indices of the elements in no group."""
        outside = np.ones(math.prod(self.shape), dtype=bool)
        outside[self.indices] = False
        return np.flatnonzero(outside)

    @cached_property
    def _buckets(self) -> list[IntArray]:
        """Group numbers by size class (powers of two; one at least): padding at most doubles the work."""
        sizes = self.sizes()
        classes = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
        return [np.flatnonzero(classes == k) for k in np.unique(classes)] or [np.zeros(0, np.int64)]

    @cached_property
    def _gather(self) -> list[IntArray]:
        """Per bucket the flat index of every element of its matrix; the array's size stands for padding."""
        sizes = self.sizes()
        size = math.prod(self.shape)
        matrices = []
        for ids in self._buckets:
            column = np.arange(sizes[ids].max(initial=0))
            inside = column < sizes[ids, None]
            source = np.where(inside, self.indptr[ids, None] + column, 0)
            indices = self.indices[source] if len(self.indices) else source
            matrices.append(np.where(inside, indices, size))
        return matrices

    def split(self, x: Array, fill: float) -> list[Array]:
        """Arrange an array as matrices with a group per row; ``fill`` pads ragged groups."""
        xp = namespace(x)
        device = array_api_compat.device(x)
        padding = xp.full((1,), fill, dtype=x.dtype, device=device)
        flat = xp.concat([xp.reshape(x, (-1,)), padding])
        return [
            xp.reshape(xp.take(flat, xp.asarray(m.reshape(-1), device=device), axis=0), m.shape)
            for m in self._gather
        ]

    def split_groups(self, values: Array) -> list[Array]:
        """Arrange one value per group to go with the matrices of :meth:`split`."""
        xp = namespace(values)
        device = array_api_compat.device(values)
        return [xp.take(values, xp.asarray(ids, device=device), axis=0) for ids in self._buckets]

    def join(self, rows: list[Array], free: Array) -> Array:
        """Undo :meth:`split`; elements in no group come from ``free``."""
        xp = namespace(free)
        size = math.prod(self.shape)
        source = np.arange(size)
        offset = size
        for m in self._gather:
            inside = m < size
            source[m[inside]] = offset + np.flatnonzero(inside)
            offset += m.size
        stacked = xp.concat([xp.reshape(a, (-1,)) for a in (free, *rows)])
        taken = xp.take(stacked, xp.asarray(source, device=array_api_compat.device(free)), axis=0)
        return xp.reshape(taken, self.shape)

    def join_groups(self, values: list[Array]) -> Array:
        """Undo :meth:`split_groups`."""
        xp = namespace(*values)
        order = np.argsort(np.concatenate(self._buckets), kind="stable")
        stacked = xp.concat(values)
        return xp.take(stacked, xp.asarray(order, device=array_api_compat.device(stacked)), axis=0)


Layout = AxisLayout | IndexLayout


@lru_cache(maxsize=256)
def _axis_layout(shape: tuple[int, ...], axes: tuple[int, ...]) -> AxisLayout:
    ndim = len(shape)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"groups: axis {a} is out of range for an array of {ndim} dimensions, shape {shape}"
            )
    reduced = tuple(sorted(a % ndim for a in axes))
    if len(set(reduced)) != len(reduced):
        raise ValueError(f"groups: axes {axes} name the same axis twice for an array of {ndim} dimensions")
    kept = tuple(a for a in range(ndim) if a not in reduced)
    return AxisLayout(shape, reduced, kept)


class Groups:
    """A partition of (some of) the elements of an array into groups.

    Make one with :meth:`over`, :meth:`csr`, :meth:`labels` or :meth:`conv`; it is bound to a shape when it is
    used, so that one object serves arrays of many shapes. Elements in no group are not penalised. Groups are
    immutable.

    Examples
    --------
    >>> import proxlab as pl
    >>> pl.Groups.over(0).n_groups((3, 5))  # norms reduce the rows: five columns
    5
    >>> pl.Groups.conv("channel").sizes((8, 2, 3, 3))
    array([72, 72])
    """

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Bind the groups to an array's shape.

        Parameters
        ----------
        shape : tuple of int
            Shape of the array.

        Returns
        -------
        AxisLayout or IndexLayout

        Raises
        ------
        ValueError
            If the groups do not fit the shape.
        """
        raise TypeError("make groups with Groups.over, Groups.csr, Groups.labels or Groups.conv")

    def n_groups(self, shape: tuple[int, ...]) -> int:
        """Count the groups of an array of the given ``shape``."""
        return self.layout(tuple(shape)).n_groups

    def sizes(self, shape: tuple[int, ...]) -> IntArray:
        """Count the elements of each group of an array of the given ``shape``; returns shape (n_groups,)."""
        return self.layout(tuple(shape)).sizes()

    def indices(self, shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
        """Express the groups as ``(indptr, indices)`` into the C-order flattened array of this ``shape``."""
        return self.layout(tuple(shape)).csr()

    @staticmethod
    def over(axis: int | tuple[int, ...], shape: tuple[int, ...] | None = None) -> Groups:
        """Make groups whose norm reduces the given axes, as ``axis`` in :func:`numpy.linalg.norm`.

        Parameters
        ----------
        axis : int or tuple of int
            Axes inside a group; the other axes number the groups in C order. ``()`` makes every element a
            group.
        shape : tuple of int, optional
            View the array in this shape first, in C order, as :func:`numpy.reshape` does; one entry may be
            -1. Then ``axis`` counts the axes of that view. By default the array's own shape.

        Returns
        -------
        Groups

        Examples
        --------
        The heads of an attention layer, in the stacked projection to queries, keys and values:

        >>> import proxlab as pl
        >>> heads, size, width = 4, 8, 32
        >>> pl.Groups.over((0, 2, 3), shape=(3, heads, size, width)).sizes((3 * heads * size, width))
        array([768, 768, 768, 768])
        """
        axes = _tuple_of_integers("axis", axis if isinstance(axis, (tuple, list)) else (axis,))
        if shape is None:
            return _Over(axes)
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape: must be a tuple of integers or None, got {shape!r}")
        view = _tuple_of_integers("shape", shape)
        if any(n < -1 for n in view) or view.count(-1) > 1:
            raise ValueError(f"shape: must have nonnegative entries, at most one of them -1, got {view}")
        if -1 not in view:
            # The axes can be judged before an array is known.
            _axis_layout(view, axes)
        return _Over(axes, view)

    @staticmethod
    def csr(indptr: npt.ArrayLike, indices: npt.ArrayLike | None = None) -> Groups:
        """Make ragged groups from offsets and, optionally, indices into the C-order flattened array.

        Parameters
        ----------
        indptr : array_like of int, shape (n_groups + 1,)
            Nondecreasing offsets that start at 0.
        indices : array_like of int, shape (indptr[-1],), optional
            Group ``g`` is ``flat[indices[indptr[g]:indptr[g + 1]]]``; each element at most once. By default
            the groups are contiguous: ``flat[indptr[g]:indptr[g + 1]]``.

        Returns
        -------
        Groups
        """
        ptr = _integers("indptr", indptr)
        if len(ptr) == 0 or ptr[0] != 0:
            raise ValueError(f"indptr: must start with 0, got {ptr[:3].tolist()}")
        steps = np.diff(ptr)
        if np.any(steps < 0):
            k = int(np.argmax(steps < 0))
            raise ValueError(
                f"indptr: must be sorted, but indptr[{k}] = {ptr[k]} > indptr[{k + 1}] = {ptr[k + 1]}"
            )
        if indices is None:
            return _Index(ptr, np.arange(ptr[-1], dtype=np.int64))
        idx = _integers("indices", indices)
        if len(idx) != ptr[-1]:
            raise ValueError(f"indices: must have indptr[-1] = {ptr[-1]} entries, got {len(idx)}")
        if len(idx) and idx.min() < 0:
            raise ValueError(f"indices: must be nonnegative, got {idx.min()}")
        if len(idx):
            counts = np.bincount(idx)
            if counts.max() > 1:
                raise ValueError(
                    f"indices: groups must not overlap, but {int(np.argmax(counts > 1))} is named twice"
                )
        return _Index(ptr, idx)

    @staticmethod
    def labels(labels: npt.ArrayLike) -> Groups:
        """Make groups from an integer label per element; -1 marks a free element.

        Parameters
        ----------
        labels : array_like of int
            Of the array's shape. Labels 0 … max number the groups; a label that does not occur is an empty
            group.

        Returns
        -------
        Groups
        """
        check_plain("labels", labels)
        a = np.asarray(labels)
        flat = _integers("labels", a.reshape(-1))
        if len(flat) and flat.min() < -1:
            raise ValueError(f"labels: must be at least -1 (free), got {flat.min()}")
        n_groups = int(flat.max()) + 1 if len(flat) else 0
        order = np.argsort(flat, kind="stable")
        counts = np.bincount(flat + 1, minlength=n_groups + 1)
        indptr = np.concatenate([[0], np.cumsum(counts[1:])]).astype(np.int64)
        return _Index(indptr, order[counts[0] :].astype(np.int64), a.shape)

    @staticmethod
    def conv(kind: ConvKind) -> Groups:
        """Make groups of a convolution's weight of shape ``(out, in, *kernel)``, 3 to 5 dimensions.

        Parameters
        ----------
        kind : {"filter", "channel", "kernel"}
            One group per output filter, per input channel, or per (output, input) pair.

        Returns
        -------
        Groups
        """
        if kind not in ("filter", "channel", "kernel"):
            raise ValueError(f'conv: kind must be "filter", "channel" or "kernel", got {kind!r}')
        return _Conv(kind)


def _tuple_of_integers(name: str, values: tuple[Any, ...] | list[Any]) -> tuple[int, ...]:
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, np.integer)):
            raise TypeError(f"{name}: must be an integer or a tuple of integers, got {v!r}")
    return tuple(int(v) for v in values)


def _integers(name: str, values: npt.ArrayLike) -> IntArray:
    check_plain(name, values)
    a: npt.NDArray[Any] = np.asarray(values)
    if a.ndim != 1:
        raise ValueError(f"{name}: must be one-dimensional, got shape {a.shape}")
    if a.size and a.dtype.kind not in "iu":
        raise TypeError(f"{name}: must hold integers, got dtype {a.dtype}")
    out = a.astype(np.int64)
    out.flags.writeable = False
    return out


@dataclass(frozen=True)
class _Over(Groups):
    axes: tuple[int, ...]
    view: tuple[int, ...] | None = None

    def layout(self, shape: tuple[int, ...]) -> Layout:
        if self.view is None:
            return _axis_layout(tuple(shape), self.axes)
        size, known = math.prod(shape), math.prod(n for n in self.view if n != -1)
        missing = size // known if known else 0
        view = tuple(missing if n == -1 else n for n in self.view)
        if math.prod(view) != size:
            raise ValueError(
                f"groups: an array of shape {tuple(shape)} with {size} elements cannot be viewed in shape "
                f"{self.view}"
            )
        return _axis_layout(view, self.axes)

    def __repr__(self) -> str:
        view = "" if self.view is None else f", shape={self.view}"
        return f"Groups.over({self.axes[0] if len(self.axes) == 1 else self.axes}{view})"


@dataclass(frozen=True)
class _Conv(Groups):
    kind: ConvKind

    def layout(self, shape: tuple[int, ...]) -> Layout:
        ndim = len(shape)
        if not 3 <= ndim <= 5:
            raise ValueError(
                f"groups: Groups.conv({self.kind!r}) needs a weight of shape (out, in, *kernel) "
                f"with 3 to 5 dimensions, got shape {shape}"
            )
        axes = {"filter": range(1, ndim), "channel": (0, *range(2, ndim)), "kernel": range(2, ndim)}[
            self.kind
        ]
        return _axis_layout(tuple(shape), tuple(axes))

    def __repr__(self) -> str:
        return f"Groups.conv({self.kind!r})"


@dataclass(frozen=True, eq=False)
class _Index(Groups):
    indptr: IntArray
    indices_: IntArray
    shape: tuple[int, ...] | None = None

    def layout(self, shape: tuple[int, ...]) -> Layout:
        shape = tuple(shape)
        if self.shape is not None and shape != self.shape:
            raise ValueError(f"groups: the labels have shape {self.shape}, but the array has shape {shape}")
        size = math.prod(shape)
        if len(self.indices_) and (last := int(self.indices_.max())) >= size:
            raise ValueError(
                f"groups: index {last} is out of range for an array of {size} elements, shape {shape}"
            )
        return IndexLayout(shape, self.indptr, self.indices_)

    def __repr__(self) -> str:
        return f"Groups.csr(<{len(self.indptr) - 1} groups, {len(self.indices_)} elements>)"
