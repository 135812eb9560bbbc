"""One strength λ for all penalties of an optimizer, driven towards a wanted sparsity."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from proxlab.groups import Groups
from proxlab.optim.sparsity import Moving, Resting, TargetSparsity, driven, record, warn_of
from proxlab.penalties import Penalty
from proxlab.torch.problems import Key, uses_of
from proxlab.torch.sparsity import living

__all__ = ["DRIVEN", "DrivenStrength"]

#: What the next decision needs of the last.
DRIVEN = ("unit", "lam", "rate", "direction", "changes")

ParamGroups = Sequence[dict[str, Any]]


class DrivenStrength:
    """The common strength of the penalties of param groups; their ratios stay as they were given.

    What it has decided are numbers under ``sparsity`` in every param group, which PyTorch saves and restores
    as it does learning rates. The penalties under ``penalty`` are those of this strength.

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
        self._now: list[Penalty | None] = []
        # Of which penalty, and at which multiple of its strength, those are.
        self._made: list[tuple[Penalty | None, float]] = []
        # Whether it was said that the target cannot be reached.
        self._told = False

    def read(self, groups: ParamGroups) -> None:
        """Take penalties that were set since the last step as given, and set those that are driven to.

        Raises
        ------
        ValueError
            If a penalty has no strength; nothing has changed.
        """
        state, found = groups[0].get("sparsity"), list(self.given)
        for number, group in enumerate(groups):
            penalty = group["penalty"]
            if number >= len(found):
                found.append(penalty)
            elif penalty is not self._now[number] and not _is_driven(penalty, found[number], state):
                found[number] = penalty
            given = found[number]
            if given is not None and given.strength == 0:
                raise ValueError(
                    f"param group {number}: penalty: must have a strength > 0 to be driven, got {given!r}"
                )
        new = found[len(self.given) :]
        self.given = found
        self._now += new
        self._made += [(None, math.nan)] * len(new)
        self._write(groups, self._state(groups))

    def take(self, given: Sequence[Penalty | None], groups: ParamGroups) -> None:
        """Take the penalties of param groups as given, in place of those that were; their strength stays."""
        self.given, self._now = list(given), [group["penalty"] for group in groups]
        self._made = [(None, math.nan)] * len(groups)
        self.read(groups)

    def restore(self, groups: ParamGroups, state: Mapping[str, float] | None) -> None:
        """Go back to what was decided before a step that has failed: to what param groups had then."""
        self._write(groups, state)

    def update(
        self,
        groups: ParamGroups,
        t: int,
        problems: Sequence[Moving],
        moving: Mapping[Key, Penalty],
    ) -> tuple[dict[str, float], dict[Key, Penalty]]:
        """Decide on the strength of step ``t`` (:meth:`TargetSparsity.update`).

        Parameters
        ----------
        groups : sequence of dict
            The param groups.
        t : int
            The count of this step, from 1.
        problems : sequence of Moving
            The groups of the blocks that the step moves.
        moving : mapping
            The penalty of each of those blocks as it was given, in their order.

        Returns
        -------
        record : dict
            What a history says of the decision.
        own : dict
            The penalties of the blocks whose strength is not that of all.
        """
        state = self._state(groups)
        if state is None:
            return {}, {}
        rest = resting(groups, moving) if moving else []
        _, new = self.target.update(state, t, problems, rest, lambda: self.target.share(resting(groups, ())))
        self._write(groups, {name: new[name] for name in DRIVEN})
        if not self._told and self.target.ends(t):
            self._told = warn_of(new, self.target.target)
        strengths = new.get("strengths")
        own = [] if strengths is None else zip(moving.items(), strengths, strict=True)
        return record(new), {
            key: given.with_strength(given.strength * (lam / new["unit"]))
            for (key, given), lam in own
            if lam != new["lam"]
        }

    def _state(self, groups: ParamGroups) -> Mapping[str, float] | None:
        """Return what was decided, with the strength of the first penalty as it is given now."""
        state: Mapping[str, float] | None = groups[0].get("sparsity")
        first = next((penalty for penalty in self.given if penalty is not None), None)
        if first is None:
            return state
        if state is None:
            return self.target.init(first.strength)
        unit, before = first.strength, state["unit"]
        return state if before == unit else {**state, "unit": unit, "lam": unit * (state["lam"] / before)}

    def _write(self, groups: ParamGroups, state: Mapping[str, float] | None) -> None:
        for number, (group, given) in enumerate(zip(groups, self.given, strict=True)):
            # A dict of its own: optimizers that shard others copy what is in a param group, not its content.
            group["sparsity"] = None if state is None else dict(state)
            of, at = self._made[number]
            now = 1.0 if state is None else state["lam"] / state["unit"]
            # The same object as long as the strength is the same.
            if of is not given or at != now:
                self._now[number] = given if given is None or state is None else driven(given, state)
                self._made[number] = given, now
            group["penalty"] = self._now[number]


def resting(groups: ParamGroups, moving: Container[Key]) -> list[Resting]:
    """Return the penalised groups of all blocks but those that move, which are given by their keys."""
    layers: list[tuple[list[Tensor], list[Groups]]] = []
    uses = []
    for number, group in enumerate(groups):
        params, penalty, joint = group["params"], group["penalty"], group.get("joint")
        if penalty is None:
            continue
        if joint is not None:
            if (number, None) not in moving:
                layers.append((params, list(joint)))
                uses.append(uses_of(group, None))
        else:
            places = [k for k in range(len(params)) if (number, k) not in moving]
            layers += [([params[k]], [penalty.groups]) for k in places]
            uses += [uses_of(group, k) for k in places]
    return [found._replace(uses=use) for found, use in zip(living(layers), uses, strict=True)]


def _is_driven(penalty: Penalty | None, given: Penalty | None, state: Mapping[str, float] | None) -> bool:
    """Return whether a penalty is the given one as a state has driven it: a saved one that came back."""
    if penalty is None or given is None or state is None or type(penalty) is not type(given):
        return False
    theirs, ours = vars(penalty), vars(driven(given, state))
    return theirs.keys() == ours.keys() and all(
        np.array_equal(theirs[name], value) if isinstance(value, np.ndarray) else theirs[name] == value
        for name, value in ours.items()
    )
