"""How many groups of a network are zero: per layer and in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any

import torch
from torch import nn

from proxlab.groups import Groups
from proxlab.optim.living import living_groups
from proxlab.optim.sparsity import Resting
from proxlab.penalties import GroupLasso
from proxlab.torch import shards
from proxlab.torch.networks import divide
from proxlab.torch.problems import check_group, given_groups, name_parameter
from proxlab.torch.text import format_table
from proxlab.untraced import untraced

__all__ = ["LayerSparsity", "NetworkSparsity", "group_sparsity", "living"]


@dataclass(frozen=True)
class LayerSparsity:
    """The groups of one parameter, or of several that are penalised jointly.

    Attributes
    ----------
    name : str
        The parameters' names.
    groups, zero_groups : int
        Number of groups, and how many of them are exactly zero.
    elements, zero_elements : int
        Number of elements in groups, and in groups that are exactly zero.
    """

    name: str
    groups: int
    zero_groups: int
    elements: int
    zero_elements: int

    @property
    def sparsity(self) -> float:
        """Share of the groups that are zero; 0 where there are no groups."""
        return self.zero_groups / self.groups if self.groups else 0.0

    @property
    def weighted(self) -> float:
        """Share of the groups that are zero, each counted by its size (Deleu & Bengio 2021, §5)."""
        return self.zero_elements / self.elements if self.elements else 0.0


@dataclass(frozen=True)
class NetworkSparsity:
    """The result of :func:`group_sparsity`; printed as a table.

    Attributes
    ----------
    layers : tuple of LayerSparsity
        In the order of the param groups.
    """

    layers: tuple[LayerSparsity, ...]

    @property
    def total(self) -> LayerSparsity:
        """All layers together."""
        counts = [(r.groups, r.zero_groups, r.elements, r.zero_elements) for r in self.layers]
        return LayerSparsity("total", *(sum(column) for column in zip(*counts, strict=True)))

    def __str__(self) -> str:
        rows = [
            (r.name, f"{r.groups}", f"{r.zero_groups}", f"{r.sparsity:.1%}", f"{r.weighted:.1%}")
            for r in (*self.layers, self.total)
        ]
        return format_table(("layer", "groups", "zero", "sparsity", "weighted"), rows)


@untraced
def group_sparsity(
    source: nn.Module | torch.optim.Optimizer | Iterable[Any],
) -> NetworkSparsity:
    """Count the groups of a network that are exactly zero.

    Parameters
    ----------
    source : torch.nn.Module, Optimizer, or iterable of param groups
        An optimizer or param groups with their penalties; groups without one are left out. For a model, the
        groups are those of :func:`param_groups` with its defaults.

    Returns
    -------
    NetworkSparsity

    Raises
    ------
    TypeError, ValueError
        If the source is of another kind or has no penalised groups, if a param group does not fit, or if a
        parameter has no numbers in memory; the message names it.

    Examples
    --------
    >>> import torch
    >>> from proxlab.torch import group_sparsity
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     model[2].weight[:, :2] = 0
    >>> print(group_sparsity(model))
    layer     groups  zero  sparsity  weighted
    0.weight       4     0      0.0%      0.0%
    2.weight       3     2     66.7%     66.7%
    total          7     2     28.6%     22.2%
    """
    if isinstance(source, nn.Module):
        groups: Any = divide(source, GroupLasso(1.0))
    elif isinstance(source, torch.optim.Optimizer):
        groups = getattr(source, "penalised", source.param_groups)
    else:
        groups = source
    named: list[str] = []
    layers: list[tuple[list[torch.Tensor], list[Groups]]] = []
    for k, group in enumerate(given_groups(groups, "source")):
        penalty, params, where = group["penalty"], group["params"], f"source[{k}]"
        if penalty is None:
            continue
        check_group(group, where, convex_only=False)
        for i, p in enumerate(params):
            _check_memory(shards.local(p), f"{where}: {name_parameter(group, i)}")
        names = list(group.get("names") or ())
        if len(names) != len(params):
            names = [f"group {k}, parameter {i}" for i in range(len(params))]
        if group.get("joint") is not None:
            named.append(" + ".join(names))
            layers.append((params, list(group["joint"])))
        else:
            named += names
            layers += [([p], [penalty.groups]) for p in params]
    rows = [_count(name, found) for name, found in zip(named, living(layers), strict=True)]
    if not rows:
        why = "no param group has a penalty"
        if isinstance(source, nn.Module):
            why = f"param_groups penalises nothing of this {type(source).__name__} by default"
        raise ValueError(f"source: {why}, so there are no groups to count")
    return NetworkSparsity(tuple(rows))


def _check_memory(p: torch.Tensor, where: str) -> None:
    """Raise an error unless there is memory for all elements: of what was given back nothing can be read."""
    if p.is_meta:
        raise ValueError(f"{where} must not be on the meta device, which holds no numbers")
    ends = sum((n - 1) * stride for n, stride in zip(p.shape, p.stride(), strict=True))
    least = (p.storage_offset() + 1 + ends) * p.element_size()
    # Inside transforms of torch.func a tensor may have a storage of which nothing is told.
    held = p.untyped_storage().nbytes() if p.data_ptr() else 0
    if p.numel() and least > held:
        raise ValueError(f"{where} must have memory for each of its elements, {least} bytes, got {held}")


def _count(name: str, found: Resting) -> LayerSparsity:
    alive, sizes, _ = found
    return LayerSparsity(name, len(alive), int((~alive).sum()), int(sizes.sum()), int(sizes[~alive].sum()))


def living(layers: Sequence[tuple[Sequence[torch.Tensor], Sequence[Groups]]]) -> list[Resting]:
    """Return which groups of layers are not zero, and their sizes.

    A layer is one parameter, or the parameters of joint groups, with the groups of each.
    """
    pairs = [pair for params, groups in layers for pair in zip(groups, params, strict=True)]
    cut = [shards.is_distributed(p) for _, p in pairs]
    divided = iter(shards.living(list(compress(pairs, cut))))
    whole = iter(living_groups([(g, p.detach()) for g, p in compress(pairs, map(not_, cut))]))
    parts = iter([next(divided if is_cut else whole) for is_cut in cut])
    found = []
    for params, groups in layers:
        alive, sizes = next(parts), groups[0].sizes(params[0].shape)
        for p, g in zip(params[1:], groups[1:], strict=True):
            alive, sizes = alive | next(parts), sizes + g.sizes(p.shape)
        found.append(Resting(alive, sizes))
    return found
