"""Every way to compute the weighted prox of the group lasso that the studies compare, by name."""

from __future__ import annotations

from collections.abc import Callable

import proxlab as pl
from analysis import baselines
from analysis.baselines import Outcome
from analysis.ensembles import Ensemble

FINDERS: dict[str, type[pl.RootFinder]] = {
    finder.__name__: finder
    for finder in (pl.Newton, pl.Halley, pl.Bisection, pl.Brent, pl.Chandrupatla, pl.ITP, pl.ClassicNewton)
}

Method = Callable[[Ensemble], Outcome]


def solve_with(finder: pl.RootFinder, backend: str | None = "array_api") -> Method:
    """`proxlab.solve` with a root finder."""

    def solve(e: Ensemble) -> Outcome:
        penalty = pl.GroupLasso(e.lam)
        found = pl.solve(penalty, e.x, e.step, metric=e.metric, root_finder=finder, backend=backend)
        done = found.status != pl.Status.MAX_ITERATIONS
        return Outcome(found.z, found.iterations, found.evaluations, done)

    return solve


def proxssi(max_iterations: int) -> Method:
    """ProxSSI's solver, stopped after so many iterations."""

    def solve(e: Ensemble) -> Outcome:
        found = baselines.proxssi_group_lasso(
            e.x.T[None], e.metric.T[None], e.step, e.lam, max_iterations=max_iterations
        )
        return Outcome(found.z[0].T, found.iterations, found.evaluations, found.converged)

    return solve


def ramda(max_iterations: int) -> Method:
    """RAMDA's inner solver, stopped after so many iterations."""
    return lambda e: baselines.ramda_group_lasso(e.x, e.metric, e.step, e.lam, max_iterations=max_iterations)


#: What `proxlab.prox` runs by default; the other root finders are compared in their array form.
COMPILED = "Newton, compiled"
#: Methods that work in float64 only.
SCIPY: dict[str, Method] = {
    "SciPy brentq, loop": lambda e: baselines.brentq_group_lasso(e.x, e.metric, e.step, e.lam),
    "SciPy find_root": lambda e: baselines.find_root_group_lasso(e.x, e.metric, e.step, e.lam),
    "CVXPY + Clarabel": lambda e: baselines.cvxpy_group_lasso(e.x, e.metric, e.step, e.lam, batched=False),
    "CVXPY + Clarabel, batch": lambda e: baselines.cvxpy_group_lasso(
        e.x, e.metric, e.step, e.lam, batched=True
    ),
}
PUBLISHED: dict[str, Method] = {
    "ProxSSI": proxssi(baselines.PROXSSI_MAX_ITERATIONS),
    "ProxSSI, 8 iterations": proxssi(8),
    "RAMDA inner solver": ramda(baselines.RAMDA_MAX_ITERATIONS),
}


def available(dtype: str) -> dict[str, Method]:
    """Every method that a dtype is compared with, by name."""
    own = {name: solve_with(finder()) for name, finder in FINDERS.items()}
    own = {COMPILED: solve_with(pl.Newton(), None)} | own
    return own | PUBLISHED | (SCIPY if dtype == "float64" else {})


#: Place of each method in tables and in the palette.
ORDER = {name: k - 1 for k, name in enumerate(available("float64"))}
