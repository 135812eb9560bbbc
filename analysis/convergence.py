"""The study of inexact proximal steps: how exact must each be for training to converge?

`analysis.proxgen` runs; this module says what to run, and reads the runs back for the report.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.data import Array
from analysis.proxgen import COLUMNS, SCHEDULES, SOLVERS, proxgen
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import StoredStudy, Unit, style, unit_name
from proxlab.study.page import Finding, Plot, Section, Table, Text

NAME = "convergence"
#: Those that are run with Newton: it is so good that its tolerance hardly matters.
NEWTON_SCHEDULES = ("exact", "square-summable", "constant:0.1")
#: Those that the runs with minibatches compare.
STOCHASTIC_SCHEDULES = ("exact", "square-summable", "adaptive", "constant:0.1")
ITERATIONS = {"digits": (600, 20_000), "birthwt": (150, 500)}


def _units(profile: Profile) -> dict[str, dict[str, Any]]:
    cases: list[tuple[str, str, tuple[str, ...], str, int]] = [
        (problem, solver, NEWTON_SCHEDULES if solver == "newton" else SCHEDULES, "all", 1)
        for problem, solver in product(PROBLEMS, SOLVERS)
    ]
    cases += [
        ("digits", "adversary", STOCHASTIC_SCHEDULES, batch, profile.pick(2, 20))
        for batch in ("constant", "growing")
    ]
    return {
        unit_name(problem, solver, batch): {
            "problem": problem,
            "solver": solver,
            "schedules": list(schedules),
            "batch": batch,
            "iterations": profile.pick(*ITERATIONS[problem]),
            "draws": draws,
            "seed": profile.seed,
        }
        for problem, solver, schedules, batch, draws in cases
    }


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Run every schedule with every inner solver on both problems."""
    results.run(NAME, profile, [Unit(name, proxgen, given) for name, given in _units(profile).items()])


# --------------------------------------------------------------------------------------------------------
# The report: everything from here on reads stored runs

PROBLEMS = {
    "digits": "digits, multinomial logistic, 61 groups",
    "birthwt": "birthwt, least squares, 8 groups",
}
_ORANGE = style.PALETTE[1]
LOOKS: dict[str, dict[str, Any]] = {
    "exact": {"color": style.INK, "linewidth": 2.4, "alpha": 0.55},
    "summable": {"color": style.PALETTE[0]},
    "square-summable": {"color": style.PALETTE[2]},
    "adaptive": {"color": style.PALETTE[3]},
    "constant:0.01": {"color": _ORANGE, "linestyle": (0, (1, 1.2))},
    "constant:0.03": {"color": _ORANGE, "linestyle": (0, (4, 1.5))},
    "constant:0.1": {"color": _ORANGE},
}
FLOOR_SOLVERS = ("adversary", "proximal gradient", "bisection")
#: A schedule loses nothing if it needs at most this share more iterations than exact steps.
NO_LOSS = 0.02


class Runs:
    """The stored runs.

    Attributes
    ----------
    frame : DataFrame
        A row for each iteration: ``problem``, ``solver``, ``batch``, ``schedule``, ``seed``, and `COLUMNS`;
        stationarities and tolerances are shares of the stationarity at the start, ``square`` and ``mean``
        shares of its square.
    rates, floors : DataFrame
        What `study.converge` fits, of runs with all samples; floors are such shares too.
    """

    def __init__(self, stored: StoredStudy) -> None:
        frames, rates, floors = [], [], []
        for unit in stored.units:
            labels = {key: unit.parameters[key] for key in ("problem", "solver", "batch")}
            iterations, scale = unit.arrays["mean"].shape[1], float(unit.values["scale"])
            columns: dict[str, Any] = {name: unit.arrays[name].ravel() for name in COLUMNS}
            for k, name in enumerate(("schedule", "seed")):
                columns[name] = np.repeat([run[k] for run in unit.values["runs"]], iterations)
            part = pd.DataFrame(columns).assign(**labels)
            part[["stationarity", "tolerance", "bound"]] /= scale
            part["mean"] /= scale**2
            frames.append(part.assign(square=part["stationarity"] ** 2))
            if labels["batch"] == "all":
                rates.append(pd.DataFrame(unit.values["rates"]).assign(**labels))
                floor = pd.DataFrame(unit.values["floors"]).assign(**labels)
                if len(floor):
                    floor["eps"] /= scale
                    floor[["floor", "exact"]] /= scale**2
                    floors.append(floor)
        self.frame = pd.concat(frames, ignore_index=True)
        self.rates, self.floors = (pd.concat(parts, ignore_index=True) for parts in (rates, floors))
        self._runs = dict(
            iter(self.frame.groupby(["problem", "solver", "batch", "schedule", "seed"], sort=False))
        )

    def one(self, problem: str, solver: str, schedule: str) -> pd.DataFrame:
        """The run with all samples."""
        (found,) = (run for key, run in self._runs.items() if key[:4] == (problem, solver, "all", schedule))
        return found

    def mean(self, batch: str, schedule: str) -> Array:
        """The mean of ``dist(0, ∂F)²`` over the runs with such batches."""
        runs = [run["square"] for key, run in self._runs.items() if key[2:4] == (batch, schedule)]
        return np.asarray(np.mean(runs, axis=0))


def _last_support_change(run: pd.DataFrame) -> int:
    """The last iteration that changed which groups are zero."""
    changed = np.flatnonzero(run["changed"].to_numpy()[1:])
    return int(changed[-1]) + 2 if changed.size else 1


def _target(exact: pd.DataFrame) -> float:
    """Where runs are compared: what exact steps reach after four fifths of the run, or 1e-12."""
    return max(float(exact["square"].iloc[: len(exact) * 4 // 5].min()), 1e-12)


def _iterations_to(run: pd.DataFrame, target: float) -> int | None:
    reached = np.flatnonzero(run["square"] <= target)
    return int(reached[0]) + 1 if reached.size else None


def _summary(runs: Runs) -> pd.DataFrame:
    rows = []
    for fitted in runs.rates.to_dict("records"):
        problem, solver, schedule = (str(fitted[key]) for key in ("problem", "solver", "schedule"))
        run, exact = (runs.one(problem, solver, name) for name in (schedule, "exact"))
        target = _target(exact)
        needed, needed_exact = _iterations_to(run, target), _iterations_to(exact, target)
        # Exact steps need no certificate; it is made to measure.
        checks = run["certificates"] * (schedule != "exact")
        work = run["evaluations"].iloc[:needed].sum() if needed else np.nan
        checked = work + checks.iloc[:needed].sum() if needed else np.nan
        work_exact = exact["evaluations"].iloc[:needed_exact].sum()
        lossless = needed is not None and needed <= (1.0 + NO_LOSS) * (needed_exact or 0)
        # The adversary's work is that of the exact prox it starts from.
        saves = solver != "adversary" and needed is not None
        rows.append(
            {
                "problem": problem,
                "inner solver": solver,
                "schedule": schedule,
                "iterations to target": needed,
                "no loss": lossless,
                "passes per step": float(run["evaluations"].mean()),
                "certificates per step": float(checks.mean()),
                "passes saved": 1.0 - work / work_exact if saves else np.nan,
                "saved, certificates counted": 1.0 - checked / work_exact if saves else np.nan,
                "rate of the mean": fitted["rate"],
                "last change of support": _last_support_change(run),
                "tolerance unproved": fitted["tolerance unproved"],
                "decrease unproved": fitted["decrease unproved"],
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"iterations to target": "Int64"})


def _floors(runs: Runs) -> pd.DataFrame:
    shown = runs.floors[runs.floors["solver"].isin(FLOOR_SOLVERS)]
    return pd.DataFrame(
        {
            "problem": shown["problem"],
            "inner solver": shown["solver"],
            "ε": shown["eps"],
            "dist² at the end": shown["floor"],
            "dist² at the end / ε²": shown["floor / eps²"],
            "exact steps": shown["exact"],
            "at its floor": shown["at_floor"],
        }
    )


def _square(run: pd.DataFrame) -> Array:
    """``dist(0, ∂F)²`` as a share of its value at the start."""
    return run["square"].to_numpy()


def _lines(ax: Axes, runs: Runs, problem: str, solver: str, values: Any, x: Any = None) -> None:
    for schedule, look in LOOKS.items():
        run = runs.one(problem, solver, schedule)
        y = values(run)
        ax.plot(np.arange(1, len(y) + 1) if x is None else x(run), y, label=schedule, **look)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), columnspacing=1.3)


def _plot_trajectories(runs: Runs) -> Figure:
    figure = style.new_figure(height=6.2)
    axes = figure.subplots(2, 2, sharey="col")
    for column, (problem, title) in enumerate(PROBLEMS.items()):
        top, bottom = axes[:, column]
        _lines(top, runs, problem, "proximal gradient", _square)
        # One pass is paid before the first iteration, so that a run which needs none can be drawn.
        _lines(
            bottom,
            runs,
            problem,
            "proximal gradient",
            _square,
            lambda run: 1.0 + np.cumsum(run["evaluations"]),
        )
        top.set(title=title, yscale="log", xlabel="iteration")
        bottom.set(xscale="log", yscale="log", xlabel="passes of the inner solver over the array")
        top.set_ylim(bottom=_lowest(runs, problem))
    for ax in axes[:, 0]:
        ax.set_ylabel("dist(0, ∂F)², relative to the start")
    _legend(figure, axes[0, 0])
    return figure


def _lowest(runs: Runs, problem: str) -> float:
    """Lower end of an axis: a little below the exact run, and not deep in its rounding errors."""
    return max(0.3 * float(runs.one(problem, "proximal gradient", "exact")["square"].min()), 1e-16)


def _plot_theorem(runs: Runs) -> Figure:
    figure = style.new_figure(height=3.7)
    axes = figure.subplots(1, 2)
    for ax, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        exact = runs.one(problem, "proximal gradient", "exact")["mean"].to_numpy()

        def over_exact(run: pd.DataFrame, exact: Array = exact) -> Array:
            return run["mean"].to_numpy() / exact

        _lines(ax, runs, problem, "proximal gradient", over_exact)
        ax.set(title=title, xscale="log", yscale="log", xlabel="iterations T")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    axes[0].set_ylabel("mean of dist(0, ∂F)² over T iterates,\nover that of exact steps")
    _legend(figure, axes[0])
    return figure


def _plot_floors(floors: pd.DataFrame) -> Figure:
    figure = style.new_figure(height=3.6)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        of_problem = floors[(floors["problem"] == problem) & (floors["inner solver"] != "bisection")]
        for index, (solver, group) in enumerate(of_problem.groupby("inner solver", sort=False)):
            ax.plot(
                group["ε"],
                group["dist² at the end"],
                marker=style.MARKERS[index],
                color=style.PALETTE[index],
                label=solver,
                linewidth=1.2,
            )
        eps = np.array([of_problem["ε"].min(), of_problem["ε"].max()])
        ax.plot(eps, eps**2, color=style.INK, linewidth=0.8)
        ax.annotate("ε²", (eps[1], eps[1] ** 2), textcoords="offset points", xytext=(4, 2))
        ax.set(title=title, xscale="log", yscale="log", xlabel="ε, relative to dist(0, ∂F) at the start")
    axes[0].set_ylabel("dist(0, ∂F)² at the end")
    _legend(figure, axes[0])
    return figure


def _plot_saved(summary: pd.DataFrame) -> Figure:
    figure = style.new_figure(height=3.9)
    axes = figure.subplots(1, 2, sharey=True)
    schedules = [name for name in SCHEDULES if name != "exact"]
    solvers = ("proximal gradient", "bisection")
    for ax, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        for index, solver in enumerate(solvers):
            of = summary[(summary["problem"] == problem) & (summary["inner solver"] == solver)]
            of = of.set_index("schedule").loc[schedules]
            y = np.arange(len(schedules)) + 0.34 * (index - 0.5)
            saved = 100.0 * of["passes saved"].to_numpy(dtype=float)
            lossless = of["no loss"].to_numpy(dtype=bool)
            colour = style.PALETTE[index]
            ax.barh(y[lossless], saved[lossless], 0.28, color=colour, label=solver)
            ax.barh(y[~lossless], saved[~lossless], 0.28, facecolor="none", edgecolor=colour, linewidth=1.0)
            for place, missing in zip(y, np.isnan(saved), strict=True):
                if missing:
                    ax.text(1.0, place, "target not reached", va="center", fontsize=7, color=colour)
        ax.set(title=title, xlabel="passes saved, % of exact steps", xlim=(0, 100))
        ax.set_yticks(range(len(schedules)), schedules)
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    _legend(figure, axes[0])
    return figure


def _plot_support(runs: Runs) -> Figure:
    figure = style.new_figure(height=3.5)
    axes = figure.subplots(1, 2)
    for ax, (problem, title) in zip(axes, PROBLEMS.items(), strict=True):
        for schedule, look in LOOKS.items():
            run = runs.one(problem, "proximal gradient", schedule)
            counts = run["support"].to_numpy()
            ax.step(np.arange(1, len(counts) + 1), counts, where="post", label=schedule, **look)
            last = _last_support_change(run)
            ax.plot(last, counts[last - 1], marker="o", color=look["color"])
        ax.set(title=title, xscale="log", xlabel="iteration")
    axes[0].set_ylabel("groups that are not zero")
    _legend(figure, axes[0])
    return figure


def _plot_tolerances(runs: Runs) -> Figure:
    figure = style.new_figure(height=3.2)
    shown = ("summable", "square-summable", "adaptive")
    axes = figure.subplots(1, len(shown), sharey=True)
    for ax, schedule in zip(axes, shown, strict=True):
        run = runs.one("digits", "proximal gradient", schedule)
        t = np.arange(1, len(run) + 1)
        ax.plot(t, run["bound"], color=LOOKS[schedule]["color"], label="proved", linewidth=1.0)
        ax.plot(t, run["tolerance"], color=style.INK, label="asked", linewidth=0.9)
        ax.set(title=schedule, xscale="log", yscale="log", xlabel="iteration")
    axes[0].set_ylabel("dist(0, ∂Qₜ), relative")
    axes[0].legend(loc="lower left")
    return figure


def _plot_stochastic(runs: Runs) -> Figure:
    figure = style.new_figure(height=3.6)
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"constant": "128 samples a step", "growing": "16 + t samples a step"}
    for ax, (batch, title) in zip(axes, titles.items(), strict=True):
        for schedule in STOCHASTIC_SCHEDULES:
            mean = runs.mean(batch, schedule)
            ax.plot(np.arange(1, len(mean) + 1), mean, label=schedule, **LOOKS[schedule])
        ax.set(title=title, xscale="log", yscale="log", xlabel="iteration")
    axes[0].set_ylabel("dist(0, ∂F)², relative to the start")
    _legend(figure, axes[0])
    return figure


def _signed(number: float) -> str:
    """A number with a true minus sign."""
    return f"{number:.2f}".replace("-", "−")


def _findings(summary: pd.DataFrame, floors: pd.DataFrame) -> list[Finding]:
    proved = ("summable", "square-summable", "adaptive")
    of_proved = summary[summary["schedule"].isin(proved)]
    exact = summary[summary["schedule"] == "exact"].set_index(["problem", "inner solver"])["rate of the mean"]
    slowest = float(of_proved["rate of the mean"].max())
    behind = of_proved.set_index(["problem", "inner solver"])["rate of the mean"] - exact
    unproved = int(summary["tolerance unproved"].sum())
    at_floor = floors[floors["at its floor"] & (floors["inner solver"] == "adversary")]
    at_floor = at_floor[at_floor["problem"] == "birthwt"]
    slope = float(np.polyfit(np.log(at_floor["ε"]), np.log(at_floor["dist² at the end"]), 1)[0])
    lossless = summary[summary["no loss"] & (summary["inner solver"] == "proximal gradient")]
    lossless = lossless[(lossless["schedule"] != "exact") & (lossless["problem"] == "digits")]
    newton = summary[(summary["inner solver"] == "newton") & (summary["schedule"] == "exact")]
    findings = [
        Finding(
            _signed(slowest),
            "slowest fitted power of T in the mean of dist(0, ∂F)² under square-summable tolerances, at most "
            f"{max(0.0, float(behind.max())):.2f} behind exact steps. The theorem promises −1 or faster.",
            "good" if slowest <= -0.9 or float(behind.max()) <= 0.05 else "bad",
            "≤ −0.9",
        ),
        Finding(
            _signed(slope),
            "fitted power of ε in the floor of dist(0, ∂F)² under constant tolerances that are spent in full "
            "(birthwt); expected 2.",
            "good" if 1.7 <= slope <= 2.3 else "bad",
            "1.7 to 2.3",
        ),
    ]
    if len(lossless):
        best = lossless.sort_values("passes saved").iloc[-1]
        findings.append(
            Finding(
                f"{100 * best['passes saved']:.0f} %",
                f"of the passes of a proximal gradient inner solver saved on digits at no loss of iterations "
                f"({best['schedule']}).",
            )
        )
    findings.append(
        Finding(
            f"{newton['passes per step'].max():.1f}",
            "passes, at most, for an exact prox by the default root finder: there is next to nothing left "
            f"to save. Steps whose tolerance could not be proved, in all runs: {unproved}.",
            "good" if unproved == 0 else "neutral",
        )
    )
    return findings


def section(results: ResultsDir) -> Section:
    """Findings, plots and tables of the stored runs."""
    runs = Runs(results.read(NAME))
    summary, floors = _summary(runs), _floors(runs)
    percent = "{:.0%}"
    return Section(
        title="How exact must a proximal step be?",
        lead=(
            "Inexact ProxGen with an Adam-type preconditioner on two convex problems. Every step solves its "
            "prox by <code>study.converge</code>, until <code>pl.certify</code> proves "
            "<i>dist</i>(0, ∂Q<sub>t</sub>) ≤ ε<sub>t</sub> and Q<sub>t</sub>(ẑ) ≤ "
            "Q<sub>t</sub>(w<sub>t</sub>), and no further. Tolerances are relative to "
            "<i>dist</i>(0, ∂F) at the start: summable 1/t², square-summable 1/t, adaptive 0.3 × what is "
            "left to gain (capped by t<sup>−0.6</sup>), or constant."
        ),
        findings=_findings(summary, floors),
        items=[
            Text(_PROMISE, "What the theorem promises"),
            Plot(
                "theorem",
                "The quantity of the theorem",
                "Mean of dist(0, ∂F)² over the first T iterates, divided by that of exact steps. The theorem "
                "bounds the mean by a multiple of 1/T for exact and square-summable tolerances alike: their "
                "curves stay level, and near 1. Inner solver: proximal gradient; every step proves both "
                "conditions of the theorem. A constant tolerance rises once its floor weighs in the mean.",
                _plot_theorem(runs),
            ),
            Plot(
                "trajectories",
                "Iterations and work",
                "dist(0, ∂F)² after each step, against iterations (top) and against passes of the inner "
                "solver over the array (bottom). Inner solver: proximal gradient in z, warm-started at the "
                "last iterate. It stands still once the last iterate itself meets a constant tolerance: the "
                "flat ends.",
                _plot_trajectories(runs),
            ),
            Plot(
                "floors",
                "The floor of constant tolerances",
                "dist(0, ∂F)² at the end of the run against the constant tolerance ε, both relative to the "
                "start; the thin line is ε². Proximal gradient stops where it stands once that will do. The "
                "adversary pushes the exact prox off in a random direction until the certificate of "
                "dist(0, ∂Qₜ) ≤ ε just holds; the decrease of Qₜ is not asked of it. Where the line is flat, "
                "runs end where exact steps do. Bisection (in the table) starts from a bracket so narrow "
                "that most of a tolerance goes unused.",
                _plot_floors(floors),
            ),
            Plot(
                "saved",
                "Prox work saved",
                "Passes that a schedule saves on the way to the target (what exact steps reach after four "
                f"fifths of the run). Filled: at most {NO_LOSS:.0%} more iterations than exact steps. "
                "Outlined: more iterations, so the gradients cost more than the prox saves wherever they "
                "dominate. "
                "Certificates are not counted here; the table has both.",
                _plot_saved(summary),
            ),
            Plot(
                "support",
                "When the support settles",
                "Groups that are not zero after each step; the dot marks the last change. Inner solver: "
                "proximal gradient.",
                _plot_support(runs),
            ),
            Plot(
                "tolerances",
                "Asked and proved",
                "The tolerance that each step asked for, and the stationarity that its certificate proved "
                "(digits, proximal gradient). The gap is what the last inner step overshoots.",
                _plot_tolerances(runs),
            ),
            Plot(
                "stochastic",
                "Minibatches",
                "dist(0, ∂F)² after each step with minibatch gradients, a mean over independent draws; "
                "digits, each tolerance spent in full by the adversary. Where the curves coincide, the "
                "tolerance of the prox makes no difference.",
                _plot_stochastic(runs),
            ),
            Table(
                "summary",
                "Every run",
                "Iterations and passes to the target; the slope of the log of the running mean over the "
                "second half; the last iteration that changed the support. A certificate costs about one to "
                "two passes. The adversary's passes are those of the exact prox that it starts from.",
                summary,
                {
                    "passes per step": "{:.2f}",
                    "certificates per step": "{:.2f}",
                    "passes saved": percent,
                    "saved, certificates counted": percent,
                    "rate of the mean": "{:.2f}",
                },
                bad={"tolerance unproved": lambda value: value > 0},
                max_rows=len(summary),
            ),
            Table(
                "floors",
                "Floors of the constant tolerances",
                "dist(0, ∂F)² at the end and ε, relative to the start. A run is at its floor where it ends "
                "more than ten times above exact steps.",
                floors,
                {
                    "ε": "{:g}",
                    "dist² at the end": "{:.1e}",
                    "dist² at the end / ε²": "{:.2g}",
                    "exact steps": "{:.1e}",
                },
            ),
        ],
    )


_PROMISE = """
Huang and Lee (2024, RAMDA, Theorem 4) ask for subproblem solutions with
<i>dist</i>(0, ∂Q<sub>t</sub>(ẑ)) ≤ ε<sub>t</sub>, Q<sub>t</sub>(ẑ) ≤ Q<sub>t</sub>(w<sub>t</sub>) and
Σ ε<sub>t</sub>² &lt; ∞. Together with a smooth loss, unbiased gradients of bounded variance, momentum that
fades, a preconditioner P<sub>t</sub> ⪰ δI and steps η ≤ δ/3L, an iterate w<sub>a</sub> drawn uniformly from
the first T then has
E <i>dist</i>(0, ∂F(w<sub>a</sub>))² ≤ (Q₁/T) Σ 1/b<sub>t</sub> + Q₂Δ/T + Q₃/T, with constants
that depend on Σ ε<sub>t</sub>² and not on T: the 1/T of exact steps stays.

It promises nothing for a constant tolerance. Its assumptions hold here by construction: gradients are of the
whole sample (no first term) or of minibatches, there is no momentum, δ is the root mean square of the first
gradient, η = δ/3L. Deleu and Bengio (2021) ask for a small distance to the exact prox, a
condition that later work calls not checkable; here every step proves its own.
"""
