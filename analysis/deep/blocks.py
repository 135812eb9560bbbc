"""The penalised groups of a network, seen as the rows of matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import proxlab as pl

Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Groups that are penalised alike: those of one parameter, or joint ones of several.

    Attributes
    ----------
    names : tuple of str
        The parameters' names.
    params : tuple of Parameter
        The parameters.
    groups : tuple of Groups
        Group k of the block is group k of every part.
    penalty : Penalty
        Its strength and weights.
    """

    names: tuple[str, ...]
    params: tuple[nn.Parameter, ...]
    groups: tuple[pl.Groups, ...]
    penalty: pl.Penalty

    @property
    def name(self) -> str:
        """The module whose groups they are."""
        first = self.names[0].rpartition(".")[0]
        return first if len(self.names) == 1 else first.rpartition(".")[0]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.groups[0].n_groups(tuple(self.params[0].shape))

    @property
    def size(self) -> int:
        """Number of weights in a group."""
        return sum(p.numel() for p in self.params) // self.n_groups

    def rows(self, parts: Iterable[Tensor]) -> Tensor:
        """Tensors of the parameters' shapes (weights, gradients, …) as one matrix with a group per row."""
        split = [
            groups.layout(tuple(part.shape)).split(part, 0.0)[0]
            for groups, part in zip(self.groups, parts, strict=True)
        ]
        return split[0] if len(split) == 1 else torch.cat(split, dim=1)

    def weights(self) -> Tensor:
        """The weights, a group per row."""
        return self.rows(p.detach() for p in self.params)

    def alive(self) -> NDArray[np.bool_]:
        """Which groups are not zero."""
        return np.asarray((self.weights() != 0).any(dim=1).numpy())

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Set the weights, a group per row."""
        start = 0
        for groups, p in zip(self.groups, self.params, strict=True):
            layout = groups.layout(tuple(p.shape))
            width = p.numel() // self.n_groups
            p.copy_(layout.join([rows[:, start : start + width]], p))
            start += width

    def row_penalty(self) -> pl.Penalty:
        """The penalty for a matrix of `rows`."""
        return type(self.penalty)(**_settings(self.penalty))


def _settings(penalty: pl.Penalty) -> dict[str, Any]:
    """Its settings without the groups: those of a matrix's rows are the default."""
    return {name: value for name, value in vars(penalty).items() if name != "groups"}


def blocks(groups: Iterable[Mapping[str, Any]]) -> list[Block]:
    """The penalised groups of param groups as `proxlab.torch.param_groups` makes them."""
    found = []
    for group in groups:
        if group.get("penalty") is None:
            continue
        names, params, penalty = group["names"], group["params"], group["penalty"]
        if "joint" in group:
            found.append(Block(tuple(names), tuple(params), tuple(group["joint"]), penalty))
        else:
            found += [
                Block((n,), (p,), (penalty.groups,), penalty) for n, p in zip(names, params, strict=True)
            ]
    return found


@dataclass(frozen=True)
class Sparsity:
    """Shares of the groups that are zero: as they are, and each counted by its size."""

    plain: float
    weighted: float


def sparsity(of: list[Block], alive: list[NDArray[np.bool_]]) -> Sparsity:
    """Sparsity of blocks, given which of their groups are not zero."""
    sizes = [b.size for b in of]
    zeros = [int((~a).sum()) for a in alive]
    groups = sum(len(a) for a in alive)
    elements = math.fsum(s * len(a) for s, a in zip(sizes, alive, strict=True))
    zero_elements = math.fsum(s * z for s, z in zip(sizes, zeros, strict=True))
    return Sparsity(sum(zeros) / groups, zero_elements / elements)
