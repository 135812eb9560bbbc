"""The derivative of the weighted prox, exactly: a cotangent of the result, pulled back to what it depends on.

A group that is not zero satisfies ``D(z - x) + η(λ₁ sign z + w p'(r) z/r) = 0``, and its derivative is the
inverse of ``J = D + μI + (ηw p'' - μ) z zᵀ/r²``, ``μ = ηw p'(r)/r``, on the elements that are not zero: a
diagonal and a matrix of rank one (docs: the mathematics, §8).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from proxlab.arguments import Problem
from proxlab.namespaces import namespace
from proxlab.types import Array

__all__ = ["Gradients", "pull_back"]


class Gradients(NamedTuple):
    """A cotangent ``v`` of a prox, pulled back: derivatives of ``⟨v, prox(x, metric, step, strength)⟩``.

    Attributes
    ----------
    x : array
        Of the shape and dtype of ``x``.
    metric : array, float or None
        Of the shape of ``metric`` as it was given, a float for a number, None for None.
    step : array or float
        Of the shape of ``step`` as it was given, a float for a number.
    strength : float or None
        By the penalty's ``strength``, along ``with_strength``. None where there is no such way: all of
        several parts are 0, or the pieces of a penalty of one's own do not depend on it by an affine map.
    """

    x: Array
    metric: Array | float | None
    step: Array | float
    strength: float | None


def pull_back(p: Problem, z: Array, v: Array, step: Any) -> Gradients:
    """Pull a cotangent back through the prox.

    Parameters
    ----------
    p : Problem
    z : array
        Its solution.
    v : array
        The cotangent, of the shape of ``z``.
    step : float or array
        The step as it was given, whose shape the result has.

    Returns
    -------
    Gradients
    """
    xp, layout, penalty = p.xp, p.layout, p.penalty
    free = xp.astype(v, xp.float64)
    from proxlab.backends.array_derivative import CotangentRows
    from proxlab.backends.arrays import array_form, rows_of

    form = array_form(penalty)
    rates = form.rates(penalty)
    limit = 4.0 * float(xp.finfo(z.dtype).eps)
    # Divisions by zero in branches that are not selected.
    with np.errstate(all="ignore"):
        parts = [
            form.pull_back(xp, CotangentRows(*rows), penalty, rates, limit)
            for rows in rows_of(p, p.x, z, v, padding=0.0)  # padding has no metric
        ]
    if not parts:
        none = xp.zeros((layout.n_groups,), dtype=xp.float64, device=array_api_compat.device(p.x))
        parts, by_x, by_metric, by_step, by_strength = [], free, xp.zeros_like(free), none, none
    else:
        by_x = layout.join([part.x for part in parts], free)
        by_metric = layout.join([part.metric for part in parts], xp.zeros_like(free))
        by_step = layout.join_groups([part.step for part in parts])
        by_strength = layout.join_groups([part.strength for part in parts])
    return Gradients(
        xp.astype(by_x, p.x.dtype),
        summed_to(xp, by_metric, p.metric),
        summed_to(xp, by_step, step),
        None if rates is None else float(xp.sum(by_strength)),
    )


def summed_to(xp: Any, gradient: Array, like: Any) -> Any:
    """Sum the gradient of a broadcast array, number or None back to its shape; the dtype is its own."""
    if like is None:
        return None
    if not array_api_compat.is_array_api_obj(like) or isinstance(like, np.generic):
        return float(xp.sum(gradient))
    shape = tuple(like.shape)
    padded = (1,) * (gradient.ndim - len(shape)) + shape
    axes = tuple(k for k, (n, m) in enumerate(zip(gradient.shape, padded, strict=True)) if n != m)
    total = xp.reshape(xp.sum(gradient, axis=axes, keepdims=True) if axes else gradient, shape)
    # Steps may be NumPy's beside another kind of array.
    same = namespace(like) is xp
    return xp.astype(total, like.dtype) if same else total
