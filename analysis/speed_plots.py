"""The plots of the measurements of speed."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.speed_targets import TARGETS
from proxlab.study import StoredStudy, style


def _names(frame: pd.DataFrame) -> list[str]:
    """Cases of a row, shape and dtype, in the order measured."""
    return list(dict.fromkeys(frame["case"]))


def plot_multiply(frame: pd.DataFrame) -> Figure:
    """Time of the group lasso over that of a multiply."""
    figure = style.new_figure(3.9)
    axes = figure.subplots(1, 2)
    for ax, row in zip(axes, ("contiguous", "strided"), strict=True):
        part = frame[frame["row"] == row]
        names = _names(part)
        counts = list(dict.fromkeys(part["threads"]))
        for k, count in enumerate(counts):
            chosen = part[part["threads"] == count]
            places = [names.index(case) + 0.16 * (2 * k - len(counts) + 1) for case in chosen["case"]]
            label = f"{count} thread{'s' if count != '1' else ''}"
            ax.plot(chosen["measured"], places, style.MARKERS[k], color=style.PALETTE[k], label=label)
        limit = TARGETS[row].value
        ax.axvline(limit, color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)), label="target")
        ax.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        ax.set_xlim(0, 1.1 * max(limit, part["measured"].max()))
        ax.set_yticklabels([name.replace(f" {row}", "") for name in names])
        ax.grid(axis="y", visible=False)
        ax.set(
            xlabel="time / time of a multiply",
            title=f"groups {'contiguous' if row == 'contiguous' else 'along the other axis'}",
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    return figure


def plot_published(frame: pd.DataFrame) -> Figure:
    """Time of the published solvers over that of prox, on a logarithmic scale."""
    part = frame[frame["row"].str.match("proxssi|ramda$")]
    lines = list(dict.fromkeys(zip(part["row"], part["case"], strict=True)))
    figure = style.new_figure(0.9 + 0.3 * len(lines))
    ax = figure.subplots()
    for k, count in enumerate(dict.fromkeys(part["threads"])):
        chosen = part[part["threads"] == count]
        places = [lines.index(pair) for pair in zip(chosen["row"], chosen["case"], strict=True)]
        label = f"prox on {count} thread{'s' if count != '1' else ''}"
        ax.plot(chosen["measured"], places, style.MARKERS[k], color=style.PALETTE[k], label=label)
    for place, (row, _) in enumerate(lines):
        ax.plot([TARGETS[row].value], [place], "|", color=style.INK, markersize=13, markeredgewidth=1.4)
    ax.plot([], [], "|", color=style.INK, markersize=11, markeredgewidth=1.4, label="target")
    titles = {"ramda": "RAMDA's inner solver", "proxssi8": "ProxSSI, 8 iterations"}
    ax.set(
        xscale="log", xlabel="time / time of prox", yticks=range(len(lines)), ylim=(len(lines) - 0.5, -0.5)
    )
    ax.set_xlim(left=1)
    ax.set_yticklabels(
        [f"{titles.get(row, 'ProxSSI')}, {case.removeprefix('float32 ')}" for row, case in lines]
    )
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncol=3)
    return figure


def plot_flatness(stored: StoredStudy) -> Figure:
    """Time per element against the size of the array."""
    values = stored.unit("flatness").values
    figure = style.new_figure(3.0)
    ax = figure.subplots()
    for k, (name, times) in enumerate(values["ns per element"].items()):
        count = name.removeprefix("prox-")
        label = f"{count} thread{'s' if count != '1' else ''}"
        ax.plot(values["sizes"], times, marker=style.MARKERS[k], color=style.PALETTE[k], label=label)
    ax.set(xscale="log", xlabel="elements", ylabel="ns per element")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left")
    return figure
