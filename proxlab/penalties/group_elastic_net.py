"""The group elastic net."""

from __future__ import annotations

from dataclasses import dataclass

from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.values import check_number

__all__ = ["GroupElasticNet"]


@dataclass(frozen=True, eq=False)
class GroupElasticNet(RadialPenalty):
    """The group elastic net, ``h(z) = Σ_g w_g (λ ‖z_g‖₂ + ½ κ ‖z_g‖₂²)``.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    kappa : float
        Strength of the ridge, at least 0.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float
    kappa: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "kappa", check_number("kappa", self.kappa, 0.0))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ + κ r``."""
        return (Piece(0.0, 0.0, self.lam, -self.kappa),)
