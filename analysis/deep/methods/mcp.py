"""The exact prox of the nonconvex group MCP in Adam's own metric."""

from __future__ import annotations

import torch

import proxlab as pl
from analysis.deep.methods.base import Method, Setup
from analysis.deep.probes import ConvexityProbe
from analysis.deep.runs import Runs
from proxlab.torch import ProxAdamW

#: The setting with the penalty's shape: groups of a norm beyond γλ are charged alike.
GAMMA = "gamma"


def _optimizer(s: Setup) -> torch.optim.Optimizer:
    penalty = pl.GroupMCP(s.strength, s.runs.settings[GAMMA], weights="sqrt_size")
    return ProxAdamW(s.groups(penalty), **s.adam)


MCP = Method(
    "mcp",
    "ProxAdamW, group MCP",
    "ours",
    1,
    "the same with the nonconvex group MCP",
    _optimizer,
    {
        "vgg": Runs(2e-3, (1e-3, 2.5e-3, 3e-3), (5e-4, 1.5e-3), probed=2.5e-3, settings={GAMMA: 300.0}),
        "resnet": Runs(2e-3, (2e-3,), (1e-3, 2.5e-3, 3e-3), settings={GAMMA: 300.0}),
        "encoder": Runs(3e-3, (1e-4, 2e-4, 6e-4), (5e-5, 4e-4), probed=2e-4, settings={GAMMA: 5000.0}),
        "minilm": Runs(2e-4, (1.2e-2, 1.5e-2, 2e-2), settings={GAMMA: 100.0}),
    },
    probe=ConvexityProbe,
    pictured=True,
)
