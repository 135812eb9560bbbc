"""The plots of the comparison of methods, performance profiles among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis import ensembles
from analysis.methods import COMPILED, FINDERS, ORDER
from proxlab.study import StoredStudy, style
from proxlab.study.profiles import performance_profile, performance_ratios

Array = NDArray[Any]


def _line(name: str) -> dict[str, Any]:
    """Colour and dashes of a method; the second round through the palette is dotted."""
    turn, place = divmod(ORDER[name], len(style.PALETTE))
    if turn < 0:
        return {"color": style.INK, "linestyle": "-", "linewidth": 2.2}
    dashes = (0, (1, 1.4)) if turn else style.DASHES[place]
    return {"color": style.PALETTE[place], "linestyle": dashes, "linewidth": 1.6}


def _marker(name: str) -> str:
    return style.MARKERS[ORDER[name] % len(style.MARKERS)]


def _profile_costs(frame: pd.DataFrame, by: str, dtype: str, solved: float) -> tuple[list[str], Array]:
    """Cost of every method on every problem, infinite where it was not solved."""
    part = frame[(frame["dtype"] == dtype) & ~frame["zero"]]
    cost = part[by].astype(float).where(part["error"] <= solved, np.inf)
    table = part.assign(cost=cost).pivot(index="method", columns=["ensemble", "group"], values="cost")
    return list(table.index), table.to_numpy(dtype=np.float64)


def plot_profiles(frame: pd.DataFrame, solved: Mapping[str, float]) -> Figure:
    """Performance profiles by evaluations and by time for each dtype, own methods left, others' right;
    `solved` is the largest error that counts.
    """
    measures = (("evaluations", "evaluations", 50.0), ("seconds", "time", 1e4))
    rows = [(dtype, *measure) for dtype in solved for measure in measures]
    figure = style.new_figure(2.5 * len(rows))
    axes = figure.subplots(len(rows), 2, sharey=True)
    for row, (dtype, by, label, end) in enumerate(rows):
        names, cost = _profile_costs(frame, by, dtype, solved[dtype])
        if by == "evaluations":  # interior-point iterations are no such sums; compiled counts are the same
            kept = [k for k, name in enumerate(names) if "CVXPY" not in name and "compiled" not in name]
            names, cost = [names[k] for k in kept], cost[kept]
        factors = np.geomspace(1, end, 300)
        shares = dict(zip(names, performance_profile(performance_ratios(cost), factors), strict=True))
        for column, whose in enumerate(("proxlab", "others")):
            ax = axes[row][column]
            for name in sorted(shares, key=ORDER.__getitem__):
                if (name in FINDERS or name == COMPILED) == (column == 0):
                    ax.step(factors, shares[name], where="post", label=name, **_line(name))
            ax.set(xscale="log", xlim=(1, end), ylim=(-0.02, 1.03), title=f"{whose}: {dtype}, {label}")
            if row == len(rows) - 1:
                ax.set_xlabel("factor of the best method")
        axes[row][0].set_ylabel("share of groups solved")
    # Places are known once the figure is laid out; labels take room at the right.
    figure.draw_without_rendering()
    for ax in axes.ravel():
        style.label_ends(ax)
    return figure


def plot_sweeps(stored: StoredStudy, frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Error against evaluations, along the tolerance or the cap on iterations."""
    figure = style.new_figure(4.3)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for method, curve in stored.unit(f"sweep-{name}").values["curves"].items():
            error = np.maximum(curve["error"], 1e-17)
            ax.plot(
                curve["evaluations"],
                error,
                marker=_marker(method),
                markersize=3.2,
                label=method,
                **_line(method),
            )
        part = frame[(frame["ensemble"] == name) & (frame["dtype"] == "float64") & ~frame["zero"]]
        for method in ("SciPy brentq, loop", "SciPy find_root"):
            chosen = part[part["method"] == method]
            ax.plot(
                chosen["evaluations"].mean(),
                max(chosen["error"].quantile(0.9, "higher"), 1e-17),
                _marker(method),
                color=_line(method)["color"],
                markersize=8,
                markerfacecolor="none",
                markeredgewidth=1.6,
                label=f"{method} (default)",
            )
        ax.set(xscale="log", yscale="log", ylim=(3e-18, 10), title=ensembles.title(name))
        ax.set_xlabel("evaluations per group, mean")
    axes[0].set_ylabel("relative error, 90th percentile")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
    return figure


def plot_iterations(frame: pd.DataFrame) -> Figure:
    """Distribution of iterations, captured above and adversarial below the line, one panel a method."""
    shown = [*FINDERS, "ProxSSI"]
    figure = style.new_figure(4.6)
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    edge = 60
    bins = np.arange(-0.5, edge + 1.5)
    for ax, name in zip(axes.ravel(), shown, strict=True):
        part = frame[(frame["method"] == name) & ~frame["zero"] & (frame["dtype"] == "float64")]
        for captured, sign, colour in ((True, 1, style.PALETTE[0]), (False, -1, style.PALETTE[1])):
            counts = np.minimum(part["iterations"][part["captured"] == captured], edge)
            share = np.histogram(counts, bins)[0] / max(len(counts), 1)
            ax.bar(np.arange(edge + 1), sign * share, width=1.0, color=colour)
            ax.plot(np.mean(counts), sign * 0.92, "v" if sign > 0 else "^", color=colour, markersize=5)
        ax.axhline(0, color=style.INK, linewidth=0.7)
        ax.set(title=name, ylim=(-1, 1), xlim=(-1, edge + 1), yticks=(-1, -0.5, 0, 0.5, 1))
        ax.set_yticklabels(("1", "0.5", "0", "0.5", "1"))
    for ax in axes[:, 0]:
        ax.set_ylabel("share of groups")
    for ax in axes[1]:
        ax.set_xlabel("iterations")
    figure.legend(
        [Patch(color=style.PALETTE[0]), Patch(color=style.PALETTE[1])],
        ["captured (upwards)", "adversarial (downwards)"],
        loc="outside lower center",
        ncol=2,
    )
    return figure
