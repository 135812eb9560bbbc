"""One optimizer with several solvers of its prox: how much does an inexact one cost?

AdamW and the group lasso in its metric, with one convention of the step for all: the learning rate, and the
metric corrected for bias as the direction is. The solvers are the exact prox, and the proximal gradient
method that RAMDA brings for subproblems of this kind [1]_, whose zero test is exact and whose iterations are
as many as its stopping rule asks for, or a fixed number.

Sources
-------
.. [1] Z.-S. Huang, C.-p. Lee, "Regularized adaptive momentum dual averaging with an efficient inexact
       subproblem solver for training structured neural network", arXiv:2403.14398, Table 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import proxlab as pl
from analysis.baselines import ramda_group_lasso
from analysis.deep.blocks import blocks
from analysis.deep.methods.base import Closure, Method, Setup, own_step
from analysis.deep.runs import Runs

Array = NDArray[Any]
#: Point and metric with a group per row, step and strength; returns the answer and the iterations of a group.
Solver = Callable[[Array, Array, float, float], tuple[Array, float]]


def exact(x: Array, metric: Array, step: float, lam: float) -> tuple[Array, float]:
    """The prox itself."""
    return np.asarray(pl.prox(pl.GroupLasso(lam), x, step, metric=metric)), 0.0


def proximal_gradient(
    x: Array, metric: Array, step: float, lam: float, *, iterations: int | None = None
) -> tuple[Array, float]:
    """RAMDA's inner solver, by its own stopping rule or with so many iterations in every group."""
    if iterations is None:
        found = ramda_group_lasso(x, metric, step, lam)
    else:
        found = ramda_group_lasso(x, metric, step, lam, max_iterations=iterations, tolerance=-math.inf)
    return found.z, float(found.iterations.mean())


class SolvedAdamW(torch.optim.AdamW):
    """AdamW, then the group lasso's prox in its metric by a solver.

    Parameters
    ----------
    params : list of dict
        Param groups.
    solve : callable
        See `Solver`.
    **settings
        As of AdamW.

    Attributes
    ----------
    history : list of dict
        ``step``, and the mean over groups of the ``iterations`` of their solver.
    """

    def __init__(self, params: list[dict[str, Any]], *, solve: Solver, **settings: Any) -> None:
        super().__init__(params, **settings)
        self._blocks = [(group, block) for group in self.param_groups for block in blocks([group])]
        self._solve = solve
        self.history: list[dict[str, float]] = []

    @own_step
    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step."""
        loss = super().step(closure)
        number, groups, spent = len(self.history) + 1, 0, 0.0
        for group, block in self._blocks:
            penalty = block.penalty
            assert isinstance(penalty, pl.GroupLasso)
            lam = penalty.lam * (math.sqrt(block.size) if penalty.weights == "sqrt_size" else 1.0)
            second = block.rows(self.state[p]["exp_avg_sq"] for p in block.params)
            metric = (second / (1.0 - group["betas"][1] ** number)).sqrt() + group["eps"]
            x = block.weights().contiguous()
            z, iterations = self._solve(x.numpy(), metric.contiguous().numpy(), float(group["lr"]), lam)
            block.write(torch.from_numpy(z))
            groups, spent = groups + block.n_groups, spent + iterations * block.n_groups
        self.history.append({"step": number, "iterations": spent / max(groups, 1)})
        return loss


_RUNS = {
    "vgg": Runs(2e-3, (3e-4, 1e-3, 2e-3)),
    "encoder": Runs(3e-3, (3e-5, 1e-4, 2e-4)),
}


def _method(name: str, title: str, colour: int, text: str, solve: Solver) -> Method:
    def optimizer(s: Setup) -> torch.optim.Optimizer:
        return SolvedAdamW(s.groups(), solve=solve, **s.adam, fused=True)

    return Method(name, title, "solver", colour, text, optimizer, _RUNS, compared=False)


EXACT = _method("solver-exact", "exact", 0, "the prox itself", exact)
SOLVERS: tuple[Method, ...] = (
    EXACT,
    _method(
        "solver-adaptive",
        "proximal gradient, its own rule",
        1,
        "until the objective decreases by less than 1e-8, at most 100 iterations, as published",
        proximal_gradient,
    ),
    _method(
        "solver-10",
        "proximal gradient, 10 iterations",
        3,
        "10 iterations in every group",
        partial(proximal_gradient, iterations=10),
    ),
    _method(
        "solver-1",
        "proximal gradient, 1 iteration",
        7,
        "1 iteration in every group",
        partial(proximal_gradient, iterations=1),
    ),
)
