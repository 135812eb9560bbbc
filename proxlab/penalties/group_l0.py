"""The number of nonzero groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.types import Array
from proxlab.values import check_number

__all__ = ["GroupL0"]


@dataclass(frozen=True, eq=False)
class GroupL0(RadialPenalty):
    """The weighted number of nonzero groups, ``h(z) = Σ_g w_g λ·1[z_g ≠ 0]``.

    The prox keeps a group as it is or drops it, whichever is the *global* minimiser.

    Parameters
    ----------
    lam : float
        Strength λ, at least 0.
    groups : Groups, optional
        The groups; rows by default (the last axis is reduced).
    weights : None, "sqrt_size" or array_like of shape (n_groups,), optional
        Group weights ``w``, 1 by default.
    """

    lam: float

    def __post_init__(self) -> None:
        """Validate the parameters."""
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """``p`` jumps to λ at 0 and is flat from there."""
        return (Piece(0.0, self.lam, 0.0, 0.0),)

    def _strength_at(self, xp: Any, r: Array, share: Array) -> Array:
        """Return ``share·r``: λ is the price of a group."""
        return share * r
