"""The Moreau envelope of a penalty in a metric, and its derivative."""

from __future__ import annotations

from typing import Any

import numpy as np

from proxlab import autograd
from proxlab.arguments import problem
from proxlab.autograd import detached
from proxlab.derivative import summed_to
from proxlab.penalties import Penalty
from proxlab.powers import exponent, row_products, times_power
from proxlab.prox import prox
from proxlab.types import Array
from proxlab.untraced import untraced

__all__ = ["envelope"]


@untraced
def envelope(
    penalty: Penalty,
    x: Array,
    step: float | Array = 1.0,
    *,
    metric: float | Array | None = None,
    backend: str | None = None,
) -> Array:
    """Return the Moreau envelope ``min_z h(z) + ‖z - x‖²_D / (2 step)`` of each group.

    Their sum is the envelope of ``h``.

    Parameters
    ----------
    penalty, x, step, metric, backend
        As in :func:`prox`.

    Returns
    -------
    array of shape (n_groups,)
        In float64. The gradient with respect to ``x`` is ``D (x - prox(x)) / step`` wherever the prox is
        unique; tensors that require one get it, and those by ``metric`` and ``step``.

    Raises
    ------
    OverflowError
        If a value is beyond the range of float64.
    """

    def value(x: Array, step: Any, metric: Any) -> Array:
        return _envelope(penalty, x, step, metric, backend)

    def pull(v: Array, _: Array, x: Array, step: Any, metric: Any) -> tuple[Any, Any, Any]:
        return _pull_envelope(penalty, v, x, step, metric, backend)

    if autograd.records(x, step, metric):
        return autograd.record(autograd.Function("envelope", value, pull), x, step, metric)
    return value(x, step, metric)


def _envelope(penalty: Penalty, x: Array, step: Any, metric: Any, backend: str | None) -> Array:
    x, step, metric = detached(x), detached(step), detached(metric)
    p = problem(penalty, x, step, metric, backend, check=None)
    z = prox(penalty, x, step, metric=metric, backend=backend)
    xp = p.xp
    difference = xp.astype(z, xp.float64) - xp.astype(x, xp.float64)
    steps, rows = p.layout.split_groups(p.group_steps()), p.layout.split(difference, 0.0)
    parts = []
    with np.errstate(all="ignore"):
        for r, d, s in zip(rows, p.layout.split(p.full_metric(), 1.0), steps, strict=True):
            # (1/2η)‖z - x‖²_D, of which no part need be in range.
            (squares, e), es = row_products(xp, xp.abs(r), xp.abs(r), d), exponent(xp, s)
            half = 0.5 * xp.sum(squares, axis=1) / times_power(xp, s, -es)
            parts.append(times_power(xp, half, xp.clip(e - es, -5000.0, 5000.0)))
        values = penalty._values(z) + p.layout.join_groups(parts)
    if bool(xp.any(xp.isinf(values))):
        raise OverflowError("x: the envelope there is beyond the range of float64")
    return values


def _pull_envelope(
    penalty: Penalty, v: Array, x: Array, step: Any, metric: Any, backend: str | None
) -> tuple[Any, Any, Any]:
    """Differentiate the objective at the prox, which stays: what its move adds is of second order."""
    p = problem(penalty, x, step, metric, backend, check=None)
    xp, layout = p.xp, p.layout
    full = p.full_metric()
    away = xp.astype(x, xp.float64) - xp.astype(
        prox(penalty, x, step, metric=metric, backend=backend), xp.float64
    )
    steps, shares = layout.split_groups(p.group_steps()), layout.split_groups(xp.astype(v, xp.float64))
    rows = zip(layout.split(away, 0.0), layout.split(full, 0.0), steps, shares, strict=True)
    parts = []
    for a, d, s, share in rows:
        s, share = s[:, None], share[:, None]
        pull = d * a / s
        by_step = -0.5 * xp.sum(share * (xp.sqrt(d) * (a / s)) ** 2, axis=1)
        parts.append((share * pull, 0.5 * share * (a / xp.sqrt(s)) ** 2, by_step))
    none = xp.zeros_like(away)
    if not parts:
        return (
            xp.astype(none, x.dtype),
            summed_to(xp, p.group_steps() * 0.0, step),
            summed_to(xp, none, metric),
        )
    by_x, by_metric = (layout.join([part[k] for part in parts], none) for k in (0, 1))
    by_step = layout.join_groups([part[2] for part in parts])
    return xp.astype(by_x, x.dtype), summed_to(xp, by_step, step), summed_to(xp, by_metric, metric)
