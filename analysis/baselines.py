"""What people use today for the weighted proximal operator of the group lasso, reimplemented as published.

Every baseline is code of our own, from the algorithm of its paper: NumPy (or SciPy, or CVXPY) in the
vectorised form, with the start, stopping rules and default settings of its authors, and none uses proxlab.
The problem is ``argmin_z lam‖z‖₂ + (1/2 step)‖z − x‖²_D`` for each group. What the published codes do beyond
it (reweighting by the size of a group, the optimizer's update) is left out on both sides of a comparison.

Sources
-------
.. [1] T. Deleu, Y. Bengio, "Structured sparsity inducing adaptive optimizers for deep learning",
       arXiv:2102.03869.
.. [2] Z.-S. Huang, C.-p. Lee, "Regularized adaptive momentum dual averaging with an efficient inexact
       subproblem solver for training structured neural network", arXiv:2403.14398.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, elementwise

Array = NDArray[Any]

PROXSSI_TOLERANCE = 1e-7
PROXSSI_MAX_ITERATIONS = 100
RAMDA_TOLERANCE = 1e-8
RAMDA_MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Outcome:
    """What a baseline returns.

    Attributes
    ----------
    z : ndarray
        The computed point, in the shape of ``x``.
    iterations, evaluations : ndarray of int, shape (n_groups,)
        Iterations, and evaluations of the function (sums over the group), spent on each group. A vectorised
        method that runs all groups until the last one stops spends the same on every group that passed the
        zero test.
    converged : ndarray of bool, shape (n_groups,)
        Whether the method's own stopping rule was met.
    """

    z: Array
    iterations: NDArray[np.int64]
    evaluations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def _outcome(z: Array, active: NDArray[np.bool_], iterations: int, extra: int, converged: bool) -> Outcome:
    """Counts of a method that iterates on all active groups together."""
    spent = np.where(active, iterations, 0)
    return Outcome(z, spent, spent + extra, ~active | converged)


def _take(a: Array, mask: NDArray[np.bool_]) -> Array:
    """The groups (last axis) that `mask` selects, contiguous."""
    return a if mask.all() else np.compress(mask, a, axis=-1)


def _newton_on_residual(
    theta: Array,
    residual: Callable[[Array], tuple[Array, Array]],
    max_iterations: int,
    clamp: bool,
) -> tuple[int, bool]:
    """Newton on ``S(theta) − 1`` in place, with the stopping rules of [1]_.

    All groups go on until in every one the residual, or its change, is below 1e-7.
    """
    previous = np.zeros_like(theta)
    for iteration in range(1, max_iterations + 1):
        value, slope = residual(theta)
        theta += 0.5 * (value / slope)
        if clamp:
            np.maximum(theta, 0, out=theta)
        if np.all(np.abs(value) < PROXSSI_TOLERANCE) or np.all(np.abs(previous - value) < PROXSSI_TOLERANCE):
            return iteration, True
        previous = value
    return max_iterations, False


def proxssi_group_lasso(
    x: Array, metric: Array, step: float, lam: float, *, max_iterations: int = PROXSSI_MAX_ITERATIONS
) -> Outcome:
    """ProxSSI's weighted prox of the group lasso [1]_.

    Newton's method on ``Σ x_i²/(θ + step lam/d_i)² − 1`` from ``(‖Dx‖ − step lam)/max d``, in the dtype of
    `x`.

    Parameters
    ----------
    x, metric : ndarray, shape (a, b, n_groups)
        The layout of the published code: the groups lie along the last axis, the norm reduces the first two.
    step, lam : float
        Step size and strength.
    max_iterations : int
        100 is the published default.
    """
    threshold = step * lam
    with np.errstate(all="ignore"):
        norm = np.sqrt(np.sum((x * metric) ** 2, axis=(0, 1)))
        active = norm > threshold
        z = np.zeros_like(x)
        if not active.any():
            return _outcome(z, active, 0, 1, True)
        squares, d = _take(x, active) ** 2, _take(metric, active)

        def residual(theta: Array) -> tuple[Array, Array]:
            den = theta + threshold / d
            terms = squares / (den * den)
            return np.sum(terms, axis=(0, 1)) - 1, np.sum(terms / den, axis=(0, 1))

        # the published code clamps here too, but discards the result
        theta = (norm[active] - threshold) / d.max(axis=(0, 1))
        iterations, converged = _newton_on_residual(theta, residual, max_iterations, clamp=False)
        d_theta = d * theta
        z[:, :, active] = _take(x, active) * (d_theta / (d_theta + threshold))
    return _outcome(z, active, iterations, 1, converged)


def proxssi_group_mcp(
    x: Array,
    metric: Array,
    step: float,
    lam: float,
    gamma: float,
    *,
    max_iterations: int = PROXSSI_MAX_ITERATIONS,
) -> Outcome:
    """ProxSSI's weighted prox of the group MCP [1]_, which takes the subproblem to be convex.

    A group with ``‖x‖ > gamma lam`` is returned unchanged; parameters as in `proxssi_group_lasso`.
    """
    threshold = step * lam
    with np.errstate(all="ignore"):
        inner = np.sqrt(np.sum(x**2, axis=(0, 1))) <= gamma * lam
        norm = np.sqrt(np.sum((x * metric) ** 2, axis=(0, 1)))
        active = inner & (norm > threshold)
        z = np.where(inner, np.zeros_like(x), x)
        if not active.any():
            return _outcome(z, active, 0, 2, True)
        d = _take(metric, active)
        squares, shifted = (d * _take(x, active)) ** 2, gamma * d - step

        def residual(theta: Array) -> tuple[Array, Array]:
            den = theta * shifted + gamma * threshold
            terms = squares / (den * den)
            value = gamma**2 * np.sum(terms, axis=(0, 1)) - 1
            return value, gamma**2 * np.sum(terms * shifted / den, axis=(0, 1))

        theta = gamma * (norm[active] - threshold) / (d.max(axis=(0, 1)) * gamma - step)
        iterations, converged = _newton_on_residual(theta, residual, max_iterations, clamp=True)
        d_theta = gamma * theta * d
        z[:, :, active] = _take(x, active) * (d_theta / (d_theta + step * (gamma * lam - theta)))
    return _outcome(z, active, iterations, 2, converged)


def ramda_group_lasso(
    x: Array,
    metric: Array,
    step: float,
    lam: float,
    *,
    axis: int | tuple[int, ...] = -1,
    max_iterations: int = RAMDA_MAX_ITERATIONS,
    tolerance: float = RAMDA_TOLERANCE,
) -> Outcome:
    """RAMDA's inner solver: Algorithm 2 of [2]_, proximal gradient with step ``1/max d`` in each group.

    It stops when the objective, summed over the groups that pass the zero test, decreases by less than
    ``1e-8 (1 + |objective|)``. The published code counts the smooth part of the objective once per group;
    here it is counted once, as in the paper.

    Parameters
    ----------
    x, metric : ndarray
        The centre of the subproblem, which is also the start, and the diagonal metric.
    step, lam : float
        Step size and strength.
    axis : int or tuple of int
        The axes that the norm reduces.
    max_iterations : int
        100 is the published default.
    tolerance : float
        Of the decrease; 1e-8 is the published default, and with minus infinity it does not stop for it.
    """
    axes = (axis,) if isinstance(axis, int) else axis
    axes = tuple(a % x.ndim for a in axes)
    kept = [a for a in range(x.ndim) if a not in axes]
    if len(kept) != 1:
        raise ValueError(f"axis must leave one axis of groups, got {axis} for an array of rank {x.ndim}")
    with np.errstate(all="ignore"):
        active = np.sqrt(np.sum((metric * x) ** 2, axis=axes)) > step * lam
        z = np.zeros_like(x)
        if not active.any():
            return _outcome(z, active, 0, 1, True)
        centre, d = (a if active.all() else np.compress(active, a, axis=kept[0]) for a in (x, metric))
        inverse = 1 / d.max(axis=axes, keepdims=True)
        threshold = inverse * (step * lam)
        point, gradient = centre.copy(), np.zeros_like(centre)
        offset, work = np.empty_like(centre), np.empty_like(centre)
        previous, converged, iteration = np.inf, False, 0
        for iteration in range(1, max_iterations + 1):
            point -= np.multiply(gradient, inverse, out=work)
            norm = np.sqrt(np.sum(np.square(point, out=work), axis=axes, keepdims=True))
            norm = np.maximum(norm - threshold, 0)
            point *= norm / (norm + threshold)
            np.subtract(point, centre, out=offset)
            np.multiply(offset, d, out=gradient)
            smooth = float(np.sum(np.multiply(gradient, offset, out=work)))
            objective = smooth / (2 * step) + lam * float(np.sum(norm))
            if iteration > 1 and (previous - objective) / (abs(objective) + 1.0) < tolerance:
                converged = True
                break
            previous = objective
        index = [slice(None)] * x.ndim
        index[kept[0]] = active
        z[tuple(index)] = point
    return _outcome(z, active, iteration, 1, converged)


def _secular(x: Array, metric: Array, threshold: float) -> tuple[Array, NDArray[np.bool_], Array, Array]:
    """``b = Dx``, which groups (rows) are nonzero, and the usual bracket of their radius."""
    b = metric * x
    norm = np.sqrt(np.sum(b * b, axis=-1))
    excess = np.maximum(norm - threshold, 0)
    return b, norm > threshold, excess / metric.max(axis=-1), excess / metric.min(axis=-1)


def brentq_group_lasso(x: Array, metric: Array, step: float, lam: float) -> Outcome:
    """`scipy.optimize.brentq` with its default settings in a loop over the rows."""
    threshold = step * lam
    with np.errstate(all="ignore"):
        b, active, lower, upper = _secular(x, metric, threshold)
        z = np.zeros_like(x)
        iterations = np.zeros(len(x), dtype=np.int64)
        evaluations = np.ones(len(x), dtype=np.int64)
        converged = ~active
        for g in np.flatnonzero(active):
            b_g, d_g = b[g], metric[g]

            def residual(r: float, b_g: Array = b_g, d_g: Array = d_g) -> float:
                return float(np.sum((b_g / (d_g * r + threshold)) ** 2)) - 1.0

            try:
                r, report = brentq(residual, lower[g], upper[g], full_output=True, disp=False)
            except ValueError:  # rounding has taken the change of sign out of the bracket
                z[g] = np.nan
                continue
            # SciPy leaves the count unset where an end of the bracket is the root
            iterations[g] = report.iterations if report.function_calls > 2 else 0
            converged[g] = report.converged
            evaluations[g] += report.function_calls
            z[g] = b_g * r / (d_g * r + threshold)
    return Outcome(z, iterations, evaluations, converged)


def find_root_group_lasso(x: Array, metric: Array, step: float, lam: float) -> Outcome:
    """`scipy.optimize.elementwise.find_root` (Chandrupatla) with its default settings, all rows at once."""
    threshold = step * lam
    with np.errstate(all="ignore"):
        b, active, lower, upper = _secular(x, metric, threshold)
        z = np.zeros_like(x)
        iterations = np.zeros(len(x), dtype=np.int64)
        evaluations = np.ones(len(x), dtype=np.int64)
        converged = ~active
        if active.any():
            rows = np.flatnonzero(active)

            def residual(r: Array, row: Array) -> Array:
                ratio = b[row] / (metric[row] * r[..., None] + threshold)
                return np.asarray(np.sum(ratio**2, axis=-1) - 1)

            report = elementwise.find_root(residual, (lower[rows], upper[rows]), args=(rows,))
            r = report.x[:, None]
            z[rows] = b[rows] * r / (metric[rows] * r + threshold)
            iterations[rows], converged[rows] = report.nit, report.success
            evaluations[rows] += report.nfev
    return Outcome(z, iterations, evaluations, converged)


def cvxpy_group_lasso(x: Array, metric: Array, step: float, lam: float, *, batched: bool) -> Outcome:
    """CVXPY with Clarabel at its default tolerances: a cone program for each row, or one for all rows.

    The program of a row is compiled once (the data are parameters) and solved for every group. That of all
    rows has its data as constants: as parameters they take memory as the square of their number.
    """
    cp: Any = import_module("cvxpy")  # slow to import, and nothing else here needs it

    roots = np.sqrt(metric.astype(np.float64) / step)
    targets = roots * x.astype(np.float64)
    root: Any
    target: Any
    if batched:
        variable, root, target = cp.Variable(x.shape), roots, targets
        penalty = cp.sum(cp.norm(variable, 2, axis=1))
    else:
        n = x.shape[1]
        variable, root, target = cp.Variable(n), cp.Parameter(n, nonneg=True), cp.Parameter(n)
        penalty = cp.norm(variable, 2)
    residual = cp.multiply(root, variable) - target
    problem = cp.Problem(cp.Minimize(lam * penalty + 0.5 * cp.sum_squares(residual)))

    z = np.full_like(x, np.nan)
    iterations = np.zeros(len(x), dtype=np.int64)
    converged = np.zeros(len(x), dtype=bool)
    for g in [slice(None)] if batched else range(len(x)):
        if not batched:
            root.value, target.value = roots[g], targets[g]
        try:
            with warnings.catch_warnings():
                # that a solution is inaccurate is told by its status
                warnings.simplefilter("ignore", UserWarning)
                problem.solve(solver=cp.CLARABEL)
        except (cp.error.SolverError, ValueError):
            continue
        if variable.value is not None:
            z[g] = variable.value
            iterations[g] = problem.solver_stats.num_iters
            converged[g] = problem.status == cp.OPTIMAL
    return Outcome(z, iterations, iterations.copy(), converged)
