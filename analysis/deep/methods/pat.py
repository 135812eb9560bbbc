"""Pruning-aware training (torchao's PAT), reimplemented from its description.

The base optimizer moves latent weights; the network sees their prox in the identity metric, whose step is the
sum of all learning rates so far, as in dual averaging. Warm-up and the final phase with frozen zeros are off,
as they are by default.

Sources
-------
.. [1] torchao, ``torchao.prototype.pat`` (2026), of pytorch/ao.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import proxlab as pl
from analysis.deep.blocks import blocks
from analysis.deep.methods.base import Closure, Method, Setup, own_step
from analysis.deep.runs import Runs


class PAT(torch.optim.AdamW):
    """AdamW on latent weights; those of the network are the group lasso's prox of them.

    Parameters
    ----------
    params : list of dict
        Param groups.
    **settings
        As of AdamW.
    """

    def __init__(self, params: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(params, **settings)
        self._blocks = [(group, block) for group in self.param_groups for block in blocks([group])]
        self._latent: list[Tensor] = []
        self._sums = [0.0] * len(self._blocks)

    @own_step
    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step; gradients are those at the weights that the network sees."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for (_, block), latent in zip(self._blocks, self._latent, strict=False):
            block.write(latent)
        super().step()
        self._latent = [block.weights().contiguous().clone() for _, block in self._blocks]
        for k, (group, block) in enumerate(self._blocks):
            self._sums[k] += group["lr"]
            block.write(
                torch.from_numpy(pl.prox(block.row_penalty(), self._latent[k].numpy(), self._sums[k]))
            )
        return loss


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return PAT(s.groups(), **s.adam, fused=True)


PRUNING_AWARE = Method(
    "pat",
    "PAT",
    "published",
    0,
    "pruning-aware training of torchao, reimplemented: AdamW on latent weights, of which the network sees "
    "the Euclidean prox with the sum of all learning rates as its step",
    _optimizer,
    {
        "vgg": Runs(2e-3, (0.05, 0.1), more=(0.07,)),
        "resnet": Runs(2e-3, more=(0.05, 0.1)),
        "encoder": Runs(3e-3, (0.06, 0.1), more=(0.15,)),
    },
)
