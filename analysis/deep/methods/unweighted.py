"""The common shortcut: AdamW, then the prox in the identity metric."""

from __future__ import annotations

from typing import Any

import torch

import proxlab as pl
from analysis.deep.blocks import blocks
from analysis.deep.methods.base import Closure, Method, Setup, own_step
from analysis.deep.runs import Runs


class UnweightedProxAdamW(torch.optim.AdamW):
    """AdamW followed by the group lasso's prox with step ``lr`` in the identity metric."""

    def __init__(self, params: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(params, **settings)
        self._blocks = [(group, block) for group in self.param_groups for block in blocks([group])]

    @own_step
    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step."""
        loss = super().step(closure)
        for group, block in self._blocks:
            rows = block.weights().contiguous().numpy()
            block.write(torch.from_numpy(pl.prox(block.row_penalty(), rows, group["lr"])))
        return loss


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return UnweightedProxAdamW(s.groups(), **s.adam, fused=True)


UNWEIGHTED = Method(
    "unweighted",
    "AdamW, unweighted prox",
    "shortcut",
    4,
    "AdamW followed by the prox in the identity metric",
    _optimizer,
    {
        "vgg": Runs(2e-3, (0.1, 0.2), more=(0.05,)),
        "resnet": Runs(2e-3, more=(0.1, 0.2)),
        "encoder": Runs(3e-3, (0.1, 0.2), more=(0.05,)),
    },
    pictured=True,
)
