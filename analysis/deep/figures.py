"""The plots of the studies on networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.deep import readout
from analysis.deep.catalogue import Plan
from analysis.deep.methods import Method
from analysis.deep.probes import CONVEXITY_EDGES
from proxlab.study import StoredStudy, StoredUnit, style

_LINES = {"ours": "-", "published": (0, (5, 1.5)), "shortcut": (0, (1, 1.1))}
_POINTS = {"ours": "o", "published": "s", "shortcut": "^"}
#: Points of accuracy below the dense network that the frontier shows.
_DEPTH = 6.0
#: Sparsity at which methods are compared over time.
_COMPARED = 80.0


def _look(method: Method) -> dict[str, Any]:
    return {
        "color": style.PALETTE[method.colour],
        "linestyle": _LINES[method.kind],
        "label": method.title,
    }


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    found: dict[str, Any] = {}
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncol=4)


def _panels(count: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = style.new_figure(height)
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def plot_frontier(means: pd.DataFrame, plan: Plan) -> Figure:
    """Accuracy against weighted group sparsity."""
    figure, axes = _panels(len(plan.tasks), 4.9)
    shown = [m.name for m in plan.methods if m.compared]
    for ax, task in zip(axes, reversed(plan.tasks), strict=True):
        part = means[(means["task"] == task.name) & means["method"].isin(shown)].dropna(subset=["accuracy"])
        dense = part.loc[part["method"] == "dense", "accuracy"]
        if len(dense):
            level = float(dense.iloc[0])
            ax.axhline(level, color=style.PALETTE[8], linewidth=1.0)
            ax.axhspan(level - plan.points, level, color=style.PALETTE[8], alpha=0.13, linewidth=0)
            ax.set_ylim(level - _DEPTH, max(level + 0.6, part["accuracy"].max() + 0.2))
        for name, rows in part[part["method"] != "dense"].groupby("method", sort=False):
            method = plan.method(str(name))
            ax.errorbar(
                rows["weighted sparsity"],
                rows["accuracy"],
                yerr=rows["accuracy ±"].fillna(0.0),
                marker=_POINTS[method.kind],
                elinewidth=0.8,
                **_look(method),
            )
        ax.axvline(100.0 * readout.SPARSE, color=style.QUIET, linewidth=1.2, zorder=0)
        ax.set(xlim=(-3, 103), xlabel="weighted group sparsity [%]", title=task.title)
    axes[0].set_ylabel("test accuracy [%]")
    _legend(figure, axes)
    return figure


def plot_course(stored: StoredStudy, means: pd.DataFrame, plan: Plan) -> Figure:
    """Sparsity in the course of training, and groups that come back."""
    figure, axes = _panels(2, 4.5)
    for unit in readout.compared(stored, means, plan, plan.tasks[-1].name, _COMPARED):
        a, look = unit.arrays, _look(plan.method(unit.parameters["method"]))
        axes[0].plot(a["epoch"], 100.0 * a["weighted"], **look)
        axes[1].plot(a["epoch"], 100.0 * np.cumsum(a["back"]), **look)
    axes[0].set(title="weighted sparsity [%]", ylim=(-3, 103))
    axes[1].set(title="returns, per 100 groups", yscale="symlog")
    axes[1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlabel("epoch")
    _legend(figure, axes)
    return figure


def plot_patterns(stored: StoredStudy, means: pd.DataFrame, plan: Plan) -> Figure:
    """Which weights are left, layer by layer."""
    task = plan.tasks[-1]
    found = [
        u
        for u in readout.compared(stored, means, plan, task.name, _COMPARED)
        if plan.method(u.parameters["method"]).pictured
    ]
    figure = style.new_figure(0.6 + 1.45 * max(len(found), 1))
    if not found or not task.pictured:
        return figure
    grid = figure.subplots(len(found), len(task.pictured), squeeze=False)
    for row, unit in zip(grid, found, strict=True):
        method = plan.method(unit.parameters["method"])
        for ax, name in zip(row, task.pictured, strict=True):
            norms = unit.arrays[f"pattern-{name}"].astype(np.float64)
            ax.imshow(_picture(norms, style.PALETTE[method.colour]), aspect="auto")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            if row is grid[0]:
                ax.set_title(name.removesuffix(".weight").replace("layers.0.", ""), fontsize=8)
        weighted = 100.0 * unit.values["weighted"]
        title = method.title.replace(", ", ",\n")
        row[0].set_ylabel(f"{title}\n{weighted:.0f} %", fontsize=7.5)
    return figure


def _picture(norms: NDArray[Any], colour: str) -> NDArray[Any]:
    """An image: a zero is clear, anything else at least faint, by its size among its layer's."""
    image = np.zeros((*norms.shape, 4))
    image[..., :3] = to_rgb(colour)
    largest = float(np.quantile(norms[norms > 0], 0.98)) if norms.any() else 1.0
    image[..., 3] = np.where(norms > 0, 0.25 + 0.75 * np.minimum(norms / largest, 1.0), 0.0)
    return image


def plot_times(times: pd.DataFrame) -> Figure:
    """Time of a step: forward and backward, and the optimizer."""
    networks = list(dict.fromkeys(times["network"]))[::-1]
    figure, axes = _panels(max(len(networks), 1), 0.9 + 0.25 * times["key"].nunique(), sharey=False)
    for ax, network in zip(axes, networks, strict=False):
        part = times[times["network"] == network].reset_index(drop=True)
        places = np.arange(len(part))
        model = part["step [ms]"] - part["optimizer [ms]"]
        ax.barh(places, model, color=style.PALETTE[8], alpha=0.6, label="forward and backward")
        ax.barh(places, part["optimizer [ms]"], left=model, color=style.PALETTE[0], label="optimizer")
        for place, (total, ratio) in enumerate(
            zip(part["step [ms]"], part["against the first"], strict=True)
        ):
            ax.text(total, place, f" {ratio:.2f}×", va="center", fontsize=7.5)
        ax.set_yticks(places, part["method"])
        ax.set(xlabel="time of a step [ms]", title=network, xlim=(0, 1.15 * part["step [ms]"].max()))
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    _legend(figure, axes)
    return figure


def plot_certified(units: list[StoredUnit], plan: Plan) -> Figure:
    """Tolerance, proof and error of inexact proxes."""
    figure, axes = _panels(max(len(units), 1), 3.5)
    for ax, unit in zip(axes, units, strict=False):
        frame = readout.certified(unit)
        ax.plot(frame["step"], frame["tolerance"], color=style.INK, linewidth=1.0, label="tolerance")
        bounds: dict[str, Any] = {"marker": "o", "markersize": 6.0, "markerfacecolor": "none"}
        errors: dict[str, Any] = {"marker": ".", "markersize": 4.0}
        for name, label, k, look in (("proved", "proved bound", 0, bounds), ("error", "error", 1, errors)):
            given = frame.dropna(subset=[name])
            colour = style.PALETTE[k]
            ax.plot(given["step"], given[name], linestyle="none", color=colour, label=label, **look)
        ax.set(yscale="log", xlabel="step", title=plan.task(unit.parameters["task"]).title)
    axes[0].set_ylabel("distance from the exact prox")
    _legend(figure, axes)
    return figure


def plot_convexity(unit: StoredUnit) -> Figure:
    """How often the subproblems of the group MCP are not convex, and what ProxSSI's solver answers then."""
    figure, axes = _panels(3, 3.7)
    counts = unit.arrays["convexity"] / max(unit.arrays["convexity"].sum(), 1)
    edges = np.array(CONVEXITY_EDGES)
    colours = np.where(edges[:-1] < 0.0, style.PALETTE[1], style.PALETTE[0])
    axes[0].bar(edges[:-1], 100.0 * counts, np.diff(edges), align="edge", color=colours)
    axes[0].axvline(0.0, color=style.INK, linewidth=0.9)
    axes[0].set(xlabel="log₁₀ (γ d / ηw)", title="elements [%]")
    frame = readout.convexity(unit)
    axes[1].plot(frame["step"], 100.0 * frame["not convex"] / frame["groups"], "o-", color=style.PALETTE[1])
    axes[1].set(xlabel="step", title="groups not convex [%]", ylim=(-3, 103))
    for values, k, label in zip(readout.distances(unit), (0, 1), ("convex", "not convex"), strict=True):
        # the smallest that the logarithmic scale shows; what is not finite stands beyond its end
        given = np.sort(np.clip(np.nan_to_num(values, nan=1e3, posinf=1e3), 1e-9, 1e3))
        if len(given):
            share = 100.0 * (1.0 - np.arange(len(given)) / len(given))
            axes[2].step(given, share, color=style.PALETTE[k], where="post", label=label)
    axes[2].axvline(readout.WRONG, color=style.QUIET, linewidth=1.2, zorder=0)
    axes[2].set_xscale("log")
    axes[2].set_xticks([1e-9, 1e-6, 1e-3, 1.0, 1e3])
    axes[2].set(xlabel="distance of ProxSSI's answer", title="groups at least that far [%]")
    axes[2].legend()
    return figure


def plot_targets(stored: StoredStudy, plan: Plan) -> Figure:
    """Wanted and reached sparsity in the course of training, and the strength that it takes."""
    task = plan.tasks[-1]
    figure, axes = _panels(2, 3.6)
    driven_runs = readout.with_arrays(stored, plan, task.name, "history-lam")
    for k, unit in enumerate(driven_runs):
        target, colour = unit.parameters["strength"], style.PALETTE[k]
        axes[0].axhline(100.0 * target, color=colour, linewidth=0.8, linestyle=(0, (2, 2)))
        axes[0].plot(
            unit.arrays["epoch"], 100.0 * unit.arrays["weighted"], color=colour, label=f"{100 * target:.0f} %"
        )
        steps = unit.arrays["history-step"] * unit.parameters["epochs"] / unit.values["steps"]
        driven = unit.arrays["history-lam"]
        axes[1].plot(steps[driven > 0], driven[driven > 0], color=colour, linewidth=0.8)
    axes[0].set(title="weighted sparsity [%]", xlabel="epoch", ylim=(-3, 103))
    axes[1].set(title="strength λ", xlabel="epoch", yscale="log")
    axes[0].legend(title="target")
    return figure
