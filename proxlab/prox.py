"""The weighted proximal operator, its explained form and its envelope."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from proxlab.arguments import (
    Problem,
    check_root_finder,
    check_same,
    check_values,
    float_bits,
    problem,
)
from proxlab.bounds import rounding
from proxlab.groups import Array
from proxlab.penalties import GroupLinf, Penalty, RadialPenalty
from proxlab.penalties.base import row_norm, shown, table_of
from proxlab.penalties.tables import form
from proxlab.powers import exponent, times_power
from proxlab.rootfinders import Newton, RootFinder, Status
from proxlab.untraced import untraced

__all__ = ["Solution", "envelope", "prox", "solve"]


@dataclass(frozen=True, eq=False)
class Solution:
    """A weighted prox with what is known about it; arrays of shape (n_groups,) but for ``z``.

    Attributes
    ----------
    z : array
        The prox, of the shape and dtype of ``x``.
    radius : array
        ``‖z_g‖₂`` (``‖z_g‖_∞`` for :class:`~proxlab.GroupLinf`), in float64.
    bracket : tuple of two arrays
        Lower and upper bound of the exact radius, rounding included.
    status : array of int
        A :class:`~proxlab.Status` per group.
    iterations, evaluations : array of int
        Steps of the root finder; evaluations of the secular function, each a pass over the group.
    """

    z: Array
    radius: Array
    bracket: tuple[Array, Array]
    status: Array
    iterations: Array
    evaluations: Array
    _penalty: Penalty = field(repr=False)

    @cached_property
    def value(self) -> Array:
        """The penalty ``h`` of each group at ``z``."""
        return self._penalty.value(self.z)

    @property
    def ok(self) -> bool:
        """Whether every group is as exact as was asked for."""
        xp = array_api_compat.array_namespace(self.status)
        return not bool(xp.any(self.status == int(Status.MAX_ITERATIONS)))


@untraced
def prox(
    penalty: Penalty,
    x: Array,
    step: float | Array = 1.0,
    *,
    metric: float | Array | None = None,
    root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
    backend: str | None = None,
    out: Array | None = None,
    check: bool | None = None,
) -> Array:
    """Return the weighted proximal operator ``argmin_z h(z) + ‖z - x‖²_D / (2 step)``.

    Where the penalty is not convex this is the global minimiser; where two minimisers tie, the sparser.

    Parameters
    ----------
    penalty : Penalty
        The function ``h``.
    x : array
        The point: a real floating-point array of NumPy, torch, CuPy or another array namespace.
    step : float or array of shape (n_groups,), optional
        The step size η, or one per group.
    metric : float or array, optional
        The diagonal of the metric ``D``, positive and broadcastable to ``x``; the identity by default.
    root_finder : RootFinder, optional
        What solves the secular equation.
    backend : {None, "numba", "cuda", "array_api"}, optional
        By default compiled kernels where there are some for the array, on the CPU or a GPU, else the array
        form.
    out : array, optional
        Where to put the result; it may be ``x``. After an error its content is undefined, unless it is ``x``.
    check : bool, optional
        Whether an invalid value in ``x``, ``metric`` or ``step`` is an error. By default it is, but for
        kernels on a GPU, where finding out means to wait for the device: there, a group with an invalid
        value comes out as NaN. Kernels on the CPU find out on the way and always say so.

    Returns
    -------
    array
        Of the kind, shape and dtype of ``x``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape, dtype or value; the message names it.

    See Also
    --------
    solve : The same with radii, brackets and statuses.
    certify : Rigorous error bounds for any candidate.

    References
    ----------
    Deleu & Bengio (2021), "Structured sparsity inducing adaptive optimizers for deep learning",
    arXiv:2102.03869.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> x, d = np.array([[3.0, 4.0], [0.3, 0.4]]), np.array([[1.0, 4.0], [1.0, 4.0]])
    >>> pl.prox(pl.GroupLasso(2.0), x, metric=d).round(3)
    array([[2.016, 3.565],
           [0.   , 0.   ]])
    """
    return _solve(penalty, x, step, metric, root_finder, backend, out, check, explain=False)


@untraced
def solve(
    penalty: Penalty,
    x: Array,
    step: float | Array = 1.0,
    *,
    metric: float | Array | None = None,
    root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
    backend: str | None = None,
    out: Array | None = None,
    check: bool | None = None,
) -> Solution:
    """Solve the weighted proximal operator and explain the result group by group.

    Parameters
    ----------
    penalty, x, step, metric, root_finder, backend, out, check
        As in :func:`prox`.

    Returns
    -------
    Solution

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> s = pl.solve(pl.GroupLasso(1.0), np.array([[3.0, 4.0], [0.3, 0.4]]), root_finder=pl.Brent())
    >>> s.radius, [pl.Status(k).name for k in s.status]
    (array([4., 0.]), ['CONVERGED', 'ZERO'])
    """
    solution: Solution = _solve(penalty, x, step, metric, root_finder, backend, out, check, explain=True)
    return solution


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
        In float64. The gradient with respect to ``x`` is ``D (x - prox(x)) / step`` for convex ``h``.

    Raises
    ------
    OverflowError
        If a value is beyond the range of float64.
    """
    from proxlab.backends.array_api import scale

    p = problem(penalty, x, step, metric, backend, check=None)
    z = prox(penalty, x, step, metric=metric, backend=backend)
    xp = p.xp
    difference = xp.astype(z, xp.float64) - xp.astype(x, xp.float64)
    steps, rows = p.layout.split_groups(p.group_steps()), p.layout.split(difference, 0.0)
    parts = []
    with np.errstate(all="ignore"):
        for r, d, s in zip(rows, p.layout.split(p.full_metric(), 1.0), steps, strict=True):
            # (1/2η)‖z - x‖²_D in units of the group.
            q, es = scale(xp, r, d), exponent(xp, s)
            square = xp.sum(q.x * q.b, axis=1) / times_power(xp, s, -es)
            parts.append(times_power(xp, 0.5 * square, xp.clip(q.ed + 2.0 * q.ex - es, -5000.0, 5000.0)))
        values = penalty._values(z) + p.layout.join_groups(parts)
    if bool(xp.any(xp.isinf(values))):
        raise OverflowError("x: the envelope there is beyond the range of float64")
    return values


def _solve(
    penalty: Penalty,
    x: Array,
    step: float | Array,
    metric: float | Array | None,
    root_finder: RootFinder,
    backend: str | None,
    out: Array | None,
    check: bool | None,
    *,
    explain: bool,
) -> Any:
    if backend == "cuda":
        # What is missing here comes before what is wrong with an array.
        from proxlab.backends.cuda import launch

        launch.check_device()
    if check is not None and not isinstance(check, bool):
        raise TypeError(f"check: must be True, False or None, got {shown(check)}")
    p = problem(penalty, x, step, metric, backend, check)
    finder = check_root_finder(root_finder)
    rtol = finder.relative_tolerance(float_bits(x))
    if out is not None:
        check_same("out", out, x, p.xp)
        if out.dtype != x.dtype:
            raise TypeError(f"out: must have the dtype of x, {x.dtype}, got {out.dtype}")
        if isinstance(out, np.ndarray) and not out.flags.writeable:
            raise ValueError("out: must be writeable, got a read-only array")
    if p.backend == "numba":
        from proxlab.backends import numba_cpu

        z, *rest = numba_cpu.solve(p, finder, rtol, out, explain)
    elif p.backend == "cuda":
        from proxlab.backends.cuda import launch

        z, *rest = launch.solve(p, finder, rtol, out, explain, bool(check))
    else:
        if check is not False:
            check_values(p)
        # Overflow and division by zero in branches that are not selected are expected.
        with np.errstate(all="ignore"):
            z, *rest = _over_arrays(p, finder, rtol)
        z = p.xp.astype(z, x.dtype)
        if out is not None:
            out[...] = z
            z = out
    if not explain:
        return z
    radius, lower, upper, status, iterations, evaluations = rest
    if penalty.threshold > 0:
        with np.errstate(all="ignore"):
            lower, upper = _with_threshold(p, z, radius)
    return Solution(z, radius, (lower, upper), status, iterations, evaluations, penalty)


def _with_threshold(p: Problem, z: Array, radius: Array) -> tuple[Array, Array]:
    """Enclose the radii where a soft threshold comes first, whose rounding moves them."""
    from proxlab.backends import array_certify, table_certify
    from proxlab.powers import quotient

    xp, layout, penalty = p.xp, p.layout, p.penalty
    assert isinstance(penalty, RadialPenalty)
    table = table_of(penalty)
    flat = len(table) == 1 and not any(table[0])
    bounds = array_certify.radial_bounds if form(table).has_kernels else table_certify.table_bounds
    points = layout.split(xp.astype(p.x, xp.float64), 0.0)
    candidates = layout.split(xp.astype(z, xp.float64), 0.0)
    metrics = layout.split(p.full_metric(), 1.0)
    steps, weights = layout.split_groups(p.group_steps()), layout.split_groups(p.group_weights())
    low, high = [], []
    for x, v, d, s, w in zip(points, candidates, metrics, steps, weights, strict=True):
        if flat:
            # The radius is the length of what the threshold leaves, known to a few units of its parts.
            size = xp.where(x > 0, x, xp.zeros_like(x)) if penalty.nonnegative else xp.abs(x)
            cut = quotient(xp, s, penalty.threshold, d)
            left, noise = size - cut, rounding(4) * (cut + size) + 2.0**-1074
            kept = xp.where(size > 0, xp.minimum(left + noise, size), size)
            zero, length = xp.zeros_like(x), rounding(x.shape[1] + 16)
            least = row_norm(xp, xp.maximum(left - noise, zero)) * (1.0 - length) - 2.0**-1074
            most = row_norm(xp, xp.maximum(kept, zero)) * (1.0 + length)
            low.append(xp.where(least > 0, least, xp.zeros_like(least)))
            high.append(xp.where(most > 0, most + 2.0**-1074, most))
        else:
            found = bounds(xp, v, x, d, s, w, penalty)
            low.append(found.lower)
            high.append(found.upper)
    return (
        xp.minimum(layout.join_groups(low), radius),
        xp.maximum(layout.join_groups(high), radius),
    )


def _over_arrays(p: Problem, finder: RootFinder, rtol: float) -> tuple[Array, ...]:
    from proxlab.backends import array_api, array_tables

    xp, layout, penalty = p.xp, p.layout, p.penalty
    x = xp.astype(p.x, xp.float64)
    rows = layout.split(x, 0.0)
    metrics = layout.split(p.full_metric(), 1.0)
    steps, weights = layout.split_groups(p.group_steps()), layout.split_groups(p.group_weights())
    parts = []
    for r, d, s, w in zip(rows, metrics, steps, weights, strict=True):
        if isinstance(penalty, GroupLinf):
            parts.append(array_api.linf_rows(xp, r, d, s, w, penalty.lam, finder, rtol))
        elif isinstance(penalty, RadialPenalty):
            shrunk = array_api.shrink(xp, r, s, d, penalty.threshold, penalty.nonnegative)
            table = table_of(penalty)
            solve_rows = array_api.radial_rows if form(table).has_kernels else array_tables.table_rows
            part = solve_rows(xp, shrunk, d, s, w, table, finder, rtol)
            if shrunk is not r:
                kept = (part.status == int(Status.UNSHRUNK)) & xp.any(shrunk != r, axis=1)
                part.status = xp.where(kept, xp.zeros_like(part.status), part.status)
            parts.append(part)
        else:
            raise TypeError(f"penalty: {type(penalty).__name__} is neither radial nor GroupLinf")
    z = layout.join([part.z for part in parts], x)
    names = ("radius", "lower", "upper", "status", "iterations", "evaluations")
    return z, *(layout.join_groups([getattr(part, name) for part in parts]) for name in names)
