"""Proximal steps that are solved just well enough: a tolerance for each step, proved where it is certified.

The number of iterations that the criterion needs is learned where a step is certified, and used until the
next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from proxlab.bounds import rounding
from proxlab.certificate import Certificate, Total
from proxlab.inexactness import Adaptive, Criterion, Distance, EpsSubgradient, Gap, Schedule, Stationarity
from proxlab.namespaces import namespace
from proxlab.optim.problem import ProxProblem
from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["Bring", "Tell", "Tolerance", "alone", "solve_certified", "thrown"]

#: Tells numbers to all processes that have a part in a step; returns those of each.
Tell = Callable[[list[float]], list[list[float]]]
#: Takes along what has failed in this process, if anything: all raise an error when numbers are told next.
Bring = Callable[[Exception | None], None]

# Iterations after which more of them prove nothing more.
_ENOUGH = 200
# The bound of a certificate that has the unit of a criterion's tolerance.
_UNITS: dict[type[Criterion], str] = {
    Distance: "distance",
    Stationarity: "stationarity",
    Gap: "gap",
    EpsSubgradient: "gap",
}


def alone(numbers: list[float]) -> list[list[float]]:
    """Tell nobody: there is one process."""
    return [numbers]


def thrown(failure: Exception | None) -> None:
    """Raise what has failed: there is one process."""
    if failure is not None:
        raise failure


class Tolerance:
    """A criterion with a schedule, and the iterations that it has needed so far.

    Parameters
    ----------
    inexactness : tuple of (type of Criterion, Schedule)
        For example ``(Stationarity, SquareSummable(1e-2))``.
    iterations : int
        How many have been enough.
    """

    def __init__(self, inexactness: object, iterations: int = 1) -> None:
        if not (
            isinstance(inexactness, tuple)
            and len(inexactness) == 2
            and isinstance(inexactness[0], type)
            and issubclass(inexactness[0], Criterion)
            and isinstance(inexactness[1], Schedule)
        ):
            raise TypeError(
                "inexactness: must be a criterion and a schedule, for example (Stationarity, "
                f"SquareSummable(1e-2)), or None, got {inexactness!r}"
            )
        self._criterion: type[Criterion] = inexactness[0]
        self._schedule: Schedule = inexactness[1]
        self.iterations = iterations

    def at(self, t: int, progress: float | None = None) -> float:
        """Return the tolerance ε_t of the whole step.

        Parameters
        ----------
        t : int
        progress : float or None
            As :meth:`progress` returns it; without one, the cap alone counts.
        """
        return self._schedule(t, progress)

    def progress(
        self,
        problems: Sequence[ProxProblem],
        counts: Sequence[bool],
        tell: Tell = alone,
        bring: Bring = thrown,
    ) -> float | None:
        """Return what is left to gain: what the last weights, taken for the solution, would be wrong by.

        That is the distance, the stationarity or the gap of the last weights in the problems of this step,
        all together, whichever the criterion is about. None where the schedule does not ask for it, where
        the criterion has no unit, or where nothing is known.
        """
        unit = next((u for kind, u in _UNITS.items() if issubclass(self._criterion, kind)), None)
        if not isinstance(self._schedule, Adaptive) or unit is None:
            return None
        own: list[Total] = []
        failure: Exception | None = None
        try:
            own += [_distance(p) for p, counted in zip(problems, counts, strict=True) if counted]
        except Exception as error:
            failure = error
        bring(failure)
        together = _together(own, tell)
        return together[unit] if together["parts"] and math.isfinite(together[unit]) else None

    @property
    def name(self) -> str:
        """What it is, in a word that all processes have to say alike."""
        return f"{self._criterion.__name__}, {self._schedule!r}"

    def criterion(self, eps: float, parts: int) -> Criterion:
        """Return what each of ``parts`` proxes has to satisfy, so that all together satisfy it with ε."""
        if issubclass(self._criterion, (Distance, Stationarity)):
            eps = eps / math.sqrt(parts)
        elif issubclass(self._criterion, (Gap, EpsSubgradient)):
            eps = eps / parts
        return self._criterion(eps)  # type: ignore[call-arg]

    def finder(self, root_finder: RootFinder) -> RootFinder:
        """Return the root finder, stopped after the iterations that have been enough."""
        return replace(root_finder, max_iterations=min(self.iterations, root_finder.max_iterations))


def solve_certified(
    problems: Sequence[ProxProblem],
    t: int,
    root_finder: RootFinder,
    tolerance: Tolerance | None,
    counts: Sequence[bool] | None = None,
    tell: Tell = alone,
    bring: Bring = thrown,
) -> tuple[list[Array], dict[str, float]]:
    """Solve and certify all proxes of step ``t``, with more iterations until the tolerance is proved.

    Parameters
    ----------
    problems : sequence of ProxProblem
        Those of this process.
    t : int
    root_finder : RootFinder
    tolerance : Tolerance or None
        For all problems together; it learns how many iterations are enough.
    counts : sequence of bool, optional
        Which problems count: of one that several processes solve alike, one does. By default all.
    tell : callable, optional
        Where several processes have problems, all of them call this together.
    bring : callable, optional
        Takes along what has failed in this process: all raise an error when they are told numbers next.

    Returns
    -------
    list of array
        The solutions.
    dict
        The bounds of all together, the evaluations of secular functions and, with a tolerance, ε_t and the
        iterations that were enough.

    Raises
    ------
    ValueError
        If the tolerance cannot be proved; the message names the step, the place and the group.
    RuntimeError
        If that is so in another process.
    """
    counts = [True] * len(problems) if counts is None else counts
    parts = sum(counts)
    eps = cap = math.inf
    if tolerance is not None:
        tolerance.iterations = max(1, tolerance.iterations - 1)
        parts = round(sum(n for (n,) in tell([parts])))
        eps, cap = tolerance.at(t, tolerance.progress(problems, counts, tell, bring)), tolerance.at(t)
    solved: list[_Solved] = []
    failure: Exception | None = None
    start = most = 1 if tolerance is None else tolerance.iterations
    for p in problems:
        if tolerance is not None and tell is not alone:
            # Copies of a problem take the same iterations, whatever else a process has to solve.
            tolerance.iterations = start
        try:
            solved.append(_certified(p, t, root_finder, tolerance, eps, cap, parts))
        except Exception as error:
            failure = error
            break
        most = max(most, 1 if tolerance is None else tolerance.iterations)
    counted = [s for s, counts_here in zip(solved, counts, strict=False) if counts_here]
    work, kept = sum(s.evaluations for s in counted), all(s.eps == eps for s in solved)
    bring(failure)
    told = tell([most, work, not kept])
    record = _together([s.certificate.total for s in counted], tell)
    record.pop("parts")
    record["evaluations"] = round(sum(row[1] for row in told))
    if tolerance is not None:
        tolerance.iterations = round(max(row[0] for row in told))
        every = not any(row[2] for row in told)
        record |= {"tolerance": eps if every else cap, "iterations": tolerance.iterations}
    return [s.z for s in solved], record


def _distance(problem: ProxProblem) -> Total:
    """Return the bounds of the last weights; what is wrong with a problem is said when it is solved."""
    try:
        return problem.certify(problem.previous).total
    except ValueError:
        return Total(math.inf, math.inf, math.inf, math.inf)


class _Solved(NamedTuple):
    """A prox that is solved well enough, its certificate, the work, and the tolerance that is proved."""

    z: Array
    certificate: Certificate
    evaluations: int
    eps: float


def _certified(
    problem: ProxProblem,
    t: int,
    root_finder: RootFinder,
    tolerance: Tolerance | None,
    eps: float,
    cap: float,
    parts: int,
) -> _Solved:
    """Solve one of ``parts`` problems to its part of ε; where rounding hides a share of it, to the cap's."""
    evaluations = 0
    while True:
        finder = root_finder if tolerance is None else tolerance.finder(root_finder)
        solution = problem.solve(finder)
        evaluations += int(solution.evaluations.sum()) if solution.evaluations.shape[0] else 0
        z = solution.z if problem.rounded is None else problem.rounded(solution.z)
        certificate = problem.certify(z)
        if tolerance is None:
            return _Solved(z, certificate, evaluations, eps)
        if tolerance.criterion(eps, parts).holds(certificate, problem.previous):
            return _Solved(z, certificate, evaluations, eps)
        # What has converged gets no better by more iterations.
        if (
            solution.ok
            or finder.max_iterations == root_finder.max_iterations
            or tolerance.iterations > _ENOUGH
        ):
            if eps < cap and tolerance.criterion(cap, parts).holds(certificate, problem.previous):
                return _Solved(z, certificate, evaluations, cap)
            rounds = "; the weights are rounded" if problem.rounded is not None else ""
            raise ValueError(
                f"inexactness: step {t}, {problem.where}: the tolerance {eps:.3g} is not proved; least is "
                f"known of group {_worst_group(certificate)}{rounds}. Ask for less, or raise max_iterations "
                "of the root finder"
            )
        tolerance.iterations += 1


def _together(bounds: Iterable[Total], tell: Tell) -> dict[str, float]:
    """Put bounds of parts together: 2-norms of distances and stationarity, the sum of gaps.

    And how many ``parts`` there are.
    """
    bounds = list(bounds)
    names = [name for name in Total._fields if name != "gap"]
    norms = [math.hypot(*(getattr(b, name) for b in bounds)) for name in names]
    told = tell([*norms, math.fsum(b.gap for b in bounds), len(bounds)])
    *columns, gaps, parts = zip(*told, strict=True)
    up = 1.0 + rounding(sum(parts) + len(told) + 8)
    together = {name: math.hypot(*own) * up for name, own in zip(names, columns, strict=True)}
    return together | {"gap": math.fsum(gaps) * up, "parts": sum(parts)}


def _worst_group(certificate: Certificate) -> int:
    """Return the group of which least is known."""
    xp = namespace(certificate.distance)
    return int(xp.argmax(certificate.distance))
