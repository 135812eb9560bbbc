"""What an equation is: the residual of its sums, how fast its terms change, and what encloses its root.

A group's radius is where a concave function ``f`` of one number crosses zero upwards. An equation says, in
the operations of :mod:`proxlab.scalar`, what ``f`` and its derivatives are in terms of three sums over the
group; the sums themselves are the target's. :mod:`proxlab.search` finds the root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from proxlab.types import Array

__all__ = ["Equation", "Sums", "Task"]


class Sums(NamedTuple):
    """Three sums over a group at one radius: what ``f`` and its first and second derivative need."""

    s: Array
    s1: Array
    s2: Array


class Task(NamedTuple):
    """What is looked for in a group, and does not change: numbers, or arrays of one per group.

    Attributes
    ----------
    a, c : array
        The slope ``a - c r`` of the piece, times the step; for the ℓ∞ norm ``a`` is its strength.
    floor, far : array
        Bounds of the root, if there is one, rounding included.
    at : array
        A lower bound of the root up to rounding, at most ``far``, so that ``f(at) <= 0``.
    doubtful : array of bool
        Whether there may be no root: ``f(far) >= 0`` is not known.
    rtol, atol, cap : array
        The tolerance of a root ``r`` is ``atol + rtol·r``, and at most ``cap·r``.
    size : float
        Elements of the group.
    noise : float
        Below this ``f`` is rounding.
    delta : array
        Bound of the relative error of ``f + 1``.
    dmin, dmax : array
        Bounds of the metric's elements, where an equation asks for them.
    most : int
        Bound of the iterations.
    """

    a: Array
    c: Array
    floor: Array
    at: Array
    far: Array
    doubtful: Array
    rtol: float
    atol: Array
    cap: Array
    size: float
    noise: float
    delta: Array
    dmin: Array
    dmax: Array
    most: int


class Equation(NamedTuple):
    """One equation, as :mod:`proxlab.search` needs it.

    Attributes
    ----------
    residual : callable
        ``residual(s, s1, s2)`` returns ``f``, its slope and its bend ``-f''``.
    pace : callable
        ``pace(r, task)`` bounds how fast a term of the sums changes at ``r``, relative to itself.
    enclose : callable
        ``enclose(r, sums, task)`` returns a lower and an upper bound of the root.
    smooth : bool
        Whether the bend means something.
    """

    residual: Callable[..., tuple[Array, Array, Array]]
    pace: Callable[[Array, Task], Array]
    enclose: Callable[[Array, Sums, Task], tuple[Array, Array]]
    smooth: bool

    def names(self) -> dict[str, Any]:
        """Return what the search, built for a target, means by its global names."""
        return {
            "residual": self.residual, "pace": self.pace, "enclose": self.enclose, "SMOOTH": self.smooth
        }  # fmt: skip
