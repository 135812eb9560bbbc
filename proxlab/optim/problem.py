"""The prox that an update rule asks for, with all that it takes to solve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from proxlab.certificate import Certificate, certify
from proxlab.penalties import Penalty
from proxlab.prox import Solution, prox, solve
from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["ProxProblem", "Watch", "told"]


class ProxProblem(NamedTuple):
    """A prox of a step: ``argmin_z penalty(z) + ‖z - x‖²_D / (2 step)``.

    ``where`` is how an error names the place, ``previous`` the weights before the step, ``uses`` how often a
    call of the network uses an element, where that is known, and ``rounded`` what becomes of a solution that
    is kept in a lower precision.
    """

    penalty: Penalty
    x: Array
    metric: Array | None
    step: float
    where: str = ""
    previous: Array | None = None
    uses: float | None = None
    rounded: Callable[[Array], Array] | None = None

    def prox(self, root_finder: RootFinder, check: bool | None = None) -> Array:
        """Return the prox; an error says where."""
        return self._call(prox, root_finder, check=check)

    def solve(self, root_finder: RootFinder) -> Solution:
        """Return the prox explained; an error says where."""
        solution: Solution = self._call(solve, root_finder)
        return solution

    def certify(self, z: Array) -> Certificate:
        """Bound the error of a candidate."""
        with self.named():
            return certify(self.penalty, z, self.x, self.step, metric=self.metric)

    def _call(self, verb: Callable[..., Any], root_finder: RootFinder, **options: Any) -> Any:
        with self.named():
            return verb(
                self.penalty, self.x, self.step, metric=self.metric, root_finder=root_finder, **options
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let an error say where: one of another kind than of a value in a note."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.where}: {told(error)}") from error
        except Exception as error:
            error.add_note(self.where)
            raise


def told(error: ValueError) -> str:
    """Return what an error of a step's prox says, and of what is made what nobody has given to it."""
    made = {
        "x": "made of its weight, gradient and state",
        "metric": "made of its gradient and state",
        "z": "the prox, rounded to the precision of the weights",
    }
    name = str(error).partition(": must be finite")[0]
    return f"{error}; {name} is {made[name]}" if name in made else str(error)


class Watch(Protocol):
    """Who looks at the proxes of an optimizer's steps (:func:`proxlab.study.capture`)."""

    def due(self, step: int) -> bool:
        """Whether to look at this step."""

    def see(self, step: int, problems: Mapping[str, ProxProblem]) -> None:
        """Look at what a step has solved, by the parameters' names."""
