"""The page of a folder of results: ``index.html``, ``tables/*.csv`` and ``figures/*``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from proxlab.study.folder import Folder, FolderError, MissingResultsError, StoredStudy
from proxlab.study.page import Part, read_part, write_page
from proxlab.study.sections import SECTIONS

__all__ = ["report"]


def report(folder: str | Path) -> Path:
    """Write one page of what a folder holds, computing nothing; also of a run that was interrupted.

    Parameters
    ----------
    folder : str or path
        The folder of a study, or of several studies in folders below it.

    Returns
    -------
    path : pathlib.Path
        The page; tables lie beside it as CSV, figures as SVG and PDF.

    Raises
    ------
    MissingResultsError
        If there is no study.
    FolderError
        If all that is there is of an older format or cannot be read, or the page cannot be written.
    """
    root = Path(folder)
    found: dict[str, StoredStudy] = {}
    refused: list[str] = []
    below = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    for path in (root, *below):
        try:
            stored = Folder(path).read()
        except MissingResultsError:
            continue
        except FolderError as error:
            refused.append(str(error))
            continue
        if stored.study in SECTIONS:
            found[stored.study if path == root else path.name] = stored
        else:
            refused.append(f"{path} holds the study {stored.study!r}, which has a page of its own")
    if not found:
        if refused:
            raise FolderError("; ".join(refused))
        raise MissingResultsError(
            f"{root} holds no results: run proxlab validate, compare or converge with -o {root}"
        )
    order = list(SECTIONS)
    parts: list[Part] = []
    for name, stored in sorted(found.items(), key=lambda pair: order.index(pair[1].study)):
        parts.append(read_part(name, stored, partial(SECTIONS[stored.study], stored)))
    return write_page(
        root,
        parts,
        title="proxlab: " + ", ".join(dict.fromkeys(part.stored.study for part in parts)),
        lead="Weighted proximal operators of structured sparsity, with proofs.",
        note=". ".join(refused),
    )
