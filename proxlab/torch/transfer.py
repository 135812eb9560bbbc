"""Carry an optimizer over to the network that compacting made: its settings, its moments, its groups."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proxlab.groups import AxisLayout, Groups
from proxlab.penalties import Penalty

__all__ = ["Carried", "Origin", "transfer"]


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a parameter of the small network comes from.

    Attributes
    ----------
    name : str
        The parameter of the large network.
    places : dict
        For each axis that is not whole, which of its slices are left.
    """

    name: str
    places: Mapping[int, Tensor]

    def of(self, a: Tensor) -> Tensor:
        """What is left of an array like the parameter; axes of size one are left as they are."""
        for axis, places in self.places.items():
            if a.shape[axis] > 1:
                a = a.index_select(axis, places.to(a.device))
        return a


@dataclass(frozen=True, eq=False)
class Carried:
    """What :func:`transfer` needs to know of a cut.

    Attributes
    ----------
    given : dict
        The parameters of the large network, by name; they are not kept alive.
    origins : dict
        For each parameter of the small network where it comes from; None for a bias that is new.
    """

    given: Mapping[str, weakref.ref[Tensor]]
    origins: Mapping[str, Origin | None]


def transfer(carried: Carried, optimizer: torch.optim.Optimizer, small: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the small network; see :meth:`proxlab.torch.CompactReport.transfer`."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer: the state of LBFGS is of all parameters together, which cannot be cut")
    after = dict(small.named_parameters())
    if set(after) != set(carried.origins):
        raise ValueError("small: must be the network that compact returned with this report")
    names = {id(p): name for name, ref in carried.given.items() if (p := ref()) is not None}
    found: dict[str, list[str]] = {}
    for name, origin in carried.origins.items():
        if origin is not None:
            found.setdefault(origin.name, []).append(name)
    swap: dict[int, Any] = {}
    for whose, group in _every_group(optimizer):
        for k, p in enumerate(group["params"]):
            where = f"{whose}, parameter {k} (shape {tuple(p.shape)})"
            if id(p) not in names:
                raise ValueError(f"{where} is not one of the network that was compacted")
            now = found[names[id(p)]]
            if len(now) > 1 and (group.get("penalty") is not None or group.get("joint") is not None):
                raise ValueError(
                    f"{where}: {names[id(p)]!r} became {', '.join(map(repr, now))}, whose groups are others; "
                    "make an optimizer with param_groups of the small network"
                )
            _check_state(optimizer.state.get(p, {}), p, where)
            for name in now:
                origin = carried.origins[name]
                assert origin is not None
                sizes = tuple(len(origin.places.get(a, range(n))) for a, n in enumerate(p.shape))
                if tuple(after[name].shape) != sizes:
                    raise ValueError(
                        f"small: {name!r} must have shape {sizes} as compact left it, got "
                        f"{tuple(after[name].shape)}"
                    )
            swap[id(p)] = after[now[0]]
    # The copy refers to the small network's parameters wherever the original refers to the large one's.
    new: Any = copy.deepcopy(optimizer, swap)
    for (where, old_group), (_, group) in zip(_every_group(optimizer), _every_group(new), strict=True):
        params, listed, used = [], [], []
        uses = old_group.get("uses") or [0.0] * len(old_group["params"])
        for p, times in zip(old_group["params"], uses, strict=True):
            for name in found[names[id(p)]]:
                origin = carried.origins[name]
                assert origin is not None
                params.append(after[name])
                listed.append(name)
                used.append(times)
                if p in optimizer.state:
                    new.state[after[name]] = {
                        key: _cut(value, origin, p, after[name]) for key, value in optimizer.state[p].items()
                    }
        group["params"] = params
        for key in ("names", "param_names"):
            if key in group:
                group[key] = listed
        if "uses" in group:
            group["uses"] = used
        # They are those in the large network, of which the small one may lack some.
        group.pop("places", None)
        _regroup(old_group, group, carried, where)
    frozen: Mapping[Tensor, Tensor] = getattr(optimizer, "frozen", {})
    if frozen:
        masks = {}
        for p, mask in frozen.items():
            (name,) = found[names[id(p)]]
            origin = carried.origins[name]
            assert origin is not None
            masks[after[name]] = _cut(mask, origin, p, after[name])
        new.take_frozen(masks)
    strength = getattr(new, "_strength", None)
    if strength is not None:
        given = [
            None
            if old is None
            else dataclasses.replace(old, groups=group["penalty"].groups, weights=group["penalty"].weights)
            for old, group in zip(strength.given, new.param_groups, strict=True)
        ]
        strength.take(given, new.param_groups)
    _add_biases(new, carried, after)
    return new


def _every_group(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the param groups of an optimizer, those of a wrapper too, and how an error names each."""
    for number, group in enumerate(optimizer.param_groups):
        yield f"optimizer: param group {number}", group
    for number, group in enumerate(getattr(optimizer, "penalised", ())):
        yield f"optimizer: groups[{number}]", group


def _check_state(state: Mapping[str, Any], p: Tensor, where: str) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.numel() > 1:
            fits = value.dim() == p.dim() and all(
                a in (1, b) for a, b in zip(value.shape, p.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"{where}: its state {key!r} has shape {tuple(value.shape)}, so that what is left of it "
                    "is not known"
                )


def _cut(value: Any, origin: Origin, old: Tensor, new: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.dim() == old.dim() and value.dim():
        value = origin.of(value)
    return value.detach().clone().to(new.device if value.dim() else value.device)


def _regroup(old: Mapping[str, Any], new: dict[str, Any], carried: Carried, where: str) -> None:
    """Make the groups of a param group those that are left."""
    penalty = old.get("penalty")
    if not isinstance(penalty, Penalty) or not old["params"]:
        return
    joint = old.get("joint")
    names = {id(p): name for name, ref in carried.given.items() if (p := ref()) is not None}
    pairs = []
    for p, q in zip(old["params"], new["params"], strict=True):
        origin = next(o for o in carried.origins.values() if o is not None and o.name == names[id(p)])
        pairs.append((p, q, origin))
    asked = list(joint) if joint is not None else [penalty.groups] * len(pairs)
    left = [
        _left(groups, origin, tuple(p.shape), tuple(q.shape), f"{where}, {origin.name!r}")
        for groups, (p, q, origin) in zip(asked, pairs, strict=True)
    ]
    survivors = left[0][1]
    weights = penalty.weights
    if joint is not None:
        if any(not np.array_equal(kept, survivors) for _, kept in left):
            raise ValueError(f"{where}: of its joint groups different ones are left in different parameters")
        new["joint"] = [groups for groups, _ in left]
    else:
        if any(groups != left[0][0] for groups, _ in left):
            raise ValueError(f"{where}: its parameters were cut so that one penalty's groups do not fit all")
        new["penalty"] = dataclasses.replace(new["penalty"], groups=left[0][0])
    if weights is not None and not isinstance(weights, str):
        if any(not np.array_equal(kept, survivors) for _, kept in left):
            raise ValueError(f"{where}: the weights of its groups are of different groups now")
        new["penalty"] = dataclasses.replace(new["penalty"], weights=np.asarray(weights)[survivors])


def _left(
    groups: Groups, origin: Origin, before: tuple[int, ...], after: tuple[int, ...], where: str
) -> tuple[Groups, Any]:
    """The groups of what is left of a parameter, and which of the groups these are."""
    labels = origin.of(torch.from_numpy(_labels(groups, before))).reshape(-1).numpy()
    survivors = np.unique(labels[labels >= 0])
    wanted = np.searchsorted(survivors, labels)
    wanted[labels < 0] = -1
    for candidate in _candidates(groups):
        try:
            if np.array_equal(_labels(candidate, after).reshape(-1), wanted):
                return candidate, survivors
        except ValueError:
            continue
    if isinstance(groups.layout(before), AxisLayout):
        raise ValueError(f"{where}: of its groups {groups!r} parts are left that are no groups by axes")
    return Groups.labels(wanted.reshape(after)), survivors


def _labels(groups: Groups, shape: tuple[int, ...]) -> Any:
    """The group of each element, -1 for free ones."""
    start, places = groups.indices(shape)
    labels = np.full(int(np.prod(shape)), -1)
    labels[places] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return labels.reshape(shape)


def _candidates(groups: Groups) -> list[Groups]:
    """The same groups, and those of a view with one size left open."""
    view = getattr(groups, "view", None)
    if view is None:
        return [groups]
    axes = groups.axes  # type: ignore[attr-defined]
    free = view.index(-1) if -1 in view else None
    out = [groups]
    for k in range(len(view)):
        sizes = [view[k]] if k == free else range(1, view[k] + 1)
        views = [tuple(n if d == k else v for d, v in enumerate(view)) for n in sizes]
        out += [Groups.over(axes, shape=v) for v in views]
    return out


def _add_biases(new: torch.optim.Optimizer, carried: Carried, after: Mapping[str, nn.Parameter]) -> None:
    """Give the optimizer the biases that constants were folded into: free, beside the layer's weight."""
    for name, origin in carried.origins.items():
        if origin is not None:
            continue
        weight = after.get(name.removesuffix("bias") + "weight")
        home = next((g for g in new.param_groups if any(p is weight for p in g["params"])), None)
        if home is None:
            continue
        free = [g for g in new.param_groups if g.get("penalty") is None and g.get("joint") is None]
        group = next((g for g in free if g is home), free[0] if free else None)
        if group is None:
            local = ("params", "names", "param_names", "uses", "joint")
            options = {k: v for k, v in home.items() if k not in local}
            new.add_param_group({**options, "params": [after[name]], "penalty": None})
            continue
        group["params"].append(after[name])
        for key in ("names", "param_names"):
            if key in group:
                group[key].append(name)
        if "uses" in group:
            group["uses"].append(0.0)
