"""SGD with momentum and the prox in its metric, the identity."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import MOMENTUM, Method, Setup
from analysis.deep.runs import Runs
from proxlab.torch import ProxSGD


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return ProxSGD(s.groups(), lr=s.runs.rate, momentum=MOMENTUM)


SGD = Method(
    "sgd",
    "ProxSGD",
    "published",
    5,
    "SGD with momentum 0.9 and the prox in its metric, the identity",
    _optimizer,
    {
        "vgg": Runs(5e-2, (3e-3, 1e-2), more=(1e-3,)),
        "resnet": Runs(5e-2, more=(3e-3, 1e-2)),
        "encoder": Runs(1e-1, (3e-4,), more=(1e-5, 1e-4)),
    },
)
