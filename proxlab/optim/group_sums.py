"""Sums over the groups of arrays in memory, compiled: what a decision about groups needs, in one pass.

The kernels are plain Python, rebuilt and compiled as those of :mod:`proxlab.backends` are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from proxlab.backends import threads
from proxlab.backends.compiling import TARGET, outermost, read_only
from proxlab.scalar import any_order
from proxlab.types import Array

__all__ = ["GroupSums", "suffice", "sum_terms", "sums"]

#: Columns that are summed side by side.
BLOCK = 1024
#: Where no sum of squares has left the range, nor lost a term that counts; and quotients of some will not.
_LOW, _HIGH = 1e-150, 1e150
UINT: Any = np.uint64


class GroupSums(NamedTuple):
    """Sums over each group, of ``b = D x``: ``Σ b²``; and ``Σ x b``, ``Σ x²``, where they are asked for."""

    bb: Array
    xb: Array | None = None
    xx: Array | None = None


def dense(d: Any, i: Any) -> float:
    """Return the metric of an element."""
    return np.float64(d[i])


def unit(d: Any, i: Any) -> float:
    """Return the identity's."""
    return 1.0


# Set by the target: one of these.
at: Any = dense


@any_order
def sum_terms(v: float, m: float) -> Any:
    """Return ``b²``, ``v b``, ``v²`` of an element, ``b = m v``."""
    b = v * m
    return b * b, v * b, v * v


@any_order
def add_row(x: Any, d: Any, o: Any, n: Any) -> Any:
    """Sum over the ``n`` elements from ``o`` on; the last numbers count those not zero, and bad metrics."""
    bb, xb, xx, alive, bad = 0.0, 0.0, 0.0, 0, 0
    for i in range(n):
        v, m = np.float64(x[o + i]), at(d, o + i)
        s = sum_terms(v, m)
        bb, xb, xx, alive, bad = bb + s[0], xb + s[1], xx + s[2], alive + (v != 0.0), bad + (not m > 0.0)
    return bb, xb, xx, alive, bad


@any_order
def add_columns(x: Any, d: Any, o: Any, n: Any, total: Any, counts: Any) -> None:
    """As :func:`add_row`, a sum for each element."""
    for i in range(n):
        v, m = np.float64(x[o + i]), at(d, o + i)
        s = sum_terms(v, m)
        total[0, i] += s[0]
        total[1, i] += s[1]
        total[2, i] += s[2]
        counts[0, i] += v != 0.0
        counts[1, i] += not m > 0.0


def sum_rows(x: Any, d: Any, shape: Any, begin: int, finish: int, sums: Any, counts: Any) -> None:
    """Sum over contiguous groups."""
    n = UINT(shape[3])
    for group in range(begin, finish):
        bb, xb, xx, alive, bad = add_row(x, d, UINT(group) * n, n)
        sums[0, group], sums[1, group], sums[2, group] = bb, xb, xx
        counts[0, group], counts[1, group] = alive, bad


def sum_columns(
    x: Any, d: Any, shape: Any, per_block: int, begin: int, finish: int, sums: Any, counts: Any, total: Any,
    found: Any,
) -> None:  # fmt: skip
    """Sum over groups of other axes, a block of neighbours at once."""
    length, kept, run = shape[1], shape[2], shape[3]
    blocks = (kept + per_block - 1) // per_block
    for block in range(begin, finish):
        outer, first = block // blocks, (block % blocks) * per_block
        groups = min(per_block, kept - first)
        n = groups * run
        total[:, :n] = 0.0
        found[:, :n] = 0
        for i in range(length):
            o = ((outer * length + i) * kept + first) * run
            add_columns(x, d, UINT(o), UINT(n), total, found)
        for k in range(groups):
            group = outer * kept + first + k
            for s in range(3):
                t = 0.0
                for j in range(run):
                    t += total[s, k * run + j]
                sums[s, group] = t
            for s in range(2):
                c = 0
                for j in range(run):
                    c += found[s, k * run + j]
                counts[s, group] = c


@lru_cache(maxsize=4)
def _kernel(name: str, identity: bool) -> Any:
    kernels: dict[str, Any] = {"rows": sum_rows, "columns": sum_columns}
    return outermost(TARGET, kernels[name], {"at": unit if identity else dense})


def sums(x: Array, metric: Array | None, shape: tuple[int, int, int, int]) -> GroupSums | None:
    """Return the sums over groups, or None where they say too little.

    Parameters
    ----------
    x : array of float32 or float64
        In C order.
    metric : array or None
        As ``x``; None for the identity.
    shape : tuple of int
        As :meth:`proxlab.groups.AxisLayout.canonical_shape` returns it.

    Returns
    -------
    GroupSums or None
        None where a sum has left the range, or an element is not finite, or a metric is not above 0.
    """
    outer, length, kept, run = shape
    n = outer * kept
    values, counts = np.zeros((3, n)), np.zeros((2, n), np.int64)
    flat = read_only(x.reshape(-1))
    d = flat if metric is None else read_only(metric.reshape(-1))
    geometry = np.array(shape, np.int64)
    if length == 1 and kept == 1:
        kernel = _kernel("rows", metric is None)

        def rows(begin: int, finish: int) -> int:
            kernel(flat, d, geometry, begin, finish, values, counts)
            return -1

        threads.run(rows, outer, x.size)
    else:
        per_block = max(1, min(kept, BLOCK // run))
        kernel = _kernel("columns", metric is None)
        width = per_block * run

        def columns(begin: int, finish: int) -> int:
            total, found = np.empty((3, width)), np.empty((2, width), np.int64)
            kernel(flat, d, geometry, per_block, begin, finish, values, counts, total, found)
            return -1

        threads.run(columns, outer * -(-kept // per_block), x.size)
    return GroupSums(*values) if suffice(values, *counts) else None


def suffice(values: Array, alive: Array, bad: Array) -> bool:
    """Return whether sums of groups tell all: none has left the range, and no metric is not above 0.

    Parameters
    ----------
    values : array of shape (k, n_groups)
        The sums of a :class:`GroupSums`.
    alive, bad : array of shape (n_groups,)
        Not zero where some elements are not zero, and where some metrics are not above 0.
    """
    if not len(alive) or (values.min() > _LOW and values.max() < _HIGH):
        return not bad.any()
    plain = (alive == 0) & (values == 0.0).all(axis=0)
    plain |= ((values > _LOW) & (values < _HIGH)).all(axis=0)
    return bool(plain.all()) and not bad.any()
