"""What every backend takes and returns.

That is ``solve(problem, options) -> Solved`` and ``certify(problem, z) -> Bounds``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["Bounds", "GroupResults", "Options", "Solved", "over_parts"]


class Options(NamedTuple):
    """How to solve.

    Attributes
    ----------
    finder : RootFinder
    rtol : float
        The relative tolerance of a radius, for the dtype of the data.
    out : array or None
        Where to put the result.
    explain : bool
        Whether to return what :class:`GroupResults` holds.
    check : bool or None
        Whether an invalid value is an error; by default where that costs no wait.
    """

    finder: RootFinder
    rtol: float
    out: Array | None = None
    explain: bool = False
    check: bool | None = None


class GroupResults(NamedTuple):
    """What is known of each group, shape (n_groups,); see :class:`proxlab.prox.Solution`."""

    radius: Array
    lower: Array
    upper: Array
    status: Array
    iterations: Array
    evaluations: Array


class Solved(NamedTuple):
    """The prox, and what is known of its groups where that was asked for."""

    z: Array
    groups: GroupResults | None


@dataclass
class Bounds:
    """The certificate of every group; see :class:`proxlab.Certificate`.

    ``low`` and ``high`` enclose ``|z*|`` in every element; they are None where nobody asked for them.
    """

    distance: Array
    metric_distance: Array
    stationarity: Array
    gap: Array
    decided: Array
    lower: Array
    upper: Array
    low: Array | None = None
    high: Array | None = None


def over_parts(function: Callable[..., Any], *records: Any) -> Any:
    """Return a record, or a tuple, of what a function returns for the parts of such, and for theirs."""
    if not isinstance(records[0], tuple):
        return function(*records)
    parts = [over_parts(function, *some) for some in zip(*records, strict=True)]
    return type(records[0])(*parts) if hasattr(records[0], "_fields") else tuple(parts)
