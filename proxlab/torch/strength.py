"""One strength λ for all penalties of an optimizer, driven towards a wanted sparsity."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

__all__ = ["DrivenStrength"]


class DrivenStrength:
    """The common strength of the penalties of param groups; their ratios stay as they were given.

    Parameters
    ----------
    target : TargetSparsity
        What decides on the strength.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self._unit = 0.0
        self._lam = 0.0
        self._state: dict[str, Any] | None = None

    def admit(self, group: dict[str, Any]) -> None:
        """Note in a param group what its strength is to the common one, which is that of the first."""
        penalty = group["penalty"]
        if penalty is None:
            return
        if self._state is None:
            self._unit = self._lam = penalty.strength
            self._state = self.target.init(self._lam)
        group["share"] = penalty.strength / self._unit if self._unit > 0 else 1.0

    def update(
        self, groups: list[dict[str, Any]], t: int, points: list[Any], reached: Callable[[], float]
    ) -> dict[str, Any]:
        """Decide on the strength of step ``t`` and set it; returns a record for the history.

        Parameters
        ----------
        groups : list of dict
            The param groups.
        t : int
        points : list of tuple
            Penalty, point, metric and step of each prox of this step, where they are known.
        reached : callable
            Returns the sparsity of the weights as they are.
        """
        if self._state is None:
            return {}
        lam, self._state = self.target.update(self._state, t, points, reached)
        if lam != self._lam:
            self._lam = lam
            self.set(groups)
        return {"lam": lam} | {key: self._state[key] for key in ("sparsity", "gap") if key in self._state}

    def set(self, groups: list[dict[str, Any]]) -> None:
        """Give every penalty its share of the common strength."""
        for group in groups:
            if group["penalty"] is not None:
                group["penalty"] = group["penalty"].with_strength(self._lam * group["share"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers."""
        return {"unit": self._unit, "lam": self._lam, "state": copy.deepcopy(self._state)}

    def load_state_dict(self, state: dict[str, Any], groups: list[dict[str, Any]]) -> None:
        """Load what :meth:`state_dict` returned, and set the strengths."""
        self._unit, self._lam, self._state = state["unit"], state["lam"], copy.deepcopy(state["state"])
        self.set(groups)
