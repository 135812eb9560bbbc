"""One self-contained page of findings, figures and tables, which all can be taken from it.

`write_page` writes the page, and beside it every table as CSV and every figure as SVG and PDF.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from proxlab.study import style
from proxlab.study.folder import StoredStudy, write_atomically

#: Whether a finding is as hoped.
Verdict = Literal["good", "bad", "neutral"]
#: Words of a table up to this length are never broken: its columns are wide enough.
_UNBROKEN = 24


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
        Whether it is as hoped; decided by the data, and neutral where nothing was run.
    target : str, default ""
        What is hoped for, shown beside the figure: ``"≥ 2×"``.
    """

    figure: str
    text: str
    verdict: Verdict = "neutral"
    target: str = ""


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
    zeros : str, default ""
        The sentence that takes the place of the rows where all `bad` columns are zero.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    formats: Mapping[str, str] | None = None
    bad: Mapping[str, Any] | None = None
    max_rows: int = 40
    zeros: str = ""

    @property
    def is_zero(self) -> bool:
        """Whether nothing is in the columns of `bad`, and a sentence says so."""
        return bool(self.zeros) and not self.frame[list(self.bad or {})].to_numpy(dtype=float).any()


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


@dataclass(frozen=True)
class Part:
    """A section of the page, and the study that it reads.

    Parameters
    ----------
    name : str
        Anchor on the page and first part of the names of files.
    section : Section
    stored : StoredStudy
    """

    name: str
    section: Section
    stored: StoredStudy


def read_part(name: str, stored: StoredStudy, section: Callable[[], Section]) -> Part:
    """The part of a study: its section, or what is there where an interrupted run is too short for one.

    Parameters
    ----------
    name : str
    stored : StoredStudy
    section : callable
        Makes the section.

    Returns
    -------
    part : Part
    """
    try:
        with style.style():
            return Part(name, section(), stored)
    except Exception as error:
        if stored.complete:
            raise
        # A figure needs units that are not there: which, is a matter of the study.
        reason = f"{type(error).__name__}: {error}"
        return Part(name, _interrupted(stored, reason), stored)


def _interrupted(stored: StoredStudy, reason: str) -> Section:
    total = len(stored.units) + len(stored.missing)
    rows = [{"unit": unit.name, "state": f"computed in {unit.seconds:.1f} s"} for unit in stored.units]
    rows += [{"unit": name, "state": why} for name, why in stored.missing.items()]
    return Section(
        title=stored.study.capitalize(),
        lead=f"{len(stored.units)} of {total} units are here, too few for the figures of this study.",
        findings=[],
        items=[
            Table(
                "units", "What is here", f"The figures stopped at {reason}", pd.DataFrame(rows), max_rows=200
            )
        ],
    )


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


def _breakable(text: str) -> Markup:
    """A text that may also be broken after hyphens and underscores, and within what is no word."""
    places = rf"[_-](?=\S)|[^\s_-]{{{_UNBROKEN}}}(?=[^\s_-])"
    return Markup("<wbr>").join(re.sub(places, "\\g<0>\0", text).split("\0"))


class Cell(NamedTuple):
    """What the page shows in a row and column of a table.

    Attributes
    ----------
    text : str
    number : bool
        Whether the column holds numbers.
    bad : bool
        Whether it is marked.
    """

    text: str
    number: bool
    bad: bool


def cells(table: Table) -> list[list[Cell]]:
    """The rows of a table that the page shows."""
    formats, bad = table.formats or {}, table.bad or {}
    shown = table.frame.head(0 if table.is_zero else table.max_rows)
    numeric = {column: pd.api.types.is_numeric_dtype(shown[column]) for column in shown.columns}
    return [
        [
            Cell(
                _cell(value, formats.get(column)),
                numeric[column],
                column in bad and bool(bad[column](value)),
            )
            for column, value in zip(shown.columns, row, strict=True)
        ]
        for row in shown.astype(object).itertuples(index=False)
    ]


def _render_table(study: str, table: Table, folder: Path) -> dict[str, Any]:
    csv = table.frame.to_csv(index=False, lineterminator="\n")
    file = f"tables/{study}-{table.name}.csv"
    write_atomically(folder / file, csv)
    shown = cells(table)
    rows = [[c if c.number else c._replace(text=_breakable(c.text)) for c in row] for row in shown]
    columns = table.frame.columns
    return {
        "kind": "table",
        "title": table.title,
        "anchor": f"{study}-{table.name}",
        "table": table,
        "columns": [
            (_breakable(str(column)), pd.api.types.is_numeric_dtype(table.frame[column]))
            for column in columns
        ],
        "rows": rows,
        "hidden": 0 if table.is_zero else len(table.frame) - len(shown),
        "downloads": [("CSV", _data(csv.encode(), "text/csv"), file)],
    }


def _render_plot(study: str, plot: Plot, folder: Path) -> dict[str, Any]:
    anchor = f"{study}-{plot.name}"
    svg = style.to_svg(plot.figure)
    buffer = io.BytesIO()
    with style.style():
        plot.figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    downloads = []
    for suffix, kind, content in (
        ("svg", "image/svg+xml", svg.encode()),
        ("pdf", "application/pdf", buffer.getvalue()),
    ):
        file = f"figures/{anchor}.{suffix}"
        write_atomically(folder / file, content)
        downloads.append((suffix.upper(), _data(content, kind), file))
    inline = Markup(style.inline(svg, anchor))
    return {
        "kind": "plot",
        "title": plot.title,
        "anchor": anchor,
        "plot": plot,
        "svg": inline,
        "downloads": downloads,
    }


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _render_item(study: str, item: Plot | Table | Text, folder: Path) -> dict[str, Any]:
    if isinstance(item, Table):
        return _render_table(study, item, folder)
    if isinstance(item, Plot):
        return _render_plot(study, item, folder)
    paragraphs = [Markup(part.strip()) for part in item.body.split("\n\n") if part.strip()]
    anchor = f"{study}-" + "-".join(item.title.lower().split())
    return {"kind": "text", "title": item.title, "anchor": anchor, "paragraphs": paragraphs}


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def write_page(folder: Path, parts: Sequence[Part], *, title: str, lead: str, note: str = "") -> Path:
    """Write ``index.html``, ``tables/*.csv`` and ``figures/*``.

    Parameters
    ----------
    folder : pathlib.Path
    parts : sequence of Part
        In the order of reading.
    title, lead : str
        Heading of the page, and the sentence under it.
    note : str, default ""
        What is missing.

    Returns
    -------
    path : pathlib.Path
        The page.

    Raises
    ------
    FolderError
        If the folder cannot be written.
    """
    sections = [
        {
            "name": part.name,
            "section": part.section,
            "lead": Markup(part.section.lead),
            "content": [_render_item(part.name, item, folder) for item in part.section.items],
            "stored": part.stored,
            "seconds": _duration(part.stored.seconds),
        }
        for part in parts
    ]
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    html = page.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        note=note,
        sections=sections,
        palette=style.PALETTE,
        dark_palette=style.DARK_PALETTE,
        colours={"ink": style.INK, "quiet": style.QUIET, "paper": style.PAPER},
    )
    path = folder / "index.html"
    write_atomically(path, html)
    return path
