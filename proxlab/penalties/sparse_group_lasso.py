"""The sparse group lasso."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.values import check_number

__all__ = ["SparseGroupLasso"]


@dataclass(frozen=True, eq=False)
class SparseGroupLasso(RadialPenalty):
    """The sparse group lasso, ``h(z) = λ₁ ‖z‖₁ + Σ_g λ₂ w_g ‖z_g‖₂`` (Simon et al. 2013).

    In a diagonal metric too, the prox is the group prox after a soft threshold (docs: the mathematics, §7).
    Elements in no group are not penalised.

    Parameters
    ----------
    lam1 : float
        Strength λ₁ of the ℓ1 part, at least 0.
    lam2 : float
        Strength λ₂ of the group part, at least 0.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w`` of the group part, 1 by default.
    """

    lam1: float
    lam2: float

    _factors: ClassVar[tuple[str, ...]] = ("lam1", "lam2")

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam1", check_number("lam1", self.lam1, 0.0))
        object.__setattr__(self, "lam2", check_number("lam2", self.lam2, 0.0))

    @property
    def threshold(self) -> float:
        """Strength of the elementwise ℓ1 part."""
        return self.lam1

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ₂``."""
        return (Piece(0.0, 0.0, self.lam2, 0.0),)
