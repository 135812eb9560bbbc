"""What the page says of each study: findings, figures and tables of its stored units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proxlab.study import style
from proxlab.study.compare import Comparison
from proxlab.study.convergence import Convergence
from proxlab.study.folder import StoredStudy
from proxlab.study.page import Finding, Plot, Section, Table, Text, Verdict
from proxlab.study.validate import Validation

__all__ = ["SECTIONS"]

Items = list[Plot | Table | Text]


def _validate(stored: StoredStudy) -> Section:
    found = Validation.read(stored)
    frame, tightness = found.frame, found.tightness
    lead = (
        f"Is a bound ever below the true error? Truths are proximal points to {found.digits} digits, in ball "
        "arithmetic; a violation is a bound that is proved to be below."
    )
    wrong, failed = len(found.violations), len(found.failures)
    ran = len(frame) > 0
    findings = [
        Finding(
            f"{wrong:,}" if ran else "–",
            f"of {len(frame):,} bounds were below the true error.",
            _judged(ran, wrong == 0),
            "0",
        ),
        Finding(
            f"{failed:,}" if ran or failed else "–",
            "failures of solvers or bounds.",
            _judged(ran or failed > 0, not failed),
            "0",
        ),
    ]
    if ran:
        open_groups = 100 * float((~frame["decided"].astype(bool)).mean())
        text = "of the bounds are of groups that rounding leaves open."
        findings.append(Finding(f"{open_groups:.2g} %", text))
    if len(tightness) and np.isfinite(tightness["median"]).any():
        median = float(tightness["median"].median())
        findings.append(Finding(f"{median:.3g}×", "the true error is what a bound is, at the median."))
    counts = (
        frame.groupby(["solver", "bound", "dtype"], sort=False)
        .agg(
            violated=("violated", lambda v: int(v.astype(bool).sum())),
            undecided=("decided", lambda v: int((~v.astype(bool)).sum())),
            bounds=("value", "size"),
        )
        .reset_index()
        if ran
        else pd.DataFrame(columns=["solver", "bound", "dtype", "violated", "undecided", "bounds"])
    )
    items: Items = [
        Table(
            "violations",
            "Violations",
            "How often each bound was below the truth.",
            counts[["violated", "undecided", "solver", "bound", "dtype", "bounds"]],
            bad={"violated": bool},
            zeros=f"None of {len(frame):,} bounds was below the true error.",
        )
    ]
    if wrong:
        items.append(
            Table(
                "where",
                "Where bounds are below the truth",
                "The worst first.",
                found.violations.sort_values("ratio")[
                    ["ratio", "value", "true", "bound", "solver", "problem", "group", "dtype", "seed"]
                ],
                formats={"value": "{:.6g}", "true": "{:.6g}", "ratio": "{:.6f}"},
            )
        )
    items += _failures(found.failures)
    if ran:
        items += [
            Plot(
                "scatter",
                "Bounds against true errors",
                "A point is a group; below the line would be a violation.",
                _figure(lambda ax: found.plot(ax=ax), 5.0),
            ),
            Table(
                "tightness",
                "How tight the bounds are",
                "Bound over true error, where the error is above rounding.",
                tightness,
            ),
        ]
    return Section("Bounds against the truth", lead, findings, items)


def _compare(stored: StoredStudy) -> Section:
    found = Comparison.read(stored)
    frame = found.frame
    true = f"the true distance, to {found.digits} digits"
    lead = (
        "What do solvers cost, and how close do they come? The error is absolute: "
        f"{true if found.digits else 'a distance that is proved for each result'}. No comparison with the "
        "best value that was found can say as much."
    )
    failed, total = int(frame["failed"].astype(bool).sum()), len(frame)
    findings = [
        Finding(
            f"{failed:,}" if total else "–",
            f"of {total:,} groups failed: no number, a wrong shape, or an exception.",
            _judged(total > 0, failed == 0 and found.failures.empty),
            "0",
        )
    ]
    rows = []
    for (solver, dtype), part in frame.groupby(["solver", "dtype"], sort=False):
        good = part[~part["failed"].astype(bool)]
        relative = (good["error"] / good["scale"].where(good["scale"] > 0, 1.0)).astype(float)
        rows.append(
            {
                "solver": solver,
                "dtype": dtype,
                "failures": int(part["failed"].astype(bool).sum()),
                "error, p99": relative.quantile(0.99, "higher") if len(good) else np.nan,
                "error, max": relative.max() if len(good) else np.nan,
                "unproved": int((~np.isfinite(relative)).sum()),
                "error, median": relative.median() if len(good) else np.nan,
                "evaluations, mean": good["evaluations"].astype(float).mean(),
                "µs per group": 1e6 * part["seconds"].astype(float).mean(),
                "groups": len(part),
            }
        )
    items: Items = [
        Table(
            "solvers",
            "Solvers",
            "Errors over ‖x‖, of what did not fail.",
            pd.DataFrame(rows),
            formats=dict.fromkeys(("error, p99", "error, max", "error, median"), "{:.1e}")
            | {"evaluations, mean": "{:.1f}", "µs per group": "{:.3g}"},
            bad={"failures": bool},
        )
    ]
    items += _failures(found.failures)
    if total and not frame["failed"].astype(bool).all():
        items += [
            Plot(
                "profile",
                "Performance profile",
                "Dolan and Moré: the share of groups that a solver solves within a factor of the cheapest.",
                _figure(lambda ax: found.profile(ax=ax), 4.2),
            ),
            Plot(
                "accuracy",
                "Cost against accuracy",
                "Along a curve the tolerance falls. The error axis is absolute: zero is the exact prox.",
                _figure(lambda ax: found.accuracy(ax=ax), 4.2),
            ),
        ]
    return Section("Solvers compared", lead, findings, items)


def _converge(stored: StoredStudy) -> Section:
    found = Convergence.read(stored)
    frame, rates, floors = found.frame, found.rates(), found.floors()
    lead = (
        "How exact must each proximal step be? Each prox is solved until a certificate proves its tolerance; "
        "the measure is dist(0, ∂F) at the iterates, for the loss and the penalty together."
    )
    stopped, unproved = len(found.failures), int((~frame["proved"].astype(bool)).sum())
    ran = len(frame) > 0
    findings = [
        Finding(
            f"{stopped}" if ran or stopped else "–",
            f"of {len(stored.units)} runs stopped before their end.",
            _judged(ran or stopped > 0, stopped == 0),
            "0",
        ),
        Finding(
            f"{unproved}" if ran else "–",
            "steps whose tolerance was not proved.",
            _judged(ran, unproved == 0),
            "0",
        ),
    ]
    exact = rates[rates["schedule"] == "exact"].set_index("solver")["rate"]
    summable = rates[(rates["promised"] == -1.0) & (rates["schedule"] != "exact")].dropna(subset="rate")
    if len(summable):
        slowest = float(summable["rate"].max())
        behind = float((summable["rate"] - summable["solver"].map(exact)).max())
        findings.append(
            Finding(
                f"T^{slowest:.2f}".replace("-", "−"),
                "is the slowest fall of the mean of dist(0, ∂F)² with square-summable tolerances, "
                f"{max(0.0, behind):.2f} behind exact steps at most.",
                _judged(True, slowest <= -0.9 or behind <= 0.05),
                "T^−1",
            )
        )
    items: Items = _failures(found.failures)
    items.append(
        Table(
            "rates",
            "Rates",
            "Exponents of the mean of dist(0, ∂F)² over the iterates so far, with 95 % intervals over seeds. "
            "The theorem promises −1 to square-summable tolerances, for full gradients, where each step is "
            "within its tolerance and decreases the prox's objective. Steps of which either is not proved "
            "are counted; not proved is not violated.",
            rates,
            formats=dict.fromkeys(("rate", "low", "high", "promised", "last"), "{:.3f}"),
            bad={"tolerance unproved": bool},
        )
    )
    if len(floors):
        items.append(
            Table(
                "floors",
                "Floors of constant tolerances",
                "Median of dist(0, ∂F)² over the last tenth of the run, against ε².",
                floors,
                formats=dict.fromkeys(("eps", "floor", "low", "high", "floor / eps²", "exact"), "{:.2e}"),
            )
        )
    if ran:
        for x in ("iterations", "evaluations", "seconds"):
            if x == "evaluations" and not np.isfinite(frame["evaluations"].astype(float)).any():
                continue
            figure = _figure(lambda ax, x=x: found.plot(x=x, ax=ax), 4.2)
            items.append(
                Plot(
                    x,
                    f"Convergence over {x}",
                    "Mean of dist(0, ∂F)² over the iterates so far; the band is the range over seeds.",
                    figure,
                )
            )
    return Section("Convergence with inexact steps", lead, findings, items)


#: Section of each study that a folder can hold.
SECTIONS: dict[str, Callable[[StoredStudy], Section]] = {
    "validate": _validate,
    "compare": _compare,
    "converge": _converge,
}


def _judged(ran: bool, good: bool) -> Verdict:
    """Verdict of a finding: neutral where nothing was run."""
    return ("good" if good else "bad") if ran else "neutral"


def _failures(failures: pd.DataFrame) -> Items:
    if failures.empty:
        return []
    return [
        Table(
            "failures",
            "Failures",
            "Where, and why.",
            failures[["reason", *(name for name in failures.columns if name != "reason")]],
        )
    ]


def _figure(draw: Callable[..., object], height: float) -> Figure:
    figure = style.new_figure(height)
    draw(figure.subplots())
    return figure
