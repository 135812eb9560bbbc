"""Saved states of optimizers: which parameter each entry belongs to, and whether it is of this method.

PyTorch counts parameters through the param groups in order, and knows names only where it was given some.
Penalties divide a network otherwise than a run without them did, so a state is matched by names, by the
places of the parameters in the model (:func:`~proxlab.torch.param_groups` notes both), or else by order. What
does not fit is refused before anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proxlab import inexactness, penalties, rootfinders
from proxlab.groups import Groups as Division
from proxlab.optim.rules import Rule, Settings
from proxlab.optim.sparsity import TargetSparsity
from proxlab.optim.updates import Slot
from proxlab.torch.memory import check_counted, check_whole
from proxlab.torch.problems import name_parameter
from proxlab.torch.shards import division, local, reaches
from proxlab.torch.strength import DRIVEN
from proxlab.torch.wrappers import canonical
from proxlab.values import check_number, shown

__all__ = ["LOCAL", "adapted", "check_entry", "check_noted"]

#: Keys of a param group that say what is in it, not how it is stepped: those of the optimizer stay.
LOCAL = ("penalty", "joint", "names", "param_names", "places", "uses")
# Keys of the param groups of PyTorch's optimizers that say how to compute, not what.
_FLAGS = ("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")

Groups = Sequence[Mapping[str, Any]]

# ZeroRedundancyOptimizer saves param groups of its own, in which penalties and the other arguments are as
# they were given. They are plain records, which a load with weights_only may make.
_RECORDS = [
    record
    for module in (penalties, rootfinders, inexactness)
    for record in (getattr(module, name) for name in module.__all__)
    if isinstance(record, type)
]
_DIVISIONS = [type(Division.over(0)), type(Division.conv("filter"))]
torch.serialization.add_safe_globals([*_RECORDS, *_DIVISIONS, TargetSparsity])


class _Entry(NamedTuple):
    """A parameter of a saved state: its param group, its key and its name, if it has one."""

    number: int
    key: Any
    name: str | None


class _Own(NamedTuple):
    """A parameter of the optimizer: its param group, its name and its place in the model, if known."""

    number: int
    name: str | None
    place: int | None


def adapted(state_dict: Any, groups: Groups, settings: Sequence[str]) -> dict[str, Any]:
    """Return a saved state as one of an optimizer with these param groups.

    Parameters
    ----------
    state_dict : mapping
        As ``state_dict`` of an optimizer returned it.
    groups : sequence of mapping
        The param groups of the optimizer.
    settings : sequence of str
        The settings of a param group; those of parameters that come together must agree.

    Raises
    ------
    TypeError, ValueError
        If it is no state of an optimizer, or not of one of these parameters.
    """
    for key in ("state", "param_groups"):
        if not isinstance(state_dict, Mapping) or key not in state_dict:
            raise TypeError(f"state_dict: must be a dict with 'state' and 'param_groups', has no {key!r}")
    saved_groups, saved = state_dict["param_groups"], state_dict["state"]
    if not isinstance(saved, Mapping) or any(
        not isinstance(v, (Mapping, type(None))) for v in saved.values()
    ):
        raise TypeError("state_dict: 'state' must be a dict with a dict for each parameter")
    told = "state_dict: 'param_groups' must be a list of dicts with 'params', got"
    if not isinstance(saved_groups, (list, tuple)):
        raise TypeError(f"{told} {shown(saved_groups)}")
    for number, group in enumerate(saved_groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{told} {group!r} at {number}")
    entries = [
        _Entry(number, key, name)
        for number, group in enumerate(saved_groups)
        for key, name in zip(group["params"], _names(group), strict=True)
    ]
    listed = {entry.key for entry in entries}
    for key in saved:
        if key not in listed:
            raise ValueError(f"state_dict: its state has an entry {key!r} that is in no param group")
    own = [
        _Own(number, name, place)
        for number, group in enumerate(groups)
        for name, place in zip(_names(group), _listed(group, "places"), strict=True)
    ]
    same = [len(group["params"]) for group in groups] == [len(group["params"]) for group in saved_groups]
    found = _matched(entries, own, same)
    new_groups: list[dict[str, Any]] = []
    state: dict[int, Any] = {}
    count = 0
    for number, group in enumerate(groups):
        parts = found[count : count + len(group["params"])]
        numbers = [number] if same and not parts else sorted({entry.number for entry in parts})
        new = _common(number, numbers, saved_groups, settings)
        new["params"] = list(range(count, count + len(parts)))
        new_groups.append(new)
        for entry in parts:
            if saved.get(entry.key) is not None:
                state[count] = dict(saved[entry.key])
            count += 1
    return {**state_dict, "state": state, "param_groups": new_groups}


def check_entry(
    rule: Rule, settings: Settings, entry: Mapping[str, Any], group: Mapping[str, Any], index: int, where: str
) -> dict[str, Any]:
    """Return the saved state of a parameter, or raise an error if it is not one that a method has made.

    Parameters
    ----------
    rule, settings
        The method, and the settings that it goes on with.
    entry : mapping
        The saved state.
    group, index, where
        The param group and which of its parameters it is, and how an error names the group.
    """
    entry = {name: value for name, value in entry.items() if value is not None}
    slots = {slot.name: slot for slot in rule.select(settings).slots}
    needed = set(slots)
    own = _slots(rule) | {"step"} | ({"weight_sum"} if rule.averages else set())
    strange = sorted(set(entry) - own)
    missing = sorted(needed - set(entry)) if entry else []
    at = f"{where}, {name_parameter(group, index)}"
    if strange:
        raise ValueError(
            f"{at}: the state has {strange[0]!r}, which {rule.name} does not keep; it is of another optimizer"
        )
    if missing:
        raise ValueError(
            f"{at}: the state has no {missing[0]!r}, which {rule.name} keeps; it is of another optimizer"
        )
    check_whole(entry, sorted(needed), rule.averages, at)
    p = group["params"][index]
    for name in sorted(needed):
        value = entry[name] if entry else p
        if not isinstance(value, Tensor) or value.shape != p.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"{at}: its state {name!r} must have its shape, got {got}")
        if value.layout is not torch.strided or value.is_meta or not value.is_floating_point():
            raise TypeError(
                f"{at}: its state {name!r} must be dense, of a real floating-point dtype, got "
                f"{value.dtype}, {value.layout} on {value.device}"
            )
        if not reaches(value, p):
            raise ValueError(
                f"{at}: its state {name!r} must lie on all processes of the parameter, {division(p)}, got "
                f"{division(value)}"
            )
        if entry:
            _check_values(local(value), slots[name], f"{at}: its state {name!r}")
    for name in ("step", "weight_sum"):
        if name in entry:
            check_counted(entry[name], name == "step", f"{at}: its state {name!r}")
    return entry


def _check_values(value: Tensor, slot: Slot, what: str) -> None:
    """Raise an error if an array of state holds what no step leaves."""
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{what} must be finite")
    if slot.is_square and bool((value < 0).any()):
        raise ValueError(f"{what} must be at least 0, as a sum of squares is")


def check_noted(group: Mapping[str, Any]) -> None:
    """Raise an error if what a saved param group notes of the run is not of the kind."""
    for name, least in (("steps", 0.0), ("iterations", 1.0)):
        if check_number(name, group[name], least) % 1.0:
            raise ValueError(f"{name}: must be a whole number, got {group[name]!r}")
    if group["strength"] is not None:
        check_number("strength", group["strength"], 0.0)
    state = group["sparsity"]
    if state is None:
        return
    if not isinstance(state, Mapping) or set(state) != set(DRIVEN):
        raise ValueError(f"sparsity: must be None or numbers {', '.join(DRIVEN)}, got {state!r}")
    for name, value in state.items():
        check_number(f"sparsity[{name!r}]", value, -1.0 if name == "direction" else 0.0)


def _slots(rule: Rule) -> set[str]:
    """Return the arrays of state that a method may keep, whatever its settings."""
    defaults = {name: setting.default for name, setting in rule.settings.items()}
    options = [
        [(name, value) for value in values]
        for name, values in {
            "momentum": (0.0, 0.5),
            "centered": (False, True),
            "amsgrad": (False, True),
        }.items()
        if name in rule.settings
    ]
    return {slot.name for some in product(*options) for slot in rule.select(defaults | dict(some)).slots}


def _listed(group: Mapping[str, Any], key: str) -> list[Any]:
    """Return what a param group notes of each parameter, or Nones where it does not."""
    noted, count = group.get(key), len(group["params"])
    return list(noted) if isinstance(noted, (list, tuple)) and len(noted) == count else [None] * count


def _names(group: Mapping[str, Any]) -> list[str | None]:
    """Return the names of a group's parameters, without what wrappers put before them."""
    names = _listed(group, "names")
    if None in names:
        names = _listed(group, "param_names")
    found = [None if name is None else canonical(name) for name in names]
    # As DistributedDataParallel names all that is in it.
    if all(name is not None and name.startswith("module.") for name in found):
        found = [None if name is None else name.removeprefix("module.") for name in found]
    return found


def _matched(entries: list[_Entry], own: list[_Own], same: bool) -> list[_Entry]:
    """Return the entry of each of the optimizer's parameters."""
    if len(entries) != len(own):
        raise ValueError(
            f"state_dict: must be of the optimizer's {len(own)} parameters, but has {len(entries)}"
        )
    there, here = [entry.name for entry in entries], [p.name for p in own]
    if None not in there and None not in here and len(set(here)) == len(own):
        by_name = {entry.name: entry for entry in entries}
        for name in here:
            if name not in by_name:
                raise ValueError(
                    f"state_dict: must have the parameters of the optimizer, but has no {name!r}; without "
                    "'names' and 'param_names' in its param groups it is loaded by order"
                )
        return [by_name[name] for name in here]
    places = [p.place for p in own]
    if None in places or (same and len({entry.number for entry in entries}) > 1):
        return entries
    if len({entry.number for entry in entries}) > 1:
        raise ValueError(
            "state_dict: must have names, or be of one param group of all parameters, where the param groups "
            "are others than the optimizer's; make the first optimizer of model.named_parameters()"
        )
    # One param group of a whole model has its parameters in their order there.
    ranks = sorted(range(len(own)), key=lambda k: places[k] or 0)
    by_rank = dict(zip(ranks, entries, strict=True))
    return [by_rank[k] for k in range(len(own))]


def _common(number: int, sources: list[int], saved: Groups, settings: Sequence[str]) -> dict[str, Any]:
    """Return what saved param groups, which become one, hold besides their parameters."""
    for name in settings:
        having = [k for k in sources if name in saved[k]]
        for k in having[1:]:
            first = having[0]
            if saved[k][name] != saved[first][name]:
                raise ValueError(
                    f"param group {number}: its parameters are of the saved param groups {first} and {k}, "
                    f"whose {name} differ, {saved[first][name]!r} and {saved[k][name]!r}; divide it, or make "
                    "them equal"
                )
    new: dict[str, Any] = {}
    for k in reversed(sources):
        new |= {key: value for key, value in saved[k].items() if key not in (*LOCAL, *_FLAGS, "params")}
    return new
