"""Pruning by magnitude, once, half way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from analysis.deep.blocks import blocks
from analysis.deep.methods.base import Closure, Method, Setup, own_step
from analysis.deep.runs import Runs


class MagnitudePruning(torch.optim.AdamW):
    """AdamW that sets the groups of least magnitude to zero at one step and keeps them there.

    Parameters
    ----------
    params : list of dict
        Param groups.
    share : float
        Share of the penalised weights that is pruned, with the groups of least root mean square.
    at : int
        The step after which it is done.
    **settings
        As of AdamW.
    """

    def __init__(self, params: list[dict[str, Any]], *, share: float, at: int, **settings: Any) -> None:
        super().__init__(params, **settings)
        self._blocks = blocks(self.param_groups)
        self._share, self._at, self._count = share, at, 0
        self._kept: list[Tensor] = []

    @own_step
    def step(self, closure: Closure = None) -> Any:
        """One step; pruned groups stay zero."""
        loss = super().step(closure)
        self._count += 1
        if self._count == self._at:
            self._kept = self._choose()
        for block, kept in zip(self._blocks, self._kept, strict=False):
            block.write(block.weights() * kept[:, None])
        return loss

    def _choose(self) -> list[Tensor]:
        """Which groups stay."""
        magnitude = [b.weights().square().mean(dim=1) for b in self._blocks]
        sizes = torch.cat([torch.full((b.n_groups,), float(b.size)) for b in self._blocks])
        order = torch.argsort(torch.cat(magnitude), stable=True)
        pruned = torch.cumsum(sizes[order], 0) <= self._share * sizes.sum()
        kept = torch.ones(len(order), dtype=torch.bool)
        kept[order[pruned]] = False
        return list(kept.split([b.n_groups for b in self._blocks]))


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return MagnitudePruning(s.groups(), share=s.strength, at=s.steps // 2, **s.adam, fused=True)


MAGNITUDE = Method(
    "magnitude",
    "AdamW, magnitude pruning",
    "shortcut",
    8,
    "AdamW for half of the steps; then the groups of least root mean square are set to zero, and the rest is "
    "fine-tuned",
    _optimizer,
    {
        "vgg": Runs(2e-3, (0.7, 0.8, 0.9), more=(0.95,)),
        "resnet": Runs(2e-3, (0.75,), more=(0.7, 0.8, 0.9)),
        "encoder": Runs(3e-3, (0.8, 0.95), more=(0.7, 0.9)),
        "minilm": Runs(2e-4, (0.5, 0.75)),
    },
    pictured=True,
)
