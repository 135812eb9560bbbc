"""Performance profiles, and how results draw and show themselves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "counted",
    "log_axes",
    "page_table",
    "performance_profile",
    "performance_ratios",
    "text_failures",
    "text_table",
]

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


def counted(n: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def text_table(table: pd.DataFrame) -> str:
    """Return a table as text, without columns that have nothing to say."""
    shown = table.dropna(axis=1, how="all")
    return str(shown.to_string(index=False, na_rep="–", float_format="{:.3g}".format))


def text_failures(failures: pd.DataFrame) -> list[str]:
    """Return lines on failures: a row for each solver and reason; none where there are no failures."""
    if failures.empty:
        return []
    keys = [name for name in ("solver", "bound", "reason") if name in failures and failures[name].any()]
    groups = failures.groupby(keys, sort=False)
    table = groups.agg(problems=("problem", "nunique"), groups=("groups", "sum")).reset_index()
    return [f"{counted(len(failures), 'failure')}:", text_table(table)]


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
