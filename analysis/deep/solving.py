"""Exact against inexact solvers of the prox: RAMDA's Table 2 (arXiv:2403.14398) once more, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from analysis.deep import readout
from analysis.deep.catalogue import Plan
from proxlab.study import StoredStudy
from proxlab.study.page import Finding, Table, Text, Verdict

#: Share of the intervals that hold the mean, where the differences are normal.
LEVEL = 0.95
_MEASURED = {"sparsity": "weighted sparsity", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval; without bounds where there is a single seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_above(self) -> bool:
        """Whether all of it is above zero."""
        return self.low > 0.0

    @property
    def is_below(self) -> bool:
        """Whether all of it is below zero."""
        return self.high < 0.0

    def __str__(self) -> str:
        text = f"{self.mean:+.2f}"
        if self.seeds > 1:
            text += f" ({self.low:+.2f} to {self.high:+.2f})"
        return text.replace("-", "−")


def interval(values: Iterable[float]) -> Interval:
    """Student's interval of the mean of at least one value."""
    x = np.array(list(values), dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, -math.inf, math.inf, len(x))
    half = float(stdtrit(len(x) - 1, 0.5 + 0.5 * LEVEL) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half, len(x))


def differences(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Exact minus inexact, in points, for each pair of runs of one task, strength and seed.

    Parameters
    ----------
    frame : DataFrame
        The solvers' runs, as `readout.runs` gives them.
    plan : Plan
    """
    keys = ["task", "strength", "seed"]
    given = frame[frame["failed"].isna()]
    exact = given[given["method"] == plan.solvers[0].name]
    others = given[given["method"] != plan.solvers[0].name]
    pairs = others.merge(exact, on=keys, suffixes=("", " exact"))
    found = pairs[[*keys, "method"]].copy()
    for name, column in _MEASURED.items():
        found[name] = pairs[f"{column} exact"] - pairs[column]
    return found


@dataclass(frozen=True)
class Comparison:
    """The exact prox against one solver on one task, over all strengths.

    Attributes
    ----------
    task, method : str
        Names.
    sparsity, accuracy : Interval
        Exact minus inexact in points: of each seed the mean over strengths, then over seeds.
    strengths : int
        Number of strengths.
    """

    task: str
    method: str
    sparsity: Interval
    accuracy: Interval
    strengths: int

    @property
    def verdict(self) -> Verdict:
        """Whether the numbers are for the exact prox, against it, or neither."""
        gains = self.sparsity.is_above, self.accuracy.is_above
        losses = self.sparsity.is_below, self.accuracy.is_below
        if any(gains) == any(losses):
            return "neutral"
        return "good" if any(gains) else "bad"

    @property
    def words(self) -> str:
        """The verdict in words."""
        if self.sparsity.seeds < 2:
            return "One seed: no interval, and no verdict."
        sparser = _compared(self.sparsity, "sparser", "less sparse", "as sparse, as far as can be told,")
        better = _compared(
            self.accuracy, "more accurate", "less accurate", "as accurate, as far as can be told"
        )
        joined = "but" if self.sparsity.is_above and self.accuracy.is_below else "and"
        repeated = (
            "is repeated" if self.sparsity.is_above and not self.accuracy.is_below else "is not repeated"
        )
        return f"The exact prox is {sparser} {joined} {better}: the finding of RAMDA's Table 2 {repeated}."


def _compared(found: Interval, above: str, below: str, neither: str) -> str:
    return above if found.is_above else below if found.is_below else neither


def comparisons(found: pd.DataFrame, plan: Plan) -> list[Comparison]:
    """All of them that have pairs, of `differences`, in the order of the study."""
    result = []
    for task in reversed(plan.tasks):
        for method in plan.solvers[1:]:
            part = found[(found["task"] == task.name) & (found["method"] == method.name)]
            if len(part):
                means = part.groupby("seed")[list(_MEASURED)].mean()
                result.append(
                    Comparison(
                        task.name,
                        method.name,
                        interval(means["sparsity"]),
                        interval(means["accuracy"]),
                        part["strength"].nunique(),
                    )
                )
    return result


def findings(stored: StoredStudy, plan: Plan) -> list[Finding]:
    """The verdict on each task, against the solver with its own stopping rule, which is the first."""
    frame = readout.runs(stored, plan, plan.solvers)
    times = readout.times(stored, plan, plan.solvers)
    result = []
    for c in comparisons(differences(frame, plan), plan):
        if c.method != plan.solvers[1].name:
            continue
        title, solver = plan.task(c.task).title, plan.method(c.method).title
        timed = times[(times["network"] == title) & (times["key"] == c.method)]
        taken = "".join(
            f" A step with it takes {t:.2f}× that of the exact prox." for t in timed["against the first"]
        )
        result.append(
            Finding(
                f"{c.sparsity.mean:+.2f}".replace("-", "−"),
                f"points of weighted group sparsity, exact prox minus {solver}, {title}: {c.sparsity}; "
                f"accuracy {c.accuracy} ({c.sparsity.seeds} seeds, strengths: {c.strengths}). "
                f"{c.words}{taken}",
                c.verdict,
                "> 0",
            )
        )
    return result


def items(stored: StoredStudy, plan: Plan) -> list[Text | Table]:
    """The section's text and tables; nothing where no solvers were run."""
    frame = readout.runs(stored, plan, plan.solvers)
    if not len(frame):
        return []
    found = differences(frame, plan)
    rows = "<br>".join(f"<b>{m.title}</b>: {m.text}." for m in plan.solvers)
    text = Text(
        "RAMDA's Table 2 (Huang et al. 2024) found 1.8 to 4.9 points more group sparsity with the nearly "
        "exact prox of ProxSSI than with an inexact inner solver, in four settings with three seeds, and "
        "dropped it for its time. Here is that comparison once more: AdamW with the group lasso in its "
        "metric, the same steps, learning rates, batches and initial weights, and nothing but the solver of "
        "the prox differs. Differences are exact minus inexact in points, paired by seed; in brackets are "
        f"Student's intervals of {LEVEL:.0%} of their mean over seeds.\n\n{rows}",
        "Exact against inexact solvers of the prox",
    )
    tables = [_runs(stored, frame, plan)]
    if len(found):
        tables += [_by_strength(found, plan), _overall(found, plan)]
    return [text, *tables]


def _runs(stored: StoredStudy, frame: pd.DataFrame, plan: Plan) -> Table:
    """What the solvers reached, and the time of an epoch."""
    means = readout.means(frame)
    spent = [
        _iterations(stored, plan, *key)
        for key in zip(means["task"], means["method"], means["strength"], strict=True)
    ]
    times = readout.times(stored, plan, plan.solvers)
    seconds = {(row["network"], row["key"]): row["epoch [s]"] for row in times.to_dict("records")}
    titles = [plan.task(task).title for task in means["task"]]
    table = pd.DataFrame(
        {
            "network": titles,
            "solver": [plan.method(method).title for method in means["method"]],
            "strength": means["strength"],
            "weighted sparsity": means["weighted sparsity"],
            "weighted sparsity ±": means["weighted sparsity ±"],
            "accuracy": means["accuracy"],
            "accuracy ±": means["accuracy ±"],
            "iterations": spent,
            "epoch [s]": [seconds.get(key, math.nan) for key in zip(titles, means["method"], strict=True)],
            "runs": means["runs"],
            "failed": means["failed"],
        }
    )
    return Table(
        "solvers",
        "Solvers of the prox",
        "Means over seeds, in percent; ± is their standard deviation. Iterations of the solver: mean over "
        "groups and steps. The epoch is that of all training samples, from steps of all solvers in turn in "
        "one process.",
        table.dropna(axis="columns", how="all"),
        {
            "strength": "{:g}",
            "weighted sparsity": "{:.2f}",
            "weighted sparsity ±": "{:.2f}",
            "accuracy": "{:.2f}",
            "accuracy ±": "{:.2f}",
            "iterations": "{:.1f}",
            "epoch [s]": "{:.1f}",
        },
        bad={"failed": lambda count: count > 0},
        max_rows=len(table),
    )


def _iterations(stored: StoredStudy, plan: Plan, task: str, method: str, strength: float) -> float:
    counts = [
        float(unit.arrays["history-iterations"].mean())
        for unit in readout.trained(stored, plan, plan.solvers)
        if (unit.parameters["task"], unit.parameters["method"], unit.parameters["strength"])
        == (task, method, strength)
        and "history-iterations" in unit.arrays
    ]
    exact = method == plan.solvers[0].name
    return float(np.mean(counts)) if counts and not exact else math.nan


def _by_strength(found: pd.DataFrame, plan: Plan) -> Table:
    rows = []
    for (task, method, strength), part in found.groupby(["task", "method", "strength"], sort=False):
        rows.append(
            {
                "network": plan.task(str(task)).title,
                "against": plan.method(str(method)).title,
                "strength": strength,
                "sparsity": str(interval(part["sparsity"])),
                "accuracy": str(interval(part["accuracy"])),
                "seeds": len(part),
            }
        )
    return Table(
        "solvers-strengths",
        "Exact minus inexact, by strength",
        "Points of weighted group sparsity and of accuracy.",
        pd.DataFrame(rows),
        {"strength": "{:g}"},
        max_rows=len(rows),
    )


def _overall(found: pd.DataFrame, plan: Plan) -> Table:
    rows = [
        {
            "network": plan.task(c.task).title,
            "against": plan.method(c.method).title,
            "sparsity": str(c.sparsity),
            "accuracy": str(c.accuracy),
            "seeds": c.sparsity.seeds,
            "verdict": c.words,
        }
        for c in comparisons(found, plan)
    ]
    return Table(
        "solvers-verdict",
        "Exact minus inexact, over all strengths",
        "Of each seed the mean over its strengths. The verdict follows from the intervals.",
        pd.DataFrame(rows),
    )
