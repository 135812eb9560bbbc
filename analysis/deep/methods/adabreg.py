"""Linearised Bregman iterations with the directions of Adam, which begin sparse."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import Method, Setup
from analysis.deep.methods.linbreg import begin_sparse
from analysis.deep.runs import Runs
from proxlab.torch import AdaBreg


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return AdaBreg(begin_sparse(s.groups()), lr=s.runs.rate)


ADABREG = Method(
    "adabreg",
    "AdaBreg",
    "published",
    1,
    "their Adam variant (Bungert et al. 2022)",
    _optimizer,
    {
        "vgg": Runs(2e-3, (0.02, 0.05), more=(0.01, 0.3)),
        "resnet": Runs(2e-3, more=(0.02, 0.05)),
        "encoder": Runs(3e-3, (0.02,), more=(0.005, 0.3)),
    },
)
