"""The prox of Dask arrays: lazily, block by block where every group lies within a block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.groups import AxisLayout, Groups, Layout
from proxlab.penalties import Penalty
from proxlab.types import Array

__all__ = ["is_lazy", "prox_of_blocks"]


def is_lazy(x: object) -> bool:
    """Whether an array is one of Dask."""
    return bool(array_api_compat.is_dask_array(x))


def prox_of_blocks(
    prox: Callable[..., Array], penalty: Penalty, x: Any, step: Any, metric: Any, **options: Any
) -> Any:
    """Return the prox of a Dask array as a Dask array.

    Parameters
    ----------
    prox : callable
        What is called for each block.
    penalty, x, step, metric
        As :func:`proxlab.prox` takes them; step and metric may be arrays of NumPy or Dask.
    **options
        Further arguments of ``prox``.

    Raises
    ------
    ValueError
        If blocks cut groups of indices that the penalty takes whole; the message says how to rechunk.
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty: must be a proxlab penalty such as GroupLasso(0.1), got {penalty!r}")
    if any(n != n for sizes in x.chunks for n in sizes):
        raise ValueError("x: must have chunks of known sizes; call compute_chunk_sizes() first")
    layout = penalty.groups.layout(tuple(x.shape))
    steps, weights = _per_group("step", step, layout), penalty.group_weights(layout)
    metric = _metric(metric, x)
    by_axes = isinstance(layout, AxisLayout) and layout.shape == tuple(x.shape)
    if by_axes:
        assert isinstance(layout, AxisLayout)
        cut = [axis for axis in layout.reduced if len(x.chunks[axis]) > 1]
        if not cut:
            return _by_axes(prox, penalty, x, steps, weights, metric, layout, options)
    else:
        first = _first_blocks(layout, x)
        if first is not None:
            return _by_index(prox, penalty, x, steps, weights, metric, layout, first, options)
    from proxlab import chunks

    if chunks.by_sums(penalty):
        return chunks.prox_of_cut_groups(penalty, x, steps, weights, metric, **options)
    if not by_axes:
        raise ValueError(
            f"x: blocks cut groups of indices, which {type(penalty).__name__} takes whole; rechunk first so "
            "that a block of the first axis holds whole groups, for example x.rechunk(-1)"
        )
    # In blocks of whole groups, and back.
    own = x.rechunk({axis: -1 if axis in cut else "auto" for axis in range(x.ndim)})
    return prox_of_blocks(prox, penalty, own, step, metric, **options).rechunk(x.chunks)


def _per_group(name: str, values: Any, layout: Layout) -> Any:
    """A number, or an array of NumPy with one for each group."""
    if is_lazy(values):
        values = values.compute()
    if np.ndim(values) == 0:
        return values
    if not isinstance(values, np.ndarray) or values.shape != (layout.n_groups,):
        raise ValueError(
            f"{name}: must be a number or have shape (n_groups,) = ({layout.n_groups},), got "
            f"{np.shape(values)}"
        )
    return values


def _metric(metric: Any, x: Any) -> Any:
    """A number, None, or a Dask array with the chunks of ``x``."""
    import dask.array as da

    if metric is None or np.ndim(metric) == 0:
        return metric
    if not is_lazy(metric) and not isinstance(metric, np.ndarray):
        raise TypeError(f"metric: must be an array of Dask or NumPy beside x, got {type(metric).__name__}")
    try:
        return da.broadcast_to(da.asarray(metric), x.shape).rechunk(x.chunks)
    except ValueError:
        raise ValueError(
            f"metric: must be broadcastable to the shape of x, {tuple(x.shape)}, got {tuple(metric.shape)}"
        ) from None


def _by_axes(
    prox: Callable[..., Array],
    penalty: Penalty,
    x: Any,
    steps: Any,
    weights: npt.NDArray[Any],
    metric: Any,
    layout: AxisLayout,
    options: dict[str, Any],
) -> Any:
    """Groups that reduce axes, which are not cut."""
    shape = tuple(x.shape[a] if a in layout.kept else 1 for a in range(x.ndim))
    own_weights = penalty.weights is not None and not isinstance(penalty.weights, str)
    rows = {"step": steps, "weights": weights if own_weights else None}
    # One entry for each group, at the group's place among the blocks.
    placed = {name: a.reshape(shape) for name, a in rows.items() if np.ndim(a)}
    starts = [np.concatenate([[0], np.cumsum(c)]) for c in x.chunks]
    # The shape in which groups view the whole array is not that of a block.
    axes = Groups.over(layout.reduced)
    of_block: dict[str, Any] = {} if penalty.groups == axes else {"groups": axes}

    def solve(block: Array, *more: Array, block_id: tuple[int, ...] = ()) -> Array:
        where = tuple(
            slice(starts[a][k], starts[a][k + 1]) if a in layout.kept else slice(None)
            for a, k in enumerate(block_id)
        )
        part = {name: a[where].reshape(-1) for name, a in placed.items()}
        changes = of_block | ({"weights": part["weights"]} if "weights" in part else {})
        h = replace(penalty, **changes)
        return prox(h, block, part.get("step", steps), metric=more[0] if more else metric, **options)

    return _map(solve, x, metric)


def _by_index(
    prox: Callable[..., Array],
    penalty: Penalty,
    x: Any,
    steps: Any,
    weights: npt.NDArray[Any],
    metric: Any,
    layout: Layout,
    first: npt.NDArray[np.int64],
    options: dict[str, Any],
) -> Any:
    """Groups of indices into the flattened array, each within the block ``first``."""
    indptr, indices = layout.csr()
    ends = _ends(x)
    sizes = np.diff(indptr)
    own_weights = penalty.weights is not None and not isinstance(penalty.weights, str)

    def solve(block: Array, *more: Array, block_id: tuple[int, ...] = ()) -> Array:
        k = block_id[0]
        here = np.flatnonzero(first == k)
        offset = int(ends[k] - block.size)
        lengths = sizes[here]
        inner = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(indptr[here] - inner[:-1], lengths) + np.arange(inner[-1])
        changes: dict[str, Any] = {"groups": Groups.csr(inner, indices[source] - offset)}
        if own_weights:
            changes["weights"] = weights[here]
        step = steps[here] if np.ndim(steps) else steps
        return prox(replace(penalty, **changes), block, step, metric=more[0] if more else metric, **options)

    return _map(solve, x, metric)


def _ends(x: Any) -> npt.NDArray[np.int64]:
    """Where every block of the first axis ends in the flattened array."""
    return np.cumsum(x.chunks[0]) * int(np.prod(x.shape[1:], dtype=np.int64))


def _first_blocks(layout: Layout, x: Any) -> npt.NDArray[np.int64] | None:
    """Return the block of the first axis that holds each group; None where blocks cut some."""
    if any(len(c) > 1 for c in x.chunks[1:]):
        return None
    indptr, indices = layout.csr()
    block_of = np.searchsorted(_ends(x), indices, side="right")
    sizes = np.diff(indptr)
    filled = np.flatnonzero(sizes)
    first = np.zeros(len(sizes), dtype=np.int64)
    if len(filled):
        first[filled] = np.minimum.reduceat(block_of, indptr[filled])
        last = np.maximum.reduceat(block_of, indptr[filled])
        if (first[filled] != last).any():
            return None
    return first


def _map(solve: Callable[..., Array], x: Any, metric: Any) -> Any:
    arrays = [metric] if is_lazy(metric) else []
    return x.map_blocks(solve, *arrays, dtype=x.dtype, meta=np.empty((0,) * x.ndim, dtype=x.dtype))
