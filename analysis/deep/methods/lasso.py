"""The exact prox of the group lasso in Adam's own metric."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import Method, Setup
from analysis.deep.runs import Runs
from proxlab.torch import ProxAdamW


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return ProxAdamW(s.groups(), **s.adam)


LASSO = Method(
    "lasso",
    "ProxAdamW, group lasso",
    "ours",
    0,
    "AdamW and the exact prox in its own metric",
    _optimizer,
    {
        "vgg": Runs(2e-3, (3e-4, 1e-3, 2e-3, 4e-3), more=(1e-4, 1.5e-3)),
        "resnet": Runs(2e-3, (1e-3,), more=(3e-4, 2e-3, 4e-3)),
        "encoder": Runs(3e-3, (3e-5, 1e-4, 2e-4, 4e-4), more=(1e-5, 1.5e-4)),
        "minilm": Runs(2e-4, (2e-4, 3e-4, 5e-4)),
    },
    pictured=True,
)
