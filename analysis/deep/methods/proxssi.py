"""ProxSSI, reimplemented from the paper's algorithm with the conventions of its published code.

Sources
-------
.. [1] T. Deleu, Y. Bengio, "Structured sparsity inducing adaptive optimizers for deep learning",
       arXiv:2102.03869.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import proxlab as pl
from analysis.baselines import proxssi_group_lasso
from analysis.deep.blocks import Block, blocks
from analysis.deep.methods.base import Closure, Method, Setup, own_step
from analysis.deep.runs import Runs

Array = NDArray[Any]


class ProxSSI(torch.optim.Optimizer):
    """ProxSSI with AdamW and the group lasso, as published [1]_: its algorithm, in code of our own.

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

    @own_step
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
        state["exp_avg"].lerp_(p.grad, 1.0 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1.0 - beta2)
        size = lr * math.sqrt(1.0 - beta2**self._count) / (1.0 - beta1**self._count)
        p.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-size)
        # as in the published code, after the step
        p.mul_(1.0 - lr * group["weight_decay"])

    @staticmethod
    def _prox(block: Block, x: Tensor, metric: Tensor, lr: float) -> Array:
        penalty = block.penalty
        assert isinstance(penalty, pl.GroupLasso)
        strength = penalty.lam * (math.sqrt(block.size) if penalty.weights == "sqrt_size" else 1.0)
        # the published layout: groups along the last axis
        point, d = (np.ascontiguousarray(a.numpy().T)[:, None, :] for a in (x, metric))
        return np.ascontiguousarray(proxssi_group_lasso(point, d, lr, strength).z[:, 0, :].T)


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return ProxSSI(s.groups(), **s.adam)


PROXSSI = Method(
    "proxssi",
    "ProxSSI as published",
    "published",
    7,
    "AdamW and the weighted prox with the uncorrected metric and the published Newton method, reimplemented "
    "from the paper (Deleu & Bengio 2021)",
    _optimizer,
    {
        "vgg": Runs(2e-3, (1e-4, 5e-4), more=(1e-3,)),
        "resnet": Runs(2e-3, more=(1e-4, 5e-4)),
        "encoder": Runs(3e-3, (3e-5, 1e-4), more=(1e-5,)),
    },
)
