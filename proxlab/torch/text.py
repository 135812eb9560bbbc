"""Tables of text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_table", "listed"]

#: Names that a list has at most.
LISTED = 4


def format_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: int = 1) -> str:
    """Lay out a table as text: the first ``left`` columns to the left, the others to the right."""
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def listed(names: Sequence[str]) -> str:
    """List names, of many the first ones and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
