"""Halley's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxlab.rootfinders.base import RootFinder
from proxlab.types import Array

__all__ = ["Halley"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Go to the zero of the osculating hyperbola."""
    return r - 2.0 * f * slope / (2.0 * slope * slope + f * bend), m0, m1, m2, m3, m4


@dataclass(frozen=True)
class Halley(RootFinder):
    """Halley's method on ``g(r) - 1``: cubic convergence for one more sum per evaluation.

    Where there may be no root, as under concave penalties, steps from its left are no longer than Newton's.
    """

    needs_bracket: ClassVar[bool] = False
    propose = staticmethod(propose)
