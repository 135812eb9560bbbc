"""Compiled certificates for groups of NumPy arrays: rows where they lie, others in copies that stay in cache.

The source of the kernels is :mod:`proxlab.backends.certify_kernels`, and for elements alone
:mod:`proxlab.backends.certify_elements`; what they leave open is left to the array form.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab.arguments import Problem, as_host, as_tensor, check_finite, check_values
from proxlab.backends import arrays, threads
from proxlab.backends.certify_elements import certify_elements
from proxlab.backends.certify_kernels import Out, certify_rows
from proxlab.backends.compiling import alone, read_only
from proxlab.backends.copies import group_rows, over_copies
from proxlab.backends.records import Bounds
from proxlab.groups import AxisLayout, Layout
from proxlab.penalties import Penalty

__all__ = ["applies", "certify"]


def applies(penalty: Penalty, layout: Layout) -> bool:
    """Return whether a kernel knows the penalty.

    That is an elementwise part alone on groups of one element, and radial penalties without elementwise part
    that jump at zero and are flat from there, or have one or two sloped pieces and perhaps a flat end.
    """
    equation = penalty.equation
    if equation.flat:
        return penalty.threshold > 0 and isinstance(layout, AxisLayout) and not layout.reduced
    if equation.kernel != "radial" or not equation.compiled or penalty.threshold > 0 or penalty.nonnegative:
        return False
    pieces = equation.rows
    return len(pieces) <= 3 and bool(pieces[0, 1] > 0 or pieces[0, 2] > 0)


def _pieces(penalty: Penalty) -> Any:
    """Return the pieces as the kernel takes them."""
    pieces = penalty.equation.rows
    if pieces[0, 1] > 0.0:  # a jump at zero: a piece without extent before it
        pieces = np.concatenate([np.zeros((1, 4)), pieces])
    return pieces


def _extremes(d: Any, pieces: Any) -> tuple[Any, Any]:
    """Return the least and the greatest metric of each row, where the kernel needs them."""
    if not (pieces[:, 3] > 0.0).any():
        return np.zeros(1), np.zeros(1)
    return np.min(d, axis=1, initial=np.inf).astype(np.float64), np.max(d, axis=1, initial=0.0).astype(
        np.float64
    )


def _room(count: int) -> Out:
    """Return where kernels put what they prove of so many groups."""
    return Out(np.zeros((6, count)), np.zeros(count, np.bool_), np.zeros(count, np.bool_))


def _joined(out: Out) -> Bounds:
    distance, metric_distance, stationarity, gap, lower, upper = out.bounds
    return Bounds(distance, metric_distance, stationarity, gap, out.decided, lower, upper, None, None)


def _strided_bounds(
    z: Any, x: Any, d: Any, shape: tuple[int, int, int, int], steps: Any, weights: Any, penalty: Penalty
) -> tuple[Bounds, Any] | None:
    """Certify groups that are not rows, in copies of some at a time that stay in cache.

    Parameters
    ----------
    z, x, d : array
        Candidate, point and metric: contiguous, of one dtype.
    shape : tuple of int
        Sizes of outer kept, outer reduced, inner kept and inner reduced axes.
    steps, weights : array
        One per group.
    penalty : Penalty

    Returns
    -------
    tuple of Bounds and array of bool, or None
        As from :func:`_row_bounds`.
    """
    out, certify, pieces = _room(shape[0] * shape[2]), alone(certify_rows), _pieces(penalty)
    steps, weights = read_only(steps), read_only(weights)

    def work(low: int, high: int, xs: Any, zs: Any, ds: Any) -> int:
        count = high - low
        found = _room(count)
        bad: int = certify(
            xs, zs, ds, *_extremes(ds, pieces), steps[low:high], weights[low:high], pieces, 0, count, *found
        )
        for whole, part in zip(out, found, strict=True):
            whole[..., low:high] = part
        return bad

    return None if over_copies(shape, (x, z, d), (), work) >= 0 else (_joined(out), out.hard)


def _row_bounds(
    z: Any, x: Any, d: Any, steps: Any, weights: Any, penalty: Penalty
) -> tuple[Bounds, Any] | None:
    """Certify contiguous rows of one dtype; returns the bounds and the rows left open, or None if invalid."""
    rows, n = x.shape
    out = _room(rows)
    z, x, d, steps, weights = map(read_only, (z, x, d, steps, weights))
    if penalty.equation.flat:
        lam, nonnegative = penalty.threshold, penalty.nonnegative
        elements = alone(certify_elements)
        xf, zf, df = x.reshape(-1), z.reshape(-1), d.reshape(-1)

        def task(begin: int, finish: int) -> int:
            found: int = elements(xf, zf, df, steps, lam, nonnegative, begin, finish, *out)
            return found
    else:
        pieces = _pieces(penalty)
        least, most = _extremes(d, pieces)
        certify = alone(certify_rows)

        def task(begin: int, finish: int) -> int:
            found: int = certify(x, z, d, least, most, steps, weights, pieces, begin, finish, *out)
            return found

    if threads.run(task, rows, rows * n) >= 0:
        return None
    return _joined(out), out.hard


def certify(p: Problem, z: Any) -> Bounds:
    """Certify a candidate for a problem; by the array form what kernels do not know or leave open."""
    host, candidate = as_host(p), as_host(z)
    if host.layout.n_groups == 0 or not applies(host.penalty, host.layout):
        return arrays.certify(p, z)
    bounds = _certify(host, candidate)
    if host is not p:
        bounds = Bounds(**{name: as_tensor(getattr(bounds, name)) for name in arrays.GROUPWISE})
    return bounds


def _certify(p: Problem, z: Any) -> Bounds:
    penalty, layout = p.penalty, p.layout
    metric = np.asarray(1.0 if p.metric is None else p.metric)
    kinds = [p.x.dtype, np.asarray(z).dtype]
    if metric.ndim or metric.astype(p.x.dtype) != metric:
        kinds.append(metric.dtype)
    dtype = np.float32 if all(kind == np.float32 for kind in kinds) else np.float64
    full = np.broadcast_to(metric.astype(dtype, copy=False), p.x.shape)
    shape = layout.canonical_shape() if isinstance(layout, AxisLayout) else None
    if shape is not None and shape[1] == 1:
        shape = None  # rows
    sources = [np.asarray(a, dtype=dtype) for a in (z, p.x, full)]
    if shape is not None:
        copies = [[np.ascontiguousarray(a)] for a in sources]
    else:
        fills = (0.0, 0.0, 2.0**-100)
        copies = [
            [np.ascontiguousarray(m) for m in layout.split(a, fill)]
            for a, fill in zip(sources, fills, strict=True)
        ]
    steps, weights = layout.split_groups(p.group_steps()), layout.split_groups(p.group_weights())
    parts = []
    for zs, xs, ds, step, weight in zip(*copies, steps, weights, strict=True):
        if shape is not None:
            found = _strided_bounds(zs, xs, ds, shape, step, weight, penalty)
        else:
            found = _row_bounds(zs, xs, ds, step, weight, penalty)
        if found is None or found[1].any():
            check_finite("z", z, np)
            check_values(p)
        assert found is not None, "the kernel found an invalid value that the check did not"
        bounds, open_rows = found[0], np.flatnonzero(found[1])
        if len(open_rows):
            rows = (a[open_rows] if shape is None else group_rows(a, shape, open_rows) for a in (zs, xs, ds))
            zw, xw, dw = (a.astype(np.float64) for a in rows)
            with np.errstate(all="ignore"):
                other = arrays.array_form(penalty).certify(
                    p.xp, zw, xw, dw, step[open_rows], weight[open_rows], penalty
                )
            for name in arrays.GROUPWISE:
                getattr(bounds, name)[open_rows] = getattr(other, name)
        parts.append(bounds)
    return Bounds(
        **{name: layout.join_groups([getattr(b, name) for b in parts]) for name in arrays.GROUPWISE}
    )
