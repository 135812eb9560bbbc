"""The group lasso, ℓ1/ℓ2."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.values import check_number

__all__ = ["GroupLasso"]


@dataclass(frozen=True, eq=False)
class GroupLasso(RadialPenalty):
    """The group lasso (ℓ1/ℓ2), ``h(z) = Σ_g λ w_g ‖z_g‖₂`` (Yuan & Lin 2006).

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    nonnegative : bool, optional
        Add the constraint ``z ≥ 0``.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> pl.prox(pl.GroupLasso(1.0), np.array([[3.0, 4.0], [0.3, 0.4]]))
    array([[2.4, 3.2],
           [0. , 0. ]])
    """

    lam: float
    nonnegative: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p'(r) = λ``."""
        return (Piece(0.0, 0.0, self.lam, 0.0),)
