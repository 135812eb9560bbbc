"""Adaptive dual averaging, in the stages of `rmda`."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import MOMENTUM, Method, Setup
from analysis.deep.methods.rmda import staged
from analysis.deep.runs import Runs
from proxlab.torch import RAMDA as AdaptiveDualAveraging


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return AdaptiveDualAveraging(s.groups(), lr=s.runs.rate, momentum=MOMENTUM)


RAMDA = Method(
    "ramda",
    "RAMDA",
    "published",
    6,
    "adaptive dual averaging (Huang et al. 2024)",
    _optimizer,
    {
        "vgg": Runs(1e-2, (1e-4, 3e-4), more=(1e-3,)),
        "resnet": Runs(1e-2, more=(1e-4, 3e-4)),
        "encoder": Runs(1e-2, (5e-6, 2e-5), more=(1e-4,)),
    },
    share=staged,
)
