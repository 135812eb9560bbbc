"""What the studies on networks report, read from stored runs."""

from __future__ import annotations

import math

import pandas as pd

from analysis.deep import figures, readout, solving
from analysis.deep.catalogue import Plan
from analysis.deep.methods.linbreg import STARTED_WITH
from analysis.deep.methods.mcp import GAMMA
from analysis.deep.methods.target import RAMP
from analysis.deep.tasks import Task
from analysis.results import ResultsDir
from proxlab.study import StoredStudy
from proxlab.study.page import Finding, Plot, Section, Table, Text

_PERCENT, _TIMES = "{:.1f}", "{:.2f}×"
#: So many times fewer parameters are hoped for after `compact`.
_SMALLER = 2.0


def section(plan: Plan, results: ResultsDir) -> Section:
    """Findings, plots and tables of a study's stored runs, of whatever is there."""
    stored = results.read(plan.name)
    frame = readout.runs(stored, plan)
    solved = readout.runs(stored, plan, plan.solvers)
    # what a profile does not run, or has not yet, is left out; one task at least is named
    run = {*frame["task"], *solved["task"]} or {plan.tasks[-1].name}
    plan = plan.restricted(run)
    means = readout.means(frame)
    times = readout.times(stored, plan)
    targets = readout.targets(stored, means, plan)
    main = plan.tasks[-1].title
    items: list[Plot | Table | Text] = [
        Text(_methods_text(plan), "What is compared"),
        Plot(
            "frontier",
            "Accuracy against sparsity",
            "Test accuracy against the share of penalised weights in groups that are exactly zero, one point "
            "for each strength. Grey: dense AdamW, and the band of "
            f"{plan.points} points below it. Runs further down are in the table. Solid: the weighted prox in "
            "AdamW; dashed: other published methods; dotted: what is done without a weighted prox."
            + _seeds(frame),
            figures.plot_frontier(means, plan),
        ),
        Table(
            "best",
            "Each method at its best",
            f"The most accurate strength with at least {readout.SPARSE:.0%} weighted sparsity; where there "
            "is none, the sparsest. Parameters, FLOPs and latency: before over after compact, in the profile "
            "paper of the first seed, latency in the process that trained. Against dense: points of "
            "accuracy.",
            _shown(pd.concat([readout.best(means, t.name) for t in reversed(plan.tasks)]), plan),
            _FORMATS,
        ),
        Plot(
            "course",
            "Sparsity over epochs",
            f"{main}: of each method the run whose weighted sparsity is nearest to 80 %. Left: its "
            "course. Right: how often, so far, a zero group has come back, seen sixteen times an epoch; a "
            "pattern that has settled is a flat line. Magnitude pruning cuts once, in the middle; Bregman "
            "iterations start sparse.",
            figures.plot_course(stored, means, plan),
        ),
        Plot(
            "patterns",
            "What is left",
            f"{main}, the same runs: each picture is a matrix of a layer, outputs by inputs (norms "
            "of kernels in convolutions); darker is larger, clear is exactly zero. The percentage is the "
            "weighted sparsity of the whole network.",
            figures.plot_patterns(stored, means, plan),
        ),
    ]
    if len(times):
        items += [
            Plot(
                "times",
                "Time of a step",
                "Median time of a training step, all methods in turn in one process, each at the middle one "
                "of its strengths and after 40 steps; the number is the median ratio to dense AdamW (torch, "
                "fused). ProxSSI's prox is reimplemented in NumPy.",
                figures.plot_times(times),
            ),
            Table(
                "times",
                "Time of a step and of an epoch",
                "As in the plot; an epoch is that of all training samples. Weighted sparsity when timed.",
                times.drop(columns="key").rename(columns={"against the first": "against dense"}),
                {
                    "step [ms]": "{:.1f}",
                    "optimizer [ms]": "{:.2f}",
                    "epoch [s]": "{:.1f}",
                    "against dense": _TIMES,
                    "weighted sparsity": _PERCENT,
                },
            ),
        ]
    items += [
        *_targets(stored, plan, targets),
        *_subproblems(stored, plan),
        *solving.items(stored, plan),
    ]
    items.append(
        Table(
            "runs",
            "Every run",
            "Means over seeds; ± is their standard deviation. Accuracy and sparsity in percent. A run that "
            "diverged, or that its method gave up, counts as failed.",
            _shown(means, plan),
            _FORMATS,
            bad={"failed": lambda count: count > 0},
            max_rows=len(means),
        )
    )
    return Section(
        title=plan.title,
        lead=(
            f"{' and '.join(t.title for t in reversed(plan.tasks))}, trained with penalties "
            f"on whole groups: {plan.groups}. All methods have the same batches, number of steps and initial "
            f"weights, of which Bregman iterations keep {STARTED_WITH:.0%} of the groups, scaled up. "
            "Weighted sparsity counts each group by its size."
        ),
        findings=[*_findings(means, times, targets, plan), *solving.findings(stored, plan)],
        items=items,
    )


def _methods_text(plan: Plan) -> str:
    shapes = [
        f"{runs.settings[GAMMA]:g} ({task.title})"
        for task in reversed(plan.tasks)
        for method in plan.methods
        if (runs := method.runs_on(task)) is not None and GAMMA in runs.settings
    ]
    rows = [f"<b>{m.title}</b>: {m.text}." for m in plan.methods]
    return (
        "The learning rate rises over the first tenth of the steps and falls linearly to zero; RMDA and "
        "RAMDA have three stages instead, with a restart at each. Penalties weigh a group by the "
        "root of its size. "
        f"The group MCP has γ = {', '.join(shapes)}.\n\n" + "<br>".join(rows)
    )


def _seeds(frame: pd.DataFrame) -> str:
    count = frame["seed"].nunique()
    return f" Means of {count} seeds; bars are standard deviations." if count > 1 else ""


_FORMATS = {
    "strength": "{:g}",
    "accuracy": "{:.2f}",
    "accuracy ±": "{:.2f}",
    "against dense": "{:+.2f}",
    "sparsity": _PERCENT,
    "weighted sparsity": _PERCENT,
    "weighted sparsity ±": _PERCENT,
    "parameters after": "{:,.0f}",
    "parameters ×": _TIMES,
    "FLOPs ×": _TIMES,
    "latency ×": _TIMES,
    "difference": "{:.1e}",
    "s per epoch": "{:.1f}",
}


def _shown(means: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """With names in words, without columns that are empty."""
    names = {task.name: task.title for task in plan.tasks}
    titles = {method.name: method.title for method in plan.methods}
    shown = means.assign(task=means["task"].map(names), method=means["method"].map(titles))
    shown = shown.rename(columns={"task": "network"})
    order = [
        *("network", "method", "strength", "weighted sparsity", "accuracy", "against dense"),
        *("parameters ×", "FLOPs ×", "latency ×", "parameters after", "sparsity"),
        *("accuracy ±", "weighted sparsity ±", "difference", "s per epoch", "runs", "failed"),
    ]
    return shown[[name for name in order if shown[name].notna().any()]]


def _targets(stored: StoredStudy, plan: Plan, targets: pd.DataFrame) -> list[Plot | Table | Text]:
    if not len(targets):
        return []
    return [
        Plot(
            "targets",
            "Target and reached sparsity",
            f"{plan.tasks[-1].title}. Left: the sparsity that was asked for (dashed) and the sparsity of "
            f"the weights; the target rises to its value in the first {RAMP:.0%} of the steps. Right: the "
            "strength λ that TargetSparsity chose in each step, the price of a group in the group L0.",
            figures.plot_targets(stored, plan),
        ),
        Table(
            "targets",
            "Targets",
            "Weighted sparsity at the end of training against the target, in percent, and points of "
            "accuracy against dense AdamW. The target is that of the whole network, whatever is left in a "
            "layer, and is met up to one group. “One group each” is the sparsity with a single group in "
            "every layer: near it layers are empty, and where there is no way around an empty layer, all "
            "samples get the same answer.",
            targets,
            {
                "target": _PERCENT,
                "reached": "{:.2f}",
                "gap": "{:+.2f}",
                "largest group": "{:.2f}",
                "last λ": "{:.2g}",
                "accuracy": "{:.2f}",
                "against dense": "{:+.2f}",
                "one group each": "{:.2f}",
            },
        ),
    ]


def _subproblems(stored: StoredStudy, plan: Plan) -> list[Plot | Table | Text]:
    items: list[Plot | Table | Text] = []
    inexact = [u for t in plan.tasks for u in readout.with_arrays(stored, plan, t.name, "probe-error")]
    if inexact:
        items.append(
            Plot(
                "certified",
                "Tolerance, proof and error",
                "ProxAdamW that solves each prox by bisection, no further than a square-summable tolerance "
                "asks. The proved bound is that of all proxes of a step together; the error is the distance "
                "of the new weights from proxes solved in double precision. The weights are in single "
                "precision, whose rounding is the floor of the error.",
                figures.plot_certified(inexact, plan),
            )
        )
        items += [
            Table(
                f"certified-{unit.parameters['task']}",
                f"Certified steps: {plan.task(unit.parameters['task']).title}",
                "Distances from the exact prox; iterations that the proof took.",
                readout.certified(unit),
                {"tolerance": "{:.1e}", "proved": "{:.1e}", "error": "{:.1e}"},
                max_rows=12,
            )
            for unit in inexact
        ]
    for task in plan.tasks:
        for unit in readout.with_arrays(stored, plan, task.name, "convexity"):
            items += [
                Plot(
                    f"convexity-{task.name}",
                    "How often the subproblem of the group MCP is not convex",
                    f"{task.title}, λ = {unit.parameters['strength']:g}, steps throughout training. Left: "
                    "log₁₀ of γd/(ηw) over all elements; below 0 (orange) the subproblem is not convex. "
                    "Middle: share of groups with such an element. Right: how far the answer of ProxSSI's "
                    "solver to the same subproblem is from its global minimiser, relative to the point; "
                    f"beyond the line ({readout.WRONG:g}) it is off, at the right edge it is no number.",
                    figures.plot_convexity(unit),
                ),
                Table(
                    f"convexity-{task.name}",
                    "Subproblems in training",
                    "Groups by step: how many subproblems are not convex, in how many the global minimiser "
                    "is zero, and in how many ProxSSI's answer is off. Distances relative to the point.",
                    readout.convexity(unit),
                    {"largest distance": "{:.2g}"},
                ),
            ]
    return items


def _findings(means: pd.DataFrame, times: pd.DataFrame, targets: pd.DataFrame, plan: Plan) -> list[Finding]:
    found = [finding for task in reversed(plan.tasks) for finding in goals(means, task, plan)]
    if len(targets):
        gap = targets["gap"].abs()
        # a share of groups can be met up to one of them
        met = bool((gap <= targets["largest group"] + 1e-6).all())
        close = targets[targets["against dense"] >= -plan.points]
        kept = ", ".join(f"{target:g} %" for target in sorted(close["target"].unique())) or "none"
        found.append(
            Finding(
                f"{gap.max():.2f}",
                "points between target and reached weighted sparsity, at most; the largest group is "
                f"{targets['largest group'].max():.2f} points. Targets within {plan.points} points of dense "
                f"AdamW: {kept}.",
                "good" if met else "bad",
            )
        )
    main = plan.tasks[-1].title
    lasso = times[(times["key"] == "lasso") & (times["network"] == main)]
    if len(lasso):
        found.append(
            Finding(
                f"{float(lasso['against the first'].iloc[0]):.2f}×",
                f"time of a training step of ProxAdamW with the group lasso against dense AdamW, {main}.",
            )
        )
    return found


def goals(means: pd.DataFrame, task: Task, plan: Plan) -> list[Finding]:
    """Whether a network became sparse at nearly the same accuracy, and smaller and faster with it."""
    points = plan.points
    own = readout.ours(means[means["task"] == task.name], plan)
    own = own.dropna(subset=["against dense"])
    if not len(own):
        return []
    goal, network = 100.0 * readout.SPARSE, task.title
    within = own[own["against dense"] >= -points]
    if not len(within):
        row = own.sort_values("against dense").to_dict("records")[-1]
        return [
            Finding(
                _signed(row["against dense"]),
                f"points against dense AdamW at {row['weighted sparsity']:.0f} % weighted group sparsity: "
                f"no run comes nearer ({plan.method(row['method']).title}, {network}). "
                f"The goal, {goal:.0f} % within {points} points, is not reached.",
                "bad",
                f"≥ −{points}",
            )
        ]
    row = within.sort_values("weighted sparsity").to_dict("records")[-1]
    sparse = row["weighted sparsity"] >= goal
    smaller = row["parameters ×"] >= _SMALLER and row["latency ×"] > 1.0
    found = [
        Finding(
            f"{row['weighted sparsity']:.0f} %",
            f"weighted group sparsity within {points} points of dense AdamW "
            f"({_signed(row['against dense'])}): {plan.method(row['method']).title}, {network}. "
            f"The goal, {goal:.0f} %, is {_reached(sparse)}.",
            "good" if sparse else "bad",
            f"{goal:.0f} %",
        ),
    ]
    if math.isnan(row["parameters ×"]):
        return found
    difference = f"{row['difference']:.0e}".replace("e-", "e−")
    return [
        *found,
        Finding(
            f"{row['parameters ×']:.1f}×",
            f"fewer parameters after compact in that run, {row['FLOPs ×']:.1f}× fewer FLOPs and "
            f"{row['latency ×']:.1f}× as fast; outputs differ by {difference}. "
            f"The goal, {_SMALLER:g}× and a speed-up, is {_reached(smaller)}.",
            "good" if smaller else "bad",
            f"≥ {_SMALLER:g}×",
        ),
    ]


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _reached(goal: bool) -> str:
    return "reached" if goal else "not reached"
