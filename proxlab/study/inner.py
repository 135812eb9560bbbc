"""Inner solvers of a study of convergence: each is stopped as soon as a certificate proves the tolerance."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from proxlab.inexactness import Stationarity, decreases
from proxlab.optim.base import squared_distance
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import Penalty
from proxlab.prox import Solution, prox, solve
from proxlab.rootfinders import Newton, RootFinder
from proxlab.study.solvers import untouched

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
    certificates : int
        Certificates that were asked for.
    bound : float
        The proved bound of ``dist(0, ∂Q(z))``.
    proved : bool
        Whether that is within the tolerance; true of exact solves.
    decreased : bool
        Whether ``Q(z) ≤ Q(w)`` is proved, for the last iterate ``w``.
    """

    z: Array
    evaluations: float
    certificates: int
    bound: float
    proved: bool
    decreased: bool


@dataclass(frozen=True)
class Asked:
    """What is asked of a prox: ``dist(0, ∂Q(z)) ≤ eps``, to rounding where eps is 0, and the decrease."""

    eps: float
    decrease: bool = False

    def met(self, found: Inner) -> bool:
        """Whether it is proved of a candidate."""
        return found.proved and (found.decreased or not self.decrease)


def _due(checks: int) -> int:
    """Return the candidate that is certified after so many certificates, which cost a pass or two each.

    Each of the first is, then they come at growing distances: `MAX_CHECKS` reach `MAX_CANDIDATES`.
    """
    return max(checks + 1, math.ceil(1.2**checks))


def residual(problem: ProxProblem, z: Any) -> float:
    """Return ``dist(0, ∂Q(z))`` but for rounding."""
    z = np.asarray(z, dtype=np.float64)
    pull = (1.0 if problem.metric is None else problem.metric) * (z - problem.x) / problem.step
    try:
        return math.sqrt(squared_distance(problem.penalty, pull, z))
    except OverflowError:
        return math.inf


def solve_inner(solver: InnerSolver, problem: ProxProblem, asked: Asked, rng: np.random.Generator) -> Inner:
    """Solve a prox until a certificate proves what is asked.

    Parameters
    ----------
    solver : RootFinder or callable
    problem : ProxProblem
    asked : Asked
    rng : numpy.random.Generator
        For solvers that draw.

    Returns
    -------
    Inner
        The first candidate of which it is proved, else the last one.

    Raises
    ------
    ValueError
        If a candidate is none, or the solver has changed its point or metric; where to begin it may.
    """
    if isinstance(solver, RootFinder):
        return _by_radius(solver, problem, asked)
    if asked.eps == 0.0 and solver is not proximal_gradient:
        return _by_radius(Newton(), problem, asked)
    # Copies: what is certified is the prox that was asked for, whatever the solver does to its arguments.
    with untouched(problem) as (x, step, metric):
        start = None if problem.previous is None else np.array(problem.previous)
        given: dict[str, Any] = {"start": start, "tolerance": asked.eps, "rng": rng}
        parameters = inspect.signature(solver).parameters
        taken = {name: value for name, value in given.items() if name in parameters}
        answer = solver(problem.penalty, x, step, metric=metric, **taken)
        return _first(answer if isinstance(answer, Iterator) else iter([answer]), problem, asked)


def _first(candidates: Iterator[Any], problem: ProxProblem, asked: Asked) -> Inner:
    """Return the first candidate of which is proved what is asked, else the last one."""
    checks = used = seen = 0
    last: Inner | None = None
    for used, candidate in enumerate(islice(candidates, MAX_CANDIDATES), start=1):
        z, told = candidate if isinstance(candidate, tuple) else (candidate, math.nan)
        # A copy: the solver may go on in the same array.
        z, evaluations = np.array(z), float(told)
        if z.shape != np.shape(problem.x):
            raise ValueError(f"the inner solver must give arrays of shape {problem.x.shape}, got {z.shape}")
        if not np.isfinite(z).all():
            raise ValueError("the inner solver gave a candidate that is not finite")
        if asked.eps > 0.0 and used >= _due(checks):
            checks, seen = checks + 1, used
            last = _prove(problem, z, evaluations, asked.eps, checks)
            if asked.met(last) or checks == MAX_CHECKS:
                return last
    if used == 0:
        raise ValueError("the inner solver gave no candidate")
    if last is None or seen < used:
        last = _prove(problem, z, evaluations, asked.eps, checks + 1)
    return last


def _prove(problem: ProxProblem, z: Array, evaluations: float, eps: float, checks: int) -> Inner:
    certificate = problem.certify(z)
    proved = eps == 0.0 or Stationarity(eps).holds(certificate)
    decreased = decreases(certificate, problem.previous)
    return Inner(z, evaluations, checks, certificate.total.stationarity, proved, decreased)


def _by_radius(finder: RootFinder, problem: ProxProblem, asked: Asked) -> Inner:
    """A root finder that is allowed one more iteration until it is proved."""
    for checks in range(MAX_CHECKS):
        depth = finder.max_iterations if asked.eps == 0.0 else min(_due(checks), finder.max_iterations)
        solution = problem.solve(replace(finder, max_iterations=depth))
        passes = _passes(solution, problem.penalty, problem.x)
        found = _prove(problem, np.asarray(solution.z), passes, asked.eps, checks + 1)
        if asked.met(found) or solution.ok or depth == finder.max_iterations:
            break
    return found


def _passes(solution: Solution, penalty: Penalty, x: Array) -> float:
    """Evaluations of the secular functions, in passes over the array."""
    sizes = np.asarray(penalty.groups.sizes(tuple(x.shape)))
    return float(np.asarray(solution.evaluations) @ sizes) / max(1, x.size)


def proximal_gradient(
    penalty: Any,
    x: Array,
    step: float,
    metric: Array | None = None,
    start: Array | None = None,
    tolerance: float = 0.0,
) -> Iterator[tuple[Array, float]]:
    """Proximal gradient steps in the least metric that is equal within groups, from the last iterate on.

    Where the metric is equal within a group, its first step is exact.

    Parameters
    ----------
    penalty, x, step, metric
        As `proxlab.prox` takes them.
    start : ndarray, optional
        Where to begin.
    tolerance : float
        What ``dist(0, ∂Q(z))`` may be; 0 is down to rounding.

    Yields
    ------
    candidate : tuple of ndarray and float
        And the passes over the array so far.
    """
    d = np.broadcast_to(np.asarray(1.0 if metric is None else metric, dtype=np.float64), x.shape)
    largest = d.copy()
    indptr, indices = penalty.groups.indices(x.shape)
    sizes = np.diff(indptr)
    if len(indices):
        most = np.maximum.reduceat(d.reshape(-1)[indices], indptr[:-1][sizes > 0])
        largest.reshape(-1)[indices] = np.repeat(most, sizes[sizes > 0])
    z = np.asarray(x if start is None else start, dtype=np.float64)
    # Below this, only rounding is left.
    least = float(max(1e-13 * np.linalg.norm(d * (x - z)), 1e-15 * np.linalg.norm(largest * x))) / step
    yield z.astype(x.dtype), 0.0
    for passes in range(1, MAX_CANDIDATES):
        last = z
        z = prox(penalty, z - d / largest * (z - x), step, metric=largest)
        # (max d − d)(last − z)/η is a subgradient of Q at z.
        left = float(np.linalg.norm((largest - d) * (last - z))) / step
        if left <= max(tolerance, least):
            yield z.astype(x.dtype), float(passes)
        if left <= least:
            return
    yield z.astype(x.dtype), float(MAX_CANDIDATES)


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
