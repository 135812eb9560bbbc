"""The number of groups, its strength driven to a wanted sparsity."""

from __future__ import annotations

import torch

import proxlab as pl
from analysis.deep.methods.base import Method, Setup
from analysis.deep.runs import Runs
from proxlab.optim import TargetSparsity
from proxlab.torch import ProxAdamW

#: A target is raised to its value in this first part of the steps.
RAMP = 0.5
_TARGETS = (0.75, 0.9, 0.95, 0.99)


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    target = TargetSparsity(
        s.strength, method="quantile", weighted=True, ramp="cubic", ramp_steps=int(RAMP * s.steps)
    )
    # a penalty that shrinks takes from every group what the strongest of the removed ones needs
    penalty = pl.GroupL0(1e-3, weights="sqrt_size")
    return ProxAdamW(s.groups(penalty), **s.adam, sparsity=target)


TARGET = Method(
    "target",
    "ProxAdamW, target sparsity",
    "ours",
    2,
    "the number of groups (group L0), its strength driven to a wanted sparsity",
    _optimizer,
    {
        "vgg": Runs(2e-3, _TARGETS),
        "resnet": Runs(2e-3, (0.75, 0.9), more=(0.95, 0.99)),
        "encoder": Runs(3e-3, _TARGETS),
        "minilm": Runs(2e-4, (0.5, 0.75, 0.9)),
    },
    pictured=True,
)
