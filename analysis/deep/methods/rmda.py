"""Dual averaging with momentum, in stages."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import MOMENTUM, Method, Setup
from analysis.deep.runs import Runs
from proxlab.torch import RAMDA as AdaptiveDualAveraging
from proxlab.torch import RMDA as DualAveraging

#: Where stages begin, as a share of the steps, the factor of the learning rate, and the momentum, which has
#: to end for weights to be exactly zero.
STAGES = ((0.0, 1.0, MOMENTUM), (0.6, 0.3, MOMENTUM), (0.85, 0.1, 0.0))


def staged(optimizer: torch.optim.Optimizer, count: int, steps: int) -> float:
    """Begin a stage where one is due; returns the factor of its learning rate."""
    assert isinstance(optimizer, (DualAveraging, AdaptiveDualAveraging))
    starts = [int(begin * steps) for begin, _, _ in STAGES]
    number = max(k for k, start in enumerate(starts) if start <= count)
    _, share, momentum = STAGES[number]
    if count == starts[number]:
        if count:
            optimizer.restart()
        for group in optimizer.param_groups:
            group["momentum"] = momentum
    return share


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return DualAveraging(s.groups(), lr=s.runs.rate, momentum=MOMENTUM)


RMDA = Method(
    "rmda",
    "RMDA",
    "published",
    3,
    "dual averaging with momentum (Huang & Lee 2022)",
    _optimizer,
    {
        "vgg": Runs(1e-1, (1e-3, 3e-3), more=(5e-4,)),
        "resnet": Runs(1e-1, more=(1e-3, 3e-3)),
        "encoder": Runs(1e-1, (1e-3,), more=(1e-5, 1e-4)),
    },
    share=staged,
)
