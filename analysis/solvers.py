"""The comparison of root finders with each other and with what people use today for the weighted group lasso.

Methods solve the same groups; accuracy is measured against `proxlab.study.truth`. Cost is counted in
evaluations of a sum over the group, which no machine changes, and in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import proxlab as pl
from analysis import baselines, ensembles, methods, solvers_plots
from analysis.ensembles import Ensemble
from analysis.methods import COMPILED, FINDERS, ORDER, PUBLISHED, SCIPY, Method, proxssi, ramda, solve_with
from analysis.results import Profile, ResultsDir, Say
from proxlab import study
from proxlab.study import Result, StoredStudy, Unit
from proxlab.study.page import Finding, Plot, Section, Table, Text

Array = NDArray[Any]

NAME = "solvers"

DTYPES = ("float32", "float64")
#: A group counts as failed where the relative error exceeds this, or the result is no number.
FAILURE = 1e-3
#: A group counts as solved in the performance profiles up to this relative error.
SOLVED = {"float32": 1e-4, "float64": 1e-6}
#: Ensembles left out: without a nonzero prox, or with radii that float64 does not resolve.
LEFT_OUT = ("below", "touching")
#: What stops the methods of the plot of cost against accuracy.
TOLERANCES = tuple(10.0**-k for k in range(1, 15))
CAPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 100)

#: Ensembles of the plot of cost against accuracy, and of the table on group MCP.
SWEPT = ("captured-units", "spread")
MCP_ENSEMBLES = ("captured-pixels", "captured-units", "captured-inputs", "adam", "spread")
#: A group MCP counts as wrong this far above the global minimum, over the size of the problem.
WRONG_GAP = 1e-6


def _finite_errors(exact: study.Truth, z: Array) -> tuple[study.Errors, Array]:
    """True errors, and which rows have some: those of numbers."""
    finite: Array = np.asarray(np.isfinite(z).all(axis=1))
    return exact.errors(np.where(finite[:, None], z, 0.0)), finite


def relative_errors(exact: study.Truth, z: Array) -> Array:
    """Distance to the exact prox over its length; over ``‖x‖`` where the prox is zero, and infinite for
    NaN.
    """
    errors, finite = _finite_errors(exact, z)
    radius = exact.radius.astype(float)
    scale = np.where(radius > 0, radius, exact.problem.scales()["distance"])
    return np.where(finite, errors.distance / np.where(scale > 0, scale, 1.0), np.inf)


def _seconds(method: Method, ensemble: Ensemble) -> float:
    """Time of a call: the median of five, or one where it is slow."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 0.3:
        started = time.perf_counter()
        method(ensemble)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def compare(ensemble: str, dtype: str, n_groups: int, n_timed: int, seed: int) -> Result:
    """Every method on one ensemble: errors and counts by group, and the time of a larger ensemble alike."""
    problem = ensembles.make(ensemble, n_groups, dtype, seed)
    exact = ensembles.truth(problem, pl.GroupLasso(problem.lam))
    timed = ensembles.make(ensemble, n_timed, dtype, seed)
    found: dict[str, list[Array]] = {"error": [], "iterations": [], "evaluations": [], "converged": []}
    seconds = []
    for name, method in methods.available(dtype).items():
        outcome = method(problem)  # also compiles
        found["error"].append(relative_errors(exact, outcome.z))
        found["iterations"].append(np.asarray(outcome.iterations))
        found["evaluations"].append(np.asarray(outcome.evaluations))
        found["converged"].append(np.asarray(outcome.converged))
        slow = name.startswith("CVXPY")
        seconds.append(_seconds(method, problem if slow else timed) / len(problem.x if slow else timed.x))
    arrays = {key: np.stack(rows) for key, rows in found.items()}
    arrays["zero"] = exact.radius.astype(float) == 0
    values = {"methods": list(methods.available(dtype)), "seconds": seconds, "size": problem.x.shape[1]}
    return Result(values, arrays)


def sweep(ensemble: str, dtype: str, n_groups: int, seed: int) -> Result:
    """Errors and evaluations of the methods that can be stopped earlier, along what stops them."""
    problem = ensembles.make(ensemble, n_groups, dtype, seed)
    exact = ensembles.truth(problem, pl.GroupLasso(problem.lam))
    stopped: dict[str, list[Method]] = {
        name: [solve_with(finder(rtol=tolerance)) for tolerance in TOLERANCES]
        for name, finder in FINDERS.items()
    }
    stopped["ProxSSI"] = [proxssi(cap) for cap in CAPS]
    stopped["RAMDA inner solver"] = [ramda(cap) for cap in CAPS]
    nonzero = exact.radius.astype(float) != 0
    curves = {}
    for name, sequence in stopped.items():
        outcomes = [method(problem) for method in sequence]
        errors = [relative_errors(exact, outcome.z)[nonzero] for outcome in outcomes]
        curves[name] = {
            "evaluations": [float(np.mean(outcome.evaluations[nonzero])) for outcome in outcomes],
            "error": [float(np.quantile(e, 0.9, method="higher")) for e in errors],
        }
    return Result({"curves": curves})


def compare_mcp(ensemble: str, n_groups: int, seed: int) -> Result:
    """Group MCP in float32: how far proxlab and ProxSSI are above the global minimum."""
    problem = ensembles.make(ensemble, n_groups, "float32", seed)
    penalty = ensembles.PENALTIES["GroupMCP"](problem)
    exact = ensembles.truth(problem, penalty)
    ours = pl.prox(penalty, problem.x, problem.step, metric=problem.metric)
    assert isinstance(penalty, pl.GroupMCP)
    theirs = (
        baselines.proxssi_group_mcp(
            problem.x.T[None], problem.metric.T[None], problem.step, penalty.lam, penalty.gamma
        )
        .z[0]
        .T
    )
    scale = exact.problem.scales()["gap"]
    gaps = {}
    for name, z in (("proxlab", ours), ("ProxSSI", theirs)):
        errors, finite = _finite_errors(exact, z)
        gaps[name] = np.where(finite, errors.gap / np.where(scale > 0, scale, 1.0), np.inf)
    return Result({}, gaps)


def units(profile: Profile) -> dict[str, tuple[Callable[..., Result], dict[str, Any]]]:
    """Function and parameters of every unit."""
    n_groups, n_timed = profile.pick(60, 400), profile.pick(1000, 10_000)
    found: dict[str, tuple[Callable[..., Result], dict[str, Any]]] = {}
    for name in ensembles.names():
        small = 8 if name == "wide" else 1
        common = {"ensemble": name, "seed": profile.seed, "n_groups": n_groups // small}
        if name not in LEFT_OUT:
            for dtype in DTYPES:
                parameters = common | {"dtype": dtype, "n_timed": n_timed // small}
                found[f"compare-{name}-{dtype}"] = compare, parameters
        if name in MCP_ENSEMBLES:
            found[f"mcp-{name}"] = compare_mcp, common
    for name in SWEPT:
        common = {"ensemble": name, "seed": profile.seed, "n_groups": n_groups}
        found[f"sweep-{name}"] = sweep, common | {"dtype": "float64"}
    return found


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Compute the study."""
    chosen = [Unit(name, function, given) for name, (function, given) in units(profile).items()]
    results.run(NAME, profile, chosen, timed=True)


# ---------------------------------------------------------------------------------------------- the report


def read(stored: StoredStudy) -> pd.DataFrame:
    """Every method on every group as a row."""
    frames = []
    for unit in stored.units:
        if not unit.name.startswith("compare-"):
            continue
        n_methods, n_groups = unit.arrays["error"].shape
        columns: dict[str, Any] = {key: a.ravel() for key, a in unit.arrays.items() if a.ndim == 2}
        columns["zero"] = np.tile(unit.arrays["zero"], n_methods)
        columns["group"] = np.tile(np.arange(n_groups), n_methods)
        columns["method"] = np.repeat(unit.values["methods"], n_groups)
        columns["seconds"] = np.repeat(unit.values["seconds"], n_groups)
        labels = {key: unit.parameters[key] for key in ("ensemble", "dtype")}
        frames.append(pd.DataFrame(columns).assign(size=unit.values["size"], **labels))
    frame = pd.concat(frames, ignore_index=True)
    frame["failed"] = ~(frame["error"] <= FAILURE)
    frame["captured"] = frame["ensemble"].str.startswith("captured")
    return frame


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of methods: counts, time, accuracy and failures, on captured and on adversarial groups."""
    rows = []
    for (dtype, captured, method), part in frame.groupby(["dtype", "captured", "method"], sort=False):
        active = part[~part["zero"]]
        rows.append(
            {
                "dtype": dtype,
                "groups": "captured" if bool(captured) else "adversarial",
                "method": method,
                "failures": int(part["failed"].sum()),
                "error, p99": active["error"].quantile(0.99, "higher"),
                "error, max": part["error"].max(),
                "not converged": int((~part["converged"].astype(bool)).sum()),
                "error, median": active["error"].median(),
                "evaluations, mean": active["evaluations"].mean(),
                "iterations, mean": active["iterations"].mean(),
                "iterations, max": active["iterations"].max(),
                "µs per group": 1e6 * part["seconds"].mean(),
                "n": len(part),
            }
        )
    table = pd.DataFrame(rows)
    keys = ["dtype", "groups", "method"]
    return table.sort_values(keys, key=lambda c: c.map(ORDER) if c.name == "method" else c, ascending=True)


def _mcp_table(stored: StoredStudy) -> pd.DataFrame:
    """How often, and how far, each implementation of group MCP is above the global minimum."""
    rows = []
    for unit in stored.units:
        if unit.name.startswith("mcp-"):
            for name, gap in unit.arrays.items():
                rows.append(
                    {
                        "ensemble": ensembles.title(unit.parameters["ensemble"]),
                        "implementation": name,
                        "groups": len(gap),
                        "wrong": int((gap > WRONG_GAP).sum()),
                        "largest relative gap": gap.max(),
                    }
                )
    return pd.DataFrame(rows)


def _speedup(frame: pd.DataFrame, method: str, dtype: str) -> float:
    """Median over the captured ensembles of a method's time over Newton's."""
    part = frame[(frame["dtype"] == dtype) & frame["captured"]]
    seconds = part.groupby(["method", "ensemble"])["seconds"].first()
    return float((seconds[method] / seconds[COMPILED]).median())


def section(results: ResultsDir) -> Section:
    """What the study found."""
    stored = results.read(NAME)
    frame = read(stored)
    newton = frame[(frame["method"] == COMPILED) & ~frame["zero"]]
    published = frame[frame["method"] == "ProxSSI"]
    failed, all_failed = int(newton["failed"].sum()), 100 * float(published["failed"].mean())
    loop, batch = (_speedup(frame, name, "float64") for name in ("SciPy brentq, loop", "SciPy find_root"))
    mean = newton["evaluations"].mean()
    lead = (
        f"Every root finder and {len(PUBLISHED) + len(SCIPY)} other ways to compute the weighted prox of "
        "the group lasso solve the same groups, captured in training and adversarial. Newton on the "
        f"reciprocal form takes {mean:.1f} evaluations on average, {int(newton['evaluations'].max())} at "
        f"most, and fails on {failed} of {len(newton):,} groups; ProxSSI's solver is off by more than "
        f"{FAILURE:g} on {all_failed:.0f} % of the groups. A failure is a relative error above "
        f"{FAILURE:g}, or no number."
    )
    findings = [
        Finding(f"{mean:.1f}", "evaluations a group for Newton on average, start included.", "neutral"),
        Finding(
            f"{loop:,.0f}×",
            "the time of Newton is what a loop of SciPy's brentq takes on captured tensors.",
            "good" if loop > 1 else "bad",
            "> 1×",
        ),
        Finding(
            f"{batch:,.0f}×",
            "is what SciPy's vectorised find_root takes.",
            "good" if batch > 1 else "bad",
            "> 1×",
        ),
        Finding(
            f"{failed}",
            f"failures of Newton on {len(newton):,} groups; ProxSSI fails on {all_failed:.0f} %.",
            "good" if failed == 0 else "bad",
            "0",
        ),
    ]
    thresholds = ", ".join(f"{value:g} in {dtype}" for dtype, value in SOLVED.items())
    items: list[Plot | Table | Text] = [
        Table(
            "summary",
            "Methods",
            "Counts are over groups with a nonzero prox. Relative errors are of the length of the exact "
            "prox. The time is that of a call on many groups, divided by their number; all methods but the "
            "compiled Newton are NumPy, and SciPy and CVXPY run at their default tolerances. A failure is a "
            f"relative error above {FAILURE:g}, or no number.",
            summarise(frame).drop(columns="n"),
            formats={
                "iterations, mean": "{:.1f}",
                "iterations, max": "{:.0f}",
                "evaluations, mean": "{:.1f}",
                "µs per group": "{:.3g}",
                "error, median": "{:.1e}",
                "error, p99": "{:.1e}",
                "error, max": "{:.1e}",
            },
            bad={"failures": lambda v: v > 0},
            max_rows=60,
        ),
        Plot(
            "profiles",
            "Performance profiles",
            "Dolan and Moré: the share of groups that a method solves within a factor of the cheapest "
            "method on that group; where a curve ends is its reliability. Solved means a relative error "
            f"up to {thresholds}. Left proxlab's root finders, right what others use; the cheapest is that "
            "of both. CVXPY is not counted in evaluations.",
            solvers_plots.plot_profiles(frame, SOLVED),
        ),
        Plot(
            "accuracy",
            "Cost against accuracy",
            "Along each curve the relative tolerance of the radius falls from 0.1 to 1e−14; for ProxSSI "
            "and RAMDA the cap on iterations rises to their default of 100. Errors below 1e−17 are drawn "
            "there.",
            solvers_plots.plot_sweeps(stored, frame, SWEPT),
        ),
        Plot(
            "iterations",
            "Iterations",
            "Distribution over groups with a nonzero prox in float64, at default tolerances; triangles "
            "are means, counts from 60 on are drawn at 60. ProxSSI runs all groups until the last one "
            "stops.",
            solvers_plots.plot_iterations(frame),
        ),
        Table(
            "mcp",
            "Group MCP: the global minimum",
            f"Groups whose objective exceeds the global minimum by more than {WRONG_GAP:g} of ‖x‖²_D/2η, "
            "in float32. ProxSSI takes the subproblem to be convex, and returns x wherever ‖x‖ > γλ.",
            _mcp_table(stored),
            formats={"largest relative gap": "{:.1e}"},
            bad={"wrong": lambda v: v > 0},
        ),
    ]
    return Section("Root finders, and what people use today", lead, findings, items)
