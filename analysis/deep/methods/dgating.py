"""D-Gating, reimplemented from the paper's description: a smooth penalty of factors in place of a group's.

Each group of weights is a vector times D − 1 scalar gates, ``w = ω γ_1 … γ_{D-1}``, and the squares of all
factors are charged: ``(λ/D)(‖ω‖² + Σ γ_d²)``. The least charge among all factors of one w is
``λ ‖w‖^(2/D)``, the penalty L_{2,2/D}; for D = 2 that of the group lasso [1]_.

Sources
-------
.. [1] C. Kolb, L. Frost, B. Bischl, D. Rügamer, "Differentiable sparsity via D-gating: simple and versatile
       structured penalization", NeurIPS 2025, arXiv:2509.23898.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import proxlab as pl
from analysis.deep.blocks import Block, blocks
from analysis.deep.methods.base import DECAY, MOMENTUM, Closure, Method, Setup, own_step
from analysis.deep.runs import Runs

#: Weights whose root mean square in a group is below are zero: factors come near to zero, not to it.
ZERO = 1e-4


class Gated:
    """The groups of a block as products of factors.

    Gates start at 1, so that the first steps are those of the network without them.

    Parameters
    ----------
    block : Block
        With a group lasso, whose strength and weights are those of the charge.
    depth : int
        Number of factors D, at least 2.
    """

    def __init__(self, block: Block, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, got {depth}")
        penalty = block.penalty
        assert isinstance(penalty, pl.GroupLasso)
        self.block, self.depth = block, depth
        self.charge = penalty.lam * (math.sqrt(block.size) if penalty.weights == "sqrt_size" else 1.0)
        self.vectors = nn.Parameter(block.weights().clone())
        self.gates = nn.Parameter(torch.ones(block.n_groups, depth - 1))

    def weights(self) -> Tensor:
        """The products, a group per row."""
        w = self.vectors.detach() * self.gates.detach().prod(dim=1, keepdim=True)
        return w * (w.square().mean(dim=1, keepdim=True).sqrt() >= ZERO)

    def penalty(self) -> Tensor:
        """What the factors of each group are charged."""
        squares = self.vectors.square().sum(dim=1) + self.gates.square().sum(dim=1)
        return self.charge / self.depth * squares

    def receive(self, gradient: Tensor) -> None:
        """Set the factors' gradients: of the loss, given that of the products, and of the charge."""
        with torch.enable_grad():
            product = self.vectors * self.gates.prod(dim=1, keepdim=True)
            total = (product * gradient).sum() + self.penalty().sum()
        self.vectors.grad, self.gates.grad = torch.autograd.grad(total, (self.vectors, self.gates))


class DGating(torch.optim.Optimizer):
    """SGD with momentum, or AdamW, on the factors of penalised groups and on all other parameters.

    Parameters
    ----------
    params : list of dict
        Param groups.
    lr : float
        Learning rate.
    depth : int
        Number of factors of a group.
    adam : bool
        Whether AdamW moves them in place of SGD. Factors are not decayed besides their charge.
    """

    def __init__(
        self, params: list[dict[str, Any]], *, lr: float, depth: int = 2, adam: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr})
        self._gated: list[Gated] = []
        moved = []
        for group in self.param_groups:
            gated = [Gated(block, depth) for block in blocks([group])]
            factors = [factor for g in gated for factor in (g.vectors, g.gates)]
            decay = 0.0 if gated else DECAY
            moved.append({"params": factors or group["params"], "lr": group["lr"], "weight_decay": decay})
            self._gated += gated
        if adam:
            self._inner: torch.optim.Optimizer = torch.optim.AdamW(moved, fused=True)
        else:
            # the decay of SGD is part of the gradient: none, as in the proximal SGD beside it
            self._inner = torch.optim.SGD(
                [group | {"weight_decay": 0.0} for group in moved], momentum=MOMENTUM
            )

    @own_step
    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for own, group in zip(self._inner.param_groups, self.param_groups, strict=True):
            own["lr"] = group["lr"]
        for gated in self._gated:
            params = gated.block.params
            gated.receive(gated.block.rows(torch.zeros_like(p) if p.grad is None else p.grad for p in params))
        self._inner.step()
        for gated in self._gated:
            gated.block.write(gated.weights())
        return loss


#: The setting that chooses AdamW, by 1.
ADAM = "adam"


def _two(s: Setup) -> torch.optim.Optimizer:
    return DGating(s.groups(), lr=s.runs.rate, depth=2, adam=bool(s.runs.settings.get(ADAM)))


D_GATING = Method(
    "dgating",
    "D-Gating, D = 2",
    "published",
    4,
    "groups as a vector times a gate, both charged by their squares (Kolb et al. 2025), reimplemented; SGD "
    "with momentum on images, AdamW on texts; groups of a root mean square below 1e-4 count as zero",
    _two,
    {
        "vgg": Runs(5e-2, (1e-3, 3e-3), more=(2e-3, 6e-3)),
        "resnet": Runs(5e-2, more=(1e-3, 3e-3)),
        "encoder": Runs(3e-3, (3e-4, 1e-3), more=(1e-4,), settings={ADAM: 1.0}),
    },
)
