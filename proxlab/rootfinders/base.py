"""What a root finder is: a frozen set of options and a function that proposes the next point.

The driver (one per backend) evaluates the function, keeps the bracket, counts and stops. A root finder only
proposes::

    propose(r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4) -> (r_next, m0, m1, m2, m3, m4)

``f`` is concave with ``f(lo) <= 0 <= f(hi)`` (``hi`` may be an upper bound that has not been evaluated,
``f_hi`` then is NaN); ``slope = f'(r)`` and ``bend = -f''(r)``. The five numbers ``m0 … m4`` are the
algorithm's memory; they are NaN on the first call. The proposal is written with the operations of
:mod:`proxlab.scalar`, so that the same source runs over arrays and compiled. The driver replaces a proposal
outside the bracket by its midpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from proxlab.values import check_number

__all__ = ["RootFinder", "Status"]


class Status(IntEnum):
    """How the solution of a group came about. Compare with integers, print :attr:`message`."""

    CONVERGED = 0
    ZERO = 1
    UNSHRUNK = 2
    TIE = 3
    MAX_ITERATIONS = 4

    @property
    def message(self) -> str:
        """A sentence that says what happened and what to do."""
        return _MESSAGES[self]

    @property
    def ok(self) -> bool:
        """Whether the solution is as exact as was asked for."""
        return self is not Status.MAX_ITERATIONS


_MESSAGES = {
    Status.CONVERGED: "The root finder reached its tolerance.",
    Status.ZERO: "The prox of this group is zero, by the zero test or because zero has the least objective.",
    Status.UNSHRUNK: "The prox of this group is the point itself: the penalty is flat there.",
    Status.TIE: "Two minimisers have the same objective within rounding; the sparser one was returned.",
    Status.MAX_ITERATIONS: (
        "The root finder spent max_iterations before its tolerance; the bracket still encloses the radius. "
        "Raise max_iterations, or loosen rtol or atol."
    ),
}


@dataclass(frozen=True)
class RootFinder:
    """Options that all root finders share.

    Parameters
    ----------
    rtol : float, optional
        Relative tolerance of the radius. By default what the dtype of the data resolves: about ``2**-50`` in
        float64, ``2**-26`` in float32, where the computation is in float64 too.
    atol : float, optional
        Absolute tolerance of the radius.
    max_iterations : int, optional
        Bound on the iterations.
    """

    rtol: float | None = None
    atol: float = 0.0
    max_iterations: int = 100

    #: Whether the algorithm needs function values at both ends of a bracket.
    needs_bracket: ClassVar[bool] = True
    #: Proposes the next point; see the module's docstring.
    propose: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        """Validate the options."""
        if self.rtol is not None:
            check_number("rtol", self.rtol, 0.0)
        check_number("atol", self.atol, 0.0)
        if isinstance(self.max_iterations, bool) or not isinstance(self.max_iterations, int):
            raise TypeError(f"max_iterations: must be an integer, got {self.max_iterations!r}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations: must be at least 1, got {self.max_iterations}")

    def relative_tolerance(self, bits: int) -> float:
        """Return ``rtol``, by default what data of ``bits`` bits of precision resolve."""
        return max(2.0 ** (-bits - 2), 2.0**-50) if self.rtol is None else self.rtol
