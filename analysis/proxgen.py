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
from analysis.results import Record
from proxlab import inexactness

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

#: Work on one prox, and certificates of it, before its tolerance is given up as unproved.
MAX_DEPTH, MAX_PASSES, MAX_CHECKS = 200, 20_000, 60


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
        The proved bound of ``dist(0, ∂Q(z))``.
    proved : bool
        Whether the criterion was proved (exact solves are not asked).
    """

    z: Array
    passes: float
    checks: int
    stationarity: float
    proved: bool


@dataclass(frozen=True, eq=False)
class Subproblem:
    """``min_z h(z) + ‖z − x‖²_D / 2η`` from the last iterate on."""

    penalty: pl.GroupLasso
    x: Array
    step: float
    metric: Array
    last: Array

    def certify(self, z: Array) -> pl.Certificate:
        """What can be proved of a candidate."""
        return pl.certify(self.penalty, z, self.x, self.step, metric=self.metric)

    def passes(self, solution: pl.Solution) -> float:
        """Evaluations of the secular function, in passes over the array."""
        return float(solution.evaluations @ self.penalty.groups.sizes(self.x.shape)) / self.x.size


class RadiusSolver:
    """The prox by its radius: a root finder, allowed one more iteration until the criterion is proved."""

    def __init__(self, finder: type[pl.Newton] | type[pl.Bisection]) -> None:
        self._finder = finder
        self._depth = 1

    def exact(self, sub: Subproblem) -> Inner:
        """Solve to rounding."""
        solution = self._solve(sub, self._finder())
        return Inner(solution.z, sub.passes(solution), 0, sub.certify(solution.z).total.stationarity, True)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Solve until `criterion` is proved, starting one iteration below what the last prox took."""
        shallowest = max(1, self._depth - 1)
        for depth in range(shallowest, MAX_DEPTH):
            solution = self._solve(sub, self._finder(max_iterations=depth))
            certificate = sub.certify(solution.z)
            proved = criterion.holds(certificate, previous=sub.last)
            if proved or solution.ok:
                break
        self._depth, checks = depth, depth - shallowest + 1
        return Inner(solution.z, sub.passes(solution), checks, certificate.total.stationarity, proved)

    @staticmethod
    def _solve(sub: Subproblem, finder: pl.RootFinder) -> pl.Solution:
        return pl.solve(sub.penalty, sub.x, sub.step, metric=sub.metric, root_finder=finder)


class Adversary:
    """The exact prox, pushed off in a random direction until the whole tolerance is spent.

    No solver errs like this; it shows what a schedule permits rather than what a solver makes of it.
    """

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def exact(self, sub: Subproblem) -> Inner:
        """Solve to rounding."""
        return RadiusSolver(pl.Newton).exact(sub)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Go as far from the prox as `criterion` is still proved, within a tenth."""
        best = self.exact(sub)
        if criterion.holds(sub.certify(best.z), previous=sub.last):
            # Zero groups stay zero: off zero, a group's stationarity jumps.
            push = self._rng.normal(size=best.z.shape) * (best.z != 0.0)
            length = np.linalg.norm(sub.metric * push) / sub.step
            scale = criterion.eps / length if length > 0.0 else 0.0
            for checks in range(1, MAX_CHECKS):
                certificate = sub.certify(best.z + scale * push)
                if criterion.holds(certificate, previous=sub.last):
                    return Inner(certificate.z, best.passes, checks, certificate.total.stationarity, True)
                scale *= 0.9
            return Inner(best.z, best.passes, checks, best.stationarity, True)
        return Inner(best.z, best.passes, 1, best.stationarity, False)


class ProximalGradient:
    """The prox by proximal gradient steps ``1 / max d_g`` in z, warm-started at the last iterate.

    Their own residual, which costs nothing, says when to ask for a certificate.
    """

    def exact(self, sub: Subproblem) -> Inner:
        """Solve until the residual is down to rounding."""
        target = 1e-13 * float(np.linalg.norm(sub.metric * (sub.x - sub.last))) / sub.step
        steps = self._steps(sub)
        z, residual = next(steps)
        passes = 1
        while residual > target and passes < MAX_PASSES:
            z, residual = next(steps)
            passes += 1
        return Inner(z, passes, 0, sub.certify(z).total.stationarity, True)

    def __call__(self, sub: Subproblem, criterion: inexactness.Stationarity) -> Inner:
        """Solve until `criterion` is proved; the last iterate itself may do."""
        certificate, passes, checks = sub.certify(sub.last), 0, 1
        proved = criterion.holds(certificate, previous=sub.last)
        steps = self._steps(sub)
        while not proved and checks < MAX_CHECKS and passes < MAX_PASSES:
            z, residual = next(steps)
            passes += 1
            if residual <= criterion.eps:
                certificate, checks = sub.certify(z), checks + 1
                proved = criterion.holds(certificate, previous=sub.last)
        return Inner(certificate.z, passes, checks, certificate.total.stationarity, proved)

    @staticmethod
    def _steps(sub: Subproblem) -> Iterator[tuple[Array, float]]:
        h, shape = sub.penalty, sub.x.shape
        sizes = h.groups.sizes(shape)
        starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        x, d, z = sub.x.ravel(), sub.metric.ravel(), sub.last.ravel()
        largest = np.maximum.reduceat(d, starts)
        weight = np.sqrt(sizes) if h.weights is not None else 1.0
        threshold = sub.step * h.lam * weight / largest
        relative, slack = d / np.repeat(largest, sizes), (np.repeat(largest, sizes) - d) / sub.step
        while True:
            y = z - relative * (z - x)
            norm = np.sqrt(np.add.reduceat(y * y, starts))
            shrink = 1.0 - threshold / np.maximum(norm, threshold)
            last, z = z, y * np.repeat(shrink, sizes)
            # (max d − d)(last − z)/η is a subgradient of Q at z.
            yield z.reshape(shape), float(np.linalg.norm(slack * (last - z)))


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


def proxgen(problem: str, schedule: str, solver: str, batch: str, iterations: int, seed: int) -> Record:
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
            eps = tolerances(t, left)
            inner = inner_solver(sub, inexactness.Stationarity(eps))
        w = inner.z
        full_gradient = loss.gradient(w)
        distance = h.subdiff_distance(full_gradient, w)
        used = (inner.passes, inner.checks, inner.stationarity, inner.proved)
        rows.append((float(distance @ distance), eps, *used, h.value(w) > 0.0))
    names = ("stationarity2", "tolerance", "passes", "checks", "certified", "proved", "support")
    arrays = {name: np.asarray(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    values = {"scale": setting.scale, "step": setting.step, "floor": setting.floor}
    return Record(values, arrays)
