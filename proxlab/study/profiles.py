"""Performance profiles, and how results draw and show themselves."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["counted", "label_ends", "log_axes", "page_table", "performance_profile", "performance_ratios"]

Array = npt.NDArray[Any]


def performance_ratios(cost: Array) -> Array:
    """Return Dolan and Moré's ratios: the cost of a method over the least of any, problem by problem.

    Parameters
    ----------
    cost : ndarray, shape (n_methods, n_problems)
        Positive; infinite where a method failed.

    Returns
    -------
    ndarray, shape (n_methods, n_problems)
        Infinite where the method failed.
    """
    with np.errstate(invalid="ignore"):
        ratios = cost / cost.min(axis=0, initial=np.inf)
    return np.where(np.isfinite(cost), ratios, np.inf)


def performance_profile(ratios: Array, factors: Array) -> Array:
    """Return the share of problems that each method solves within each factor of the best.

    Parameters
    ----------
    ratios : ndarray, shape (n_methods, n_problems)
    factors : ndarray, shape (n_factors,)

    Returns
    -------
    ndarray, shape (n_methods, n_factors)
    """
    if not ratios.shape[1]:
        return np.zeros((ratios.shape[0], len(factors)))
    return np.asarray((ratios[:, :, None] <= factors).mean(axis=1))


def new_axes(ax: Any) -> Any:
    """Return the axes, or those of a new figure."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(layout="constrained")
    return ax


def log_axes(ax: Any) -> Any:
    """Return the axes, or those of a new figure, logarithmic both ways."""
    ax = new_axes(ax)
    ax.set(xscale="log", yscale="log")
    return ax


def label_ends(ax: Any, names: list[str], lines: list[Any]) -> None:
    """Write each line's name at its end, apart from one another."""
    ends = []
    for name, line in zip(names, lines, strict=True):
        y = np.asarray(line.get_ydata(), dtype=float)
        if len(y) and np.isfinite(y[-1]):
            ends.append((float(y[-1]), name, line))
    low, high = ax.get_ylim()
    log = ax.get_yscale() == "log"
    place = 0.0
    for height, name, line in sorted(ends, key=lambda end: end[0]):
        share = math.log(height / low) / math.log(high / low) if log else (height - low) / (high - low)
        place = max(min(max(share, 0.0), 1.0), place + 0.045 if place else 0.0)
        ax.annotate(
            name,
            (1.01, place),
            xycoords="axes fraction",
            color=line.get_color(),
            fontsize="small",
            va="center",
            annotation_clip=False,
        )


def counted(n: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def page_table(first: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return a sentence and tables as HTML; an empty table is a word."""
    parts = [f"<p>{html.escape(first)}</p>"]
    for name, table in tables.items():
        if table.empty:
            parts.append(f"<p>No {name}.</p>")
        else:
            more = f" (20 of {len(table):,})" if len(table) > 20 else ""
            shown = table.head(20).to_html(index=False, float_format="{:.3g}".format)
            parts.append(f"<p>{name.capitalize()}{more}:</p>{shown}")
    return "".join(parts)
