"""Stored training runs as tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.deep.catalogue import Plan
from analysis.deep.methods import Method
from proxlab.study import StoredStudy, StoredUnit

#: Weighted sparsity from which on a network counts as sparse.
SPARSE = 0.7
_MEANS = (
    "accuracy",
    "sparsity",
    "weighted sparsity",
    "parameters after",
    "parameters ×",
    "FLOPs ×",
    "latency ×",
    "difference",
    "s per epoch",
)


def trained(stored: StoredStudy, plan: Plan, of: tuple[Method, ...] | None = None) -> list[StoredUnit]:
    """The training runs of a study with its methods, or with others; what it no longer knows is left out."""
    tasks = {task.name for task in plan.tasks}
    names = {method.name for method in (plan.methods if of is None else of)}
    return [
        unit
        for unit in stored.units
        if unit.parameters.get("task") in tasks and unit.parameters.get("method") in names
    ]


def runs(stored: StoredStudy, plan: Plan, of: tuple[Method, ...] | None = None) -> pd.DataFrame:
    """A row for each training run, in percent and before over after."""
    rows: list[dict[str, Any]] = []
    for unit in trained(stored, plan, of):
        v = unit.values
        row = {name: unit.parameters[name] for name in ("task", "method", "strength", "seed")}
        row["failed"] = v.get("failed")
        if row["failed"] is None:
            row |= {
                "accuracy": 100.0 * v["accuracy"],
                "sparsity": 100.0 * v["plain"],
                "weighted sparsity": 100.0 * v["weighted"],
                "s per epoch": float(unit.arrays["seconds"].mean()),
            }
        # of several seeds perhaps the first alone
        if "compact" in v:
            before, after = v["compact"]["parameters"]
            row |= {
                "parameters": before,
                "parameters after": after,
                "parameters ×": before / after,
                "FLOPs ×": _ratio(v["compact"]["flops"]),
                "latency ×": _ratio(v["compact"]["latency"]),
                "difference": v["compact"]["difference"],
            }
        rows.append(row)
    columns = ["task", "method", "strength", "seed", "failed", "parameters", *_MEANS]
    return pd.DataFrame(rows).reindex(columns=columns)


def _ratio(pair: list[float]) -> float:
    return pair[0] / pair[1] if pair[1] else float("nan")


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds of the runs that did not fail, and the spread of the accuracy."""
    by = frame.groupby(["task", "method", "strength"], sort=False)
    found = by[list(_MEANS)].mean()
    found["accuracy ±"] = by["accuracy"].std()
    found["weighted sparsity ±"] = by["weighted sparsity"].std()
    found["failed"] = by["failed"].count()
    found["runs"] = by.size()
    found = found.reset_index()
    dense = found[found["method"] == "dense"].set_index("task")["accuracy"]
    found["against dense"] = found["accuracy"] - found["task"].map(dense)
    return found


def ours(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Runs of the weighted prox in Adam that stand among the others."""
    chosen = [m.name for m in plan.methods if m.kind == "ours" and m.compared]
    return frame[frame["method"].isin(chosen)]


def best(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """For each method the most accurate strength that is sparse, or the sparsest where none is."""
    rows = []
    given = frame[frame["task"] == task].dropna(subset=["accuracy"])
    for method, part in given.groupby("method", sort=False):
        if method == "dense":
            continue
        sparse = part[part["weighted sparsity"] >= 100.0 * SPARSE]
        rows.append(_first(sparse, "accuracy") if len(sparse) else _first(part, "weighted sparsity"))
    return pd.concat(rows) if rows else frame.head(0)


def _first(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The row with the largest entry in a column."""
    return frame.sort_values(column, ascending=False, kind="stable").head(1)


def compared(
    stored: StoredStudy, means: pd.DataFrame, plan: Plan, task: str, weighted: float
) -> list[StoredUnit]:
    """Of each sparse method the first draw with the strength whose sparsity is nearest to `weighted`."""
    chosen = [m.name for m in plan.methods if m.compared and m.name != "dense"]
    part = means[(means["task"] == task) & means["method"].isin(chosen)].dropna(subset=["accuracy"])
    part = part.assign(distance=-(part["weighted sparsity"] - weighted).abs())
    nearest = {
        str(method): float(_first(rows, "distance")["strength"].iloc[0])
        for method, rows in part.groupby("method", sort=False)
    }
    # of several draws the first may have failed
    found = with_arrays(stored, plan, task, "epoch")
    return [u for u in found if nearest.get(u.parameters["method"]) == u.parameters["strength"]]


def with_arrays(stored: StoredStudy, plan: Plan, task: str, array: str) -> list[StoredUnit]:
    """Runs that hold an array, of each method and strength that with the first seed."""
    first: dict[tuple[str, float], StoredUnit] = {}
    for unit in trained(stored, plan):
        p = unit.parameters
        key = p["method"], p["strength"]
        if p["task"] != task or array not in unit.arrays:
            continue
        if key not in first or p["seed"] < first[key].parameters["seed"]:
            first[key] = unit
    return list(first.values())


def targets(stored: StoredStudy, means: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Wanted and reached sparsity, what it costs, and how many layers it leaves nothing of."""
    dense = means[means["method"] == "dense"].set_index("task")["accuracy"]
    rows = []
    for unit in trained(stored, plan):
        if unit.parameters["method"] != "target" or "failed" in unit.values:
            continue
        task, layers = unit.parameters["task"], unit.values["layers"]
        accuracy, target = 100.0 * unit.values["accuracy"], 100.0 * unit.parameters["strength"]
        sizes = [layer["size"] for layer in layers]
        weights = sum(layer["size"] * layer["groups"] for layer in layers)
        rows.append(
            {
                "network": plan.task(task).title,
                "seed": unit.parameters["seed"],
                "target": target,
                "reached": 100.0 * unit.values["weighted"],
                "gap": 100.0 * unit.values["weighted"] - target,
                "largest group": 100.0 * max(sizes) / weights,
                "accuracy": accuracy,
                "against dense": accuracy - dense.get(task, float("nan")),
                "layers": len(layers),
                "empty layers": sum(layer["zero"] == layer["groups"] for layer in layers),
                "one group each": 100.0 * (1.0 - sum(sizes) / weights),
                "last λ": float(unit.arrays["history-lam"][-1]),
            }
        )
    names = ["network", "seed", "target", "reached", "gap", "largest group", "accuracy", "against dense"]
    return pd.DataFrame(rows, columns=[*names, "layers", "empty layers", "one group each", "last λ"])


def times(stored: StoredStudy, plan: Plan, of: tuple[Method, ...] | None = None) -> pd.DataFrame:
    """Median time of a step of each method, and of an epoch against the first of them."""
    titles = {task.name: task.title for task in plan.tasks}
    known = {method.name: method for method in (plan.methods if of is None else of)}
    rows = []
    for unit in stored.units:
        task = unit.parameters.get("task")
        names = unit.values.get("methods", [])
        reference = next(iter(known))
        if "rounds" not in unit.parameters or task not in titles or reference not in names:
            continue
        seconds = unit.arrays["seconds"]
        total = np.median(seconds.sum(axis=2), axis=0)
        step = np.median(seconds[:, :, 1], axis=0)
        ratio = np.median(seconds.sum(axis=2) / seconds.sum(axis=2)[:, [names.index(reference)]], axis=0)
        rows += [
            {
                "network": titles[task],
                "method": known[name].title,
                "key": name,
                "step [ms]": 1e3 * total[k],
                "optimizer [ms]": 1e3 * step[k],
                "epoch [s]": total[k] * unit.values["per_epoch"],
                "against the first": float(ratio[k]),
                "weighted sparsity": 100.0 * unit.values["weighted"][k],
            }
            for k, name in enumerate(names)
            if name in known
        ]
    columns = ["network", "method", "key", "step [ms]", "optimizer [ms]", "epoch [s]", "against the first"]
    return pd.DataFrame(rows, columns=[*columns, "weighted sparsity"]).dropna(ignore_index=True)


def certified(unit: StoredUnit) -> pd.DataFrame:
    """Tolerance, proved bound and error of the certified steps of a run."""
    a = unit.arrays
    proved = pd.DataFrame(
        {
            "step": a["history-step"].astype(int),
            "tolerance": a["history-tolerance"],
            "proved": a["history-distance"],
            "iterations": a["history-iterations"].astype(int),
        }
    )
    found = pd.DataFrame({"step": a["probe-step"].astype(int), "error": a["probe-error"]})
    return proved.merge(found, on="step", how="outer").sort_values("step", ignore_index=True)


def convexity(unit: StoredUnit) -> pd.DataFrame:
    """How many subproblems were not convex in each step that was looked at, and what ProxSSI made of them."""
    names = ("step", "convex", "nonconvex-share", "excess", "distance", "zero", "proxssi-zero")
    groups = pd.DataFrame({name: unit.arrays[f"probe-{name}"] for name in names})
    # what is not finite is no answer
    groups["wrong"] = ~(groups["distance"] <= WRONG)
    rows = []
    for step, part in groups.groupby("step"):
        convex = part["convex"] > 0
        rows.append(
            {
                "step": int(float(str(step))),
                "groups": len(part),
                "not convex": int((~convex).sum()),
                "zero": int((part["zero"] > 0).sum()),
                "ProxSSI off, convex": int(part.loc[convex, "wrong"].sum()),
                "ProxSSI off, not convex": int(part.loc[~convex, "wrong"].sum()),
                "ProxSSI no number": int((~np.isfinite(part["distance"])).sum()),
                "largest distance": float(np.nanmax(part["distance"], initial=0.0)),
            }
        )
    return pd.DataFrame(rows)


#: Relative distance from the minimiser beyond which an answer in single precision is off.
WRONG = 1e-3


def distances(unit: StoredUnit) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distance of ProxSSI's answers, relative to the point, in convex and in nonconvex subproblems."""
    distance, convex = unit.arrays["probe-distance"], unit.arrays["probe-convex"] > 0
    return distance[convex], distance[~convex]
