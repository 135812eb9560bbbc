"""The weighted proximal operator, its explained form, and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from proxlab import autograd
from proxlab.arguments import (
    check_finite,
    check_out,
    check_root_finder,
    check_same,
    float_bits,
    problem,
)
from proxlab.autograd import detached
from proxlab.backends import backend_of
from proxlab.backends.records import Options
from proxlab.derivative import Gradients, pull_back
from proxlab.lazily import is_lazy, prox_of_blocks
from proxlab.namespaces import namespace
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder, Status
from proxlab.types import Array
from proxlab.untraced import untraced
from proxlab.values import shown

__all__ = ["Gradients", "Solution", "prox", "prox_vjp", "solve"]


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

    def __repr__(self) -> str:
        xp, n = namespace(self.status), self.radius.shape[0]

        def count(some: Array) -> int:
            return int(xp.sum(xp.astype(some, xp.int64))) if n else 0

        left = count(self.status == int(Status.MAX_ITERATIONS))
        most = int(xp.max(self.evaluations)) if n else 0
        return (
            f"<Solution: {type(self._penalty).__name__}, shape {tuple(self.z.shape)}, {n} groups, "
            f"{count(self.radius == 0)} zero, {left} stopped early; at most {most} evaluations>"
        )

    @cached_property
    def value(self) -> Array:
        """The penalty ``h`` of each group at ``z``."""
        return self._penalty.value(self.z)

    @property
    def ok(self) -> bool:
        """Whether every group is as exact as was asked for."""
        xp = namespace(self.status)
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
        Dask is solved lazily: block by block, or by passes over it where blocks cut groups.
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

    z = autograd.record(autograd.Function("prox", value, pull), x, step, metric)
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
    z, found = backend_of(p).solve(p, Options(finder, rtol, out, explain, check))
    if found is None:
        return z
    bracket = (found.lower, found.upper)
    if penalty.threshold > 0:
        from proxlab.backends import arrays

        bracket = arrays.enclose_shrunk(p, z, found.radius)
    return Solution(z, found.radius, bracket, found.status, found.iterations, found.evaluations, penalty)
