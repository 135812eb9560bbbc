"""The report: one page of what the studies stored, never of anything computed anew.

A study offers ``section(results) -> Section``, which reads its stored units and returns findings, plots and
tables.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from analysis.results import ResultsDir
from proxlab.study import FolderError, MissingResultsError
from proxlab.study.page import Part, Section, read_part, write_page

#: Studies in the order of the page, with the module that runs and reports each.
STUDIES: dict[str, str] = {
    "problems": "analysis.problems",
    "bounds": "analysis.bounds",
    "solvers": "analysis.solvers",
    "convergence": "analysis.convergence",
    "speed": "analysis.speed",
}
#: Those on networks: they need PyTorch, and `all` leaves them out.
DEEP_STUDIES: dict[str, str] = {
    "vision": "analysis.vision",
    "language": "analysis.language",
    "ranks": "analysis.ranks",
}


def build(results: ResultsDir, studies: Mapping[str, str] | None = None) -> Path:
    """Write ``index.html`` and ``tables/*.csv`` from the stored studies.

    Parameters
    ----------
    results : ResultsDir
    studies : mapping of str to str, optional
        Modules by study; by default all of `STUDIES` and `DEEP_STUDIES`. Studies without results, or with
        results of an older format, are listed as such.

    Returns
    -------
    path : pathlib.Path
        The page.

    Raises
    ------
    MissingResultsError
        If no study has been run.
    """
    parts: list[Part] = []
    missing: list[str] = []
    for name, module in (STUDIES | DEEP_STUDIES if studies is None else studies).items():
        try:
            stored = results.read(name)
        except MissingResultsError:
            missing.append(name)
            continue
        except FolderError as error:
            missing.append(f"{name} ({error})")
            continue
        try:
            parts.append(read_part(name, stored, partial(_section, module, results)))
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            missing.append(f"{name} (its report needs the package 'torch')")
    if not parts:
        raise MissingResultsError(
            f"{results.path} holds no results of {', '.join(missing)}: run python -m analysis all"
        )
    return write_page(
        results.path,
        parts,
        title="Weighted proximal operators, measured",
        lead="Certified error bounds, root finders and inexact proximal steps, on problems captured while "
        "training on real data.",
        note=f"Not run yet: {', '.join(missing)}." if missing else "",
    )


def _section(module: str, results: ResultsDir) -> Section:
    section: Section = importlib.import_module(module).section(results)
    return section
