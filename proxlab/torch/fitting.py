"""What of param groups was seen to fit together, so that steps look at what has changed alone."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any

from proxlab.penalties import Penalty
from proxlab.torch.problems import check_group

__all__ = ["Fitting"]


class Fitting:
    """The param groups of an optimizer, by their numbers, as they were when they were seen to fit."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[list[Any], list[Any]]] = {}

    def check(self, number: int, group: Mapping[str, Any], penalty: Penalty | None, convex: bool) -> None:
        """Raise an error if parameters, penalty and joint groups of a param group do not fit any more.

        ``penalty`` is the one that was given, of which that of the group may be another strength.
        """
        joint = group.get("joint")
        parts = joint if isinstance(joint, (list, tuple)) else (joint,)
        now = [penalty, *parts]
        kinds = [(p.shape, p.dtype, p.device) for p in group["params"]]
        given, fitted = self._seen.get(number, ([], []))
        if len(now) != len(given) or not all(map(is_, now, given)) or kinds != fitted:
            check_group(group, f"param group {number}", convex)
            self._seen[number] = now, kinds
