"""The optimizers of the methods in `analysis.deep.catalogue`, and how their settings change in a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import proxlab as pl
from analysis.deep.blocks import Block, blocks
from analysis.deep.catalogue import GAMMAS, RAMP, RATES, STARTED_WITH
from analysis.deep.loop import factor
from analysis.deep.shortcuts import MagnitudePruning, ProxSSI, UnweightedProxAdamW
from analysis.deep.tasks import TASKS
from proxlab.inexactness import Distance, SquareSummable
from proxlab.optim import TargetSparsity, sparse_start
from proxlab.torch import RAMDA, RMDA, AdaBreg, LinBreg, ProxAdamW, ProxSGD

DECAY = 1e-2
MOMENTUM = 0.9
#: Stages of dual averaging: where they begin, as a share of the steps, the factor of the learning rate, and
#: the momentum, which has to end for weights to be exactly zero.
STAGES = ((0.0, 1.0, MOMENTUM), (0.6, 0.3, MOMENTUM), (0.85, 0.1, 0.0))
#: Bounds of the distances of all steps: their squares add up to a finite sum.
TOLERANCE = 1e-1
#: So often in a run the proxes are certified.
CERTIFIED = 40


@dataclass(frozen=True)
class Setup:
    """What an optimizer is made for."""

    task: str
    method: str
    model: nn.Module
    strength: float
    steps: int

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return RATES[self.task][self.method]

    @property
    def adam(self) -> dict[str, Any]:
        """Settings of Adam."""
        return {"lr": self.rate, "weight_decay": DECAY}

    def groups(self, penalty: pl.Penalty | None = None) -> list[dict[str, Any]]:
        """Param groups, by default with the group lasso."""
        lasso = pl.GroupLasso(self.strength, weights="sqrt_size")
        return TASKS[self.task].param_groups(self.model, penalty or lasso)


def _dense(s: Setup) -> torch.optim.Optimizer:
    return torch.optim.AdamW(s.groups(), **s.adam, fused=True)


def _magnitude(s: Setup) -> torch.optim.Optimizer:
    return MagnitudePruning(s.groups(), share=s.strength, at=s.steps // 2, **s.adam, fused=True)


def _unweighted(s: Setup) -> torch.optim.Optimizer:
    return UnweightedProxAdamW(s.groups(), **s.adam, fused=True)


def _proxssi(s: Setup) -> torch.optim.Optimizer:
    return ProxSSI(s.groups(), **s.adam)


def _sgd(s: Setup) -> torch.optim.Optimizer:
    return ProxSGD(s.groups(), lr=s.rate, momentum=MOMENTUM)


def _rmda(s: Setup) -> torch.optim.Optimizer:
    return RMDA(s.groups(), lr=s.rate, momentum=MOMENTUM)


def _ramda(s: Setup) -> torch.optim.Optimizer:
    return RAMDA(s.groups(), lr=s.rate, momentum=MOMENTUM)


def _linbreg(s: Setup) -> torch.optim.Optimizer:
    return LinBreg(_sparse_start(s.groups()), lr=s.rate, momentum=MOMENTUM)


def _adabreg(s: Setup) -> torch.optim.Optimizer:
    return AdaBreg(_sparse_start(s.groups()), lr=s.rate)


def _lasso(s: Setup) -> torch.optim.Optimizer:
    return ProxAdamW(s.groups(), **s.adam)


def _mcp(s: Setup) -> torch.optim.Optimizer:
    penalty = pl.GroupMCP(s.strength, GAMMAS[s.task], weights="sqrt_size")
    return ProxAdamW(s.groups(penalty), **s.adam)


def _target(s: Setup) -> torch.optim.Optimizer:
    target = TargetSparsity(
        s.strength, method="quantile", weighted=True, ramp="cubic", ramp_steps=int(RAMP * s.steps)
    )
    # a penalty that shrinks takes from every group what the strongest of the removed ones needs
    penalty = pl.GroupL0(1e-3, weights="sqrt_size")
    return ProxAdamW(s.groups(penalty), **s.adam, sparsity=target)


def _inexact(s: Setup) -> torch.optim.Optimizer:
    every = max(s.steps // CERTIFIED, 1)
    tolerance = (Distance, SquareSummable(TOLERANCE))
    return ProxAdamW(
        s.groups(), **s.adam, inexactness=tolerance, root_finder=pl.Bisection(), certify_every=every
    )


def _sparse_start(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set most of the groups to zero, as Bregman iterations begin."""
    rng = np.random.default_rng(torch.initial_seed())
    for block in blocks(groups):
        block.write(sparse_start(block.weights(), STARTED_WITH, rng=rng))
    return groups


MAKERS: dict[str, Callable[[Setup], torch.optim.Optimizer]] = {
    "dense": _dense,
    "magnitude": _magnitude,
    "unweighted": _unweighted,
    "sgd": _sgd,
    "proxssi": _proxssi,
    "rmda": _rmda,
    "ramda": _ramda,
    "linbreg": _linbreg,
    "adabreg": _adabreg,
    "lasso": _lasso,
    "mcp": _mcp,
    "target": _target,
    "inexact": _inexact,
}


@dataclass
class Run:
    """An optimizer in the course of training.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        With one group of the network in each of its `blocks`.
    blocks : list of Block
        What is penalised.
    steps : int
        Length of the run.
    count : int
        Steps taken.
    """

    optimizer: torch.optim.Optimizer
    blocks: list[Block]
    steps: int
    count: int = 0
    _rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self) -> None:
        """One step, with the learning rate of its place in the run."""
        if isinstance(self.optimizer, (RMDA, RAMDA)):
            share = self._stage(self.optimizer)
        else:
            share = factor(self.count, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = share * rate
        self.optimizer.step()
        self.count += 1

    def _stage(self, optimizer: RMDA | RAMDA) -> float:
        """Begin a stage where one is due; returns the factor of its learning rate."""
        starts = [int(begin * self.steps) for begin, _, _ in STAGES]
        number = max(k for k, start in enumerate(starts) if start <= self.count)
        _, share, momentum = STAGES[number]
        if self.count == starts[number]:
            if self.count:
                optimizer.restart()
            for group in optimizer.param_groups:
                group["momentum"] = momentum
        return share

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the optimizer's history holds, as columns."""
        history = getattr(self.optimizer, "history", [])
        names = history[0] if history else ()
        return {f"history-{name}": np.array([record[name] for record in history]) for name in names}


def start(task: str, method: str, strength: float, model: nn.Module, steps: int) -> Run:
    """The optimizer of a method for a network, before its first step."""
    optimizer = MAKERS[method](Setup(task, method, model, strength, steps))
    return Run(optimizer, blocks(optimizer.param_groups), steps)
