"""A method is an optimizer, what the report calls it, and what it is run with on each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

import proxlab as pl
from analysis.deep.loop import factor
from analysis.deep.probes import Subproblems
from analysis.deep.runs import Runs
from analysis.deep.tasks.base import Task

#: Decoupled weight decay of all that are built on AdamW, momentum of all that are built on SGD.
DECAY = 1e-2
MOMENTUM = 0.9

Closure = Callable[[], float] | None
#: The weighted prox in Adam, another method of the literature, what is done for want of a weighted prox, or
#: one solver of the prox among others.
Kind = Literal["ours", "published", "shortcut", "solver"]


@dataclass(frozen=True)
class Setup:
    """What an optimizer is made for."""

    task: Task
    runs: Runs
    model: nn.Module
    strength: float
    steps: int

    @property
    def adam(self) -> dict[str, Any]:
        """Settings of AdamW."""
        return {"lr": self.runs.rate, "weight_decay": DECAY}

    def groups(self, penalty: pl.Penalty | None = None) -> list[dict[str, Any]]:
        """Param groups, by default with the group lasso."""
        lasso = pl.GroupLasso(self.strength, weights="sqrt_size")
        return self.task.param_groups(self.model, penalty or lasso)


def own_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Keep PyTorch from wrapping an optimizer's step with its first instance.

    The class would change with it, and so would the digests of runs.
    """
    step.hooked = True  # type: ignore[attr-defined]
    return step


def rise_and_fall(optimizer: torch.optim.Optimizer, count: int, steps: int) -> float:
    """The share of the learning rate in most methods: see `analysis.deep.loop.factor`."""
    del optimizer
    return factor(count, steps)


@dataclass(frozen=True, eq=False)
class Method:
    """A method.

    Attributes
    ----------
    name : str
        As stored runs know it.
    title : str
        For legends and tables.
    kind : {"ours", "published", "shortcut", "solver"}
        What sort of method.
    colour : int
        Series of the report's palette.
    text : str
        What it does.
    optimizer : callable
        Makes the optimizer for a `Setup`.
    runs : mapping of str to Runs
        By task.
    share : callable
        Called before each step with the optimizer, the number of steps taken and that of all steps; returns
        the share of the learning rate.
    probe : type of Subproblems, optional
        Looks at the subproblems in training.
    compared : bool
        Whether it stands among the others in plots of accuracy and of sparsity.
    pictured : bool
        Whether what it leaves is drawn.
    keeps_denormals : bool
        Numbers that fade away slow the arithmetic many times over and are flushed, but proofs are made with
        them.
    """

    name: str
    title: str
    kind: Kind
    colour: int
    text: str
    optimizer: Callable[[Setup], torch.optim.Optimizer]
    runs: Mapping[str, Runs]
    share: Callable[[torch.optim.Optimizer, int, int], float] = rise_and_fall
    probe: type[Subproblems] | None = None
    compared: bool = True
    pictured: bool = False
    keeps_denormals: bool = False

    def runs_on(self, task: Task) -> Runs | None:
        """What it is run with on a task: of the task's own file, or of the method's."""
        return task.runs.get(self.name, self.runs.get(task.name))
