"""The param groups of a network, and what they say about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from proxlab.penalties import Penalty
from proxlab.torch.text import format_table, listed

__all__ = ["ParamGroups", "described"]


class ParamGroups(list[dict[str, Any]]):
    """A list of param groups that prints as a table: what is penalised, and what stays free and why.

    Parameters
    ----------
    groups : iterable of dict
        The param groups.
    free : mapping of str to str
        The parameters that are not penalised, each with the reason.

    Attributes
    ----------
    free : dict of str to str
        As given.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], free: Mapping[str, str]) -> None:
        super().__init__(groups)
        self.free = dict(free)

    def __repr__(self) -> str:
        rows = []
        for number, group in enumerate(self):
            penalty, joint = group.get("penalty"), group.get("joint")
            if penalty is None:
                continue
            names = [str(name) for name in group.get("names", ())]
            groups = f"{penalty.groups}"
            if joint is not None:
                groups = f"{joint[0].layout(tuple(group['params'][0].shape)).n_groups} joint groups"
            rows.append((f"{number}", described(penalty), groups, listed(names)))
        reasons: dict[str, list[str]] = {}
        for name, reason in self.free.items():
            reasons.setdefault(reason, []).append(name)
        tables = []
        if rows:
            tables.append(format_table(("group", "penalty", "groups", "parameters"), rows, left=4))
        if reasons:
            free = [(reason, listed(names)) for reason, names in reasons.items()]
            tables.append(format_table(("free, since", "parameters"), free, left=2))
        return "\n\n".join(tables)


def described(penalty: Penalty) -> str:
    """Return the name of a penalty with its numbers, without its groups."""
    factors = ", ".join(f"{name}={getattr(penalty, name):g}" for name in penalty._factors)
    return f"{type(penalty).__name__}({factors})"
