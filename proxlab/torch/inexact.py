"""Proximal steps that are solved just well enough: a tolerance for each step, proved where it is certified.

The number of iterations that the criterion needs is learned where a step is certified, and used until the
next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import array_api_compat

from proxlab.bounds import rounding
from proxlab.certificate import Certificate, Total
from proxlab.inexactness import Criterion, Distance, EpsSubgradient, Gap, Schedule, Stationarity
from proxlab.rootfinders import RootFinder

__all__ = ["Tolerance", "together", "worst_group"]


class Tolerance:
    """A criterion with a schedule, and the iterations that it has needed so far.

    Parameters
    ----------
    inexactness : tuple of (type of Criterion, Schedule)
        For example ``(Stationarity, SquareSummable(1e-2))``.
    """

    def __init__(self, inexactness: object) -> None:
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
        self._criterion, self._schedule = inexactness
        self.iterations = 1

    def at(self, t: int) -> float:
        """Return the tolerance ε_t of the whole step."""
        return self._schedule(t)

    def criterion(self, eps: float, parts: int) -> Criterion:
        """Return what each of ``parts`` proxes has to satisfy, so that all together satisfy it with ε."""
        if issubclass(self._criterion, (Distance, Stationarity)):
            eps = eps / math.sqrt(parts)
        elif issubclass(self._criterion, (Gap, EpsSubgradient)):
            eps = eps / parts
        made: Criterion = self._criterion(eps)  # type: ignore[call-arg]
        return made

    def finder(self, root_finder: RootFinder) -> RootFinder:
        """Return the root finder, stopped after the iterations that have been enough."""
        return replace(root_finder, max_iterations=min(self.iterations, root_finder.max_iterations))


def together(bounds: Iterable[Total]) -> dict[str, float]:
    """Put bounds of parts together: 2-norms of distances and stationarity, the sum of gaps."""
    bounds = list(bounds)
    up = 1.0 + rounding(len(bounds) + 8)
    norms = {
        name: math.hypot(*(getattr(b, name) for b in bounds)) * up for name in Total._fields if name != "gap"
    }
    return norms | {"gap": math.fsum(b.gap for b in bounds) * up}


def worst_group(certificate: Certificate) -> int:
    """Return the group of which least is known."""
    xp = array_api_compat.array_namespace(certificate.distance)
    return int(xp.argmax(certificate.distance))
