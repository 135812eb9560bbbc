"""A study that was run to its end, kept as a page of the documentation, with date and machine."""

from __future__ import annotations

import html
import importlib
import re
from datetime import datetime
from pathlib import Path

from pandas.api.types import is_numeric_dtype

from analysis.report import DEEP_STUDIES, STUDIES
from analysis.results import ResultsDir
from proxlab.study import MissingResultsError, StoredStudy, style
from proxlab.study.page import Finding, Plot, Section, Table, cells

FOLDER = Path("docs/records")
#: Plots that a record shows, of those that its study has.
PLOTS = ("frontier", "theorem", "scatter", "accuracy")
_MARKS = {"good": "reached", "bad": "not reached", "neutral": ""}


def keep(study: str, results: ResultsDir, folder: Path = FOLDER) -> Path:
    """Write the record of a study.

    Parameters
    ----------
    study : str
        Of `STUDIES` or `DEEP_STUDIES`.
    results : ResultsDir
        Where it is stored, whole.
    folder : pathlib.Path
        Gets ``<study>-<profile>.md`` and its plots.

    Returns
    -------
    path : pathlib.Path
        The page, in Markdown.

    Raises
    ------
    MissingResultsError
        If the study has not been run there to its end.
    """
    stored = results.read(study)
    if not stored.complete:
        named = ", ".join(sorted(stored.missing)[:3])
        raise MissingResultsError(
            f"{results.path} holds {len(stored.units)} of {len(stored.units) + len(stored.missing)} units of "
            f"the study {study!r} ({named}, … are missing): go on with {stored.command}"
        )
    name = f"{study}-{stored.settings['profile']}"
    with style.style():
        section: Section = importlib.import_module((STUDIES | DEEP_STUDIES)[study]).section(results)
    pictures: dict[str, str] = {}
    blocks = [f"# {section.title}: the profile `{stored.settings['profile']}`", _origin(stored)]
    blocks += [_plain(section.lead), "## Findings", "\n".join(map(_finding, section.findings))]
    for item in section.items:
        if isinstance(item, Table):
            blocks += [f"## {item.title}", _plain(item.caption), _table(item)]
        elif isinstance(item, Plot) and item.name in PLOTS:
            picture = f"{name}-{item.name}.svg"
            pictures[picture] = style.to_svg(item.figure)
            blocks += [f"## {item.title}", f"![{item.title}]({picture})", _plain(item.caption)]
    folder.mkdir(parents=True, exist_ok=True)
    for picture, svg in pictures.items():
        (folder / picture).write_text(svg, encoding="utf-8")
    path = folder / f"{name}.md"
    path.write_text("\n\n".join(block for block in blocks if block) + "\n", encoding="utf-8")
    return path


def _origin(stored: StoredStudy) -> str:
    """When, where and by what command."""
    there = stored.environment
    date = datetime.fromisoformat(there["finished"]).date().isoformat()
    packages = ", ".join(f"{name} {version}" for name, version in there["packages"].items())
    machine = f"{there['cores']} cores of an {there['cpu']} ({there['system']}, Python {there['python']})"
    return (
        f"Run to its end on {date} by `{stored.command}`, at commit `{there['commit']}`, on {machine}: "
        f"{len(stored.units)} units, {stored.seconds / 3600:.1f} hours of them all. "
        f"`python -m analysis keep {stored.study}` wrote this page from the stored results.\n\n"
        f"*Packages:* {packages}."
    )


def _plain(text: str) -> str:
    """HTML of the page as Markdown."""
    for tag, mark in (("b", "**"), ("i", "*"), ("em", "*"), ("code", "`")):
        text = re.sub(f"</?{tag}>", mark, text)
    return html.unescape(re.sub(r"<br>", "\n", text))


def _finding(finding: Finding) -> str:
    goal = "; ".join(filter(None, [finding.target and f"goal {finding.target}", _MARKS[finding.verdict]]))
    return f"* **{finding.figure}** {_plain(finding.text)}" + (f" *({goal})*" if finding.target else "")


def _table(table: Table) -> str:
    """The rows that the page shows."""
    if table.is_zero:
        return table.zeros
    columns = table.frame.columns
    aligned = ["---:" if is_numeric_dtype(table.frame[column]) else "---" for column in columns]
    rows = [[f"**{cell.text}**" if cell.bad else cell.text for cell in row] for row in cells(table)]
    return "\n".join(map(_row, [[str(column) for column in columns], aligned, *rows]))


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
