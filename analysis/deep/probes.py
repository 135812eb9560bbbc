"""What is looked at inside the steps of a training run: the subproblems that their proxes solve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import proxlab as pl
from analysis.baselines import proxssi_group_mcp
from analysis.deep.blocks import Block

Array = NDArray[Any]

#: Edges of the histogram of log10(γ·d / (η·w)); what lies beyond counts in the last bin.
CONVEXITY_EDGES = tuple(k / 8 for k in range(-32, 33))
_EDGES = np.array(CONVEXITY_EDGES)


class Subproblems(ABC):
    """The point and the metric of some steps, formed once more in double precision.

    They come from the weights before a step and the optimizer's moments after it.

    Parameters
    ----------
    of : list of Block
        What is penalised.
    optimizer : torch.optim.Optimizer
        An AdamW over them.
    """

    def __init__(self, of: list[Block], optimizer: torch.optim.Optimizer) -> None:
        self._blocks, self._optimizer = of, optimizer
        self._before: list[Array] = []

    def before(self) -> None:
        """Keep the weights."""
        self._before = [b.weights().double().numpy().copy() for b in self._blocks]

    @abstractmethod
    def after(self, step: int) -> None:
        """Look at the step that was taken; its number is counted from 1."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """What was found."""

    def _problems(self, step: int) -> list[tuple[Block, Array, Array, float]]:
        """Block, point, metric and step size of each prox."""
        return [(b, *self._problem(b, w, step)) for b, w in zip(self._blocks, self._before, strict=True)]

    def _problem(self, block: Block, w: Array, step: int) -> tuple[Array, Array, float]:
        settings = next(
            g for g in self._optimizer.param_groups if any(p is block.params[0] for p in g["params"])
        )
        state = [self._optimizer.state[p] for p in block.params]
        m, v = (block.rows(s[name] for s in state).double().numpy() for name in ("exp_avg", "exp_avg_sq"))
        (beta1, beta2), lr = settings["betas"], float(settings["lr"])
        d = np.sqrt(v / (1.0 - beta2**step)) + settings["eps"]
        x = w * (1.0 - lr * settings["weight_decay"]) - lr * m / (1.0 - beta1**step) / d
        return x, d, lr


class ErrorProbe(Subproblems):
    """How far the weights are from the exact proxes of the step, all together."""

    def __init__(self, of: list[Block], optimizer: torch.optim.Optimizer) -> None:
        super().__init__(of, optimizer)
        self._found: list[tuple[float, float]] = []

    def after(self, step: int) -> None:
        """Solve each prox in double precision."""
        square = 0.0
        for block, x, d, lr in self._problems(step):
            exact = pl.prox(block.row_penalty(), x, lr, metric=d)
            square += float(((block.weights().double().numpy() - exact) ** 2).sum())
        self._found.append((step, square**0.5))

    def arrays(self) -> dict[str, Array]:
        """Steps and errors."""
        return dict(zip(("probe-step", "probe-error"), np.array(self._found).reshape(-1, 2).T, strict=True))


class ConvexityProbe(Subproblems):
    """How often the group MCP's subproblem is not convex, and what ProxSSI's solver returns then.

    The subproblem of a group is convex where ``γ d_i ≥ η w`` in all its elements.
    """

    def __init__(self, of: list[Block], optimizer: torch.optim.Optimizer) -> None:
        super().__init__(of, optimizer)
        self._counts = np.zeros(len(_EDGES) - 1, dtype=np.int64)
        self._found: list[Array] = []

    def after(self, step: int) -> None:
        """Compare with the global minimiser of each group."""
        for block, x, d, lr in self._problems(step):
            self._look(block, x, d, lr, step)

    def _look(self, block: Block, x: Array, d: Array, lr: float, step: int) -> None:
        penalty = block.row_penalty()
        assert isinstance(penalty, pl.GroupMCP)
        weight = float(np.sqrt(block.size)) if penalty.weights == "sqrt_size" else 1.0
        ratio = penalty.gamma * d / (lr * weight)
        inside = np.clip(np.log10(ratio), _EDGES[0], np.nextafter(_EDGES[-1], 0.0))
        self._counts += np.histogram(inside, _EDGES)[0]

        def objective(z: Array) -> Array:
            r = np.sqrt((z * z).sum(axis=1))
            capped = np.minimum(r, penalty.gamma * penalty.lam)
            mcp = weight * (penalty.lam * capped - capped**2 / (2.0 * penalty.gamma))
            return np.asarray(mcp + (d * (z - x) ** 2).sum(axis=1) / (2.0 * lr))

        best = np.asarray(pl.prox(penalty, x, lr, metric=d))
        # w (λ r − r²/2γ) is the MCP of strength w λ and shape γ/w; the published layout has groups last
        point, metric = (np.ascontiguousarray(a.T.astype(np.float32))[:, None, :] for a in (x, d))
        z = proxssi_group_mcp(point, metric, lr, weight * penalty.lam, penalty.gamma / weight).z[:, 0, :].T
        z = z.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            least = objective(best)
            excess = (objective(z) - least) / least
            distance = np.sqrt(((z - best) ** 2).sum(axis=1) / np.maximum((x * x).sum(axis=1), 1e-300))
        row = np.column_stack(
            [
                np.full(len(x), step),
                ratio.min(axis=1) >= 1.0,
                (ratio < 1.0).mean(axis=1),
                excess,
                distance,
                ~best.any(axis=1),
                ~(z != 0).any(axis=1),
            ]
        )
        # where the point is zero there is nothing to decide
        self._found.append(row[x.any(axis=1)].astype(np.float32))

    def arrays(self) -> dict[str, Array]:
        """A row for each group and step that was looked at, and the histogram over elements."""
        names = ("step", "convex", "nonconvex-share", "excess", "distance", "zero", "proxssi-zero")
        columns = np.concatenate(self._found).T if self._found else np.zeros((len(names), 0), np.float32)
        return {"convexity": self._counts, **{f"probe-{n}": c for n, c in zip(names, columns, strict=True)}}
