"""How exact must each proximal step be for training to converge? Schedules × solvers × seeds on any loss."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from proxlab.inexactness import Adaptive, Constant, Exact, Schedule
from proxlab.optim import Optimizer, ProxAdam
from proxlab.optim.optimizers import _squared_distance
from proxlab.optim.problem import ProxProblem
from proxlab.optim.sparsity import check_count
from proxlab.penalties import Penalty
from proxlab.study import schedules as named
from proxlab.study import style
from proxlab.study.folder import Folder, Result, StoredStudy, unit_name
from proxlab.study.inner import Inner, InnerSolver, check_inner, solve_inner
from proxlab.study.run import Unit, run_units

__all__ = ["Convergence", "converge", "read_convergence"]

Array = npt.NDArray[Any]

NAME = "converge"
#: The least tolerance that is asked for, as a share of the first stationarity: float64 proves little below.
LEAST = 1e-11
#: A run is at its floor where it is this many times above what exact steps reach.
ABOVE_EXACT = 10.0

_KEYS = ["schedule", "solver", "seed"]
_COLUMNS = ("objective", "stationarity", "tolerance", "bound", "proved", "evaluations", "seconds", "support")
_XLABELS = {
    "iterations": "iterations",
    "evaluations": "passes of the inner solver over the array",
    "seconds": "seconds",
}


@dataclass(frozen=True, eq=False)
class Convergence:
    """Runs with schedules of tolerances, beside exact ones.

    Attributes
    ----------
    frame : DataFrame
        A row for each iteration: ``schedule``, ``solver``, ``seed``, ``iteration``; after the step, the
        ``objective`` and its ``stationarity``, which is ``dist(0, ∂F)``; of the step's prox, the
        ``tolerance`` that was asked for, the proved ``bound`` of ``dist(0, ∂Q)``, whether it was ``proved``
        to be within the tolerance, and the ``evaluations``, in passes over the array; ``seconds`` of the run
        so far, without what is measured; ``support``, how many groups are not zero.
    failures : DataFrame
        A row for each run that stopped: ``schedule``, ``solver``, ``seed``, ``iteration``, ``reason``.
    """

    frame: pd.DataFrame
    failures: pd.DataFrame
    _results: Mapping[str, Result] = field(repr=False)
    _settings: Mapping[str, Any] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether no run stopped, and every tolerance was proved."""
        return self.failures.empty and bool(self.frame["proved"].all())

    def rates(self) -> pd.DataFrame:
        """Fit how fast the mean of ``dist(0, ∂F)²`` falls, as a power of the number of iterations.

        Returns
        -------
        DataFrame
            By schedule and solver: ``runs``; the exponent ``rate`` of the mean over the iterates so far,
            which is what the theorems bound, fitted over the second half of each run, the mean over seeds
            with its 95 % interval ``low`` to ``high`` (NaN of one seed); ``promised``, −1 where tolerances
            are square-summable (Huang & Lee 2024, Theorem 4, for full gradients), else 0 (a floor); ``last``,
            the exponent of ``dist(0, ∂F)²`` itself.
        """
        rows = []
        for (schedule, solver), part in self.frame.groupby(["schedule", "solver"], sort=False):
            runs = [run["stationarity"].to_numpy() ** 2 for _, run in part.groupby("seed", sort=False)]
            fits = [fit_rate(_running_mean(run)) for run in runs]
            rate, low, high = _interval(fits)
            square = bool(self._settings["square_summable"][str(schedule)])
            rows.append(
                {
                    "schedule": schedule,
                    "solver": solver,
                    "runs": len(runs),
                    "rate": rate,
                    "low": low,
                    "high": high,
                    "promised": -1.0 if square else 0.0,
                    "last": _interval([fit_rate(run) for run in runs])[0],
                }
            )
        return pd.DataFrame(
            rows, columns=["schedule", "solver", "runs", "rate", "low", "high", "promised", "last"]
        )

    def floors(self) -> pd.DataFrame:
        """Where runs with constant tolerances end, against ``ε²``.

        Returns
        -------
        DataFrame
            By constant schedule and solver: ``eps``; the ``floor``, which is the median of ``dist(0, ∂F)²``
            over the last tenth of a run, the mean over seeds with its 95 % interval ``low`` to ``high``;
            ``floor / eps²``; what ``exact`` steps reach; ``at_floor``, whether the run ends well above them.
        """
        rows = []
        for (schedule, solver), part in self.frame.groupby(["schedule", "solver"], sort=False):
            if str(schedule) not in self._settings["constant"]:
                continue
            eps = float(part["tolerance"].iloc[0])
            floor, low, high = _interval(_ends(part))
            same = self.frame[(self.frame["schedule"] == "exact") & (self.frame["solver"] == solver)]
            exact = _interval(_ends(same))[0]
            rows.append(
                {
                    "schedule": schedule,
                    "solver": solver,
                    "eps": eps,
                    "floor": floor,
                    "low": low,
                    "high": high,
                    "floor / eps²": floor / eps**2,
                    "exact": exact,
                    "at_floor": floor > ABOVE_EXACT * exact,
                }
            )
        columns = ["schedule", "solver", "eps", "floor", "low", "high", "floor / eps²", "exact", "at_floor"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, x: str = "iterations", ax: Any = None) -> Any:
        """Draw the mean of ``dist(0, ∂F)²`` over the iterates so far.

        A line is the median over seeds, the band around it their range.

        Parameters
        ----------
        x : {"iterations", "evaluations", "seconds"}
            What it is drawn against.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Axes

        Raises
        ------
        ValueError
            If there is no such axis.
        """
        if x not in _XLABELS:
            raise ValueError(f"x: must be one of {', '.join(map(repr, _XLABELS))}, got {x!r}")
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(layout="constrained")
        colours = {name: k for k, name in enumerate(dict.fromkeys(self.frame["schedule"]))}
        dashes = {name: k for k, name in enumerate(dict.fromkeys(self.frame["solver"]))}
        ax.set(xscale="log", yscale="log", xlabel=_XLABELS[x], ylabel="mean of dist(0, ∂F)² so far")
        for (schedule, solver), part in self.frame.groupby(["schedule", "solver"], sort=False):
            runs = [run for _, run in part.groupby("seed", sort=False)]
            shortest = min(len(run) for run in runs)
            y = np.stack([_running_mean(run["stationarity"].to_numpy()[:shortest] ** 2) for run in runs])
            if x == "iterations":
                places = np.arange(1, shortest + 1, dtype=float)
            elif x == "evaluations":
                # One pass is paid before the first iteration, so that a run which needs none can be drawn.
                told = [run["evaluations"].to_numpy(dtype=float)[:shortest] for run in runs]
                places = 1.0 + np.cumsum(np.mean(told, axis=0))
            else:
                places = np.mean([run["seconds"].to_numpy()[:shortest] for run in runs], axis=0)
            if not np.isfinite(places).all():
                continue  # a solver that does not count
            look: dict[str, Any] = {"color": f"C{colours[schedule] % len(style.PALETTE)}"}
            if schedule == "exact":
                look = {"color": style.INK, "linewidth": 2.4, "alpha": 0.55}
            look["linestyle"] = style.DASHES[dashes[solver] % len(style.DASHES)]
            label = str(schedule) if len(dashes) == 1 else f"{schedule}, {solver}"
            ax.plot(places, np.median(y, axis=0), label=label, **look)
            if len(runs) > 1:
                ax.fill_between(places, y.min(axis=0), y.max(axis=0), color=look["color"], alpha=0.15, lw=0)
        if ax.get_lines():
            ax.legend(fontsize="small")
        return ax

    def __str__(self) -> str:
        lines = [
            f"{len(self._results)} runs of {self._settings['iterations']} iterations with "
            f"{self._settings['method'].partition('(')[0]}; {len(self.failures)} stopped."
        ]
        if not self.failures.empty:
            lines.append(self.failures.to_string(index=False))
        for title, table in (
            ("Rates of the mean of dist(0, ∂F)²:", self.rates()),
            ("Floors:", self.floors()),
        ):
            if not table.empty:
                lines += [title, table.to_string(index=False, float_format="{:.3g}".format)]
        return "\n".join(lines)

    def summary(self) -> None:
        """Print what matters first."""
        print(self)

    def _repr_html_(self) -> str:
        first, *_ = str(self).split("\n")
        parts = [f"<p>{html.escape(first)}</p>"]
        for title, table in (("Stopped", self.failures), ("Rates", self.rates()), ("Floors", self.floors())):
            if not table.empty:
                shown = table.to_html(index=False, float_format="{:.3g}".format)
                parts.append(f"<p>{title}:</p>{shown}")
        return "".join(parts)

    def save(self, folder: str | Path) -> None:
        """Write the results to a folder, which ``proxlab.study.report`` makes a page of.

        Parameters
        ----------
        folder : str or path
            Made if it is not there.
        """
        Folder(Path(folder), NAME, self._settings).save(self._results)


def converge(
    loss: Any,
    penalty: Penalty,
    w0: Any,
    *,
    method: Optimizer | None = None,
    schedules: Iterable[Schedule | str] = ("exact", "square-summable", "constant:0.1"),
    solver: Any = None,
    seeds: Iterable[int] = range(5),
    iterations: int = 300,
    batch_size: int | None = None,
    folder: str | Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Convergence:
    """Run a proximal method with inexact steps that are proved to be within a schedule of tolerances.

    Each prox is solved only until :func:`proxlab.certify` proves ``dist(0, ∂Q_t(z)) ≤ ε_t``, where ``Q_t`` is
    the objective of the prox. Exact runs of every solver are added as a baseline.

    Parameters
    ----------
    loss : object
        The smooth part: ``loss.value_and_grad(w, batch=None)`` returns a number and an array like ``w``. For
        batches it has ``n_samples`` too, and ``batch`` is an array of indices; None is all.
    penalty : Penalty
        The other part of the objective ``F``.
    w0 : ndarray or callable
        Where runs start, real, of float32 or float64; a function gets a ``numpy.random.Generator`` of the
        seed and returns it.
    method : Optimizer, optional
        Of :mod:`proxlab.optim`, without a tolerance of its own; by default ``ProxAdam(lr=0.01)``.
    schedules : iterable of Schedule or str, optional
        Tolerances: a :class:`proxlab.inexactness.Schedule`, or a name with parameters, in units of
        ``dist(0, ∂F)`` at the start: ``"constant:0.1"``, ``"summable"``, ``"square-summable"``,
        ``"adaptive"``, ``"exact"``.
    solver : RootFinder, str, callable or dict of them, optional
        What solves the proxes, by default Newton. A root finder is allowed more iterations until the
        tolerance is proved; ``"proximal gradient"`` steps until then; ``"adversary"`` goes as far from the
        prox as the tolerance permits. A function has the arguments of :func:`proxlab.prox` and returns ``z``
        or an iterator of candidates, each alone or with the passes over the array so far, which is stopped by
        the certificate. It is given the last iterate as ``start``, the tolerance as ``tolerance`` and a
        generator as ``rng`` if it has such arguments.
    seeds : iterable of int, optional
        Seeds of starts, batches and solvers that draw. Where nothing draws, runs of other seeds are alike.
    iterations : int, optional
        Steps of each run.
    batch_size : int, optional
        Samples of each gradient; all by default.
    folder, cluster, workers, progress
        As in :func:`run_units`.

    Returns
    -------
    Convergence
        A run whose loss is not finite, or in which something raises, is a failure with its reason; what it
        did until then is kept.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind.

    References
    ----------
    Huang & Lee (2024), arXiv:2403.14398, eqs. (7) and (8), Theorem 4.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> class Squares:
    ...     def value_and_grad(self, w, batch=None):
    ...         return 0.5 * float(((w - 1) ** 2).sum()), w - 1
    >>> r = study.converge(
    ...     Squares(),
    ...     pl.GroupLasso(0.1),
    ...     np.zeros((3, 2)),
    ...     method=pl.optim.ProxSGD(lr=0.5),
    ...     seeds=[0],
    ...     schedules=["square-summable"],
    ...     iterations=60,
    ... )
    >>> bool(r.frame["stationarity"].iloc[-1] < 1e-3), len(r.failures)
    (True, 0)
    """
    if not callable(getattr(loss, "value_and_grad", None)):
        raise TypeError(f"loss: must have value_and_grad(w, batch=None), got {type(loss).__name__}")
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty: must be a proxlab penalty such as GroupLasso(0.1), got {penalty!r}")
    method = ProxAdam(lr=0.01) if method is None else method
    if not isinstance(method, Optimizer):
        raise TypeError(f"method: must be an optimizer of proxlab.optim, got {method!r}")
    if method.inexactness is not None or method.sparsity is not None:
        raise ValueError(
            "method: must have no inexactness and no sparsity of its own; schedules give tolerances"
        )
    iterations = check_count("iterations", iterations)
    if batch_size is not None and not getattr(loss, "n_samples", 0) >= batch_size >= 1:
        raise ValueError(f"batch_size: must be from 1 to loss.n_samples, got {batch_size}")
    chosen, solvers = _check_schedules(schedules), check_inner(solver)
    drawn = [int(seed) for seed in seeds]
    if not drawn:
        raise ValueError("seeds: must hold at least one seed")
    common = {"loss": loss, "penalty": penalty, "w0": w0, "method": method}
    common |= {"iterations": iterations, "batch_size": batch_size}
    units = [
        Unit(
            unit_name(schedule, name, seed=seed),
            _run,
            common
            | {"about": {"schedule": schedule, "solver": name, "seed": seed}}
            | {"schedule": chosen[schedule], "solver": one},
        )
        for name, one in solvers.items()
        for schedule in chosen
        for seed in drawn
    ]
    made = {schedule: make(1.0) for schedule, make in chosen.items()}
    settings = {
        "method": repr(method),
        "penalty": repr(penalty),
        "iterations": iterations,
        "seeds": drawn,
        "solvers": list(solvers),
        "square_summable": {name: one.is_square_summable for name, one in made.items()},
        "constant": [name for name, one in made.items() if isinstance(one, Constant)],
    }
    place = None if folder is None else Folder(Path(folder), NAME, settings)
    found = run_units(units, folder=place, cluster=cluster, workers=workers, progress=progress)
    return _assemble(found, settings)


def read_convergence(stored: StoredStudy) -> Convergence:
    """Return the runs of a folder, as far as they are there."""
    return _assemble({unit.name: unit.result for unit in stored.units}, stored.settings)


@dataclass(frozen=True)
class _Given:
    """A schedule that does not depend on where a run starts."""

    schedule: Schedule

    def __call__(self, scale: float) -> Schedule:
        return self.schedule


def _check_schedules(schedules: Iterable[Schedule | str]) -> dict[str, Callable[[float], Schedule]]:
    """Return what makes each schedule, by name; exact steps are always among them, first."""
    if isinstance(schedules, (str, Schedule)):
        schedules = [schedules]
    found: dict[str, Callable[[float], Schedule]] = {"exact": _Given(Exact())}
    for one in schedules:
        if isinstance(one, Exact):
            continue
        if isinstance(one, Schedule):
            found[repr(one)] = _Given(one)
        elif isinstance(one, str):
            found[one] = named.make(one)
        else:
            raise TypeError(f"schedules: must be schedules or their names, got {one!r}")
    return found


class _StoppedError(Exception):
    """The run cannot go on."""


def _run(
    about: dict[str, Any],
    loss: Any,
    penalty: Penalty,
    w0: Any,
    method: Optimizer,
    schedule: Callable[[float], Schedule],
    solver: InnerSolver,
    iterations: int,
    batch_size: int | None,
) -> Result:
    """Unit of work: one run."""
    rows: list[tuple[Any, ...]] = []
    reason = ""
    scale = math.nan
    try:
        rng = np.random.default_rng(about["seed"])
        w = np.array(w0(rng) if callable(w0) else w0)
        value, gradient = _evaluate(loss, w, None)
        scale = math.sqrt(_squared_distance(penalty, gradient, w))
        # The unit of tolerances; a start that is stationary already has none.
        unit = scale if scale > 0.0 else 1.0
        recorder, last = _recording(method, schedule(unit), solver, LEAST * unit, rng)
        state = recorder.init(w, penalty)
        taken = 0.0
        for _ in range(iterations):
            started = time.perf_counter()
            if batch_size is not None:
                batch = rng.choice(loss.n_samples, size=batch_size, replace=False)
                _, gradient = _evaluate(loss, w, batch)
            w, state = recorder.step(w, gradient.astype(w.dtype, copy=False), state)
            taken += time.perf_counter() - started
            value, gradient = _evaluate(loss, w, None)
            total = value + float(np.asarray(penalty(w)))
            distance = math.sqrt(_squared_distance(penalty, gradient, w))
            used = (last.eps, last.inner.bound, last.inner.proved, last.inner.evaluations)
            rows.append((total, distance, *used, taken, _living(penalty, w)))
    except Exception as error:
        reason = str(error) if isinstance(error, _StoppedError) else f"{type(error).__name__}: {error}"
    columns = zip(*rows, strict=True) if rows else [[] for _ in _COLUMNS]
    arrays = {name: np.asarray(column) for name, column in zip(_COLUMNS, columns, strict=True)}
    return Result({**about, "reason": reason[:500], "scale": scale}, arrays)


def _evaluate(loss: Any, w: Array, batch: Array | None) -> tuple[float, Array]:
    value, gradient = loss.value_and_grad(w.copy(), batch=batch)
    value, gradient = float(value), np.asarray(gradient)
    if not math.isfinite(value):
        raise _StoppedError(f"the loss is {value}")
    if gradient.shape != w.shape:
        raise _StoppedError(f"the gradient must have the shape {w.shape}, it has {gradient.shape}")
    if not np.isfinite(gradient).all():
        raise _StoppedError("the gradient is not finite")
    return value, gradient


def _living(penalty: Penalty, w: Array) -> int:
    """Number of groups that are not zero."""
    indptr, indices = penalty.groups.indices(w.shape)
    group = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    return int((np.bincount(group, w.reshape(-1)[indices] != 0) > 0).sum())


@dataclass
class _Last:
    """The last prox: the tolerance it was given, and how it was solved."""

    eps: float = 0.0
    inner: Inner = field(default_factory=lambda: Inner(np.empty(0), 0.0, 0.0, True))


def _recording(
    method: Optimizer, schedule: Schedule, solver: InnerSolver, least: float, rng: np.random.Generator
) -> tuple[Optimizer, _Last]:
    """The method, with its proxes solved by an inner solver that is stopped by the certificate."""
    last = _Last()

    class Recording(type(method)):  # type: ignore[misc]
        def _solve(
            self, problems: Mapping[str, ProxProblem], t: int, iterations: int
        ) -> tuple[dict[str, Array], dict[str, float], int]:
            solutions = {}
            for place, problem in problems.items():  # one: w is an array
                last.eps = 0.0
                if not isinstance(schedule, Exact):
                    left = _left(problem) if isinstance(schedule, Adaptive) else None
                    last.eps = max(schedule(t, left), least)
                last.inner = solve_inner(solver, problem, last.eps, rng)
                solutions[place] = last.inner.z
            return solutions, {}, iterations

    given = {one.name: getattr(method, one.name) for one in fields(method) if one.init}
    return Recording(**given), last


def _left(problem: ProxProblem) -> float:
    """What is left to gain in a prox: ``dist(0, ∂Q(w))`` at the last iterate ``w``."""
    metric = 1.0 if problem.metric is None else problem.metric
    pull = metric * (problem.previous - problem.x) / problem.step
    return float(np.linalg.norm(problem.penalty.subdiff_distance(pull, problem.previous)))


def _assemble(results: Mapping[str, Result], settings: Mapping[str, Any]) -> Convergence:
    frames, failures = [], []
    for result in results.values():
        about = {key: result.values[key] for key in _KEYS}
        count = len(result.arrays["objective"])
        if result.values["reason"]:
            failures.append({**about, "iteration": count + 1, "reason": result.values["reason"]})
        iteration = np.arange(1, count + 1)
        frames.append(pd.DataFrame({**about, "iteration": iteration, **result.arrays}))
    columns = [*_KEYS, "iteration", *_COLUMNS]
    full = [frame for frame in frames if len(frame)]
    frame = pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
    return Convergence(
        frame[columns], pd.DataFrame(failures, columns=[*_KEYS, "iteration", "reason"]), results, settings
    )


def _running_mean(values: Array) -> Array:
    """What the theorems bound: the mean over the iterates so far, one of which is drawn uniformly."""
    return np.asarray(np.cumsum(values) / np.arange(1, len(values) + 1))


def fit_rate(values: Array) -> float:
    """Return the exponent of a power law: the slope of log(values) over log(t) in the second half.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Positive values at t = 1, 2, …

    Returns
    -------
    float
        NaN where there is too little to fit.
    """
    t = np.arange(1, len(values) + 1)
    kept = (t > len(values) // 2) & (values > 0)
    if kept.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(t[kept]), np.log(values[kept]), 1)[0])


def _ends(part: pd.DataFrame) -> list[float]:
    """Median of ``dist(0, ∂F)²`` over the last tenth of each run."""
    runs = [run["stationarity"].to_numpy() ** 2 for _, run in part.groupby("seed", sort=False)]
    return [float(np.median(run[-max(1, len(run) // 10) :])) for run in runs]


def _interval(values: list[float]) -> tuple[float, float, float]:
    """Mean of values, and Student's 95 % interval of it."""
    if not values:
        return math.nan, math.nan, math.nan
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(special.stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half
