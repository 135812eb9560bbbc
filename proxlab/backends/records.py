"""What every backend takes and returns.

That is ``solve(problem, options) -> Solved`` and ``certify(problem, z) -> Bounds``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["Bounds", "GroupResults", "Options", "Solved"]


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
