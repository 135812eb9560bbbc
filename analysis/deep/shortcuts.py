"""What is done today without the weighted prox, as `torch.optim` optimizers over proxlab's param groups.

These are baselines of the studies, not part of the library: pruning by magnitude, Adam with the prox of the
identity metric, and ProxSSI as published.

Sources
-------
.. [1] T. Deleu, Y. Bengio, "Structured sparsity inducing adaptive optimizers for deep learning",
       arXiv:2102.03869.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import proxlab as pl
from analysis.baselines import proxssi_group_lasso
from analysis.deep.blocks import Block, blocks

Array = NDArray[Any]
Closure = Callable[[], float] | None


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


class UnweightedProxAdamW(torch.optim.AdamW):
    """AdamW followed by the group lasso's prox with step ``lr`` in the identity metric."""

    def __init__(self, params: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(params, **settings)
        self._blocks = [(group, block) for group in self.param_groups for block in blocks([group])]

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step."""
        loss = super().step(closure)
        for group, block in self._blocks:
            rows = block.weights().contiguous().numpy()
            block.write(torch.from_numpy(pl.prox(block.row_penalty(), rows, group["lr"])))
        return loss


class ProxSSI(torch.optim.Optimizer):
    """ProxSSI with AdamW and the group lasso, as published [1]_.

    The step is Adam's, corrected for bias; the prox takes the plain ``lr`` as its step and the metric
    ``sqrt(v) + eps`` without the correction, so the two do not belong together; it is solved by the published
    Newton method.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._blocks = [(group, block) for group in self.param_groups for block in blocks([group])]
        self._count = 0

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._count += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        for group, block in self._blocks:
            x = block.weights()
            metric = block.rows(self.state[p]["exp_avg_sq"] for p in block.params).sqrt() + group["eps"]
            block.write(torch.from_numpy(self._prox(block, x, metric, group["lr"])))
        return loss

    def _move(self, p: Tensor, group: dict[str, Any]) -> None:
        """Adam's step with decoupled decay."""
        state = self.state[p]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        assert p.grad is not None
        (beta1, beta2), lr = group["betas"], group["lr"]
        p.mul_(1.0 - lr * group["weight_decay"])
        state["exp_avg"].lerp_(p.grad, 1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1.0 - beta2)
        size = lr * math.sqrt(1.0 - beta2**self._count) / (1.0 - beta1**self._count)
        p.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)

    @staticmethod
    def _prox(block: Block, x: Tensor, metric: Tensor, lr: float) -> Array:
        penalty = block.penalty
        assert isinstance(penalty, pl.GroupLasso)
        strength = penalty.lam * (math.sqrt(block.size) if penalty.weights == "sqrt_size" else 1.0)
        # the published layout: groups along the last axis
        point, d = (np.ascontiguousarray(a.numpy().T)[:, None, :] for a in (x, metric))
        return np.ascontiguousarray(proxssi_group_lasso(point, d, lr, strength).z[:, 0, :].T)
