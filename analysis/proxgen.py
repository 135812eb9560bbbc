"""ProxGen (Yun, Lozano & Yang 2021) with an Adam-type preconditioner and inexact proximal steps.

Each step's prox is solved only until `proxlab.certify` proves the criterion of Huang & Lee (2024), eq. (7)
and (8): ``dist(0, ∂Q_t(ẑ)) ≤ ε_t`` and ``Q_t(ẑ) ≤ Q_t(w_t)``, with ε_t from a schedule. Gradients are of all
samples, so that every difference between two runs comes from ε_t, or of minibatches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import proxlab as pl
from analysis import data, models
from analysis.data import Array
from analysis.models import Linear
from proxlab import inexactness
from proxlab.study import Result

#: Momentum ρ_t = RHO μ^(t−1), as assumption (C-3) has it, and the decay of the second moment.
RHO, MU, BETA2 = 0.9, 0.99, 0.999

#: Tolerance schedules by name, as functions of the first stationarity.
SCHEDULES: dict[str, Callable[[float], inexactness.Schedule]] = {
    "exact": lambda scale: inexactness.Exact(),
    "summable": lambda scale: inexactness.Summable(scale, power=2.0),
    "square-summable": lambda scale: inexactness.SquareSummable(scale, power=1.0),
    "adaptive": lambda scale: inexactness.Adaptive(scale, sigma=0.3, power=0.6),
    "constant 0.01": lambda scale: inexactness.Constant(0.01 * scale),
    "constant 0.03": lambda scale: inexactness.Constant(0.03 * scale),
    "constant 0.1": lambda scale: inexactness.Constant(0.1 * scale),
}

#: The least tolerance asked for, as a share of the first stationarity: float64 proves little below.
LEAST = 1e-11

#: Work on one prox, and certificates of it, before its tolerance is given up as unproved.
MAX_PASSES, MAX_CHECKS = 20_000, 60


@dataclass(frozen=True, eq=False)
class Setting:
    """One problem ``F = f + h`` with everything that ProxGen needs.

    Attributes
    ----------
    loss : Linear
        f.
    penalty : proxlab.GroupLasso
        h, with groups that are contiguous in C order.
    start : array
        The first iterate.
    floor : float
        δ: the preconditioner is ``sqrt(v̂) + δ``, here the root mean square of the first gradient.
    step : float
        ``η = δ / 3L``, the largest that assumption (C-5) allows.
    scale : float
        ``dist(0, ∂F)`` at the start: the unit of all tolerances.
    """

    loss: Linear
    penalty: pl.GroupLasso
    start: Array
    floor: float
    step: float
    scale: float


def _setting(problem: str, seed: int) -> Setting:
    rng = np.random.default_rng([seed, *problem.encode()])
    if problem == "digits":
        loss, penalty = models.digits_multinomial(), pl.GroupLasso(2e-3)
    else:
        groups = pl.Groups.csr(data.birthwt().indptr)
        loss, penalty = models.birthwt_linear(), pl.GroupLasso(0.05, groups=groups, weights="sqrt_size")
    start = 0.1 * rng.normal(size=loss.shape)
    gradient = loss.gradient(start)
    floor = float(np.sqrt(np.mean(gradient**2)))
    scale = float(np.linalg.norm(penalty.subdiff_distance(gradient, start)))
    return Setting(loss, penalty, start, floor, floor / (3.0 * loss.lipschitz), scale)


# --------------------------------------------------------------------------------------------------------
# One prox, solved just well enough


@dataclass(frozen=True)
class Inner:
    """One inexact prox.

    Attributes
    ----------
    z : array
        The candidate that is used.
    passes : float
        Passes over the array that it took: evaluations of the secular function, or proximal gradient steps.
    checks : int
        Certificates asked for.
    stationarity : float
        The proved bound of ``dist(0, ∂Q(z))``; NaN for exact solves, which prove nothing.
    proved : bool
        Whether the criterion was proved; true of exact solves.
    """

    z: Array
    passes: float
    checks: int
    stationarity: float
    proved: bool


class Subproblem:
    """``min_z h(z) + ‖z − x‖²_D / 2η``, from the last iterate on.

    Parameters
    ----------
    penalty : proxlab.GroupLasso
        h, with groups that are contiguous in C order.
    x, step, metric
        As `proxlab.prox` takes them.
    last : array
        The last iterate.
    """

    def __init__(self, penalty: pl.GroupLasso, x: Array, step: float, metric: Array, last: Array) -> None:
        self.penalty, self.x, self.step, self.metric, self.last = penalty, x, step, metric, last
        self.sizes = penalty.groups.sizes(x.shape)
        self._starts = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        weights = np.sqrt(self.sizes) if penalty.weights is not None else np.ones(len(self.sizes))
        self._strength = penalty.lam * weights

    def solve(self, finder: pl.RootFinder) -> tuple[pl.Solution, float]:
        """The prox by its radius, and the passes over the array that this took."""
        solution = pl.solve(self.penalty, self.x, self.step, metric=self.metric, root_finder=finder)
        return solution, float(solution.evaluations @ self.sizes) / self.x.size

    def prove(
        self, z: Array, criterion: inexactness.Stationarity, *, decrease: bool = True
    ) -> tuple[bool, float]:
        """Whether `criterion` is proved of a candidate, and the bound of its stationarity."""
        certificate = pl.certify(self.penalty, z, self.x, self.step, metric=self.metric)
        proved = criterion.holds(certificate, previous=self.last if decrease else None)
        return proved, certificate.total.stationarity

    def residual(self, z: Array) -> float:
        """``dist(0, ∂Q(z))`` but for rounding: says when a certificate is worth asking for."""
        flat, pull = z.ravel(), (self.metric * (z - self.x)).ravel() / self.step
        norm = np.sqrt(np.add.reduceat(flat * flat, self._starts))
        slope = self._strength / np.where(norm > 0.0, norm, np.inf)
        lengths = np.sqrt(np.add.reduceat((pull + np.repeat(slope, self.sizes) * flat) ** 2, self._starts))
        return float(np.linalg.norm(np.where(norm > 0.0, lengths, np.maximum(lengths - self._strength, 0.0))))

    def proximal_gradient(self) -> Iterator[tuple[Array, float]]:
        """Proximal gradient steps ``1 / max d_g`` from the last iterate; each gives its residual for free."""
        x, d, z = self.x.ravel(), self.metric.ravel(), self.last.ravel()
        largest = np.maximum.reduceat(d, self._starts)
        threshold = self.step * self._strength / largest
        spread = np.repeat(largest, self.sizes)
        relative, slack = d / spread, (spread - d) / self.step
        while True:
            y = z - relative * (z - x)
            norm = np.sqrt(np.add.reduceat(y * y, self._starts))
            last, z = z, y * np.repeat(1.0 - threshold / np.maximum(norm, threshold), self.sizes)
            # (max d − d)(last − z)/η is a subgradient of Q at z.
            yield z.reshape(self.x.shape), float(np.linalg.norm(slack * (last - z)))


class RadiusSolver:
    """The prox by its radius: a root finder, allowed one more iteration until the criterion is proved."""

    def __init__(self, finder: type[pl.Newton] | type[pl.Bisection]) -> None:
        self._finder = finder

    def exact(self, sub: Subproblem) -> Inner:
        """Solve to rounding."""
        solution, passes = sub.solve(self._finder())
        return Inner(solution.z, passes, 0, np.nan, True)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Solve until `criterion` is proved."""
        depth = checks = 0
        while True:
            # A certificate costs more than an iteration: once one has failed, go deeper at a time.
            depth += 2**checks
            solution, passes = sub.solve(self._finder(max_iterations=depth))
            if solution.ok or sub.residual(solution.z) <= criterion.eps:
                proved, bound = sub.prove(solution.z, criterion)
                checks += 1
                if proved or solution.ok:
                    return Inner(solution.z, passes, checks, bound, proved)


class Adversary:
    """The exact prox, pushed off in a random direction until the tolerance is spent.

    No solver errs like this: it shows what a schedule permits rather than what a solver makes of it. It is
    held to ``dist(0, ∂Q_t) ≤ ε_t`` alone. Held to the decrease ``Q_t(ẑ) ≤ Q_t(w_t)`` too, it could push no
    further than a step gains, and a constant tolerance would be as good as none.
    """

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def exact(self, sub: Subproblem) -> Inner:
        """Solve to rounding."""
        return RadiusSolver(pl.Newton).exact(sub)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Go as far from the prox as the tolerance is still proved, within a tenth."""
        best = self.exact(sub)
        # Zero groups stay zero: off zero, a group's stationarity jumps.
        push = self._rng.normal(size=best.z.shape) * (best.z != 0.0)
        length = float(np.linalg.norm(sub.metric * push)) / sub.step
        push *= criterion.eps / length if length > 0.0 else 0.0
        checks = 0
        for _ in range(MAX_CHECKS):
            if sub.residual(best.z + push) <= criterion.eps:
                proved, bound = sub.prove(best.z + push, criterion, decrease=False)
                checks += 1
                if proved:
                    return Inner(best.z + push, best.passes, checks, bound, True)
            push *= 0.9
        proved, bound = sub.prove(best.z, criterion, decrease=False)
        return Inner(best.z, best.passes, checks, bound, proved)


class ProximalGradient:
    """The prox by proximal gradient steps in z, warm-started at the last iterate.

    The subproblem solver of RAMDA (Huang & Lee 2024, Algorithm 2) with a step for each group, and
    certificates in place of its stopping test.
    """

    def exact(self, sub: Subproblem) -> Inner:
        """Solve until the residual is down to rounding."""
        target = 1e-13 * float(np.linalg.norm(sub.metric * (sub.x - sub.last))) / sub.step
        steps = sub.proximal_gradient()
        z, residual = next(steps)
        passes = 1
        while residual > target and passes < MAX_PASSES:
            z, residual = next(steps)
            passes += 1
        return Inner(z, passes, 0, np.nan, True)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Solve until `criterion` is proved; the last iterate itself may do."""
        steps = sub.proximal_gradient()
        z, residual, passes, checks = sub.last, sub.residual(sub.last), 0, 0
        while True:
            if residual <= criterion.eps or passes == MAX_PASSES:
                proved, bound = sub.prove(z, criterion)
                checks += 1
                if proved or checks == MAX_CHECKS or passes == MAX_PASSES:
                    return Inner(z, passes, checks, bound, proved)
            z, residual = next(steps)
            passes += 1


SOLVERS: dict[str, Callable[[], RadiusSolver | Adversary | ProximalGradient]] = {
    "proximal gradient": ProximalGradient,
    "bisection": lambda: RadiusSolver(pl.Bisection),
    "newton": lambda: RadiusSolver(pl.Newton),
    "adversary": Adversary,
}


# --------------------------------------------------------------------------------------------------------
# ProxGen


def _batches(
    rule: str, n: int, iterations: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64] | None]:
    """Rows of each iteration: all (None), or drawn without replacement, of constant or growing number."""
    for t in range(1, iterations + 1):
        if rule == "all":
            yield None
        else:
            size = 128 if rule == "constant" else min(n, 16 + t)
            yield rng.choice(n, size=size, replace=False)


def proxgen(problem: str, schedule: str, solver: str, batch: str, iterations: int, seed: int) -> Result:
    """Run inexact ProxGen and record every iteration.

    Parameters
    ----------
    problem : {"digits", "birthwt"}
    schedule : str
        A name in `SCHEDULES`.
    solver : str
        A name in `SOLVERS`.
    batch : {"all", "constant", "growing"}
        Samples of each gradient: all, 128, or 16 + t.
    iterations, seed : int

    Returns
    -------
    record : Record
        Arrays over the iterations: ``stationarity2`` (``dist(0, ∂F)²`` after the step), ``tolerance``,
        ``passes``, ``checks``, ``certified`` (the proved bound of ``dist(0, ∂Q_t)``), ``proved``, and
        ``support`` (iterations × groups).
    """
    setting = _setting(problem, seed)
    h, loss, w = setting.penalty, setting.loss, setting.start
    tolerances, inner_solver = SCHEDULES[schedule](setting.scale), SOLVERS[solver]()
    rng = np.random.default_rng([seed, 1])
    momentum, second = np.zeros_like(w), np.zeros_like(w)
    rows: list[tuple[Any, ...]] = []
    full_gradient = loss.gradient(w)
    for t, batch_rows in enumerate(_batches(batch, loss.n_samples, iterations, rng), start=1):
        gradient = full_gradient if batch_rows is None else loss.gradient(w, batch_rows)
        rho = RHO * MU ** (t - 1) if t > 1 else 0.0
        momentum = rho * momentum + (1.0 - rho) * gradient
        second = BETA2 * second + (1.0 - BETA2) * gradient**2
        metric = np.sqrt(second / (1.0 - BETA2**t)) + setting.floor
        sub = Subproblem(h, w - setting.step * momentum / metric, setting.step, metric, w)
        if isinstance(tolerances, inexactness.Exact):
            eps, inner = 0.0, inner_solver.exact(sub)
        else:
            # What is left to gain in this subproblem: dist(0, ∂Q_t(w_t)).
            left = float(np.linalg.norm(h.subdiff_distance(momentum, w)))
            eps = max(tolerances(t, left), LEAST * setting.scale)
            inner = inner_solver(sub, inexactness.Stationarity(eps))
        w = inner.z
        full_gradient = loss.gradient(w)
        distance = h.subdiff_distance(full_gradient, w)
        used = (inner.passes, inner.checks, inner.stationarity, inner.proved)
        rows.append((float(distance @ distance), eps, *used, h.value(w) > 0.0))
    names = ("stationarity2", "tolerance", "passes", "checks", "certified", "proved", "support")
    arrays = {name: np.asarray(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    values = {"scale": setting.scale, "step": setting.step, "floor": setting.floor}
    return Result(values, arrays)
