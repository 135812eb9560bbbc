"""The plots of the study of certified bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import ensembles
from proxlab.study import style

DTYPES = ("float32", "float64")
LABELS = {
    "distance": "distance ‖ẑ − z*‖",
    "metric_distance": "metric distance ‖ẑ − z*‖_D",
    "stationarity": "stationarity dist(0, ∂Q(ẑ))",
    "gap": "gap Q(ẑ) − min Q",
}


def plot_scatter(frame: pd.DataFrame) -> Figure:
    """Bound against truth, one panel a bound, both divided by the size of the problem."""
    figure = style.new_figure(6.6)
    floor = 1e-20
    for position, (bound, label) in enumerate(LABELS.items()):
        ax = figure.add_subplot(2, 2, position + 1)
        for k, dtype in reversed(list(enumerate(DTYPES))):
            part = frame[frame["dtype"] == dtype]
            scale = part[f"scale_{bound}"]
            truth, claim = part[f"true_{bound}"] / scale, part[bound] / scale
            shown = (truth > floor) & np.isfinite(claim)
            ax.plot(
                truth[shown],
                claim[shown],
                style.MARKERS[k],
                color=style.PALETTE[k],
                markersize=1.6,
                alpha=0.35,
                markeredgewidth=0,
                rasterized=True,
            )
            ax.plot([], [], style.MARKERS[k], color=style.PALETTE[k], label=dtype)
        ax.plot([floor, 1e3], [floor, 1e3], color=style.INK, linewidth=0.9, label="bound = truth")
        ax.set(xscale="log", yscale="log", xlim=(floor, 1e2), ylim=(floor, 1e2), title=label)
        ax.set(xlabel="true error" if position > 1 else "", ylabel="" if position % 2 else "certified bound")
        if position == 0:
            ax.legend(loc="upper left")
    return figure


def plot_ratios(frame: pd.DataFrame, targets: dict[float, float]) -> Figure:
    """Share of candidates whose bound/truth is above a ratio, where the error is above the rounding."""
    figure = style.new_figure(3.6)
    ax = figure.add_subplot()
    judged = frame[frame["judged"]]
    for k, (bound, label) in enumerate(LABELS.items()):
        ratio = np.sort(judged[f"ratio_{bound}"][judged[f"true_{bound}"] > 0].to_numpy())
        share = 1 - np.arange(len(ratio)) / len(ratio)
        ax.plot(ratio, share, linestyle=style.DASHES[k], color=style.PALETTE[k], label=label)
    ends, shares = list(targets.values()), [1 - level for level in targets]
    ax.plot(
        ends,
        shares,
        "+",
        color=style.INK,
        markersize=11,
        markeredgewidth=1.6,
        label="targets for the distance",
    )
    ax.set(xscale="log", yscale="log", xlim=(0.95, 30), ylim=(1e-5, 1.4))
    ax.set(xlabel="certified bound / true error", ylabel="share of candidates above")
    ax.set_xticks((1, 2, 5, 10, 20), labels=("1", "2", "5", "10", "20"))
    ax.legend(loc="upper right")
    return figure


def plot_by_ensemble(frame: pd.DataFrame, targets: dict[float, float]) -> Figure:
    """Median and 99th percentile of bound/true distance in each ensemble."""
    judged = frame[frame["judged"]]
    names = [name for name in frame["ensemble"].unique() if (judged["ensemble"] == name).any()]
    figure = style.new_figure(0.9 + 0.27 * len(names))
    ax = figure.add_subplot()
    for k, dtype in enumerate(DTYPES):
        for row, name in enumerate(names):
            ratio = judged["ratio_distance"][(judged["ensemble"] == name) & (judged["dtype"] == dtype)]
            if ratio.empty:
                continue
            ends = ratio.median(), ratio.quantile(0.99, "higher")
            height = row + 0.16 * (2 * k - 1)
            ax.plot(ends, [height, height], color=style.PALETTE[k], linewidth=1.2)
            ax.plot(ends[0], height, style.MARKERS[k], color=style.PALETTE[k])
            ax.plot(ends[1], height, "|", color=style.PALETTE[k], markersize=8, markeredgewidth=1.6)
        ax.plot(
            [],
            [],
            style.MARKERS[k] + "-",
            color=style.PALETTE[k],
            label=f"{dtype}: median to 99th percentile",
        )
    for limit in targets.values():
        ax.axvline(limit, color=style.INK, linewidth=0.8, linestyle=(0, (2, 2)))
    ax.set(xscale="log", xlabel="certified / true distance", yticks=range(len(names)))
    ax.set_xlim(left=0.9)
    ax.set_xticks((1, 2, 5, 10), labels=("1", "2", "5", "10"))
    ax.set_yticklabels([ensembles.title(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.3, -0.13), ncol=2)
    return figure
