"""The group lasso, each prox by bisection to a proved tolerance."""

from __future__ import annotations

import torch

import proxlab as pl
from analysis.deep.methods.base import Method, Setup
from analysis.deep.probes import ErrorProbe
from analysis.deep.runs import Runs
from proxlab.inexactness import Distance, SquareSummable
from proxlab.torch import ProxAdamW

#: Bounds of the distances of all steps: their squares add up to a finite sum.
TOLERANCE = 1e-1
#: So often in a run the proxes are certified.
CERTIFIED = 40


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    every = max(s.steps // CERTIFIED, 1)
    tolerance = (Distance, SquareSummable(TOLERANCE))
    return ProxAdamW(
        s.groups(), **s.adam, inexactness=tolerance, root_finder=pl.Bisection(), certify_every=every
    )


INEXACT = Method(
    "inexact",
    "ProxAdamW, inexact prox",
    "ours",
    0,
    "the group lasso, each prox by bisection to a proved tolerance",
    _optimizer,
    {
        "vgg": Runs(2e-3, (1e-3,), probed=1e-3),
        "resnet": Runs(2e-3, more=(1e-3,)),
        "encoder": Runs(3e-3, (1e-4,), probed=1e-4),
    },
    probe=ErrorProbe,
    compared=False,
    keeps_denormals=True,
)
