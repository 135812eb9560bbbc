"""The report: one self-contained page made of what the studies stored, never of anything computed anew.

A study offers ``section(results) -> Section``, which reads its stored units and returns findings, plots and
tables. `build` writes the page and every table as a CSV file beside it.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis import plotting
from analysis.results import MissingResultsError, ResultsDir, write_atomically

#: Studies in the order of the page, with the module that runs and reports each.
STUDIES: dict[str, str] = {
    "problems": "analysis.problems",
    "bounds": "analysis.bounds",
    "solvers": "analysis.solvers",
    "convergence": "analysis.convergence",
    "speed": "analysis.speed",
}
#: Those that train networks: they need PyTorch, and `all` leaves them out.
DEEP_STUDIES: dict[str, str] = {
    "vision": "analysis.vision",
    "language": "analysis.language",
}


@dataclass(frozen=True)
class Finding:
    """One headline: a figure worked out from the results, and the sentence around it.

    Parameters
    ----------
    figure : str
        Short, set large: ``"0"``, ``"3.1×"``, ``"62 %"``.
    text : str
        What it is, in one sentence.
    verdict : {"good", "bad", "neutral"}
        Whether it is as hoped; decided by the data.
    """

    figure: str
    text: str
    verdict: Literal["good", "bad", "neutral"] = "neutral"


@dataclass(frozen=True)
class Plot:
    """A plot and the caption that says what it shows; the command that made it is added to the caption.

    Parameters
    ----------
    name : str
        Unique within the section; letters, digits and hyphens.
    title : str
        What is plotted.
    caption : str
        How to read it and what it shows.
    figure : matplotlib.figure.Figure
        Drawn within `plotting.style`.
    """

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Table:
    """A table, on the page and as CSV.

    Parameters
    ----------
    name : str
        Unique within the section; names the file.
    title : str
        What is tabulated.
    caption : str
        How to read it.
    frame : pandas.DataFrame
        Unrounded: the CSV holds it as it is. The index is not shown.
    formats : mapping of str to str, optional
        Format of a column on the page, such as ``"{:.2e}"``.
    bad : mapping of str to callable, optional
        By column, whether a value is to be marked as bad.
    max_rows : int, default 40
        Rows on the page; the CSV has all.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    formats: Mapping[str, str] | None = None
    bad: Mapping[str, Any] | None = None
    max_rows: int = 40


@dataclass(frozen=True)
class Text:
    """Paragraphs between plots and tables (HTML, separated by blank lines) under an optional heading."""

    body: str
    title: str = ""


@dataclass(frozen=True)
class Section:
    """What a study reports.

    Parameters
    ----------
    title : str
        Heading.
    lead : str
        One paragraph (HTML): the question, how it is answered, and the answer.
    findings : list of Finding
        Up to four headlines; they also open the page.
    items : list of Plot, Table or Text
        In the order of reading.
    """

    title: str
    lead: str
    findings: list[Finding]
    items: list[Plot | Table | Text]


def _cell(value: object, pattern: str | None) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if pattern is not None:
        return pattern.format(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _render_table(study: str, table: Table, results: ResultsDir) -> dict[str, Any]:
    csv = table.frame.to_csv(index=False, lineterminator="\n")
    file = f"tables/{study}-{table.name}.csv"
    write_atomically(results.path / file, csv)
    formats, bad = table.formats or {}, table.bad or {}
    shown = table.frame.head(table.max_rows)
    columns = [str(column) for column in shown.columns]
    numeric = {column: pd.api.types.is_numeric_dtype(shown[column]) for column in shown.columns}
    rows = [
        [
            {
                "text": _cell(value, formats.get(column)),
                "number": numeric[column],
                "bad": column in bad and bool(bad[column](value)),
            }
            for column, value in zip(shown.columns, row, strict=True)
        ]
        for row in shown.astype(object).itertuples(index=False)
    ]
    return {
        "kind": "table",
        "title": table.title,
        "anchor": f"{study}-{table.name}",
        "table": table,
        "columns": [(column, numeric[key]) for column, key in zip(columns, shown.columns, strict=True)],
        "rows": rows,
        "hidden": len(table.frame) - len(shown),
        "file": file,
        "data": "data:text/csv;base64," + base64.b64encode(csv.encode()).decode(),
    }


def _render_item(study: str, item: Plot | Table | Text, results: ResultsDir) -> dict[str, Any]:
    if isinstance(item, Table):
        return _render_table(study, item, results)
    if isinstance(item, Plot):
        anchor = f"{study}-{item.name}"
        svg = Markup(plotting.to_svg(item.figure, anchor))
        return {"kind": "plot", "title": item.title, "anchor": anchor, "plot": item, "svg": svg}
    paragraphs = [Markup(part.strip()) for part in item.body.split("\n\n") if part.strip()]
    anchor = f"{study}-" + "-".join(item.title.lower().split())
    return {"kind": "text", "title": item.title, "anchor": anchor, "paragraphs": paragraphs}


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def build(results: ResultsDir, studies: Mapping[str, str] | None = None) -> Path:
    """Write ``index.html`` and ``tables/*.csv`` from the stored studies.

    Parameters
    ----------
    results : ResultsDir
    studies : mapping of str to str, optional
        Modules by study; by default all of `STUDIES` and `DEEP_STUDIES`. Studies without results
        are listed as not run.

    Returns
    -------
    path : pathlib.Path
        The page.

    Raises
    ------
    MissingResultsError
        If no study has been run.
    """
    sections, missing = [], []
    for name, module in (STUDIES | DEEP_STUDIES if studies is None else studies).items():
        try:
            stored = results.read(name)
        except MissingResultsError:
            missing.append(name)
            continue
        with plotting.style():
            section: Section = importlib.import_module(module).section(results)
            items = [_render_item(name, item, results) for item in section.items]
        sections.append(
            {
                "name": name,
                "section": section,
                "lead": Markup(section.lead),
                "content": items,
                "stored": stored,
                "seconds": _duration(stored.seconds),
            }
        )
    if not sections:
        raise MissingResultsError(f"{results.path} holds no results: run python -m analysis all")
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = page.get_template("report.html.j2").render(
        sections=sections,
        missing=missing,
        palette=plotting.PALETTE,
        dark_palette=plotting.DARK_PALETTE,
        colours={"ink": plotting.INK, "quiet": plotting.QUIET, "paper": plotting.PAPER},
    )
    path = results.path / "index.html"
    write_atomically(path, html)
    return path
