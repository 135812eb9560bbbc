"""Newton's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxlab.rootfinders.base import RootFinder
from proxlab.types import Array

__all__ = ["Newton"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Go to the zero of the tangent."""
    return r - f / slope, m0, m1, m2, m3, m4


@dataclass(frozen=True)
class Newton(RootFinder):
    """Newton's method on ``g(r) - 1``, the reciprocal form (Moré & Sorensen 1983).

    ``g`` is concave, so the iterates increase monotonically to the root from its left, quadratically: about
    three evaluations on the metrics of adaptive optimizers. The default.
    """

    needs_bracket: ClassVar[bool] = False
    propose = staticmethod(propose)
