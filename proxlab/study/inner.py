"""Inner solvers of a study of convergence: each is stopped as soon as a certificate proves the tolerance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from proxlab.inexactness import Stationarity
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import Penalty
from proxlab.prox import Solution, prox, solve
from proxlab.rootfinders import Newton, RootFinder

__all__ = ["INNER", "Inner", "InnerSolver", "check_inner"]

Array = npt.NDArray[Any]
InnerSolver = RootFinder | Callable[..., Any]

#: Candidates of one prox before its tolerance is given up as unproved, and certificates of them.
MAX_CANDIDATES, MAX_CHECKS = 20_000, 60


@dataclass(frozen=True)
class Inner:
    """One prox, solved just well enough.

    Attributes
    ----------
    z : ndarray
        The candidate that is used.
    evaluations : float
        Passes over the array that it took; NaN where the solver does not tell.
    bound : float
        The proved bound of ``dist(0, ∂Q(z))``.
    proved : bool
        Whether that is within the tolerance; true of exact solves.
    """

    z: Array
    evaluations: float
    bound: float
    proved: bool


def solve_inner(solver: InnerSolver, problem: ProxProblem, eps: float, rng: np.random.Generator) -> Inner:
    """Solve a prox until ``dist(0, ∂Q(z)) ≤ eps`` is proved; to rounding where eps is 0.

    Parameters
    ----------
    solver : RootFinder or callable
    problem : ProxProblem
    eps : float
    rng : numpy.random.Generator
        For solvers that draw.

    Returns
    -------
    Inner
    """
    if isinstance(solver, RootFinder):
        return _by_radius(solver, problem, eps)
    if eps == 0.0 and solver is not proximal_gradient:
        return _by_radius(Newton(), problem, 0.0)
    given: dict[str, Any] = {"start": problem.previous, "tolerance": eps, "rng": rng}
    parameters = inspect.signature(solver).parameters
    taken = {name: value for name, value in given.items() if name in parameters}
    answer = solver(problem.penalty, problem.x, problem.step, metric=problem.metric, **taken)
    candidates = answer if isinstance(answer, Iterator) else iter([answer])
    checks = 0
    z: Array | None = None
    last: Inner | None = None
    for used, candidate in enumerate(candidates, start=1):
        z, evaluations = candidate if isinstance(candidate, tuple) else (candidate, float("nan"))
        z = np.asarray(z)
        if z.shape != np.shape(problem.x):
            raise ValueError(f"the inner solver must give arrays of shape {problem.x.shape}, got {z.shape}")
        if not np.isfinite(z).all():
            raise ValueError("the inner solver gave a candidate that is not finite")
        # Certificates cost more than candidates: they come at growing distances.
        if eps > 0.0 and used > 2 ** (checks / 2):
            last = _prove(problem, z, float(evaluations), eps)
            checks += 1
            if last.proved or checks == MAX_CHECKS:
                return last
        if used == MAX_CANDIDATES:
            break
    if z is None:
        raise ValueError("the inner solver gave no candidate")
    if last is None or last.z is not z:
        last = _prove(problem, z, float(evaluations), eps)
    return last


def _prove(problem: ProxProblem, z: Array, evaluations: float, eps: float) -> Inner:
    certificate = problem.certify(z)
    proved = eps == 0.0 or Stationarity(eps).holds(certificate)
    return Inner(z, evaluations, certificate.total.stationarity, proved)


def _by_radius(finder: RootFinder, problem: ProxProblem, eps: float) -> Inner:
    """A root finder that is allowed more iterations until the tolerance is proved."""
    depth = 1
    while True:
        stop = finder if eps == 0.0 else replace(finder, max_iterations=min(depth, finder.max_iterations))
        solution = problem.solve(stop)
        passes = _passes(solution, problem.penalty, problem.x)
        found = _prove(problem, np.asarray(solution.z), passes, eps)
        if found.proved or stop.max_iterations == finder.max_iterations:
            return found
        depth *= 2


def _passes(solution: Solution, penalty: Penalty, x: Array) -> float:
    """Evaluations of the secular functions, in passes over the array."""
    sizes = np.asarray(penalty.groups.sizes(tuple(x.shape)))
    return float(np.asarray(solution.evaluations) @ sizes) / max(1, x.size)


def proximal_gradient(
    penalty: Any, x: Array, step: float, metric: Array | None = None, start: Array | None = None
) -> Iterator[tuple[Array, float]]:
    """Proximal gradient steps in the least metric that is equal within groups, from the last iterate on.

    Where the metric is equal within a group, its first step is exact.

    Parameters
    ----------
    penalty, x, step, metric
        As `proxlab.prox` takes them.
    start : ndarray, optional
        Where to begin.

    Yields
    ------
    candidate : tuple of ndarray and float
        And the passes over the array so far.
    """
    d = np.broadcast_to(np.asarray(1.0 if metric is None else metric, dtype=np.float64), x.shape)
    largest = np.array(d)
    indptr, indices = penalty.groups.indices(x.shape)
    for a, b in pairwise(indptr):
        largest.reshape(-1)[indices[a:b]] = d.reshape(-1)[indices[a:b]].max(initial=0.0)
    z = np.asarray(x if start is None else start, dtype=np.float64)
    passes = 0
    while True:
        last, passes = z, passes + 1
        z = prox(penalty, z - d / largest * (z - x), step, metric=largest)
        yield z.astype(x.dtype), float(passes)
        if np.linalg.norm(z - last) <= 1e-15 * np.linalg.norm(z):
            return


def adversary(
    penalty: Any,
    x: Array,
    step: float,
    metric: Array | None = None,
    tolerance: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Iterator[tuple[Array, float]]:
    """The exact prox, pushed off in a random direction until the tolerance is spent.

    No solver errs like this: it shows what a schedule permits rather than what a solver makes of it.

    Parameters
    ----------
    penalty, x, step, metric
        As `proxlab.prox` takes them.
    tolerance : float
        What ``dist(0, ∂Q(z))`` may be.
    rng : numpy.random.Generator, optional
        For the direction.

    Yields
    ------
    candidate : tuple of ndarray and float
        Each nearer to the prox, and the passes over the array that the prox took; the last one is the prox.
    """
    solution = solve(penalty, x, step, metric=metric)
    exact, passes = solution.z, _passes(solution, penalty, x)
    # Zero groups stay zero: off zero, a group's stationarity jumps.
    push = (rng or np.random.default_rng(0)).normal(size=x.shape) * (exact != 0.0)
    length = float(np.linalg.norm((1.0 if metric is None else metric) * push)) / step
    if length > 0.0:
        for _ in range(MAX_CHECKS - 1):
            yield exact + (push * (tolerance / length)).astype(x.dtype), passes
            push *= 0.9
    yield exact, passes


#: Inner solvers by name.
INNER: dict[str, Callable[..., Any]] = {"adversary": adversary, "proximal gradient": proximal_gradient}


def check_inner(solver: Any) -> dict[str, InnerSolver]:
    """Return inner solvers by name, or raise an error; by default Newton's method.

    Raises
    ------
    TypeError
        If it is neither a root finder, a name of `INNER`, a function, nor a dict of them.
    """
    if solver is None:
        return {"Newton": Newton()}
    if not isinstance(solver, dict):
        name = solver if isinstance(solver, str) else getattr(solver, "__name__", type(solver).__name__)
        solver = {name: solver}
    found: dict[str, InnerSolver] = {}
    for name, given in solver.items():
        one = INNER.get(given, given) if isinstance(given, str) else given
        if isinstance(one, (type, str)) or not (isinstance(one, RootFinder) or callable(one)):
            raise TypeError(
                f"solver: must be a root finder, a function with the arguments of proxlab.prox, or one of "
                f"{', '.join(map(repr, INNER))}, got {given!r}"
            )
        found[str(name)] = one
    return found
