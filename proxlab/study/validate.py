"""Are bounds of the error ever below the truth, and how far are they above it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from proxlab.certificate import Certificate
from proxlab.study import solvers as user
from proxlab.study.folder import Result
from proxlab.study.problems import Problem
from proxlab.study.profiles import counted, log_axes, page_table, text_failures, text_table
from proxlab.study.references import Case, Running, attempts, cases, check_seeds, references, truth_of
from proxlab.study.results import Results, Tables
from proxlab.study.run import Unit
from proxlab.study.solvers import Bound, Solver
from proxlab.study.truth import ERRORS, check_digits

__all__ = ["Validation", "validate"]

Array = npt.NDArray[Any]

#: A bound is judged for tightness where the error exceeds this many units of rounding of the problem.
UNITS = 100
_KEYS = ("problem", "solver", "dtype", "seed")
_COLUMNS = ("group", "size", "bound", "error", "value", "true", "scale", "violated", "zero", "decided")


@dataclass(frozen=True, eq=False, kw_only=True)
class Validation(Results):
    """Bounds beside true errors.

    Attributes
    ----------
    frame : DataFrame
        A row for each group and bound: ``problem``, ``solver``, ``dtype``, ``seed``, ``group``, ``size``;
        ``bound`` and the ``error`` that it claims to be above; its ``value`` and the ``true`` error, a float
        that is not above the truth; ``ratio`` of the two; ``violated`` where the bound is proved to be below
        the truth; ``judged`` where the error is large enough for the ratio to say something; ``zero`` where
        the prox is zero; ``decided`` where proxlab's certificate is.
    violations : DataFrame
        The rows of bounds that are below the truth.
    tightness : DataFrame
        By solver and bound: how many ratios were judged, and their ``median``, ``p99`` and ``max``.
    failures : DataFrame
        A row for each reason why a solver or a bound gave nothing: ``problem``, ``solver``, ``bound`` (empty
        for a solver), ``dtype``, ``seed``, how many ``groups``, ``reason``.
    digits : int
        Digits of the truth.
    """

    study: ClassVar[str] = "validate"

    frame: pd.DataFrame
    violations: pd.DataFrame
    tightness: pd.DataFrame
    failures: pd.DataFrame
    digits: int

    @classmethod
    def of(cls, results: Mapping[str, Result], settings: Mapping[str, Any]) -> Self:
        """Make the tables of what units found."""
        tables, parts, failures = Tables(_KEYS), [], []
        for result in results.values():
            about, a = tables.about(result), result.arrays
            for bound, (groups, reason) in result.values["reasons"].items():
                failures.append({**about, "bound": bound, "groups": groups, "reason": reason})
            for bound, error in result.values.get("bounds", []):
                value, true = a[f"bound {bound}"], a[f"true {error}"]
                columns = {
                    "group": np.arange(len(true)),
                    "size": a["size"],
                    "bound": bound,
                    "error": error,
                    "value": value,
                    "true": true,
                    "scale": a[f"scale {error}"],
                    "violated": value < true,
                    "zero": a["zero"],
                    "decided": a["decided"],
                }
                parts.append(pd.DataFrame(columns)[~a["failed"]].assign(**about))
        frame = _rated(tables.frame(parts, _COLUMNS))
        return cls(
            frame=frame,
            violations=frame[frame["violated"].astype(bool)].reset_index(drop=True),
            tightness=_tightness(frame),
            failures=tables.failures(failures, ["bound", "groups", "reason"]),
            digits=int(settings["digits"]),
            _results=results,
            _settings=settings,
        )

    @property
    def ok(self) -> bool:
        """Whether no bound was below the truth, and nothing failed."""
        return self.violations.empty and self.failures.empty

    def __str__(self) -> str:
        if self.frame.empty:
            lines = ["No bound was evaluated."]
        else:
            groups = self.frame.groupby([*_KEYS, "group"], sort=False).ngroups
            lines = [
                f"{counted(len(self.violations), 'bound')} of {len(self.frame):,} below the truth, of "
                f"{counted(groups, 'group')} solved to {self.digits} digits in ball arithmetic."
            ]
        if not self.violations.empty:
            worst = self.violations.sort_values("ratio").iloc[0]
            lines.append(
                f"The worst: {worst['bound']} of {worst['solver']} on group {worst['group']} of "
                f"{worst['problem']} is {worst['value']:.6g}, the true {worst['error']} {worst['true']:.6g}."
            )
        lines += text_failures(self.failures)
        if not self.tightness.empty:
            lines += ["Bound over true error:", text_table(self.tightness)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        first = str(self).split("\n")[0]
        return page_table(
            first, {"violations": self.violations, "failures": self.failures, "tightness": self.tightness}
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw bounds against true errors, both divided by the scale of the problem.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Axes
        """
        ax = log_axes(ax)
        shown = self.frame[(self.frame["true"] > 0) & np.isfinite(self.frame["value"])]
        for k, (name, part) in enumerate(shown.groupby("bound", sort=False)):
            scale = part["scale"].where(part["scale"] > 0, 1.0)
            ax.plot(
                part["true"] / scale,
                part["value"] / scale,
                ".",
                ms=3,
                color=f"C{k}",
                label=name,
                rasterized=True,
            )
        found = self.violations[self.violations["true"] > 0]
        if not found.empty:
            scale = found["scale"].where(found["scale"] > 0, 1.0)
            ax.plot(found["true"] / scale, found["value"] / scale, "rx", ms=6, label="below the truth")
        if len(shown):
            ends = np.array(ax.get_xlim())
            ax.plot(ends, ends, "-", lw=0.8, color="0.4", label="the truth")
            ax.set_xlim(*ends)
            ax.legend(fontsize="small")
        ax.set(xlabel=f"true error over the scale of the problem ({self.digits} digits)", ylabel="bound")
        return ax


def validate(
    problems: Problem | Iterable[Problem],
    solvers: Mapping[str, Solver] | None = None,
    bounds: Any = None,
    *,
    digits: int = 50,
    dtypes: Iterable[Any] | None = None,
    seeds: Iterable[int] = (0,),
    folder: str | Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Validation:
    """Compare bounds of the error with the truth, for what any solver returns.

    The truth is known to many digits, in ball arithmetic; a violation counts where it is proved.

    Parameters
    ----------
    problems : Problem or iterable of Problem
        Of any sizes, penalties and groups.
    solvers : dict, optional
        By name: functions with the arguments of :func:`proxlab.prox`, which return ``z`` or ``(z,
        evaluations)``, and root finders. Their results are the candidates. By default Newton.
    bounds : dict, iterable or str, optional
        By name: ``bound(penalty, z, x, step, metric=d)``, which returns an array per group and claims to be
        above the distance to the prox; ``(error, bound)`` for another error; or the name of an error, for the
        bound of :func:`proxlab.certify`. By default all of these: distance, metric_distance, stationarity and
        gap.
    digits : int, optional
        Digits of the truth.
    dtypes : iterable, optional
        Round the problems to these first; the truth is that of the rounded ones. By default as they are.
    seeds : iterable of int, optional
        Each solver runs once for each; it seeds NumPy's global generator, and is passed on as ``seed`` to a
        solver that has such an argument.
    folder, cluster, workers, progress
        As in :func:`run_units`; what a folder holds already is not computed again.

    Returns
    -------
    Validation

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind; what solvers and bounds do is never an error, but a failure that
        is counted.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> rng = np.random.default_rng(0)
    >>> problem = study.Problem("rows", rng.standard_normal((8, 3)), 0.5, None, pl.GroupLasso(1.0))
    >>> def bound(penalty, z, x, step, metric=None):
    ...     return np.full(8, 1e-3)
    >>> v = study.validate(problem, {"zero": lambda h, x, step, metric=None: 0 * x}, {"mine": bound})
    >>> v.violations["group"].tolist() == [g for g in range(8) if np.linalg.norm(problem.x[g]) > 0.501]
    True
    """
    digits, drawn = check_digits(digits), check_seeds(seeds)
    chosen, claimed = user.check_solvers(solvers), user.check_bounds(bounds)
    given, running = cases(problems, dtypes), Running(folder, cluster, workers, progress)
    truths = references(given, digits, running)
    units = []
    for name, arguments in attempts(given, chosen, drawn):
        problem = arguments["case"].problem
        truth = {} if problem is None else truths[problem.digest]
        units.append(Unit(name, _judge, arguments | {"bounds": claimed, "digits": digits, "truth": truth}))
    settings = {"digits": digits, "bounds": [[b.name, b.error] for b in claimed], "solvers": list(chosen)}
    return Validation.of(running.units(units, Validation.study, settings), settings)


def _judge(
    about: dict[str, Any],
    case: Case,
    solver: Solver,
    bounds: tuple[Bound, ...],
    digits: int,
    truth: Mapping[str, Array],
) -> Result:
    """Unit of work: a solver on a problem, its true errors, and all bounds."""
    problem = case.problem
    if problem is None:
        return Result({**about, "reasons": {"": (0, case.reason)}})
    outcome = user.attempt(solver, problem, seed=about["seed"])
    true = truth_of(problem, digits, truth)
    errors = true.errors(outcome.z)
    reasons: dict[str, tuple[int, str]] = {}
    if outcome.failed.any() or outcome.reason:
        reasons[""] = int(outcome.failed.sum()), outcome.reason
    arrays: dict[str, Array] = {
        "size": problem.sizes,
        "failed": outcome.failed,
        "zero": np.array([bool(r == 0) for r in true.radius], dtype=bool),
        "decided": true.decided,
    }
    arrays |= {f"true {name}": getattr(errors, name) for name in ERRORS}
    arrays |= {f"scale {name}": a for name, a in problem.scales().items()}
    certificate = user.certificate_of(outcome.z, problem)
    if isinstance(certificate, Certificate):
        arrays["decided"] = true.decided & np.asarray(certificate.decided)
    for bound in bounds:
        if bound.function is not None:
            values, reason = user.evaluate(bound.function, outcome.z, problem)
        elif isinstance(certificate, Certificate):
            values, reason = np.asarray(getattr(certificate, bound.error), dtype=np.float64), ""
        else:
            values, reason = np.full(problem.n_groups, np.nan), certificate
        arrays[f"bound {bound.name}"] = values
        if not reason and np.isnan(values).any():
            reason = "returned NaN"
        if reason:
            reasons[bound.name] = int(np.isnan(values).sum()), reason
    kinds = [[bound.name, bound.error] for bound in bounds]
    return Result({**about, "bounds": kinds, "reasons": reasons}, arrays)


def _rated(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the ratios of bounds and errors, and whether they say something."""
    value, true, scale = (frame[name].astype(float) for name in ("value", "true", "scale"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = value / true
    roundoff = frame["dtype"].map({t: float(np.finfo(t).eps) / 2 for t in ("float16", "float32", "float64")})
    judged = (true > UNITS * roundoff.astype(float) * scale).astype(bool)
    return frame.assign(ratio=ratio, judged=judged)[
        [*_KEYS, *_COLUMNS[:-2], "ratio", "judged", *_COLUMNS[-2:]]
    ]


def _tightness(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (solver, bound), part in frame.groupby(["solver", "bound"], sort=False):
        ratio = part["ratio"][part["judged"] & np.isfinite(part["ratio"])].astype(float)
        row = {"solver": solver, "bound": bound, "bounds": len(part), "judged": len(ratio)}
        row["violations"] = int(part["violated"].sum())
        row["undecided"] = int((~part["decided"].astype(bool)).sum())
        p99 = ratio.quantile(0.99, "higher") if len(ratio) else np.nan
        rows.append(row | {"median": ratio.median(), "p99": p99, "max": ratio.max()})
    columns = ["solver", "bound", "bounds", "judged", "violations", "undecided", "median", "p99", "max"]
    return pd.DataFrame(rows, columns=columns)
