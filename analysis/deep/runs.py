"""What a method is run with on a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Runs:
    """The numbers of one method on one task.

    Strengths are λ of the penalty, or the share of weights that is asked for. They were chosen by short runs,
    so that a method's runs reach from nearly dense to where its accuracy falls.

    Attributes
    ----------
    rate : float
        The largest learning rate.
    quick : tuple of float
        Strengths of all profiles, from weak to strong.
    more : tuple of float
        Strengths that the larger profiles run besides.
    probed : float, optional
        The strength with which the subproblems are looked at in training.
    settings : mapping
        What the method needs besides, such as the shape of a penalty.
    """

    rate: float
    quick: tuple[float, ...] = ()
    more: tuple[float, ...] = ()
    probed: float | None = None
    settings: Mapping[str, float] = field(default_factory=dict)

    def strengths(self, choice: str) -> tuple[float, ...]:
        """Those of a profile: ``"one"`` in the middle of the quick ones, the ``"quick"``, or ``"all"``."""
        if choice == "one":
            return (middle(self.quick),) if self.quick else ()
        return self.quick if choice == "quick" else tuple(sorted({*self.quick, *self.more}))


def middle(values: tuple[float, ...]) -> float:
    """The strength in the middle of a list."""
    return values[len(values) // 2]
