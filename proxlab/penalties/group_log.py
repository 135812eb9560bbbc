"""The logarithmic penalty of groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from proxlab.penalties.curved import CurvedPenalty, of_strength_one
from proxlab.scalar import filled, log, log1p, where
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupLog"]


@dataclass(frozen=True, eq=False)
class GroupLog(CurvedPenalty):
    """The logarithmic penalty (Candès, Wakin & Boyd 2008), ``h(z) = Σ_g w_g λ log(1 + ‖z_g‖₂/ε)``.

    Its slope is ``λ/(r + ε)``: steep near zero, and almost nothing where groups are long. The prox is the
    *global* minimiser for every metric (docs: the mathematics, §9).

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    eps : float
        Length ε > 0 from which on the slope falls.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    eps: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "eps", check_number("eps", self.eps, 0.0, strict=True))
        # Solvers take the strength out.
        if math.isinf(max(self.lam, 1.0) / self.eps):
            raise ValueError(
                "eps: the slopes lam/eps and 1/eps must be within the range of float64, got "
                f"lam = {self.lam!r} and eps = {self.eps!r}"
            )

    @property
    def _unit(self) -> float:
        return min(max(self.eps, 1e-290), 1e290)

    def _split(self) -> tuple[float, CurvedPenalty]:
        return self.lam, of_strength_one(self)

    def value_at(self, r: Array) -> Array:
        """Return ``λ log(1 + r/ε)``."""
        ratio = r / self.eps
        # Where the ratio leaves the range, its logarithm is a difference.
        far = ratio > 1e300
        near = log1p(where(far, filled(r, 0.0), ratio))
        long = log(where(far, r, filled(r, 1.0))) - log(filled(r, self.eps))
        return self.lam * where(far, long, near)

    def slope_at(self, r: Array) -> Array:
        """Return ``λ/(r + ε)``."""
        return self.lam / (r + self.eps)

    def curvature_at(self, r: Array) -> Array:
        """Return ``-λ/(r + ε)²``."""
        return -(self.lam / (r + self.eps)) / (r + self.eps)
