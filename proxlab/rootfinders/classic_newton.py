"""Newton's method in the form published with the weighted prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxlab.groups import Array
from proxlab.rootfinders.base import RootFinder

__all__ = ["ClassicNewton"]


def propose(
    r: Array, f: Array, slope: Array, bend: Array, lo: Array, f_lo: Array, hi: Array, f_hi: Array,
    m0: Array, m1: Array, m2: Array, m3: Array, m4: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Step on ``S - 1``, written with ``S = (1 + f)^(-2)``."""
    return r - 0.5 * f * (1.0 + f) * (2.0 + f) / slope, m0, m1, m2, m3, m4


@dataclass(frozen=True)
class ClassicNewton(RootFinder):
    """Newton's method on ``S(r) - 1 = g(r)^(-2) - 1``, the form of Deleu & Bengio (2021): a baseline.

    Monotone as :class:`Newton` is, but slow while ``S`` is large: near the zero threshold in spread metrics.
    """

    needs_bracket: ClassVar[bool] = False
    propose = staticmethod(propose)
