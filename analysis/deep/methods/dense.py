"""AdamW without a penalty: what the others are compared with."""

from __future__ import annotations

import torch

from analysis.deep.methods.base import Method, Setup
from analysis.deep.runs import Runs


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    return torch.optim.AdamW(s.groups(), **s.adam, fused=True)


DENSE = Method(
    "dense",
    "dense AdamW",
    "shortcut",
    8,
    "AdamW without a penalty",
    _optimizer,
    {
        "vgg": Runs(2e-3, (0.0,)),
        "resnet": Runs(2e-3, (0.0,)),
        "encoder": Runs(3e-3, (0.0,)),
        "minilm": Runs(2e-4, (0.0,)),
    },
)
