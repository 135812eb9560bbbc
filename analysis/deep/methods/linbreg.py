"""Linearised Bregman iterations, which begin sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from analysis.deep.blocks import blocks
from analysis.deep.methods.base import MOMENTUM, Method, Setup
from analysis.deep.runs import Runs
from proxlab.optim import sparse_start
from proxlab.torch import LinBreg

#: Share of the groups that Bregman iterations start with.
STARTED_WITH = 0.3


def begin_sparse(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set most of the groups to zero."""
    rng = np.random.default_rng(torch.initial_seed())
    for block in blocks(groups):
        block.write(sparse_start(block.weights(), STARTED_WITH, rng=rng))
    return groups


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return LinBreg(begin_sparse(s.groups()), lr=s.runs.rate, momentum=MOMENTUM)


LINBREG = Method(
    "linbreg",
    "LinBreg",
    "published",
    2,
    "linearised Bregman iterations (Bungert et al. 2022)",
    _optimizer,
    {
        "vgg": Runs(5e-2, (3e-3, 1e-2), more=(3e-2,)),
        "resnet": Runs(5e-2, more=(3e-3, 1e-2)),
        "encoder": Runs(1e-1, (1e-2,), more=(1e-3, 3e-3)),
    },
)
