"""The weighted proximal operator, its explained form, its envelope and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np

from proxlab import autograd
from proxlab.arguments import (
    Problem,
    as_host,
    as_tensor,
    check_finite,
    check_out,
    check_root_finder,
    check_same,
    check_values,
    float_bits,
    problem,
)
from proxlab.autograd import detached
from proxlab.bounds import rounding
from proxlab.derivative import Gradients, pull_back, summed_to
from proxlab.groups import Array
from proxlab.lazily import is_lazy, prox_of_blocks
from proxlab.penalties import GroupLinf, Penalty, RadialPenalty
from proxlab.penalties.base import row_norm, shown, table_of
from proxlab.penalties.tables import form
from proxlab.powers import exponent, row_products, times_power
from proxlab.rootfinders import Newton, RootFinder, Status
from proxlab.untraced import untraced

__all__ = ["Gradients", "Solution", "envelope", "prox", "prox_vjp", "solve"]


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
        Lower and upper bound of the exact radius, rounding included; in a tie, or where ``max_iterations``
        leave open which minimiser is the global one, of all of them.
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
        The point: a real floating-point array of NumPy, torch, CuPy or another array namespace. An array of
        Dask is solved lazily, block by block; its blocks must not cut groups.
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
    prox_vjp : The same with its derivative.
    certify : Rigorous error bounds for any candidate.

    Notes
    -----
    Where a tensor of PyTorch requires a gradient, the result has the exact derivative by ``x``, ``metric``
    and ``step`` (:func:`prox_vjp`); second derivatives are refused. Other tensors on the CPU are solved where
    they lie, by the kernels that NumPy's arrays get.

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
    if type(x) is not np.ndarray and is_lazy(x):
        if out is not None:
            raise TypeError("out: must be None for an array of Dask, which is not computed yet")
        options = {"root_finder": check_root_finder(root_finder), "backend": backend, "check": check}
        return prox_of_blocks(prox, penalty, x, step, metric, **options)
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
        As in :func:`prox`. Of tensors that require a gradient, ``z`` has it; all else is numbers.

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
        return autograd.record(autograd.Task("envelope", value, pull), x, step, metric)
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


@untraced
def prox_vjp(
    penalty: Penalty,
    x: Array,
    step: float | Array = 1.0,
    *,
    metric: float | Array | None = None,
    root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
    backend: str | None = None,
    check: bool | None = None,
) -> tuple[Array, Callable[[Array], Gradients]]:
    """Return the prox, and the function that pulls a cotangent back through it: its exact derivative.

    Parameters
    ----------
    penalty, x, step, metric, root_finder, backend, check
        As in :func:`prox`; what tensors require is left aside.

    Returns
    -------
    z : array
        The prox.
    pullback : callable
        ``pullback(v)``, for ``v`` of the kind and shape of ``z`` and finite, is a named tuple ``(x, metric,
        step, strength)``: the derivatives of ``⟨v, z⟩``, each of the shape of what was given, and that by the
        penalty's ``strength`` along ``with_strength``. It uses ``x``, ``metric``, ``step`` and ``z``, which
        must not be overwritten before.

    Notes
    -----
    Groups that are zero have derivative 0. Where the prox has none (at the threshold, at a tie or a kink, at
    elements that just vanish) this is one element of the generalised derivative, that of the side on which
    ``z`` lies. For data of less than double precision the derivative is that at the rounded ``z``.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> z, pullback = pl.prox_vjp(pl.GroupLasso(1.0), np.array([[3.0, 4.0], [0.3, 0.4]]))
    >>> g = pullback(np.array([[1.0, 0.0], [1.0, 0.0]]))
    >>> g.x.round(3)
    array([[0.872, 0.096],
           [0.   , 0.   ]])
    >>> round(g.strength, 3)
    -0.6
    """
    x, step, metric = detached(x), detached(step), detached(metric)
    z = prox(penalty, x, step, metric=metric, root_finder=root_finder, backend=backend, check=check)
    p = problem(penalty, x, step, metric, None, check=None)

    def pullback(v: Array) -> Gradients:
        check_same("v", v, p.x, p.xp)
        if check is not False:
            check_finite("v", v, p.xp)
        return pull_back(p, z, detached(v), step)

    return z, pullback


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
    """Solve; the result records its derivative where PyTorch keeps track of an argument."""
    if not autograd.records(x, step, metric):
        return _solve_plain(penalty, x, step, metric, root_finder, backend, out, check, explain=explain)
    if out is not None:
        raise ValueError(
            "out: must be None where x, metric or step requires a gradient; detach those, or use "
            "torch.no_grad()"
        )
    explained = []

    def value(x: Array, step: Any, metric: Any) -> Array:
        x, step, metric = detached(x), detached(step), detached(metric)
        found = _solve_plain(penalty, x, step, metric, root_finder, backend, None, check, explain=explain)
        explained.append(found)
        return found.z if explain else found

    def pull(v: Array, z: Array, x: Array, step: Any, metric: Any) -> tuple[Any, Any, Any]:
        p = problem(penalty, x, step, metric, None, check=None)
        found = pull_back(p, z, v, step)
        return found.x, found.step, found.metric

    z = autograd.record(autograd.Task("prox", value, pull), x, step, metric)
    return replace(explained[0], z=z) if explain else z


def _solve_plain(
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
        check_out(out, x, p.xp)
    if p.backend == "numba":
        from proxlab.backends import numba_cpu

        host, place = as_host(p), as_host(out)
        z, *rest = numba_cpu.solve(host, finder, rtol, place, explain)
        if host is not p:
            z, rest = as_tensor(z) if out is None else out, [as_tensor(a) for a in rest]
            if out is not None:
                autograd.written(out)
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
    found = (z, *(layout.join_groups([getattr(part, name) for part in parts]) for name in names))
    apart = layout.join_groups([part.apart for part in parts])
    if bool(xp.any(apart)):
        from proxlab.backends import decimal_rows

        found = decimal_rows.replaced(p, apart, found)
    return found
