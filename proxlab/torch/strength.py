"""One strength λ for all penalties of an optimizer, driven towards a wanted sparsity."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import Resting, TargetSparsity, driven, record
from proxlab.penalties import Penalty

__all__ = ["DrivenStrength"]


class DrivenStrength:
    """The common strength of the penalties of param groups; their ratios stay as they were given.

    Parameters
    ----------
    target : TargetSparsity
        What decides on the strength.

    Attributes
    ----------
    given : list of Penalty or None
        The penalty of each param group as it was given.
    """

    def __init__(self, target: TargetSparsity) -> None:
        self.target = target
        self.given: list[Penalty | None] = []
        self._state: dict[str, float] | None = None

    def admit(self, penalty: Penalty | None) -> Penalty | None:
        """Note the penalty of a new param group; returns it with the strength that it is driven to."""
        if penalty is not None:
            if penalty.strength == 0:
                raise ValueError(f"penalty: must have a strength > 0 to be driven, got {penalty!r}")
            if self._state is None:
                self._state = self.target.init(penalty.strength)
        self.given.append(penalty)
        return self._now(penalty)

    @property
    def lam(self) -> float | None:
        """The strength of the first penalty as it is now; None before there is one."""
        return None if self._state is None else self._state["lam"]

    def update(
        self,
        t: int,
        problems: Sequence[ProxProblem],
        resting: Sequence[Resting],
        sparsity: Callable[[], float],
    ) -> dict[str, float]:
        """Decide on the strength of step ``t`` (:meth:`TargetSparsity.update`); returns a record of it."""
        if self._state is None:
            return {}
        _, self._state = self.target.update(self._state, t, problems, resting, sparsity)
        return record(self._state)

    def penalties(self) -> list[Penalty | None]:
        """Return the penalty of each param group with the strength that it is driven to."""
        return [self._now(penalty) for penalty in self.given]

    def _now(self, penalty: Penalty | None) -> Penalty | None:
        return penalty if penalty is None or self._state is None else driven(penalty, self._state)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers."""
        return {} if self._state is None else dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._state = copy.copy(state) or None
