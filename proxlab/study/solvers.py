"""Solvers and bounds that the user brings, called so that nothing they do stops a study.

A solver has the signature of :func:`proxlab.prox` or is a root finder; a bound has that of
:func:`proxlab.certify` and returns a number per group. An exception, a result of the wrong kind, a changed
input or no number is a failure with its reason.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from proxlab.certificate import Certificate, certify
from proxlab.optim.problem import ProxProblem
from proxlab.prox import Solution, prox, solve
from proxlab.rootfinders import Newton, RootFinder
from proxlab.study.exact import ExactErrors
from proxlab.study.problems import Problem

__all__ = [
    "Bound",
    "Outcome",
    "RefusedError",
    "Solver",
    "attempt",
    "certificate_of",
    "check_bounds",
    "check_solvers",
    "evaluate",
    "untouched",
]

Array = npt.NDArray[Any]
Solver = Callable[..., Any] | RootFinder

#: A call that took less is repeated for its time, and one of proxlab's own always: the first may compile.
_QUICK = 30.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a solver did.

    Attributes
    ----------
    z : ndarray, of the shape of ``x``
        The result in float64; zero in groups that failed.
    failed : ndarray of bool, shape (n_groups,)
    reason : str
        Why; empty where nothing failed.
    evaluations : ndarray, shape (n_groups,)
        NaN where the solver does not tell.
    seconds : float
        Time of a call.
    """

    z: Array
    failed: Array
    reason: str
    evaluations: Array
    seconds: float


@dataclass(frozen=True, eq=False)
class Bound:
    """A bound under a name: of which error, and the function, or None for that of a certificate."""

    name: str
    error: str
    function: Callable[..., Any] | None


class RefusedError(ValueError):
    """What was returned cannot be used."""


def check_solvers(solvers: object) -> dict[str, Solver]:
    """Return solvers by name, or raise an error; by default proxlab's own."""
    if solvers is None:
        return {"Newton": Newton()}
    if not isinstance(solvers, Mapping) or not solvers:
        raise TypeError(f"solvers: must be a dict of solvers by name, got {solvers!r}")
    for name, solver in solvers.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"solvers: names must be text, got {name!r}")
        if isinstance(solver, type) or not (isinstance(solver, RootFinder) or callable(solver)):
            given = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
            raise TypeError(
                f"solvers: {name!r} must be a root finder or a function with the arguments of proxlab.prox, "
                f"got {given}"
            )
    return dict(solvers)


def check_bounds(bounds: object) -> tuple[Bound, ...]:
    """Return bounds, or raise an error; by default all those of a certificate."""
    names = ExactErrors._fields
    if bounds is None:
        return tuple(Bound(name, name, None) for name in names)
    if isinstance(bounds, str) or callable(bounds):
        bounds = [bounds]
    if not isinstance(bounds, Mapping):
        try:
            bounds = {getattr(b, "__name__", str(b)): b for b in bounds}  # type: ignore[attr-defined]
        except TypeError:
            raise TypeError(f"bounds: must be a dict of bounds by name, got {bounds!r}") from None
    found = []
    for name, given in bounds.items():
        error, function = given if isinstance(given, tuple) and len(given) == 2 else (None, given)
        if isinstance(function, str):
            error, function = function, None
        elif error is None:
            error = name if name in names else "distance"
        if error not in names or not (function is None or callable(function)):
            raise ValueError(
                f"bounds: {name!r} must be one of {names}, a function, or an error and a function, got "
                f"{given!r}"
            )
        found.append(Bound(str(name), error, function))
    if not found:
        raise ValueError("bounds: must hold at least one bound")
    return tuple(found)


def attempt(solver: Solver, problem: Problem, *, rtol: float | None = None, seed: int = 0) -> Outcome:
    """Solve a problem with anything.

    Parameters
    ----------
    solver : callable or RootFinder
    problem : Problem
    rtol : float, optional
        Relative tolerance, for root finders.
    seed : int, optional
        Seeds NumPy's global generator, and is passed on to a solver that has an argument ``seed``.

    Returns
    -------
    Outcome
    """
    n = problem.n_groups
    if isinstance(solver, RootFinder) and rtol is not None:
        solver = replace(solver, rtol=rtol)
    started = time.perf_counter()
    try:
        z, evaluations = _call(solver, problem, seed)
        seconds = time.perf_counter() - started
        if seconds < _QUICK or isinstance(solver, RootFinder):
            started = time.perf_counter()
            _call(solver, problem, seed)
            seconds = time.perf_counter() - started
    except (Exception, SystemExit) as error:
        taken = time.perf_counter() - started
        reason = str(error) if isinstance(error, RefusedError) else f"raised {type(error).__name__}: {error}"
        nothing = np.zeros(problem.x.shape)
        return Outcome(nothing, np.ones(n, dtype=bool), reason[:500], np.full(n, np.nan), taken)
    flat = z.astype(np.float64).reshape(-1)
    finite = np.isfinite(flat)
    failed = np.zeros(n, dtype=bool)
    reason = ""
    if not finite.all():
        indptr, indices = problem.penalty.groups.indices(problem.x.shape)
        for g in range(n):
            failed[g] = not finite[indices[indptr[g] : indptr[g + 1]]].all()
        kind = "NaN" if np.isnan(flat).any() else "an infinite element"
        reason = f"returned {kind}"
        for g in np.flatnonzero(failed).tolist():
            flat[indices[indptr[g] : indptr[g + 1]]] = 0.0
        flat[~np.isfinite(flat)] = 0.0
    return Outcome(flat.reshape(problem.x.shape), failed, reason, evaluations, seconds)


def _call(solver: Solver, problem: Problem, seed: int) -> tuple[Array, Array]:
    """Call a solver on copies, and look at what comes back."""
    n = problem.n_groups
    with untouched(problem) as (x, step, metric), _seeded(seed):
        if isinstance(solver, RootFinder):
            found: Any = solve(problem.penalty, x, step, metric=metric, root_finder=solver)
        elif solver is prox:
            found = prox(problem.penalty, x, step, metric=metric)
        else:
            more = {"seed": seed} if _takes_seed(solver) else {}
            found = solver(problem.penalty, x, step, metric=metric, **more)
    evaluations: Any = np.nan
    if isinstance(found, Solution):
        found, evaluations = found.z, found.evaluations
    elif isinstance(found, tuple):
        if len(found) != 2:
            raise RefusedError(f"returned a tuple of {len(found)}, must be z or (z, evaluations)")
        found, evaluations = found
    if not isinstance(found, np.ndarray):
        raise RefusedError(f"returned {type(found).__name__}, must be an array")
    if found.shape != problem.x.shape:
        raise RefusedError(f"returned shape {found.shape}, must be {problem.x.shape}")
    if found.dtype != problem.x.dtype:
        raise RefusedError(f"returned dtype {found.dtype}, must be {problem.x.dtype}")
    return np.array(found), per_group(evaluations, n, "evaluations")


def per_group(values: Any, n: int, name: str) -> Array:
    """Return numbers, one per group, in float64."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise RefusedError(f"returned {name} of {type(values).__name__}, must be numbers") from None
    if array.shape not in ((), (n,)):
        raise RefusedError(f"returned {name} of shape {array.shape}, must be (n_groups,) = ({n},)")
    return np.broadcast_to(array, (n,)).copy()


def evaluate(bound: Callable[..., Any], z: Array, problem: Problem) -> tuple[Array, str]:
    """Evaluate a bound of the user's at a candidate.

    Returns
    -------
    values : ndarray, shape (n_groups,)
        NaN where there is none.
    reason : str
        Why there are none; empty where the bound returned some.
    """
    n = problem.n_groups
    candidate = z.astype(problem.x.dtype)
    try:
        with untouched(problem) as (x, step, metric):
            found = bound(problem.penalty, candidate, x, step, metric=metric)
        values = per_group(found, n, "bounds")
        if np.shape(found) != (n,):
            raise RefusedError(f"returned bounds of shape {np.shape(found)}, must be (n_groups,) = ({n},)")
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, RefusedError) else f"raised {type(error).__name__}: {error}"
        return np.full(n, np.nan), reason[:500]
    return values, ""


def certificate_of(z: Array, problem: Problem) -> Certificate | str:
    """Return proxlab's certificate of a candidate, or why there is none."""
    candidate = z.astype(problem.x.dtype)
    try:
        return certify(problem.penalty, candidate, problem.x, problem.step, metric=problem.metric)
    except (TypeError, ValueError, ArithmeticError) as error:
        return f"cannot be certified: {type(error).__name__}: {error}"


@contextmanager
def untouched(problem: Problem | ProxProblem) -> Iterator[tuple[Any, Any, Any]]:
    """Lend copies of point, step and metric; an error if one of them has been changed."""
    given = {"x": problem.x, "step": problem.step, "metric": problem.metric}
    lent: dict[str, Any] = {key: np.array(a) if isinstance(a, np.ndarray) else a for key, a in given.items()}
    yield lent["x"], lent["step"], lent["metric"]
    for key, a in given.items():
        if isinstance(a, np.ndarray) and lent[key].tobytes() != np.ascontiguousarray(a).tobytes():
            raise RefusedError(f"changed its input {key}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, and leave it as it was."""
    before = np.random.get_state()  # noqa: NPY002 (what solvers of others use)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _takes_seed(solver: Callable[..., Any]) -> bool:
    try:
        return "seed" in inspect.signature(solver).parameters
    except (TypeError, ValueError):
        return False
