"""How exact must each proximal step be for training to converge? Schedules × solvers × seeds on any loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from proxlab.inexactness import Adaptive, Constant, Exact, Schedule
from proxlab.optim import Optimizer, ProxAdam
from proxlab.optim.base import squared_distance
from proxlab.optim.living import living_groups
from proxlab.optim.problem import ProxProblem
from proxlab.penalties import Penalty
from proxlab.study import schedules as named
from proxlab.study.convergence import Convergence
from proxlab.study.folder import Result, unit_name
from proxlab.study.inner import Asked, Inner, InnerSolver, check_inner, residual, solve_inner
from proxlab.study.references import Running, check_seeds
from proxlab.study.run import Unit
from proxlab.study.solvers import RefusedError
from proxlab.values import check_count, check_plain

__all__ = ["BatchSize", "converge"]

Array = npt.NDArray[Any]
BatchSize = int | Callable[[int], int]

#: The least tolerance that is asked for, as a share of the first stationarity: float64 proves little below.
LEAST = 1e-11


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
    batch_size: BatchSize | None = None,
    decrease: bool = False,
    folder: str | Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Convergence:
    """Run a proximal method with inexact steps that are proved to be within a schedule of tolerances.

    Each prox is solved only until :func:`proxlab.certify` proves ``dist(0, ∂Q_t(z)) ≤ ε_t``, where ``Q_t`` is
    the objective of the prox: eq. (7) of Huang & Lee (2024). Whether ``Q_t(z) ≤ Q_t(w_t)`` is proved too, at
    the last iterate ``w_t``, is their eq. (8): it is recorded, and with ``decrease`` it is asked for. Exact
    runs of every solver are added as a baseline.

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
        generator as ``rng`` if it has such arguments. What it gives last is used, proved or not.
    seeds : iterable of int, optional
        Seeds of starts, batches and solvers that draw. Where nothing draws, runs of other seeds are alike.
    iterations : int, optional
        Steps of each run.
    batch_size : int or callable, optional
        Samples of each gradient, or a function of the iteration 1, 2, … that returns their number, from 1 to
        ``loss.n_samples``; it is asked for every iteration before anything is run. All by default.
    decrease : bool, optional
        Solve each prox until the decrease of eq. (8) is proved as well. Near a fixed point the two values
        differ by rounding alone, and it may only be proved where ``z = w_t``. An adversary that is held to it
        goes no further from the prox than a step gains.
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
    if batch_size is not None:
        # All of them now: a size that is wrong in the end would be found after all the work.
        for size in map(batch_size, range(1, iterations + 1)) if callable(batch_size) else [batch_size]:
            _check_batch(size, loss)
    chosen, solvers, drawn = _check_schedules(schedules), check_inner(solver), check_seeds(seeds)
    if not callable(w0):
        w0 = _check_start(w0)
    common = {"loss": loss, "penalty": penalty, "w0": w0, "method": method}
    common |= {"iterations": iterations, "batch_size": batch_size, "decrease": bool(decrease)}
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
        "decrease": bool(decrease),
        "batches": batch_size is not None,
        "seeds": drawn,
        "solvers": list(solvers),
        "square_summable": {name: one.is_square_summable for name, one in made.items()},
        "constant": [name for name, one in made.items() if isinstance(one, Constant)],
    }
    running = Running(folder, cluster, workers, progress)
    return Convergence.of(running.units(units, Convergence.study, settings), settings)


def _check_start(w0: Any) -> Array:
    """Return a copy of where a run starts, or raise an error."""
    check_plain("w0", w0)
    w = np.array(w0)
    if w.dtype.type not in (np.float32, np.float64):
        got = type(w0).__name__ if w.dtype == object else w.dtype
        raise TypeError(f"w0: must be an array of float32 or float64, got {got}")
    if not np.isfinite(w).all():
        raise ValueError("w0: must be finite")
    return w


def _check_batch(size: Any, loss: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"batch_size: must be an integer, or a function that returns one, got {size!r}")
    if not 1 <= size <= getattr(loss, "n_samples", 0):
        raise ValueError(f"batch_size: must be from 1 to loss.n_samples, got {size}")
    return int(size)


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


class _Row(NamedTuple):
    """One iteration: columns of the frame."""

    objective: float
    stationarity: float
    tolerance: float
    bound: float
    proved: bool
    decreased: bool
    evaluations: float
    certificates: int
    seconds: float
    support: int
    changed: int


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
    batch_size: BatchSize | None,
    decrease: bool,
) -> Result:
    """Unit of work: one run."""
    rows: list[_Row] = []
    reason = ""
    scale = math.nan
    try:
        rng = np.random.default_rng(about["seed"])
        w = _check_start(w0(rng) if callable(w0) else w0)
        value, gradient = _evaluate(loss, w, None)
        scale = math.sqrt(squared_distance(penalty, gradient, w))
        # The unit of tolerances; a start that is stationary already has none.
        unit = scale if scale > 0.0 else 1.0
        tolerances = _Tolerances(schedule(unit), LEAST * unit, decrease)
        recorder, last = _recording(method, tolerances, solver, rng)
        state = recorder.init(w, penalty)
        taken, (living,) = 0.0, living_groups([(penalty.groups, w)])
        for t in range(1, iterations + 1):
            started = time.perf_counter()
            if batch_size is not None:
                size = _check_batch(batch_size(t) if callable(batch_size) else batch_size, loss)
                batch = rng.choice(loss.n_samples, size=size, replace=False)
                _, gradient = _evaluate(loss, w, batch)
            w, state = recorder.step(w, gradient.astype(w.dtype, copy=False), state)
            taken += time.perf_counter() - started
            value, gradient = _evaluate(loss, w, None)
            before, (living,) = living, living_groups([(penalty.groups, w)])
            rows.append(
                _Row(
                    objective=value + float(np.asarray(penalty(w))),
                    stationarity=math.sqrt(squared_distance(penalty, gradient, w)),
                    tolerance=last.eps,
                    bound=last.inner.bound,
                    proved=last.inner.proved,
                    decreased=last.inner.decreased,
                    evaluations=last.inner.evaluations,
                    certificates=last.inner.certificates,
                    seconds=taken,
                    support=int(living.sum()),
                    changed=int((living != before).sum()),
                )
            )
    except Exception as error:
        stopped = isinstance(error, (_StoppedError, RefusedError))
        reason = str(error) if stopped else f"{type(error).__name__}: {error}"
    arrays = {name: np.asarray([getattr(row, name) for row in rows]) for name in _Row._fields}
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


@dataclass
class _Last:
    """The last prox: the tolerance it was given, and how it was solved."""

    eps: float = 0.0
    inner: Inner = field(default_factory=lambda: Inner(np.empty(0), 0.0, 0, 0.0, True, True))


@dataclass(frozen=True)
class _Tolerances:
    """What a run asks of its proxes."""

    schedule: Schedule
    least: float
    decrease: bool

    def asked(self, t: int, problem: ProxProblem) -> Asked:
        """Return what is asked in step t."""
        if isinstance(self.schedule, Exact):
            return Asked(0.0)
        # What is left to gain in this prox: dist(0, ∂Q(w)) at the last iterate w.
        left = residual(problem, problem.previous) if isinstance(self.schedule, Adaptive) else None
        return Asked(max(self.schedule(t, left), self.least), self.decrease)


def _recording(
    method: Optimizer, tolerances: _Tolerances, solver: InnerSolver, rng: np.random.Generator
) -> tuple[Optimizer, _Last]:
    """The method, with its proxes solved by an inner solver that is stopped by the certificate."""
    last = _Last()

    class Recording(type(method)):  # type: ignore[misc]
        def _solve(
            self, problems: Mapping[str, ProxProblem], t: int, iterations: int
        ) -> tuple[dict[str, Array], dict[str, float], int]:
            solutions = {}
            for place, problem in problems.items():  # one: w is an array
                asked = tolerances.asked(t, problem)
                last.eps, last.inner = asked.eps, solve_inner(solver, problem, asked, rng)
                solutions[place] = last.inner.z
            return solutions, {}, iterations

    given = {one.name: getattr(method, one.name) for one in fields(method) if one.init}
    return Recording(**given), last
