"""How many groups of a network are zero: per layer and in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proxlab.groups import Groups
from proxlab.optim.sparsity import Resting, living_groups
from proxlab.penalties import GroupLasso, Penalty
from proxlab.torch import shards
from proxlab.torch.networks import divide
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
        If the source is of another kind, or has no penalised groups.

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
        groups: Iterable[Any] = divide(source, GroupLasso(1.0))
    elif isinstance(source, torch.optim.Optimizer):
        groups = getattr(source, "penalised", source.param_groups)
    else:
        groups = list(source)
    rows: list[LayerSparsity] = []
    for k, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"source: must hold param groups, dicts with the key 'params', got {group!r}")
        penalty = group.get("penalty")
        if penalty is None:
            continue
        params = [group["params"]] if isinstance(group["params"], torch.Tensor) else list(group["params"])
        names = list(group.get("names", (f"group {k}, parameter {i}" for i in range(len(params)))))
        if "joint" in group:
            rows.append(_count(" + ".join(names), params, list(group["joint"])))
        else:
            assert isinstance(penalty, Penalty)
            rows += [_count(name, [p], [penalty.groups]) for name, p in zip(names, params, strict=True)]
    if not rows:
        raise ValueError("source: no param group has a penalty, so there are no groups to count")
    return NetworkSparsity(tuple(rows))


def _count(name: str, params: list[torch.Tensor], groups: list[Groups]) -> LayerSparsity:
    alive, sizes, _ = living(params, groups)
    return LayerSparsity(name, len(alive), int((~alive).sum()), int(sizes.sum()), int(sizes[~alive].sum()))


def living(params: Sequence[torch.Tensor], groups: Sequence[Groups]) -> Resting:
    """Return which groups of one parameter, or joint groups of several, are not zero, and their sizes."""
    alive: Any = None
    sizes: Any = 0
    for p, part in zip(params, groups, strict=True):
        found = shards.living(part, p) if shards.is_distributed(p) else living_groups(part, p.detach())
        alive = found if alive is None else alive | found
        sizes = sizes + part.sizes(tuple(p.shape))
    return Resting(alive, sizes)
