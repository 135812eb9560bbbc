"""ProxGen (Yun, Lozano & Yang 2021) with Adam's preconditioner on two real problems, by `study.converge`.

The step and the preconditioner are such that the theorem of Huang & Lee (2024) applies. Gradients are of all
samples, so that every difference between two runs comes from the tolerance, or of minibatches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

import proxlab as pl
from analysis import data, models
from analysis.data import Array
from analysis.models import Linear
from proxlab import study
from proxlab.study import Result

#: Schedules by the names of `study.converge`: relative to the first stationarity.
SCHEDULES = (
    "exact",
    "summable",
    "square-summable",
    "adaptive",
    "constant:0.01",
    "constant:0.03",
    "constant:0.1",
)
#: Inner solvers, as `study.converge` takes them.
SOLVERS: dict[str, pl.RootFinder | str] = {
    "proximal gradient": "proximal gradient",
    "bisection": pl.Bisection(),
    "newton": pl.Newton(),
    "adversary": "adversary",
}
#: Columns of the runs that the report needs.
COLUMNS = (
    "stationarity",
    "mean",
    "tolerance",
    "bound",
    "proved",
    "decreased",
    "evaluations",
    "certificates",
    "support",
    "changed",
)


def _growing(samples: int, t: int) -> int:
    return min(16 + t, samples)


def batch_size(batch: str, samples: int) -> int | Callable[[int], int] | None:
    """Return how many of the samples a gradient takes, or what says so for an iteration."""
    return {"all": None, "constant": 128, "growing": partial(_growing, samples)}[batch]


@dataclass(frozen=True, eq=False)
class Setting:
    """One problem ``F = f + h`` with everything that ProxGen needs.

    Attributes
    ----------
    loss : Linear
        f.
    penalty : proxlab.GroupLasso
        h.
    start : ndarray
        The first iterate.
    method : proxlab.optim.ProxAdam
        Without momentum. The preconditioner is ``sqrt(v̂) + δ``, where δ is the root mean square of the first
        gradient, and the step ``η = δ / 3L``, the largest that assumption (C-5) allows.
    scale : float
        ``dist(0, ∂F)`` at the start: the unit of all tolerances.
    """

    loss: Linear
    penalty: pl.GroupLasso
    start: Array
    method: pl.optim.ProxAdam
    scale: float


def setting(problem: str, seed: int) -> Setting:
    """Return the problem "digits" or "birthwt"; the seed is that of the start."""
    rng = np.random.default_rng([seed, *problem.encode()])
    if problem == "digits":
        loss, penalty = models.digits_multinomial(), pl.GroupLasso(2e-3)
    else:
        groups = pl.Groups.csr(data.birthwt().indptr)
        loss, penalty = models.birthwt_linear(), pl.GroupLasso(0.05, groups=groups, weights="sqrt_size")
    start = 0.1 * rng.normal(size=loss.shape)
    gradient = loss.value_and_grad(start)[1]
    floor = float(np.sqrt(np.mean(gradient**2)))
    method = pl.optim.ProxAdam(lr=floor / (3.0 * loss.lipschitz), betas=(0.0, 0.999), eps=floor)
    scale = float(np.linalg.norm(penalty.subdiff_distance(gradient, start)))
    return Setting(loss, penalty, start, method, scale)


def proxgen(
    problem: str, solver: str, schedules: list[str], batch: str, iterations: int, draws: int, seed: int
) -> Result:
    """Run inexact ProxGen with every schedule; exact steps are always among them.

    Parameters
    ----------
    problem : {"digits", "birthwt"}
    solver : str
        A name in `SOLVERS`. All but the adversary are held to the decrease too: it could push no further than
        a step gains, and a constant tolerance would be as good as none.
    schedules : list of str
    batch : {"all", "constant", "growing"}
        Samples of each gradient: all, 128, or 16 + t as long as there are so many.
    iterations : int
    draws : int
        Runs of each schedule, which draw batches of their own.
    seed : int

    Returns
    -------
    Result
        Arrays of shape (runs, iterations) of `COLUMNS`; as values the ``runs`` (schedule and seed), the
        ``scale``, and the fitted ``rates`` and ``floors``.
    """
    given = setting(problem, seed)
    found = study.converge(
        given.loss,
        given.penalty,
        given.start,
        method=given.method,
        schedules=schedules,
        solver={solver: SOLVERS[solver]},
        seeds=range(seed, seed + draws),
        iterations=iterations,
        batch_size=batch_size(batch, given.loss.n_samples),
        decrease=solver != "adversary",
        workers=1,
        progress=False,
    )
    if not found.failures.empty:
        raise RuntimeError(found.failures["reason"].iloc[0])
    runs = list(found.frame.groupby(["schedule", "seed"], sort=False))
    arrays = {name: np.stack([run[name].to_numpy() for _, run in runs]) for name in COLUMNS}
    values = {
        "runs": [list(key) for key, _ in runs],
        "scale": given.scale,
        "rates": found.rates().to_dict("records"),
        "floors": found.floors().to_dict("records"),
    }
    return Result(values, arrays)
