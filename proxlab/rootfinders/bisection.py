"""Bisection."""

from __future__ import annotations

from dataclasses import dataclass

from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import midpoint
from proxlab.types import Array

__all__ = ["Bisection"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Halve the bracket: in the exponent while its ends differ by more than a factor of four."""
    return midpoint(lo, hi), m0, m1, m2, m3, m4


@dataclass(frozen=True)
class Bisection(RootFinder):
    """Bisection: slow, and independent of all but the sign of the function."""

    propose = staticmethod(propose)
