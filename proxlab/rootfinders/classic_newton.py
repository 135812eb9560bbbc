"""Newton's method in the form published with the weighted prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import where
from proxlab.types import Array

__all__ = ["ClassicNewton"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Step on ``S - 1``, written with ``S = (1 + f)^(-2)``."""
    # f > -1 for radial penalties; a linear equation may start lower, and is its own S.
    factor = where(f > -1.0, 0.5 * (1.0 + f) * (2.0 + f), f * 0.0 + 1.0)
    return r - factor * f / slope, m0, m1, m2, m3, m4


@dataclass(frozen=True)
class ClassicNewton(RootFinder):
    """Newton's method on ``S(r) - 1 = g(r)^(-2) - 1``, the form of Deleu & Bengio (2021): a baseline.

    Monotone as :class:`Newton` is, but slow while ``S`` is large: near the zero threshold in spread metrics.
    """

    needs_bracket: ClassVar[bool] = False
    propose = staticmethod(propose)
