"""Runs with inexact steps beside exact ones: rates, floors and figures."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from proxlab.study import style
from proxlab.study.folder import Result
from proxlab.study.profiles import new_axes, text_table
from proxlab.study.results import Results, Tables

__all__ = ["Convergence", "fit_rate"]

Array = npt.NDArray[Any]

#: A run is at its floor where it is this many times above what exact steps reach.
ABOVE_EXACT = 10.0

_KEYS = ("schedule", "solver", "seed")
_COLUMNS = (
    "iteration",
    "objective",
    "stationarity",
    "mean",
    "tolerance",
    "bound",
    "proved",
    "decreased",
    "evaluations",
    "certificates",
    "seconds",
    "support",
    "changed",
)
_XLABELS = {
    "iterations": "iterations",
    "evaluations": "passes of the inner solver over the array",
    "seconds": "seconds",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Convergence(Results):
    """Runs with schedules of tolerances, beside exact ones.

    Attributes
    ----------
    frame : DataFrame
        A row for each iteration: ``schedule``, ``solver``, ``seed``, ``iteration``; after the step, the
        ``objective``, its ``stationarity``, which is ``dist(0, ∂F)``, and the ``mean`` of the squares of that
        so far, which is what the theorems bound; of the step's prox, the ``tolerance`` that was asked for,
        the proved ``bound`` of ``dist(0, ∂Q)``, whether it was ``proved`` to be within the tolerance (eq. 7
        of the theorem) and to have ``decreased`` Q (eq. 8), the ``evaluations``, in passes over the array,
        and the ``certificates`` that were asked for; ``seconds`` of the run so far, without what is measured;
        ``support``, how many groups are not zero, and ``changed``, how many became so or ceased to be.
    failures : DataFrame
        A row for each run that stopped: ``schedule``, ``solver``, ``seed``, ``iteration``, ``reason``.
    """

    study: ClassVar[str] = "converge"

    frame: pd.DataFrame
    failures: pd.DataFrame

    @classmethod
    def of(cls, results: Mapping[str, Result], settings: Mapping[str, Any]) -> Self:
        """Make the tables of what units found."""
        tables, parts, failures = Tables(_KEYS), [], []
        for result in results.values():
            about, count = tables.about(result), len(result.arrays["objective"])
            if reason := result.values["reason"]:
                failures.append({**about, "iteration": count + 1, "reason": reason})
            mean = _running_mean(result.arrays["stationarity"] ** 2)
            part = pd.DataFrame({**about, **result.arrays, "mean": mean})
            parts.append(part.assign(iteration=np.arange(1, count + 1)))
        return cls(
            frame=tables.frame(parts, _COLUMNS),
            failures=tables.failures(failures, ["iteration", "reason"]),
            _results=results,
            _settings=settings,
        )

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
            with its 95 % interval ``low`` to ``high`` (NaN of one seed); ``promised``, −1 where gradients are
            full and tolerances square-summable (Huang & Lee 2024, Theorem 4), else 0 (a floor); ``last``,
            the exponent of ``dist(0, ∂F)²`` itself; how many steps have their ``tolerance unproved``, and how
            many their ``decrease unproved``: the theorem asks for both in every step.
        """
        rows = []
        for (schedule, solver), part in self.frame.groupby(["schedule", "solver"], sort=False):
            runs = [run for _, run in part.groupby("seed", sort=False)]
            rate, low, high = _interval([fit_rate(run["mean"].to_numpy()) for run in runs])
            promised = self._settings["square_summable"][str(schedule)] and not self._settings["batches"]
            rows.append(
                {
                    "schedule": schedule,
                    "solver": solver,
                    "runs": len(runs),
                    "rate": rate,
                    "low": low,
                    "high": high,
                    "promised": -1.0 if promised else 0.0,
                    "last": _interval([fit_rate(run["stationarity"].to_numpy() ** 2) for run in runs])[0],
                    "tolerance unproved": int((~part["proved"].astype(bool)).sum()),
                    "decrease unproved": int((~part["decreased"].astype(bool)).sum()),
                }
            )
        names = ["schedule", "solver", "runs", "rate", "low", "high", "promised", "last"]
        return pd.DataFrame(rows, columns=[*names, "tolerance unproved", "decrease unproved"])

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
        ax = new_axes(ax)
        colours = {name: k for k, name in enumerate(dict.fromkeys(self.frame["schedule"]))}
        dashes = {name: k for k, name in enumerate(dict.fromkeys(self.frame["solver"]))}
        ax.set(xscale="log", yscale="log", xlabel=_XLABELS[x], ylabel="mean of dist(0, ∂F)² so far")
        for (schedule, solver), part in self.frame.groupby(["schedule", "solver"], sort=False):
            runs = [run for _, run in part.groupby("seed", sort=False)]
            shortest = min(len(run) for run in runs)
            y = np.stack([run["mean"].to_numpy()[:shortest] for run in runs])
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
            lines.append(text_table(self.failures))
        for title, table in (
            ("Rates of the mean of dist(0, ∂F)²:", self.rates()),
            ("Floors:", self.floors()),
        ):
            if not table.empty:
                lines += [title, text_table(table)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        first, *_ = str(self).split("\n")
        parts = [f"<p>{html.escape(first)}</p>"]
        for title, table in (("Stopped", self.failures), ("Rates", self.rates()), ("Floors", self.floors())):
            if not table.empty:
                shown = table.to_html(index=False, float_format="{:.3g}".format)
                parts.append(f"<p>{title}:</p>{shown}")
        return "".join(parts)


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
