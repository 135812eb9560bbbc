"""Powers below one of the length of groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from proxlab.penalties.curved import CurvedPenalty, of_strength_one
from proxlab.scalar import filled, power, where
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupLq"]


@dataclass(frozen=True, eq=False)
class GroupLq(CurvedPenalty):
    """A power of the length, ``h(z) = Σ_g w_g λ ‖z_g‖₂^q`` with ``0 < q < 1`` (Hu, Li, Meng, Qin & Yang
    2017).

    Its slope is infinite at zero, which therefore always is a local minimiser; the prox is the *global* one
    for every metric (docs: the mathematics, §9). For single elements and ``q = 1/2`` or ``2/3`` it is the
    half-thresholding of Xu, Chang, Xu & Zhang (2012) and its sibling.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    q : float
        The power, between 0 and 1.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    q: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "q", check_number("q", self.q, 0.0, strict=True))
        if not self.q < 1.0:
            raise ValueError(f"q: must be below 1 (GroupLasso is that of q = 1), got {self.q!r}")

    def _split(self) -> tuple[float, CurvedPenalty]:
        return self.lam, of_strength_one(self)

    def value_at(self, r: Array) -> Array:
        """Return ``λ r^q``."""
        return power(r, self.q) * self.lam

    def slope_at(self, r: Array) -> Array:
        """Return ``λ q r^(q-1)``, infinite at 0."""
        # λ = 0 is no penalty, also at zero. Nothing is rounded before r is there.
        safe = where(r > 0, r, filled(r, 1.0))
        first = filled(r, math.inf if self.lam > 0 else 0.0)
        return where(r > 0, power(safe, self.q) / safe * self.lam * self.q, first)

    def curvature_at(self, r: Array) -> Array:
        """Return ``-λ q (1 - q) r^(q-2)``."""
        return power(r, self.q) / r / r * self.lam * self.q * (self.q - 1.0)
