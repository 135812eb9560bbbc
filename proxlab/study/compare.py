"""What do solvers cost, and how close do they come? On an absolute axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from proxlab.study import solvers as user
from proxlab.study.folder import Result
from proxlab.study.problems import Problem
from proxlab.study.profiles import (
    counted,
    log_axes,
    new_axes,
    page_table,
    performance_profile,
    performance_ratios,
    text_failures,
    text_table,
)
from proxlab.study.references import Case, Running, attempts, cases, check_seeds, references, truth_of
from proxlab.study.results import Results, Tables
from proxlab.study.run import Unit
from proxlab.study.solvers import Solver
from proxlab.study.style import label_ends
from proxlab.study.truth import check_digits
from proxlab.values import check_number, listed

__all__ = ["Comparison", "compare"]

Array = npt.NDArray[Any]

#: A group counts as solved in a profile up to this error over ``‖x_g‖``.
SOLVED = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-6}
_KEYS = ("problem", "solver", "tolerance", "dtype", "seed")
_COLUMNS = ("group", "size", "error", "kind", "scale", "evaluations", "seconds", "zero", "failed")
#: What the error axis of a figure says, by the kind of error.
AXES = {"certified": "certified distance to the prox", "truth": "distance to the prox"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Results):
    """Solvers beside one another.

    The error is absolute: an upper bound of the distance to the exact prox that is certified for any
    candidate, or the true distance; not the distance to the best that one of the solvers has found.

    Attributes
    ----------
    frame : DataFrame
        A row for each group and run of a solver: ``problem``, ``solver``, ``tolerance`` (NaN for its own),
        ``dtype``, ``seed``, ``group``, ``size``; its ``error`` and of which ``kind`` that is, "certified" or
        "truth"; ``scale``, which is ``‖x_g‖``; ``evaluations`` of the group (NaN where the solver does not
        tell) and ``seconds`` of the call divided by the groups; ``zero`` where the result is zero;
        ``failed``.
    failures : DataFrame
        A row for each reason why a solver gave nothing: ``problem``, ``solver``, ``tolerance``, ``dtype``,
        ``seed``, how many ``groups``, ``reason``.
    kind : str
        "certified" or "truth".
    digits : int or None
        Digits of the truth.
    """

    study: ClassVar[str] = "compare"

    frame: pd.DataFrame
    failures: pd.DataFrame
    kind: str
    digits: int | None

    @classmethod
    def of(cls, results: Mapping[str, Result], settings: Mapping[str, Any]) -> Self:
        """Make the tables of what units found."""
        kind = "certified" if settings["digits"] is None else "truth"
        tables, parts, failures = Tables(_KEYS), [], []
        for result in results.values():
            about = tables.about(result)
            about["tolerance"] = np.nan if about["tolerance"] is None else about["tolerance"]
            if reason := result.values["reason"]:
                failures.append({**about, "groups": result.values["failed"], "reason": reason})
            if result.arrays:
                part = pd.DataFrame(result.arrays).assign(
                    seconds=result.values["seconds"], kind=kind, **about
                )
                parts.append(part.assign(group=np.arange(len(part))))
        return cls(
            frame=tables.frame(parts, _COLUMNS),
            failures=tables.failures(failures, ["groups", "reason"]),
            kind=kind,
            digits=settings["digits"],
            _results=results,
            _settings=settings,
        )

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.failures.empty

    @property
    def table(self) -> pd.DataFrame:
        """By solver, tolerance and dtype: failures, errors over ``‖x_g‖``, evaluations and time."""
        rows = []
        keys = ["solver", "tolerance", "dtype"]
        for key, part in self.frame.groupby(keys, sort=False, dropna=False):
            good = part[~part["failed"].astype(bool)]
            scale = good["scale"].where(good["scale"] > 0, 1.0)
            relative = (good["error"] / scale).astype(float)
            row = dict(zip(keys, key, strict=True)) | {"groups": len(part), "failed": len(part) - len(good)}
            row["undecided"] = int(np.isinf(relative).sum())
            row["error, p99"] = relative.quantile(0.99, "higher") if len(good) else np.nan
            row |= {"error, max": relative.max(), "error, median": relative.median()}
            work = part["evaluations"].astype(float)
            row |= {"evaluations, mean": work.mean(), "evaluations, max": work.max()}
            rows.append(row | {"µs per group": 1e6 * float(part["seconds"].astype(float).mean())})
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        how = f"true, to {self.digits} digits" if self.digits else "a certified bound"
        groups = len(self.frame[["problem", "dtype", "group"]].drop_duplicates())
        lines = [
            f"{counted(self.frame['solver'].nunique(), 'solver')} on {counted(groups, 'group')}; the error "
            f"is absolute: the distance to the exact prox over ‖x‖, {how}."
        ]
        lines += text_failures(self.failures)
        if not self.frame.empty:
            lines.append(text_table(self.table))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return page_table(str(self).split("\n")[0], {"failures": self.failures, "solvers": self.table})

    def _labelled(self) -> pd.DataFrame:
        """The frame with a name for each solver and tolerance."""
        frame = self.frame
        tolerance = frame["tolerance"].astype(float)
        mark = tolerance.map(lambda t: "" if np.isnan(t) else f", {t:g}")
        return frame.assign(label=frame["solver"] + mark)

    def profile(self, ax: Any = None, *, by: str | None = None, solved: float | None = None) -> Any:
        """Draw performance profiles (Dolan & Moré 2002).

        The share of groups that a solver solves within a factor of the cheapest solver on that group. Groups
        that every solver returns as zero are left out.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        by : {"evaluations", "seconds"}, optional
            The cost; by default evaluations where every solver tells them.
        solved : float, optional
            The error over ``‖x_g‖`` up to which a group counts as solved; by default that of the dtype, 1e-6
            for float64.

        Returns
        -------
        Axes
        """
        if by not in (None, "evaluations", "seconds"):
            raise ValueError(f'by: must be "evaluations", "seconds" or None, got {by!r}')
        ax, frame = new_axes(ax), self._labelled()
        if by is None:
            told = frame.loc[~frame["failed"].astype(bool), "evaluations"].notna()
            by = "evaluations" if len(told) and told.all() else "seconds"
        limit = frame["dtype"].map(SOLVED) if solved is None else solved
        good = ~frame["failed"].astype(bool) & (frame["error"] <= limit * frame["scale"])
        # Nothing to evaluate costs as much as one evaluation.
        cost = frame[by].astype(float).clip(lower=1.0 if by == "evaluations" else 1e-12)
        frame = frame.assign(cost=cost.where(good, np.inf))
        where = ["problem", "dtype", "seed", "group"]
        everywhere = frame.groupby(where)["zero"].transform("all")
        table = frame[~everywhere].pivot(index="label", columns=where, values="cost")
        names = [name for name in dict.fromkeys(frame["label"]) if name in table.index]
        ratios = performance_ratios(table.loc[names].fillna(np.inf).to_numpy(dtype=np.float64))
        finite = ratios[np.isfinite(ratios)]
        factors = np.geomspace(1.0, max(2.0, 1.1 * float(finite.max(initial=1.0))), 300)
        for name, share in zip(names, performance_profile(ratios, factors), strict=True):
            ax.step(factors, share, where="post", label=name)
        ax.set(xscale="log", ylim=(-0.02, 1.03), xlabel=f"{by} over those of the cheapest solver")
        limits = (
            f"{solved:g}"
            if solved is not None
            else ", ".join(f"{SOLVED[t]:g} in {t}" for t in sorted(set(frame["dtype"])))
        )
        ax.set_ylabel(f"share of groups with an error\nup to {limits} of ‖x‖")
        label_ends(ax)
        return ax

    def accuracy(self, ax: Any = None) -> Any:
        """Draw the error that is reached against the work it takes, along the tolerances.

        The error axis is absolute: zero would be the exact prox.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Axes
        """
        from matplotlib.ticker import LogLocator

        ax = log_axes(ax)
        frame = self.frame[~self.frame["failed"].astype(bool)]
        told = len(frame) > 0 and bool(frame["evaluations"].notna().all())
        by = "evaluations" if told else "seconds"
        for k, (name, part) in enumerate(frame.groupby("solver", sort=False)):
            scale = part["scale"].where(part["scale"] > 0, 1.0)
            part = part.assign(relative=(part["error"] / scale).astype(float).clip(lower=1e-17))
            curve = part.groupby("tolerance", dropna=False).agg(
                work=(by, "mean"), error=("relative", lambda e: e.quantile(0.9, "higher"))
            )
            curve = curve.sort_values("work")
            ax.plot(curve["work"], curve["error"], "o-", ms=3.5, color=f"C{k % 10}", label=name)
        how = f"true, {self.digits} digits" if self.digits else "an upper bound"
        ax.set_xlabel("evaluations a group, mean" if told else "seconds a group, mean")
        ax.set_ylabel(f"{AXES[self.kind]} over ‖x‖\n(absolute: {how}; 90 % of the groups)")
        if told:  # a few or a few dozen: labels at every digit would touch
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter("")
        label_ends(ax)
        return ax


def compare(
    problems: Problem | Iterable[Problem],
    solvers: Mapping[str, Solver] | None = None,
    tolerances: Iterable[float] | None = None,
    digits: int | None = None,
    *,
    dtypes: Iterable[Any] | None = None,
    seeds: Iterable[int] = (0,),
    folder: str | Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare solvers by what they cost and how close they come.

    The error is absolute: without ``digits`` the distance that :func:`proxlab.certify` proves for whatever a
    solver returns, an upper bound; with them the true distance. Solvers that raise, return no number or the
    wrong kind of array, or change their input are counted as failures with the reason.

    Parameters
    ----------
    problems : Problem or iterable of Problem
        Of any sizes, penalties and groups.
    solvers : dict, optional
        By name: functions with the arguments of :func:`proxlab.prox`, which return ``z`` or ``(z,
        evaluations)``, and root finders.
    tolerances : iterable of float, optional
        Relative tolerances that root finders run at, one after the other; by default their own.
    digits : int, optional
        Measure the true error, to so many digits in ball arithmetic.
    dtypes, seeds, folder, cluster, workers, progress
        As in :func:`validate`.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind.

    References
    ----------
    Dolan & Moré (2002), "Benchmarking optimization software with performance profiles", Mathematical
    Programming 91.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> rng = np.random.default_rng(0)
    >>> problem = study.Problem("rows", rng.standard_normal((20, 3)), 0.5, None, pl.GroupLasso(1.0))
    >>> c = study.compare(problem, {"Newton": pl.Newton(), "Brent": pl.Brent()})
    >>> bool((c.frame["error"] < 1e-14).all()), len(c.failures)
    (True, 0)
    """
    chosen, drawn = user.check_solvers(solvers), check_seeds(seeds)
    digits = None if digits is None else check_digits(digits)
    limits = _check_tolerances(tolerances)
    given, running = cases(problems, dtypes), Running(folder, cluster, workers, progress)
    truths = references(given, digits, running) if digits is not None else {}
    units = []
    for name, arguments in attempts(given, chosen, drawn, limits):
        problem = arguments["case"].problem
        truth = {} if problem is None else truths.get(problem.digest, {})
        units.append(Unit(name, _measure, arguments | {"digits": digits, "truth": truth}))
    settings = {"digits": digits, "solvers": list(chosen), "tolerances": limits}
    return Comparison.of(running.units(units, Comparison.study, settings), settings)


def _check_tolerances(tolerances: Iterable[float] | None) -> list[float | None]:
    if tolerances is None:
        return [None]
    given = listed("tolerances", tolerances, "numbers between 0 and 1")
    if not given:
        raise ValueError("tolerances: must hold at least one number between 0 and 1")
    found = [check_number("tolerances", t, 0.0, strict=True) for t in given]
    if not all(t < 1 for t in found):
        raise ValueError(f"tolerances: must be numbers between 0 and 1, got {given!r}")
    return list(found)


def _measure(
    about: dict[str, Any], case: Case, solver: Solver, digits: int | None, truth: Mapping[str, Array]
) -> Result:
    """Unit of work: a solver on a problem, with its error and its cost."""
    problem = case.problem
    if problem is None:
        return Result({**about, "reason": case.reason, "failed": 0})
    outcome = user.attempt(solver, problem, rtol=about["tolerance"], seed=about["seed"])
    reason, failed = outcome.reason, outcome.failed
    if digits is not None:
        error = truth_of(problem, digits, truth).errors(outcome.z).distance
    elif isinstance(found := user.certificate_of(outcome.z, problem), str):
        error, reason = np.full(problem.n_groups, np.inf), reason or found
    else:
        error = np.asarray(found.distance, dtype=np.float64)
    indptr, indices = problem.penalty.groups.indices(problem.x.shape)
    alive = np.bincount(
        np.repeat(np.arange(problem.n_groups), np.diff(indptr)),
        outcome.z.reshape(-1)[indices] != 0,
        minlength=problem.n_groups,
    )
    arrays = {
        "size": problem.sizes,
        "error": np.where(failed, np.inf, error),
        "scale": problem.scales()["distance"],
        "evaluations": outcome.evaluations,
        "zero": (alive == 0) & ~failed,
        "failed": failed,
    }
    seconds = outcome.seconds / max(1, problem.n_groups)
    return Result({**about, "reason": reason, "failed": int(failed.sum()), "seconds": seconds}, arrays)
