"""An optimizer in the course of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from analysis.deep.blocks import Block, blocks
from analysis.deep.methods.base import Method, Setup
from analysis.deep.tasks.base import Task


@dataclass
class Course:
    """A method's optimizer and its place in a run.

    Attributes
    ----------
    method : Method
    optimizer : torch.optim.Optimizer
    blocks : list of Block
        What is penalised.
    steps : int
        Length of the run.
    count : int
        Steps taken.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    blocks: list[Block]
    steps: int
    count: int = 0
    _rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self) -> None:
        """One step, with the learning rate of its place in the run."""
        share = self.method.share(self.optimizer, self.count, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = share * rate
        self.optimizer.step()
        self.count += 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the optimizer's history holds, as columns."""
        history = getattr(self.optimizer, "history", [])
        names = history[0] if history else ()
        return {f"history-{name}": np.array([record[name] for record in history]) for name in names}


def start(task: Task, method: Method, strength: float, model: nn.Module, steps: int) -> Course:
    """The optimizer of a method for a network, before its first step.

    Raises
    ------
    LookupError
        If neither the method's file nor the task's says what to run it with.
    """
    runs = method.runs_on(task)
    if runs is None:
        raise LookupError(
            f"neither {method.name!r} nor {task.name!r} says what the one is run with on the other"
        )
    optimizer = method.optimizer(Setup(task, runs, model, strength, steps))
    return Course(method, optimizer, blocks(optimizer.param_groups), steps)
