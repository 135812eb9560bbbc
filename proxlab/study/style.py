"""The look of every plot: one palette, one size of type, figures that follow the page from light to dark.

Figures are drawn with stand-in colours. `inline` replaces each stand-in by a variable of the page's style
sheet, so an inline figure takes the colours of the theme in which it is read. Points drawn with
``rasterized=True`` (use it beyond a few thousand) keep the fixed colour, which is legible on both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Colours of series, legible on white and on near-black; ``PALETTE[i]`` follows the theme.
PALETTE = ("#3b6fb6", "#d9722e", "#2f9468", "#b0508c", "#8a6d1d", "#3aa0b5", "#7a5cc0", "#c2474a", "#6f7b86")

#: The same series on the dark page.
DARK_PALETTE = (
    "#7fb0ee",
    "#f0a06a",
    "#6cc795",
    "#e08cc0",
    "#d1b35c",
    "#6fcadb",
    "#b29df0",
    "#f08a8a",
    "#a3afba",
)

#: Text and axes, the quiet lines behind the data, and the page itself.
INK, QUIET, PAPER = "#1b2733", "#d5dbe1", "#fdfdfc"

#: Line styles and markers in the order of the palette, so that series differ in more than colour.
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (1, 1)),
    "-",
    (0, (5, 1.5)),
    (0, (2, 1.2)),
    "-",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_VARIABLES = {INK: "--ink", QUIET: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(PALETTE)
}

STYLE: Any = {
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": QUIET,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "proxlab",
}

#: Width in inches of a figure that fills the column of the page.
WIDTH = 8.6


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(height: float = 3.6, width: float = WIDTH) -> Figure:
    """An empty figure of the report's width; it belongs to no window and needs no closing."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure) -> str:
    """A figure as SVG, the same for the same figure."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(svg: str, prefix: str) -> str:
    """SVG as an element of a page, in the colours of the page's theme.

    Parameters
    ----------
    svg : str
        From `to_svg`.
    prefix : str
        Makes the element's identifiers unique within the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    # The page sets the size; the view box keeps the proportions.
    return re.sub(
        r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg)
    )


def label_ends(ax: Axes, *, size: float = 7.5) -> None:
    """Write the label of each line at its right end, in its colour, apart from the others.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Of its final limits and scales. Lines without a label are left alone.
    size : float
        Of the type, in points.
    """
    left, right = ax.get_xlim()
    ends = []
    for line in ax.get_lines():
        x, y = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
        inside = np.flatnonzero((x >= left) & (x <= right) & np.isfinite(y))
        if not str(line.get_label()).startswith("_") and inside.size:
            point = ax.transData.transform((x[inside[-1]], y[inside[-1]]))
            ends.append((float(ax.transAxes.inverted().transform(point)[1]), line))
    # Labels as near to their ends as they can stand without touching.
    height = 1.25 * size * (ax.figure.dpi / 72) / ax.get_window_extent().height
    ends.sort(key=lambda end: end[0])
    places = np.clip([end[0] for end in ends], 0.0, 1.0)
    for _ in range(200):
        gaps = np.diff(places)
        tight = gaps < height
        if not tight.any():
            break
        push = np.where(tight, (height - gaps) / 2, 0.0)
        places[:-1] -= push
        places[1:] += push
    # None above the axes: those below make way.
    top = 1.0
    for k in reversed(range(len(ends))):
        places[k] = min(places[k], top)
        top = places[k] - height
    for place, (_, line) in zip(places, ends, strict=True):
        ax.annotate(
            str(line.get_label()),
            (1.0, place),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=line.get_color(),
            fontsize=size,
            va="center",
            annotation_clip=False,
        )
